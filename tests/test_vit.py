"""The Vision Transformer for the digits: its accuracy in float, and in int8 on the simulation."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest

import weft
from weft import demo
from weft.ops import evaluate

REPO = Path(__file__).resolve().parents[1]
MODEL = demo.MODELS / "vit_digits.onnx"


def test_it_is_small_and_right_as_often_as_its_readers_are_told():
    assert MODEL.stat().st_size < 300_000
    data = demo.load_data()
    (scores,) = evaluate(weft.load_model(MODEL), {"image": data.images}).values()
    top1 = 100 * np.mean(scores.argmax(1) == data.labels)
    assert f"{top1:.2f} % in float" in (REPO / "CHANGELOG.md").read_text()


def test_int8_loses_at_most_a_point():
    data = demo.load_data()
    program = weft.compile(MODEL, "lab", calibration=data.calibration)
    (scores,) = evaluate(weft.load_model(MODEL), {"image": data.images}).values()
    with weft.open(program) as csim, weft.open(program, "golden") as golden:
        found = csim.run(data.images)
        np.testing.assert_array_equal(golden.run(data.images[:32]), found[:32])
    reference = np.mean(scores.argmax(1) == data.labels)
    assert np.mean(found.argmax(1) == data.labels) >= reference - 0.01


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_script_trains_and_exports(tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    arguments = ["train", "--output", str(tmp_path), "--epochs", "3"]
    monkeypatch.setattr("sys.argv", arguments)
    runpy.run_path(str(REPO / "examples" / "train_vit_digits.py"), run_name="__main__")
    assert "held-out accuracy" in capsys.readouterr().out
    ops = {node.op for node in weft.load_model(tmp_path / "vit_digits.onnx")}
    assert {"Attention", "LayerNorm", "Gelu"} <= ops
