"""hls4ml models by other doors, Keras 3 and HGQ2, beside hls4ml's C simulation."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import weft

sys.path.insert(0, str(Path(__file__).parent / "host"))
from hls4ml_models import quietly

pytest.importorskip("hls4ml")
pytest.importorskip("keras", reason="keras is not installed: pip install keras tensorflow")

import hls4ml
import keras

from weft.errors import UnsupportedError
from weft.frontend.hls4ml import lower_for

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.skipif(keras.__version__[0] != "3", reason="these models are of Keras 3"),
    pytest.mark.filterwarnings("ignore"),
]


def compare(convert: Any, model: Any, folder: Path, shape: tuple[int, ...], **options: Any) -> None:
    """All elements of all outputs, on weft's golden device and in hls4ml's C simulation."""
    converted = quietly(convert, model, output_dir=str(folder), backend="Vitis", **options)
    found = lower_for(converted, "tiny")
    x = np.random.default_rng(0).normal(0, 2, (100, *shape)).astype(np.float32)
    with weft.open(weft.compile(found.graph, "tiny"), "golden") as session:
        (ours,) = session.run(dict.fromkeys(found.graph.inputs, x)).values()
    quietly(converted.compile)
    theirs = converted.predict(np.ascontiguousarray(x))
    np.testing.assert_array_equal(ours.reshape(theirs.shape), theirs)
    assert len(np.unique(theirs)) > 2


def keras_model(kind: str) -> Any:
    """A small model with random weights."""
    layers = keras.layers
    keras.utils.set_random_seed(1)
    stacks = {
        "mlp": (
            (6,),
            [
                layers.Dense(8, activation="relu"),
                layers.BatchNormalization(),
                layers.Dense(5, activation="softmax"),
            ],
        ),
        "conv1d": (
            (12, 3),
            [
                layers.Conv1D(4, 3, padding="same", activation="relu"),
                layers.MaxPooling1D(2),
                layers.Flatten(),
                layers.Dense(4),
            ],
        ),
        "conv2d": (
            (8, 8, 2),
            [
                layers.Conv2D(4, 3, activation="relu"),
                layers.BatchNormalization(),
                layers.AveragePooling2D(2),
                layers.Flatten(),
                layers.Dense(4),
            ],
        ),
    }
    shape, stack = stacks[kind]
    return keras.Sequential([layers.Input(shape), *stack]), shape


@pytest.mark.parametrize("kind", ["mlp", "conv1d", "conv2d"])
@pytest.mark.parametrize("precision", ["fixed<16,6>", "fixed<8,4,RND_CONV,SAT>"])
def test_keras_3(kind, precision, tmp_path):
    model, shape = keras_model(kind)
    config = quietly(
        hls4ml.utils.config_from_keras_model,
        model,
        granularity="name",
        backend="Vitis",
        default_precision=precision,
    )
    for layer in config["LayerName"].values():  # "auto" goes beyond 48 bits behind a batch norm
        types = layer["Precision"]
        types.update({name: "fixed<32,14>" for name in types if types[name] == "auto"})
    convert = hls4ml.converters.convert_from_keras_model
    compare(convert, model, tmp_path, shape, hls_config=config)


def test_quantizers_of_hgq2_are_refused_by_name(tmp_path):
    hgq = pytest.importorskip("hgq", reason="HGQ2 is not installed: pip install hgq2")
    from hgq.config import LayerConfigScope, QuantizerConfigScope
    from hgq.layers import QDense

    assert hgq
    keras.utils.set_random_seed(1)
    with (
        QuantizerConfigScope(place="all", default_q_type="kbi", overflow_mode="SAT_SYM"),
        QuantizerConfigScope(place="datalane", default_q_type="kif", overflow_mode="WRAP"),
        LayerConfigScope(enable_ebops=False),
    ):
        stack = [QDense(8, activation="relu"), QDense(5)]
        model = keras.Sequential([keras.layers.Input((6,)), *stack])
    x = np.random.default_rng(1).normal(0, 2, (200, 6)).astype(np.float32)
    from hgq.utils import trace_minmax

    trace_minmax(model, x)
    convert = hls4ml.converters.convert_from_keras_model
    config = {"Model": {"Precision": "fixed<16,6>", "ReuseFactor": 1}}
    folder = str(tmp_path)
    found = quietly(convert, model, output_dir=folder, backend="Vitis", hls_config=config)
    with pytest.raises(UnsupportedError, match="no hls4ml layer 'FixedPointQuantizer'"):
        lower_for(found, "tiny")
