"""MiniLM-L6 on STS benchmark; skipped where its package or the data are absent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import sts
import weft
from weft.text import embed, open_text


@pytest.fixture(scope="module")
def model() -> Path:
    found = sts.minilm()
    if found is None:
        pytest.skip(sts.MISSING)
    return found


def test_float_ranks_pairs_as_people_do(model, shared_data):
    part = sts.pairs(shared_data, 40)
    assert part.spearman(embed(model, part.lines)) > 0.9


def test_the_layers_on_the_array_keep_the_vectors(model, shared_data):
    part = sts.pairs(shared_data, 8)
    program = weft.compile(model, "lab", dynamic=True, tokens=24)
    assert sts.mean_cosine(embed(program, part.lines), embed(model, part.lines)) > 0.99


def test_the_overlay_keeps_the_vectors(model, shared_data):
    part = sts.pairs(shared_data, 8)
    program = weft.compile(model, "encoder", calibration=sts.stories(shared_data), tokens=24)
    assert len(program.segments) == 1  # nothing is left to the host
    assert sts.mean_cosine(embed(program, part.lines), embed(model, part.lines)) > 0.99


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overlay", "weights", "least", "cosine"),
    [("encoder", "int8", 0.815, 0.99), ("lab", "int4:g32", 0.80, 0.95)],
)
def test_integers_rank_pairs_as_float_does(model, shared_data, overlay, weights, least, cosine):
    every, lines = sts.pairs(shared_data), sts.stories(shared_data)
    program = weft.compile(model, overlay, calibration=lines, tokens=64, weights=weights)
    vectors = embed(program, every.lines)
    assert every.spearman(vectors) >= least
    assert sts.mean_cosine(vectors, embed(model, every.lines)) >= cosine


@pytest.mark.slow
def test_float_has_the_published_rank_correlation(model, shared_data):
    every = sts.pairs(shared_data)
    assert len(every) == 1379
    assert every.spearman(embed(model, every.lines)) == pytest.approx(0.8203, abs=5e-4)


@pytest.mark.slow
@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
def test_the_transformers_library_agrees(model, shared_data):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    lines = sts.pairs(shared_data, 16).lines
    reference = transformers.AutoModel.from_pretrained(model).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    made = tokenizer(lines, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = reference(**made).last_hidden_state
    mask = made["attention_mask"][..., None]
    wanted = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1)).numpy()
    np.testing.assert_allclose(embed(model, lines), wanted, atol=1e-5)
    with open_text(model) as encoder:
        ids, there = made["input_ids"].numpy(), made["attention_mask"].numpy()
        np.testing.assert_allclose(encoder.embed_ids(ids, there), wanted, atol=1e-5)
