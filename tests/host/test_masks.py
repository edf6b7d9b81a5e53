"""Masks of padding in ONNX: as PyTorch's exporters write them for BERT and its kin, and by hand.

The reference is onnxruntime, sample by sample. tests/record_masked_bert.py wrote the files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto
from onnx_models import Net, images, run_onnx
from test_join_transformer import D, S, self_attention

import weft
from weft.errors import InputError
from weft.frontend.onnx import load_onnx
from weft.ops import evaluate
from weft.passes.fuse import fuse
from weft.program import HostSegment

FOLDER = Path(__file__).resolve().parents[1] / "data" / "masked_bert"
FILES = sorted(FOLDER.glob("*.onnx"))
TOKENS = 9
COUNTS = np.array([9, 4, 1, 6, 9, 2])
MASK = (np.arange(TOKENS) < COUNTS[:, None]).astype(np.int64)
PAD = 1  # of RoBERTa and MPNet, which give it no position of its own; some are inside a text
IDS = np.where(MASK > 0, np.random.default_rng(0).integers(4, 24, MASK.shape), PAD)
IDS[[0, 3], [3, 2]] = PAD
FEEDS = {"input_ids": IDS, "attention_mask": MASK}
EMBEDDING = {"onnx.Gather", "GatherElements", "Add", "Equal", "Not", "Cast", "CumSum", "Mul"}
every_file = pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)


def theirs(path: Path) -> Any:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    samples = range(len(IDS))
    return np.concatenate(
        [session.run(None, {k: v[i : i + 1] for k, v in FEEDS.items()})[0] for i in samples]
    )


def test_there_are_two_exporters_and_two_implementations():
    models = ("distilbert", "eager", "mpnet", "roberta", "sdpa")
    assert [p.stem for p in FILES] == [f"{m}_{e}" for m in models for e in ("dynamo", "script")]


@pytest.mark.oracle
@every_file
def test_masks_become_numbers_of_keys(path):
    graph = weft.load_model(path)
    ops = Counter(node.op for node in graph)
    layers = 2 if path.stem.startswith(("eager", "sdpa")) else 1
    assert (ops["Attention"], ops["Softmax"], ops["Where"]) == (layers, 0, 0)
    (found,) = evaluate(graph, FEEDS).values()
    np.testing.assert_allclose(found[MASK > 0], theirs(path)[MASK > 0], rtol=1e-4, atol=1e-5)


@pytest.mark.oracle
@every_file
def test_attention_runs_on_the_accelerator(path):
    program = weft.compile(path, "lab", calibration=FEEDS)
    assert program.lengths == "attention_mask"
    hosted = [n.op for s in program.segments if isinstance(s, HostSegment) for n in s.graph]
    assert set(hosted) <= EMBEDDING
    with weft.open(program, "golden") as golden, weft.open(program) as csim:
        (found,) = golden.run(FEEDS).values()
        np.testing.assert_array_equal(*csim.run(FEEDS).values(), found)
    there, wanted = MASK > 0, theirs(path)
    assert np.abs(found - wanted)[there].max() < 0.1 * np.abs(wanted).max()
    np.testing.assert_array_equal(found[~there], 0)


def test_samples_and_masks_that_are_no_first_tokens():
    program = weft.compile(FILES[0], "lab", calibration=FEEDS)
    with weft.open(program, "golden") as session:
        whole = session.run(FEEDS)
        empty = session.run({**FEEDS, "attention_mask": MASK * 0})
        np.testing.assert_array_equal(next(iter(empty.values())), 0)
        alone = {k: v[1:2, :4] for k, v in FEEDS.items()}
        (shorter,) = session.run(alone).values()
        np.testing.assert_array_equal(shorter, next(iter(whole.values()))[1:2, :4])
        with pytest.raises(InputError, match=r"shape \(6, 4\) given, \(6, 9\) expected"):
            session.run({**FEEDS, "attention_mask": MASK[:, :4]})
        for wrong in (MASK[:, ::-1], MASK * 2, np.roll(MASK, 1, 1)):
            with pytest.raises(InputError, match=r"'attention_mask': sample \d is no row of ones"):
                session.run({**FEEDS, "attention_mask": wrong})
    with pytest.raises(InputError, match="mask 'attention_mask': sample"):
        evaluate(weft.load_model(FILES[0]), {**FEEDS, "attention_mask": MASK[:, ::-1]})


def negative(net: Net, mask: str, low: float) -> str:
    """(1 − mask) · low, as the first BERTs have it: [n, 1, 1, S]."""
    axes = net.const([1, 2], np.int64)
    real = net.op("Cast", net.op("Unsqueeze", mask, axes), to=TensorProto.FLOAT)
    return str(net.op("Mul", net.op("Sub", net.const(1.0), real), net.const(low)))


def truth(net: Net, mask: str) -> str:
    """mask ≠ 0 as [n, 1, 1, S], expanded to the scores."""
    axes = net.const([1, 2], np.int64)
    seen = net.op("Unsqueeze", net.op("Cast", mask, to=TensorProto.BOOL), axes)
    return str(net.op("Expand", seen, net.const([1, 1, S, S], np.int64)))


FORMS: dict[str, Callable[[Net, str], str]] = {
    "added": lambda net, s: net.op("Add", s, negative(net, "mask", -1e4)),
    "added before the scale": lambda net, s: net.op(
        "Mul", net.op("Add", s, negative(net, "mask", -1e9)), net.const(0.5)
    ),
    "chosen": lambda net, s: net.op("Where", truth(net, "mask"), s, net.const(-3e38)),
    "chosen from the other": lambda net, s: net.op(
        "Where", net.op("Not", truth(net, "mask")), net.const(-1e9), s
    ),
    "with a causal one": lambda net, s: net.op(
        "Add",
        net.op("Add", s, net.const(np.where(np.tri(S), 0, -1e9))),
        negative(net, "mask", -1e4),
    ),
    "and a bias": lambda net, s: net.op(
        "Add", net.op("Add", s, net.const(images((1, 4, S, S)))), negative(net, "mask", -1e4)
    ),
}


def by_hand(form: Callable[[Net, str], str], batch: int = 1) -> Any:
    net = Net(batch, S, D)
    net.add_input("mask", batch, S, dtype=TensorProto.INT64)
    return net.model(self_attention(net, form))


@pytest.mark.oracle
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_other_forms(form):
    model = by_hand(form)
    graph = fuse(load_onnx(model))
    assert Counter(node.op for node in graph)["Attention"] == 1
    x = images((S, S, D))
    mask = np.tri(S, dtype=np.int64)
    (found,) = evaluate(graph, {"x": x, "mask": mask}).values()
    for n in range(S):
        feeds = {"x": x[n : n + 1], "mask": mask[n : n + 1]}
        wanted = run_onnx(model, feeds)[0]
        np.testing.assert_allclose(found[n, : n + 1], wanted[0, : n + 1], rtol=1e-4, atol=1e-5)


OTHERS: dict[str, Callable[[Net, str], str]] = {
    "of queries": lambda net, s: net.op(
        "Add", s, net.op("Transpose", negative(net, "mask", -1e4), perm=[0, 1, 3, 2])
    ),
    "not hidden": lambda net, s: net.op("Add", s, negative(net, "mask", -5.0)),
    "the other way round": lambda net, s: net.op("Where", truth(net, "mask"), net.const(-1e9), s),
    "of two inputs": lambda net, s: net.op(
        "Add", s, net.op("Add", negative(net, "mask", -1e4), negative(net, "more", -1e4))
    ),
}


@pytest.mark.parametrize("form", OTHERS.values(), ids=OTHERS)
def test_what_is_no_mask_of_padding_stays_in_pieces(form):
    net = Net(1, S, D)
    for name in ("mask", "more"):
        net.add_input(name, 1, S, dtype=TensorProto.INT64)
    model = net.model(self_attention(net, form))
    graph = fuse(load_onnx(model))
    ops = Counter(node.op for node in graph)
    assert (ops["Attention"], ops["FirstTokens"], ops["Softmax"]) == (0, 0, 1)
    random = np.random.default_rng(0)
    feeds = {"x": images((1, S, D)), **{n: random.integers(0, 2, (1, S)) for n in ("mask", "more")}}
    used = {name: feeds[name] for name in graph.inputs}
    (found,) = evaluate(graph, used).values()
    np.testing.assert_allclose(found, run_onnx(model, feeds)[0], rtol=1e-4, atol=1e-5)


def test_a_mask_that_something_else_reads_keeps_its_input():
    net = Net(1, S, D)
    net.add_input("mask", 1, S, dtype=TensorProto.INT64)
    y = self_attention(net, FORMS["added"])
    real = net.op(
        "Unsqueeze", net.op("Cast", "mask", to=TensorProto.FLOAT), net.const([2], np.int64)
    )
    graph = fuse(load_onnx(net.model(net.op("Mul", y, real))))
    feeds = {"x": images((S, S, D)), "mask": np.tri(S, dtype=np.int64)}
    program = weft.compile(graph, "lab", calibration=feeds)
    assert program.lengths == ""
    reasons = [s.reason for s in program.segments if isinstance(s, HostSegment)]
    assert any("a number of keys per sample" in why for why in reasons)
    (wanted,) = evaluate(graph, feeds).values()
    with weft.open(program, "golden") as session:
        (found,) = session.run(feeds).values()
    assert np.abs(found - wanted).max() < 0.1 * np.abs(wanted).max()
