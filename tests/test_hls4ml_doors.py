"""hls4ml models by all its doors, Keras 3, PyTorch, HGQ2, QKeras: one word changed, same numbers.

Each model is converted twice, for hls4ml's Vitis backend and with `backend="Weft"`; predictions of
both must be equal in every element.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent / "host"))
import qkeras_standin
from hls4ml_models import Net, quietly

pytest.importorskip("hls4ml")

import hls4ml

from weft.errors import MissingDependency
from weft.frontend.hls4ml import keras_file
from weft.frontend.hls4ml_backend import session_of

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]

PRECISIONS = ["fixed<16,6>", "fixed<8,4,RND_CONV,SAT>"]
WEFT = {"board": "kv260", "overlay": "tiny"}
# hls4ml's "auto" types grow from layer to layer; weft evaluates up to 48 bits.
BY_NAME = {"granularity": "name", "backend": "Vitis", "max_precision": "fixed<24,8>"}


def compare(
    convert: Callable[..., Any], folder: Path, shape: tuple[int, ...], device: str = "golden"
) -> Any:
    """weft's ModelGraph, after all elements were those of hls4ml's own C simulation."""
    x = np.random.default_rng(0).normal(0, 2, (100, *shape)).astype(np.float32)
    theirs = quietly(convert, backend="Vitis", output_dir=str(folder / "vitis"))
    quietly(theirs.compile)
    expected = theirs.predict(x)
    ours = quietly(convert, backend="Weft", output_dir=str(folder / "weft"), device=device, **WEFT)
    quietly(ours.compile)
    np.testing.assert_array_equal(ours.predict(x), expected)
    assert len(np.unique(expected)) > 2
    return ours


def places(model: Any) -> dict[str, str]:
    return {note.layer: note.where for note in session_of(model)[1].notes}


@pytest.fixture(scope="session")
def keras() -> Any:
    found = pytest.importorskip("keras", reason="keras is not installed: pip install keras jax")
    if found.__version__[0] != "3":
        pytest.skip("these models are of Keras 3")
    return found


def stacked(keras: Any, kind: str) -> tuple[Any, tuple[int, ...]]:
    """A small Keras model with random weights, and the shape of its input."""
    layers = keras.layers
    keras.utils.set_random_seed(1)
    shape, stack = {
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
    }[kind]
    return keras.Sequential([layers.Input(shape), *stack]), shape


def of_keras(model: Any, config: dict[str, Any]) -> Callable[..., Any]:
    def convert(**options: Any) -> Any:
        return hls4ml.converters.convert_from_keras_model(model, hls_config=config, **options)

    return convert


def some(quick: set[tuple[str, str]], kinds: list[str], others: list[str]) -> list[Any]:
    """All pairs, of which those that are not `quick` are slow: hls4ml's compiler runs for each."""
    pairs = [(kind, other) for kind in kinds for other in others]
    return [pytest.param(*p, marks=[] if p in quick else [pytest.mark.slow]) for p in pairs]


QUICK = {("conv1d", PRECISIONS[1])}


@pytest.mark.parametrize(
    ("kind", "precision"), some(QUICK, ["mlp", "conv1d", "conv2d"], PRECISIONS)
)
def test_keras_3(keras, kind, precision, tmp_path):
    model, shape = stacked(keras, kind)
    facts = {**BY_NAME, "default_precision": precision}
    config = quietly(hls4ml.utils.config_from_keras_model, model, **facts)
    device = "csim" if kind == "conv1d" else "golden"
    compare(of_keras(model, config), tmp_path, shape, device)


def test_one_word_is_all_that_changes(keras, tmp_path, monkeypatch):
    """Compile, predict, trace and build of a Keras model, with nothing else said."""
    monkeypatch.setenv("PATH", "")
    model, shape = stacked(keras, "mlp")
    convert = hls4ml.converters.convert_from_keras_model
    found = quietly(convert, model, backend="Weft", board="kv260", output_dir=str(tmp_path))
    assert found.config.get_config_value("Overlay") == "edge"
    assert found.config.get_config_value("Device") == "csim"
    found.config.config["Device"] = "golden"  # the compiler is not on the path
    x = np.random.default_rng(0).normal(size=(20, *shape)).astype(np.float32)
    y, layers = found.trace(x)
    np.testing.assert_array_equal(found.predict(x), y)
    assert np.abs(y - np.asarray(model.predict(x, verbose=0))).max() < 0.05
    assert list(layers) == [layer.name for layer in found.get_layers()][1:]
    outcome = found.build()
    assert (tmp_path / "bitstream" / "Makefile").is_file()
    assert (tmp_path / "myproject.weft").is_file()
    assert any("make bitstream" in line for line in outcome.next)


def test_hls4mls_profiling_takes_weft(keras, tmp_path):
    pytest.importorskip("pandas", reason="hls4ml's profiling is not installed")
    pytest.importorskip("seaborn", reason="hls4ml's profiling is not installed")
    from hls4ml.model import profiling

    layers = keras.layers
    start = layers.Input((6,))
    y = layers.Dense(4, name="fc2")(layers.Dense(8, activation="relu", name="fc1")(start))
    model = keras.Model(start, y)
    convert = of_keras(model, {"Model": {"Precision": "fixed<16,6>", "ReuseFactor": 1}})
    found = quietly(convert, backend="Weft", device="golden", output_dir=str(tmp_path), **WEFT)
    x = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)
    figures = quietly(profiling.numerical, model=model, hls_model=found, X=x)
    assert all(figure is not None for figure in figures)
    assert quietly(profiling.compare, model, found, x) is not None


def test_a_lambda_layer_of_keras_is_named(keras, tmp_path):
    layers = keras.layers
    stack = [layers.Input((6,)), layers.Dense(4), layers.Lambda(lambda x: x * 2, name="twice")]
    convert = hls4ml.converters.convert_from_keras_model
    with pytest.raises(Exception, match=r"Lambda|twice"):  # hls4ml's own refusal
        quietly(convert, keras.Sequential(stack), backend="Weft", output_dir=str(tmp_path))


def torch_module(kind: str) -> tuple[Any, tuple[int, ...]]:
    """A small PyTorch module with random weights, and the shape of its input."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    from torch import nn

    torch.manual_seed(0)
    shape, stack = {
        "mlp": ((6,), [nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4)]),
        "softmax": ((6,), [nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4), nn.Softmax(dim=-1)]),
        "conv1d": (
            (3, 12),
            [nn.Conv1d(3, 4, 3), nn.ReLU(), nn.AvgPool1d(2), nn.Flatten(), nn.Linear(20, 4)],
        ),
        "conv2d": (
            (2, 8, 8),
            [
                nn.Conv2d(2, 4, 3, padding=1),
                nn.BatchNorm2d(4),
                nn.ReLU(),
                nn.MaxPool2d(2),
                nn.Flatten(),
                nn.Linear(64, 4),
            ],
        ),
    }[kind]
    return nn.Sequential(*stack).eval(), shape


TORCH_QUICK = {("mlp", PRECISIONS[0]), ("conv2d", PRECISIONS[1])}


@pytest.mark.parametrize(
    ("kind", "precision"),
    some(TORCH_QUICK, ["mlp", "softmax", "conv1d", "conv2d"], PRECISIONS),
)
def test_pytorch(kind, precision, tmp_path):
    module, shape = torch_module(kind)
    facts = {**BY_NAME, "default_precision": precision}
    facts["channels_last_conversion"] = "full"  # samples as PyTorch has them, channels first
    config = quietly(hls4ml.utils.config_from_pytorch_model, module, shape, **facts)

    def convert(**options: Any) -> Any:
        return hls4ml.converters.convert_from_pytorch_model(module, hls_config=config, **options)

    compare(convert, tmp_path, shape, "csim" if kind == "mlp" else "golden")


def test_pytorch_is_near_its_module(tmp_path):
    """With enough bits, hls4ml's numbers are PyTorch's: the layout of samples is understood."""
    module, shape = torch_module("conv2d")
    import torch

    facts = {**BY_NAME, "default_precision": "fixed<20,8>", "channels_last_conversion": "full"}
    config = quietly(hls4ml.utils.config_from_pytorch_model, module, shape, **facts)
    convert = hls4ml.converters.convert_from_pytorch_model
    options = {"backend": "Weft", "device": "golden", "output_dir": str(tmp_path), **WEFT}
    model = quietly(convert, module, hls_config=config, **options)
    x = np.random.default_rng(0).normal(size=(20, *shape)).astype(np.float32)
    with torch.no_grad():
        expected = module(torch.tensor(x)).numpy()
    assert np.abs(model.predict(x) - expected).max() < 0.01


def hgq_model(keras: Any, kind: str, overflow: str) -> tuple[Any, tuple[int, ...]]:
    """A model of HGQ2 whose bits differ from element to element, and its input's shape."""
    pytest.importorskip("hgq", reason="HGQ2 is not installed: pip install hgq2")
    from hgq import layers as q
    from hgq.config import LayerConfigScope, QuantizerConfigScope

    keras.utils.set_random_seed(1)
    lanes = {"homogeneous_axis": (0,), "heterogeneous_axis": None, "overflow_mode": overflow}
    one = {"allow_heterogeneous_table": False}
    with (
        QuantizerConfigScope(place="all", default_q_type="kbi", overflow_mode="SAT_SYM"),
        QuantizerConfigScope(place="datalane", default_q_type="kif", **lanes),
        LayerConfigScope(enable_ebops=False),
    ):
        shape = (8, 8, 2) if kind == "conv" else (6,)
        x = start = keras.layers.Input(shape)
        if kind == "conv":
            x = keras.layers.MaxPooling2D(2)(q.QConv2D(4, 3, activation="relu")(x))
            x = keras.layers.Flatten()(x)
        elif kind == "tables":
            x = q.QUnaryFunctionLUT("tanh", **one)(q.QDense(8)(x))
        else:
            x = q.QAdd()([q.QBatchNormalization()(q.QDense(8)(x)), q.QDense(8)(x)])
        x = q.QDense(5)(x)
        model = keras.Model(start, q.QSoftmax(**one)(x) if kind == "tables" else x)
    return _spread(model, shape), shape


def _spread(model: Any, shape: tuple[int, ...]) -> Any:
    """Other bits for each element, as training would find them; ranges from samples."""
    from hgq.utils import trace_minmax

    rng = np.random.default_rng(3)
    for layer in model._flatten_layers():
        for variable in layer.variables:
            if variable.name in ("f", "i", "b") and np.size(variable) > 1:
                variable.assign(np.asarray(variable) + rng.integers(-2, 2, np.shape(variable)))
    x = np.random.default_rng(0).normal(0, 2, (100, *shape)).astype(np.float32)
    trace_minmax(model, x)
    return model


HGQ_QUICK = {("tables", "WRAP")}


@pytest.mark.parametrize(
    ("kind", "overflow"), some(HGQ_QUICK, ["merged", "conv", "tables"], ["WRAP", "SAT"])
)
def test_hgq2(keras, kind, overflow, tmp_path):
    model, shape = hgq_model(keras, kind, overflow)
    config = {"Model": {"Precision": "fixed<16,6>", "ReuseFactor": 1}}
    found = compare(of_keras(model, config), tmp_path, shape)
    kinds = {layer.class_name for layer in found.get_layers()}
    assert "FixedPointQuantizer" in kinds
    assert ("UnaryLUT" in kinds) == (kind == "tables")
    x = np.random.default_rng(0).normal(0, 2, (100, *shape)).astype(np.float32)
    expected = np.asarray(model.predict(x, verbose=0))
    if overflow == "WRAP":  # hls4ml itself is exact then
        np.testing.assert_array_equal(found.predict(x).reshape(expected.shape), expected)


def test_qkeras(tmp_path):
    """Files of QKeras, with QKeras: see docs/hls4ml.md for the environment that it needs."""
    qkeras = pytest.importorskip("qkeras", reason="QKeras is not installed")
    tf_keras = pytest.importorskip("tf_keras", reason="QKeras needs tf_keras beside Keras 3")
    layers = tf_keras.layers
    eight = {"bias_quantizer": "quantized_bits(6, 0, alpha=1)"}
    x = start = layers.Input((8, 8, 2))
    six, two = "quantized_bits(6, 0, alpha=1)", "ternary(alpha=1)"
    x = qkeras.QConv2D(4, 3, kernel_quantizer=six, name="c1", **eight)(x)
    x = layers.MaxPooling2D(2)(qkeras.QActivation("quantized_relu(6, 2)", name="r1")(x))
    x = qkeras.QDense(5, kernel_quantizer=two, name="d1", **eight)(layers.Flatten()(x))
    model = tf_keras.Model(start, x)
    path = tmp_path / "net.json"
    path.write_text(model.to_json())
    model.save_weights(tmp_path / "net.h5")
    found = _compare_qkeras(tmp_path, tmp_path / "net.h5", path, (8, 8, 2))
    samples = np.random.default_rng(0).normal(0, 1, (100, 8, 8, 2)).astype(np.float32)
    samples = np.ldexp(np.rint(np.ldexp(samples, 10)), -10)  # numbers that the input's type has
    expected = model.predict(samples, verbose=0)
    np.testing.assert_array_equal(found.predict(samples), expected)


def _compare_qkeras(
    folder: Path, h5: Path, text: Path, shape: tuple[int, ...], relu: str = "r1"
) -> Any:
    """As `compare`, of files; types are those that QKeras computes with."""
    wide = {"default": "fixed<16,6>", "accum": "fixed<32,12>", "result": "fixed<32,12>"}
    six = {"Precision": {"result": "ufixed<6,2,RND_CONV,SAT>"}}
    config = {"Model": {"Precision": wide, "ReuseFactor": 1}, "LayerName": {relu: six}}

    def convert(**options: Any) -> Any:
        return keras_file(h5, text, config=config, **options)

    return compare(convert, folder, shape)


def qkeras_files(folder: Path) -> tuple[Path, Path]:
    """What QKeras writes of a convolution, an activation and a matrix."""
    six = {"class_name": "quantized_bits", "config": {"bits": 6, "integer": 0, "alpha": 1}}
    relu = {"bits": 6, "integer": 2, "negative_slope": 0.0}
    facts = {"kernel_quantizer": six, "bias_quantizer": six}
    net = Net(4)
    x = net.input(8, 8, 2)
    a = net.conv(x, (3, 3), 2, 4)
    net.layers[-1]["class_name"] = "QConv2D"
    net.layers[-1]["config"] |= facts
    activation = {"class_name": "quantized_relu", "config": relu}
    b = net.add("QActivation", a, activation=activation)
    c = net.dense(net.add("Flatten", net.pool("MaxPooling2D", b, 2)), 36, 5)
    net.layers[-1]["class_name"] = "QDense"
    net.layers[-1]["config"] |= facts
    return net.save(folder, c)


def test_qkeras_files(tmp_path, monkeypatch):
    """As hls4ml reads them: weights on QKeras' grid in its types, an activation in its type."""
    for name, module in qkeras_standin.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    found = _compare_qkeras(tmp_path, *qkeras_files(tmp_path), (8, 8, 2), relu="qactivation2")
    layers = {layer.name: layer for layer in found.get_layers()}
    weights = layers["conv2d1"].weights["weight"]
    assert str(weights.type.precision) == "fixed<6,1,TRN,WRAP,0>"
    codes = np.asarray(weights.data) * 32
    np.testing.assert_array_equal(codes, np.rint(codes))


def test_qkeras_files_need_qkeras(tmp_path, monkeypatch):
    for name in ("qkeras", "qkeras.quantizers"):
        monkeypatch.setitem(sys.modules, name, None)
    files = qkeras_files(tmp_path)
    with pytest.raises(MissingDependency, match=r"net\.json: its layers need the package 'qkeras"):
        quietly(keras_file, *files)
