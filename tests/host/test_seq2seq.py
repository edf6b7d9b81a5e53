"""Encoder-decoders read from folders: their float graphs compute what the library does."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from weft import ops
from weft.errors import ModelError, UnsupportedError
from weft.frontend import encoder_decoders
from weft.frontend.decoder import INPUT, OUTPUT
from weft.frontend.seq2seq import SOURCE
from weft.text.seq2seq_assets import SourceAssets

FOLDER = Path(__file__).resolve().parents[1] / "data" / "seq2seq"
NAMES = sorted(path.name for path in FOLDER.iterdir())


def expected(name):
    """Sources, targets and the library's logits."""
    found = np.load(FOLDER / name / "expected.npz")
    return found["sources"], found["targets"], found["logits"]


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_the_library(name):
    sources, targets, logits = expected(name)
    model = encoder_decoders.load(FOLDER / name)
    assets = SourceAssets.of(model, sources.shape[1])
    feeds = {
        SOURCE: np.stack([assets.rows(row) for row in sources]),
        INPUT: np.stack([assets.target.rows(row, 0) for row in targets]),
    }
    found = ops.evaluate(model.graph(sources.shape[1], targets.shape[1], 16), feeds)[OUTPUT]
    np.testing.assert_allclose(found, logits, rtol=1e-3, atol=2e-4)


def test_other_architectures_are_refused(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(FOLDER / "bart", folder)
    config = json.loads((folder / "config.json").read_text())
    for values, error, told in (
        ({"model_type": "marian"}, UnsupportedError, "'marian'.*t5, mt5, bart"),
        ({"normalize_before": True}, UnsupportedError, "norms in front of BART's parts"),
        ({"activation_function": "sine"}, UnsupportedError, "activation_function"),
    ):
        (folder / "config.json").write_text(json.dumps({**config, **values}))
        with pytest.raises(error, match=told):
            encoder_decoders.load(folder)
    with pytest.raises(ModelError, match=r"config.json is expected"):
        encoder_decoders.load(tmp_path / "none")
