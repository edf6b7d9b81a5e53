"""Top-1 accuracy of real networks in int8 on the simulation, against their float models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

import models
import weft


def int8_top1(net: models.Network, overlay: str, **options: str) -> float:
    program = weft.compile(net.path, overlay, calibration=net.calibration)
    with weft.open(program, "csim", **options) as session:
        return models.top1(session.run(net.x), net.labels)


@pytest.mark.parametrize(
    ("name", "samples", "published"),
    [("mnist", 10_000, 98.91), ("resnet8", 1_000, 75.1), ("har", 3_496, 98.83)],
)
def test_float_models_reach_their_published_accuracy(
    name: str, samples: int, published: float, network: Callable[[str], models.Network]
) -> None:
    net = network(name)
    assert len(net.x) == len(net.labels) == samples
    assert net.float_top1() == pytest.approx(published, abs=0.005)


def test_mnist_in_int8_classifies_all_10000_images(
    network: Callable[[str], models.Network],
) -> None:
    assert int8_top1(network("mnist"), "lab") >= 98.7


def test_resnet8_in_int8_loses_at_most_one_point(network: Callable[[str], models.Network]) -> None:
    net = network("resnet8")
    assert int8_top1(net, "edge") >= net.float_top1() - 1.0


@pytest.mark.parametrize("form", ["functional", "cycle"])
def test_har_in_int8_loses_at_most_half_a_point(
    form: str, network: Callable[[str], models.Network]
) -> None:
    assert int8_top1(network("har"), "tiny", form=form) >= 98.83 - 0.5


def test_har_with_channels_last_gives_the_same_accuracy(shared_data: Path, tmp_path: Path) -> None:
    """As exported from Keras: the graph transposes before the convolutions and after them."""
    model, (x, labels) = models.har(shared_data, True), models.har_data(shared_data, True)
    path = tmp_path / "har_keras.onnx"
    onnx.save(model, str(path))
    assert int8_top1(models.Network(model, path, x, labels), "lab") >= 98.83 - 0.5


def test_jet_mlp_from_keras_weights_equals_the_published_onnx_file(shared_data: Path) -> None:
    published = onnx.load(str(shared_data / "jet_mlp" / "three_layer_keras.onnx"))
    model = models.jet_mlp(shared_data)
    for x in np.random.default_rng(1).normal(size=(5, 1, 16)).astype(np.float32):
        y, expected = (models.run_ort(m, x)[0] for m in (model, published))
        np.testing.assert_allclose(y, expected, atol=1e-6)


@pytest.mark.parametrize("pruned", ["", "_70pruned_retrained", "_95pruned_retrained"])
def test_jet_mlp_in_int8_chooses_as_float_does(
    pruned: str, shared_data: Path, tmp_path: Path
) -> None:
    """No labels exist, so this counts the same choice on random jets."""
    model = models.jet_mlp(shared_data, f"KERAS_3layer{pruned}_weights.h5")
    path = tmp_path / "jet_mlp.onnx"
    onnx.save(model, str(path))
    x = np.random.default_rng(0).normal(size=(2000, 16)).astype(np.float32)
    with weft.open(weft.compile(path, "tiny", calibration=x)) as session:
        y = session.run(x)
    expected = models.run_ort(model, x)[0]
    np.testing.assert_allclose(y.sum(1), 1, atol=1e-5)
    assert np.mean(y.argmax(1) == expected.argmax(1)) >= 0.95
    assert np.abs(y - expected).mean() <= 0.015
