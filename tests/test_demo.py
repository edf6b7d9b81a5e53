"""The demonstration, its data, and the script that made them."""

from __future__ import annotations

import io
import json
import runpy
from pathlib import Path

import numpy as np
import onnx
import pytest
from rich.console import Console

import models
from weft import demo

REPO = Path(__file__).resolve().parents[1]


def test_model_and_data_are_small_and_accurate() -> None:
    data = demo.load_data()
    assert data.images.shape == (540, 1, 8, 8)
    assert data.calibration.shape == (128, 1, 8, 8)
    assert sum(path.stat().st_size for path in demo.MODELS.iterdir()) < 350_000
    model = onnx.load(str(demo.MODELS / "digits.onnx"))
    expected = models.top1(models.run_ort(model, data.images)[0], data.labels)
    assert expected >= 97.5
    assert demo.reference_top1(data) == pytest.approx(expected)


def test_calibration_images_are_not_held_out_ones() -> None:
    data = demo.load_data()
    held = {image.tobytes() for image in data.images}
    assert not held & {image.tobytes() for image in data.calibration}


def test_training_script_computes_the_gradients_of_its_loss() -> None:
    script = runpy.run_path(str(REPO / "examples" / "train_digits.py"))
    rng = np.random.default_rng(0)
    weights = script["initial"](rng)
    x, labels = rng.random((5, 1, 8, 8)), rng.integers(0, 10, 5)
    smoothing = script["SMOOTHING"]

    def loss() -> float:
        logits = script["scores"](weights, x)[0]
        log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        target = np.full_like(log_p, smoothing / 10)
        target[np.arange(5), labels] += 1 - smoothing
        return float(-(target * log_p).sum(1).mean())

    gradients = script["gradients"](weights, x, labels)
    for name, gradient in gradients.items():
        index = tuple(rng.integers(0, size) for size in gradient.shape)
        step, centre = 1e-5, weights[name][index]
        weights[name][index] = centre + step
        above = loss()
        weights[name][index] = centre - step
        slope = (above - loss()) / (2 * step)
        weights[name][index] = centre
        assert gradient[index] == pytest.approx(slope, rel=1e-3, abs=1e-7), name


def test_demo_in_json(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=200)
    demo.main(console, output_dir=tmp_path / "demo", json=True)
    facts = json.loads(console.file.getvalue())
    assert [result["overlay"] for result in facts["overlays"]] == ["tiny", "edge", "lab"]
    for result in facts["overlays"]:
        assert result["equal"] == facts["images"] == 540
        assert abs(result["top1"] - facts["float_top1"]) <= 1.0
        assert result["cycles"] > 0
        assert all(0 < share <= 100 for share in result["utilization"].values())
    assert (tmp_path / "demo" / "utilization.png").read_bytes().startswith(b"\x89PNG")


def test_demo_for_people(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=140)
    demo.main(console, output_dir=tmp_path)
    text = console.file.getvalue()
    for word in ("Pynq-Z2", "KV260", "540/540 equal", "utilization.png"):
        assert word in text
