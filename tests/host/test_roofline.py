"""Roofs, the first TPU's among them, what an estimate says of a board, and the pictures."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace

import numpy as np
import pytest

import weft
from weft import cli, roofline
from weft.config import load_board, load_overlay
from weft.demo import MODELS, load_data
from weft.errors import MissingDependency, UsageError
from weft.roofline import Roofline

# Jouppi et al., ISCA 2017: tables 1 and 3; bounds from the roofline in TOP/s.
TPU_CLOCK_HZ, TPU_BYTES_PER_S = 700e6, 34e9
WORKLOADS = {
    "MLP0": (200, 13.6),
    "MLP1": (168, 11.4),
    "LSTM0": (64, 4.35),
    "LSTM1": (96, 6.5),
    "CNN0": (2888, 91.75),
    "CNN1": (1750, 91.75),
}


@pytest.fixture(scope="module")
def program():
    return weft.compile(MODELS / "digits.onnx", "edge", calibration=load_data().calibration[:8])


@pytest.fixture
def tpu():
    overlay = load_overlay("tpu_v1")
    return Roofline(overlay.rows * overlay.cols * TPU_CLOCK_HZ, TPU_BYTES_PER_S)


def test_the_ridge_of_the_first_tpu(tpu):
    assert round(tpu.ridge) == 1349  # the paper says 1350
    assert 2 * tpu.macs_per_s / 1e12 == pytest.approx(91.75, abs=0.01)
    assert tpu.bound(tpu.ridge) == pytest.approx(tpu.macs_per_s)


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_bounds_of_its_workloads(tpu, name):
    intensity, tops = WORKLOADS[name]
    assert 2 * tpu.bound(intensity) / 1e12 == pytest.approx(tops, rel=0.01)
    assert (intensity < tpu.ridge) == (tops < 90)


def test_no_layer_is_above_a_roof(program):
    made = weft.estimate(program, 4, "KV260")
    roof = roofline.roofline(made)
    found = roofline.points(made)
    assert [p.name for p in found] == [layer.name for layer in made.layers if layer.macs]
    for point in found:
        assert 0 < point.macs_per_s <= roof.bound(point.intensity) * (1 + 1e-9)
    assert 0 < sum(p.share for p in found) <= 1


def test_what_needs_a_board_says_so(program):
    plain = weft.estimate(program)
    assert (plain.fps, plain.energy_j, plain.fit, plain.wall_s) == (None,) * 4
    with pytest.raises(UsageError, match="--board"):
        roofline.roofline(plain)


def test_rate_fit_and_energy_of_a_board(program):
    made = weft.estimate(program, 4, "KV260")
    assert made.fps == pytest.approx(4 / made.wall_s)
    assert made.fit.fits
    assert made.energy_j is None  # no board's power has been measured
    measured = replace(load_board("KV260"), power_w=5.0)
    assert weft.estimate(program, 4, measured).energy_j == pytest.approx(5 * made.wall_s)
    assert not weft.estimate(program, 4, "Pynq-Z2").fit.fits


def test_the_memory_bounds_a_slow_one(program):
    slow = replace(load_board("KV260"), ddr_bytes_per_s=1e8)
    made = weft.estimate(program, 1, slow)
    assert {layer.bound for layer in made.layers} == {"memory"}
    assert made.wall_s == pytest.approx(made.bytes / slow.memory_bytes_per_s)


@pytest.mark.parametrize("name", ["r.png", "r.svg", "r.pdf"])
def test_a_picture_is_drawn(program, tmp_path, name):
    pytest.importorskip("matplotlib")
    path = roofline.draw(weft.estimate(program, 1, "KV260"), tmp_path / name)
    start = path.read_bytes()[:200]
    assert start.startswith({"r.png": b"\x89PNG", "r.svg": b"<?xml", "r.pdf": b"%PDF"}[name])


def test_a_picture_names_every_layer(program, tmp_path):
    made = weft.estimate(program, 1, "KV260")
    text = roofline.draw(made, tmp_path / "r.svg").read_text()
    # matplotlib puts a text as a comment above its glyphs
    labels = ", ".join(re.findall(r"<!-- (.*?) -->", text)).split(", ")
    assert {point.name for point in roofline.points(made)} <= set(labels)


def test_layers_that_lie_together_share_a_label(program, tmp_path):
    made = weft.estimate(program, 1, "KV260")
    conv = next(layer for layer in made.layers if layer.macs)
    made = replace(made, layers=tuple(replace(conv, name=f"conv{i}") for i in range(5)))
    text = roofline.draw(made, tmp_path / "r.svg").read_text()
    assert "<!-- conv0, conv1, conv2 and 2 more -->" in text


def test_no_picture_without_matplotlib_or_under_a_strange_name(program, tmp_path, monkeypatch):
    made = weft.estimate(program, 1, "KV260")
    with pytest.raises(UsageError, match=r"\.png, \.svg, \.pdf"):
        roofline.draw(made, tmp_path / "r.txt")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependency, match=r"weft\[plot\]"):
        roofline.draw(made, tmp_path / "r.png")
    assert list(tmp_path.iterdir()) == []


def test_the_command_line(program, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    program.save("p.weft")
    assert (
        cli.run(
            ["estimate", "p.weft", "--board", "KV260", "--batch", "2", "--plot", "r.png", "--json"]
        )
        == 0
    )
    facts = json.loads(capsys.readouterr().out)
    assert facts["fit"]["fits"]
    assert facts["fps"] == pytest.approx(2 / facts["wall_s"])
    assert facts["energy_j"] is None
    assert (tmp_path / "r.png").stat().st_size > 10_000
    assert cli.run(["estimate", "p.weft", "--board", "Pynq-Z2"]) == 0
    out = capsys.readouterr().out
    assert "does not fit: LUT" in out
    assert "energy: none" in out
    assert cli.run(["estimate", "p.weft", "--plot", "r.png"]) == 2
    assert "--board" in capsys.readouterr().err
    assert np.isfinite(facts["wall_s"])
