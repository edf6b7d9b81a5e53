"""The preflight report: what it says is true, and the page stands alone."""

from __future__ import annotations

import json
import re
import time
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_models import Net, cnn

import weft
from weft import cli, drawing
from weft.compiler import calibration_arrays, load_model
from weft.config import load_overlay, overlay_names
from weft.demo import MODELS, load_data
from weft.frontend.onnx import load_onnx
from weft.graph import Graph, Node, Tensor
from weft.inspection import inspect
from weft.lower import lower
from weft.page import page
from weft.passes.quantize import quantize

DIGITS = MODELS / "digits.onnx"


class Reader(HTMLParser):
    """Checks that tags close in order; collects ids, links, and what a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "rect", "path"):
            self.open.append(tag)
        self.scripts += tag == "script" or any(name.startswith("on") for name, _ in attrs)
        for name, value in attrs:
            self.ids += [value or ""] if name == "id" else []
            self.links += [value or ""] if name == "href" else []
            self.fetched += [value or ""] if name in ("src", "data", "srcset") else []

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert not reader.open
    return reader


def test_estimates_are_those_of_the_compiled_program() -> None:
    graph, data = load_model(DIGITS), load_data().calibration
    codes = quantize(graph, calibration_arrays(graph, data))
    program = lower(codes, load_overlay("tiny"), batch=1)
    for model, basis in ((codes, "program"), (DIGITS, "provisional")):
        found = inspect(model, "tiny")
        first, *others = found.estimates
        assert {e.overlay for e in others} == set(overlay_names()) - {"tiny"}
        assert (first.overlay, first.basis) == ("tiny", basis)
        slack = 0 if basis == "program" else 0.03
        assert first.cycles == pytest.approx(weft.estimate(program).cycles, rel=slack)
        exact = weft.estimate(program, board="Pynq-Z2").wall_s
        assert first.boards["Pynq-Z2"] == pytest.approx(exact, rel=slack)


def test_sizes_and_multiplications_by_hand() -> None:
    net = Net("n", 3, 8, 8)
    y = net.op("Conv", "x", net.weights(4, 3, 3, 3), net.weights(4), pads=[1] * 4)
    found = inspect(load_onnx(net.model(net.op("Relu", y)).SerializeToString()), "lab")
    assert found.as_dict()["macs"] == 4 * 3 * 9 * 64
    assert found.memory["weights"] == 4 * 3 * 9
    assert found.memory["biases"] == 4 * 4
    assert found.memory["activations_peak"] == (3 + 4) * 64
    assert found.precision["activations"] == "float32"
    assert [layer["op"] for layer in found.layers] == ["Conv"]


def test_every_node_of_the_host_has_a_reason_and_advice() -> None:
    net = Net("n", 4, 6, 6)
    y = net.op("Softmax", net.op("Resize", "x", "", net.const([1, 1, 1.5, 1.5]), mode="linear"))
    y = net.op("MatMul", y, net.op("Transpose", y, perm=[0, 1, 3, 2]))
    found = inspect(load_onnx(net.model(y).SerializeToString()), "lab")
    hosted = [layer for layer in found.layers if layer["where"] == "host"]
    assert {layer["op"] for layer in hosted} >= {"onnx.Resize", "Softmax", "MatMul"}
    for layer in hosted:
        assert layer["why"]
        assert layer["advice"] or layer["op"] == "Transpose"
    assert found.operators["MatMul"] == {"host": 1}


def test_a_model_too_large_for_an_overlay_is_said_to_be() -> None:
    """Rows of 100,000 words exceed every buffer."""
    shape = (1, 64, 1, 100_000)
    w = Tensor("w", (64, 1, 1, 5), data=np.ones((64, 1, 1, 5), np.float32))
    attrs = {"strides": (1, 1), "pads": (0, 2, 0, 2), "dilations": (1, 1), "group": 64}
    nodes = (Node("Conv", "c", ("x", "w"), ("y",), attrs),)
    tensors = {"x": Tensor("x", shape), "w": w, "y": Tensor("y", shape)}
    found = inspect(Graph("wide", tensors, nodes, ("x",), ("y",)), "tiny")
    assert found.estimates[0].cycles is None
    assert "unified buffer" in found.estimates[0].why
    assert found.estimates[0].why in page(found).replace("&#x27;", "'")


def test_large_models_are_estimated_by_formula() -> None:
    net = Net("n", 1024)
    y = net.op("Gemm", net.op("Gemm", "x", net.weights(1024, 1024)), net.weights(1024, 64))
    found = inspect(load_onnx(net.model(y).SerializeToString()), "lab")
    assert {e.basis for e in found.estimates} == {"formula"}
    assert all(e.cycles for e in found.estimates)
    assert "by formula" in page(found)


@pytest.mark.parametrize("model", ["digits", "cnn"])
def test_the_page_stands_alone(model: str) -> None:
    graph = DIGITS if model == "digits" else load_onnx(cnn().SerializeToString())
    found = inspect(graph, "edge")
    text = page(found)
    reader = read(text)
    assert not reader.fetched
    assert not reader.scripts
    assert not re.search(r"url\(|@import|https?:", text)
    assert len(set(reader.ids)) == len(reader.ids) == len(found.layers)
    assert {link.removeprefix("#") for link in reader.links} == set(reader.ids)
    for layer in found.layers:
        assert layer["op"] in text


def test_graphs_too_large_to_read_are_not_drawn() -> None:
    names = [f"t{i}" for i in range(1201)]
    pairs = pairwise(names)
    nodes = tuple(Node("Softmax", b, (a,), (b,), {"axis": 1}) for a, b in pairs)
    tensors = {n: Tensor(n, (1, 4)) for n in names}
    found = inspect(Graph("deep", tensors, nodes, (names[0],), (names[-1],)), "lab")
    text = page(found)
    assert "1,202 boxes; graphs of up to 1,000 are drawn" in text
    assert "<svg" not in text


def test_names_can_not_break_out_of_the_page() -> None:
    evil = "</title><script>alert(1)</script>\"'&<b onclick=x>"
    nodes = (Node("Softmax", evil, (evil,), ("y",), {"axis": 1}),)
    tensors = {evil: Tensor(evil, (1, 4)), "y": Tensor("y", (1, 4))}
    text = page(inspect(Graph(evil, tensors, nodes, (evil,), ("y",)), "lab"))
    assert not read(text).scripts
    assert "<script" not in text
    assert "<b onclick" not in text


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sets(st.integers(0, 40), max_size=3), min_size=1, max_size=40))
def test_boxes_never_overlap_and_edges_meet_them(sources: list[set[int]]) -> None:
    made = [
        drawing.Box(f"n{i}", "", "acc", sources=sorted(s for s in found if s < i))
        for i, found in enumerate(sources)
    ]
    for box in made:
        box.kind = "accelerator"
    paths = drawing._placed(made)
    assert len(paths) == sum(len(box.sources) for box in made)
    for box in made:
        assert all(made[s].row < box.row for s in box.sources)
    by_row: dict[int, list[drawing.Box]] = {}
    for box in made:
        by_row.setdefault(box.row, []).append(box)
    for row in by_row.values():
        places = sorted(box.x for box in row)
        assert all(b - a >= drawing.WIDTH for a, b in pairwise(places))
    ends = {path.split()[0] for path in paths}
    starts = {f"M{made[s].x + drawing.WIDTH / 2:.1f}" for box in made for s in box.sources}
    assert ends == starts


def test_the_command_writes_all_three_forms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run(["inspect", str(DIGITS), "--html", "digits.html"]) == 0
    printed = capsys.readouterr().out
    for words in ("one sample", "multiplications", "Pynq-Z2", "page: digits.html"):
        assert words in printed
    read((tmp_path / "digits.html").read_text(encoding="utf-8"))
    assert cli.run(["inspect", str(DIGITS), "--json", "--overlay", "tiny"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["memory"]["weights"] > 0
    assert facts["estimates"][0]["overlay"] == "tiny"
    assert facts["operators"]["Conv"]["accelerator"] >= 1


def test_a_page_is_of_a_model_not_of_a_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.weft").write_bytes(b"")
    assert cli.run(["inspect", "p.weft", "--html", "p.html"]) == 2
    assert "p.weft is a program; the page is of a model" in capsys.readouterr().err


@pytest.mark.slow
def test_preflight_takes_at_most_a_second_more_than_the_import(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    from tflite_models import Model

    m, rng = Model(), np.random.default_rng(0)
    x = m.input((1, 1024), "int8", scale=0.05)
    for _ in range(20):
        w = m.constant(rng.integers(-127, 128, (1024, 1024)).astype(np.int8), scale=0.01)
        y = m.tensor((1, 1024), "int8", scale=0.05)
        m.op("FULLY_CONNECTED", [x, w, -1], [y], "FullyConnectedOptions")
        x = y
    path = tmp_path / "m.tflite"
    path.write_bytes(m.bytes(x))
    inspect(DIGITS)  # imports what it needs
    start = time.process_time()  # of this process alone: others may keep the machine busy
    weft.load_model(path)
    imported = time.process_time() - start
    page(inspect(path))
    assert time.process_time() - start - imported < imported + 1
