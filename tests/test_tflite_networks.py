"""Real TFLite networks: every output code is LiteRT's, and the accuracy is what was published."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tflite")

import models
import weft

TOP1 = {"kws": 90.0, "resnet8": 75.0, "mnist_lstm": 91.5}


def int8_run(net: models.TfNetwork, device: str, requant: str | None = None) -> np.ndarray:
    program = weft.compile(net.path, net.overlay, requant=requant)
    with weft.open(program, device) as session:
        return session.run(net.x)


@pytest.mark.oracle
@pytest.mark.parametrize("name", TOP1)
def test_int8_networks_on_the_simulation(name: str, shared_data: Path) -> None:
    """Accuracy, and every code (of the LSTM: of 2,000 images) as LiteRT gives it."""
    pytest.importorskip("ai_edge_litert")
    from tflite_models import litert

    net = models.tflite_network(name, shared_data)
    found = int8_run(net, "csim")
    assert models.top1(found, net.labels) >= TOP1[name]
    expected = litert(net.path.read_bytes(), net.x[:2000])[0]
    np.testing.assert_array_equal(found[:2000], expected)


@pytest.mark.oracle
@pytest.mark.parametrize("name", ["kws", pytest.param("resnet8", marks=pytest.mark.slow)])
def test_double_round_gives_the_codes_of_the_reference_kernels(
    name: str, shared_data: Path
) -> None:
    pytest.importorskip("ai_edge_litert")
    from tflite_models import litert

    net = models.tflite_network(name, shared_data)
    expected = litert(net.path.read_bytes(), net.x, reference=True)[0]
    np.testing.assert_array_equal(int8_run(net, "csim", "double_round"), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kws", "resnet8"])
def test_golden_gives_what_the_simulation_gives(name: str, shared_data: Path) -> None:
    net = models.tflite_network(name, shared_data)
    np.testing.assert_array_equal(int8_run(net, "golden"), int8_run(net, "csim"))


@pytest.mark.oracle
@pytest.mark.parametrize(
    "name",
    ["mnist_lstm", *(pytest.param(n, marks=pytest.mark.slow) for n in ("kws", "resnet8"))],
)
def test_float_models_quantized_by_weft_lose_at_most_a_point(name: str, shared_data: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    from tflite_models import litert

    net = models.tflite_network(name, shared_data)
    x, labels = net.real()[:1000], net.labels[:1000]
    reference = models.top1(litert(net.float_path.read_bytes(), x)[0], labels)
    program = weft.compile(net.float_path, net.overlay, calibration=x[::5])
    with weft.open(program, "csim") as session:
        assert models.top1(session.run(x), labels) >= reference - 1.0
