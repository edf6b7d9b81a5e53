"""Encoders by architecture: outputs as the transformers library's, errors that name what is wrong.

tests/data/transformers holds tiny random models and what the library computed
(tests/record_transformers.py writes them).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import weft
from weft.errors import ModelError, ShapeError, UnsupportedError, UsageError
from weft.frontend import transformers_folder
from weft.ops import evaluate

MODELS = Path(__file__).resolve().parents[1] / "data" / "transformers"
TEXT = ["bert", "bert_masked_lm", "distilbert", "roberta"]
IMAGE = ["vit", "vit_hidden", "deit", "swin", "swin_hidden"]
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


def hidden(folder: Path, ids: np.ndarray, counts: np.ndarray) -> np.ndarray:
    graph = transformers_folder.load(folder, ids.shape[1], padding=True)
    tables = transformers_folder.tables(folder)
    x = tables.word[ids] + tables.position[: ids.shape[1]] + tables.kind
    feeds = {"embeddings": x, "keys": counts.reshape(-1, 1)}
    return evaluate(graph, feeds)[graph.outputs[0]]


def test_every_recorded_model_is_tested():
    assert {f.name for f in MODELS.iterdir()} == {*TEXT, *IMAGE}


@pytest.mark.oracle
@pytest.mark.parametrize("name", TEXT)
def test_text_encoders_are_the_librarys(name):
    expected = np.load(MODELS / name / "expected.npz")
    there = expected["mask"] > 0
    found = hidden(MODELS / name, expected["ids"], expected["mask"].sum(1))
    np.testing.assert_allclose(found[there], expected["hidden"][there], **TOLERANCE)


@pytest.mark.oracle
@pytest.mark.parametrize("name", IMAGE)
def test_image_encoders_are_the_librarys(name):
    expected = np.load(MODELS / name / "expected.npz")
    graph = transformers_folder.load(MODELS / name)
    (found,) = evaluate(graph, {"pixel_values": expected["x"]}).values()
    np.testing.assert_allclose(found, expected["y"], **TOLERANCE)
    fused = weft.load_model(MODELS / name)
    (again,) = evaluate(fused, {"pixel_values": expected["x"]}).values()
    np.testing.assert_allclose(again, expected["y"], **TOLERANCE)


def test_without_padding_there_is_no_number_of_keys():
    graph = transformers_folder.load(MODELS / "bert", 5)
    assert graph.inputs == ("embeddings",)
    assert {node.op for node in graph} == {
        *("Linear", "LayerNorm", "Attention", "Gelu", "Add", "Identity"),
    }
    x = np.random.default_rng(0).normal(0, 1, (2, 5, 8)).astype(np.float32)
    padded = transformers_folder.load(MODELS / "bert", 5, padding=True)
    whole = evaluate(padded, {"embeddings": x, "keys": np.full((2, 1), 5)})
    np.testing.assert_array_equal(evaluate(graph, {"embeddings": x})["hidden"], whole["hidden"])


@pytest.mark.slow
@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(3))
def test_the_installed_library_agrees(seed, tmp_path):
    pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("transformers", reason="transformers is not installed")
    import record_transformers as record

    for name, module in record.models().items():
        module.eval()
        record.randomize(module, seed)
        folder = tmp_path / name
        module.save_pretrained(folder)
        if name in TEXT:
            made = record.text_example(module)
            there = made["mask"] > 0
            found, wanted = hidden(folder, made["ids"], made["mask"].sum(1)), made["hidden"]
            found, wanted = found[there], wanted[there]
        else:
            made = record.image_example(module)
            (found,) = evaluate(
                transformers_folder.load(folder), {"pixel_values": made["x"]}
            ).values()
            wanted = made["y"]
        np.testing.assert_allclose(found, wanted, err_msg=name, **TOLERANCE)


def copied(name: str, path: Path, **config: Any) -> Path:
    """A model's folder with other settings; None takes one out."""
    folder = path / name
    shutil.copytree(MODELS / name, folder)
    values = json.loads((folder / "config.json").read_text()) | config
    kept = {key: value for key, value in values.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(kept))
    return folder


@pytest.mark.parametrize(
    ("config", "kind", "words"),
    [
        ({"model_type": "albert"}, UnsupportedError, "weights shared between layers"),
        ({"model_type": "t5"}, UnsupportedError, "t5.*generates text: weft.compile"),
        ({"model_type": "luke"}, UnsupportedError, "'luke'.*does not know.*known: bert"),
        ({"model_type": None}, UnsupportedError, "no model_type"),
        ({"position_embedding_type": "relative_key"}, UnsupportedError, "relative positions"),
        ({"is_decoder": True}, UnsupportedError, "decoders"),
        ({"hidden_act": "gelu_fast"}, UnsupportedError, "no hidden_act 'gelu_fast'.*Known: gelu"),
        (
            {"hidden_size": 12},
            ShapeError,
            "'embeddings.word_embeddings.weight' has shape|LayerNorm",
        ),
        ({"num_attention_heads": 3}, ShapeError, "width of 8 for 3 heads"),
        ({"num_attention_heads": 0}, ModelError, "num_attention_heads = 0; an integer from 1"),
        (
            {"num_hidden_layers": 3},
            ModelError,
            r"'encoder.layer.2[\w.]*' of shape \(8, 8\) is miss",
        ),
        ({"intermediate_size": 13}, ShapeError, r"shape \(12, 8\), config.json asks for \(13, 8\)"),
        ({"layer_norm_eps": "small"}, ModelError, "layer_norm_eps = 'small'"),
        ({"hidden_size": None}, ModelError, "no hidden_size or dim"),
    ],
)
def test_settings_that_are_wrong_are_named(config, kind, words, tmp_path):
    folder = copied("bert", tmp_path, **config)
    with pytest.raises(kind, match=words) as caught:
        transformers_folder.load(folder, 4)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("tokens", [0, -1, 17])
def test_more_tokens_than_positions(tokens):
    with pytest.raises(ModelError, match=rf"{tokens} tokens; .* positions for 16"):
        transformers_folder.load(MODELS / "bert", tokens)


def test_roberta_keeps_rows_for_its_padding():
    assert transformers_folder.positions(MODELS / "roberta") == 16 - 2
    with pytest.raises(ModelError, match="positions for 14"):
        transformers_folder.load(MODELS / "roberta", 15)


def test_tensors_that_are_wrong_are_named(tmp_path):
    folder = copied("vit", tmp_path)
    tensors = load_file(folder / "model.safetensors")
    name = "vit.encoder.layer.1.output.dense.weight"
    for value, kind, words in (
        (tensors[name][:, 1:], ShapeError, rf"{name}' has shape \(8, 11\), .* \(8, 12\)"),
        (tensors[name] * np.nan, ModelError, f"{name}' has NaN"),
        (None, ModelError, rf"{name}' of shape \(8, 12\) is missing"),
    ):
        changed = {n: a for n, a in tensors.items() if n != name}
        changed |= {} if value is None else {name: np.ascontiguousarray(value)}
        save_file(changed, folder / "model.safetensors")
        with pytest.raises(kind, match=words):
            transformers_folder.load(folder)
    save_file({"other": np.zeros(3, np.float32)}, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"projection.weight' is missing.*other"):
        transformers_folder.load(folder)


def test_wrong_uses(tmp_path):
    with pytest.raises(UsageError, match="vit takes images"):
        transformers_folder.load(MODELS / "vit", 5)
    with pytest.raises(UsageError, match="no word embeddings; text encoders are bert"):
        transformers_folder.tables(MODELS / "vit")
    with pytest.raises(UsageError, match="vit is no text encoder"):
        transformers_folder.positions(MODELS / "vit")
    with pytest.raises(ModelError, match=r"no config\.json"):
        transformers_folder.load(tmp_path)
    with pytest.raises(UsageError, match="tokens = 5 is for folders of text encoders"):
        weft.load_model(tmp_path / "model.onnx", tokens=5)
    folder = copied("bert", tmp_path, model_type="electra")
    with pytest.raises(UnsupportedError, match=r"electra.*weft lacks the projection between"):
        weft.load_model(folder)
    small = copied("vit", tmp_path, image_size=2)
    with pytest.raises(ModelError, match=r"patches of \(4, 4\) in an image of \(2, 2\)"):
        transformers_folder.load(small)


def test_compiles_and_runs_with_its_layers_on_the_array():
    x = np.load(MODELS / "vit" / "expected.npz")["x"]
    program = weft.compile(MODELS / "vit", "tiny", calibration=x)
    (wanted,) = evaluate(weft.load_model(MODELS / "vit"), {"pixel_values": x}).values()
    with weft.open(program, "golden") as golden, weft.open(program) as csim:
        found = golden.run(x)
        np.testing.assert_array_equal(csim.run(x), found)
    assert np.abs(found - wanted).max() < 0.2 * np.abs(wanted).max()
    on_array = [layer for layer in program.layers if layer.op == "Linear"]
    assert len(on_array) >= 8


@pytest.mark.parametrize(
    ("config", "kind", "words"),
    [
        ({"window_size": 3}, UnsupportedError, r"stage 0, a map of \(8, 8\) is no multiple of \(3"),
        ({"image_size": 15}, UnsupportedError, r"patch_size: an image of \(15, 15\).*image_size"),
        ({"image_size": 8}, UnsupportedError, r"stage 1, a map of \(2, 2\).*\(4, 4\)"),
        ({"depths": [2]}, ModelError, "1 depths, but 2 num_heads"),
        ({"depths": [2, 0]}, ModelError, "depths = 0; an integer from 1"),
        ({"depths": [2, 10**6]}, ModelError, "at most 1000"),
        ({"num_heads": 2}, ModelError, "num_heads = 2; a list of integers"),
        ({"num_heads": [3, 4]}, ShapeError, "a width of 32 for 3 heads"),
        ({"embed_dim": 16}, ShapeError, r"shape \(32, 3, 2, 2\), config.json asks for \(16"),
        ({"use_absolute_embeddings": True}, ModelError, "position_embeddings'.*is missing"),
    ],
)
def test_settings_of_a_swin_that_are_wrong_are_named(config, kind, words, tmp_path):
    with pytest.raises(kind, match=words) as caught:
        transformers_folder.load(copied("swin", tmp_path, **config))
    assert str(tmp_path) in str(caught.value)
