"""weft against hls4ml's own C simulation (its Vitis backend): every element of every output."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import weft

sys.path.insert(0, str(Path(__file__).parent / "host"))
from hls4ml_models import Net, quietly

pytest.importorskip("hls4ml")
pytest.importorskip("h5py")

from weft.frontend.hls4ml import keras_file, lower_for

pytestmark = pytest.mark.oracle

EIGHT = "fixed<8,4,RND_CONV,SAT>"
WIDE_SUMS = {"default": EIGHT, "accum": "fixed<24,12>", "weight": "fixed<8,2,RND,SAT>"}
MIXED = {
    "default": "fixed<7,3,TRN,SAT>",
    "accum": "fixed<24,12>",
    "weight": "fixed<6,2,RND,SAT>",
    "bias": "fixed<12,3,RND,SAT>",
}
PRECISIONS = {
    "default": "fixed<16,6>",
    "eight": WIDE_SUMS,
    "mixed": MIXED,
    "wrapping": "fixed<7,3>",
}


def compare(files: Any, precision: Any, folder: Path, x: np.ndarray | None = None) -> list[str]:
    """Where the layers run; asserts that all outputs are those of hls4ml's C simulation."""
    default = {"Model": {"Precision": precision, "ReuseFactor": 1}}
    config = precision if "Model" in precision else default
    model = quietly(keras_file, *files, config=config, backend="Vitis", output_dir=folder)
    shape = tuple(model.get_input_variables()[0].shape)
    if x is None:
        x = np.random.default_rng(0).normal(0, 2, (200, *shape)).astype(np.float32)
    found = lower_for(model, "tiny")
    with weft.open(weft.compile(found.graph, "tiny"), "golden") as session:
        results = session.run(dict.fromkeys(found.graph.inputs, x))
    quietly(model.compile)
    expected = model.predict(np.ascontiguousarray(x))
    _check_backend(files, config, folder / "weft", x, expected)
    expected = expected if isinstance(expected, list) else [expected]
    assert len(results) == len(expected)
    for (name, y), wanted in zip(results.items(), expected, strict=True):
        np.testing.assert_array_equal(y.reshape(wanted.shape), wanted, err_msg=name)
    assert len(np.unique(np.concatenate([e.reshape(-1) for e in expected]))) > 8
    return [note.where for note in found.notes]


def _check_backend(files: Any, config: Any, folder: Path, x: np.ndarray, expected: Any) -> None:
    """One word changed, the same predictions."""
    options = {"backend": "Weft", "overlay": "tiny", "device": "golden", "output_dir": folder}
    model = quietly(keras_file, *files, config=config, **options)
    found = model.predict(x)
    for y, wanted in zip(
        *(v if isinstance(v, list) else [v] for v in (found, expected)), strict=True
    ):
        np.testing.assert_array_equal(y, wanted)


def test_a_perceptron_is_that_of_the_c_simulation(tmp_path):
    net = Net(7)
    x = net.input(6)
    files = net.save(tmp_path, net.dense(net.dense(x, 6, 5, "relu"), 5, 4, "softmax"))
    assert compare(files, WIDE_SUMS, tmp_path / "project").count("accelerator") == 3


def test_traces_are_those_of_the_c_simulation(tmp_path):
    """Layer by layer, in both backends as their users call them."""
    net = Net(7)
    x = net.input(6)
    files = net.save(tmp_path, net.dense(net.dense(x, 6, 5, "relu"), 5, 4, "softmax"))
    names = ("dense1", "dense1_relu", "dense2", "dense2_softmax")
    config = {
        "Model": {"Precision": WIDE_SUMS, "ReuseFactor": 1},
        "LayerName": {name: {"Trace": True} for name in names},
    }
    made = [
        quietly(keras_file, *files, config=config, backend=name, output_dir=tmp_path / name)
        for name in ("Weft", "Vitis")
    ]
    made[0].config.config |= {"Device": "golden", "Overlay": "tiny"}
    samples = np.random.default_rng(0).normal(0, 2, (100, 6)).astype(np.float32)
    (y, ours), (wanted, theirs) = (quietly(model.trace, samples) for model in made)
    np.testing.assert_array_equal(y, wanted)
    assert list(ours) == list(theirs) == list(names)
    for name, values in theirs.items():
        np.testing.assert_array_equal(ours[name].reshape(values.shape), values, err_msg=name)


def vectors() -> tuple[Net, list[str]]:
    """Every activation, merge and normalization of a vector."""
    net = Net(1)
    x = net.input(8)
    a = net.dense(x, 8, 12)
    kinds = ("relu", "sigmoid", "tanh", "softplus", "softsign", "hard_sigmoid", "softmax")
    ends = [net.add("Activation", a, activation=kind) for kind in kinds]
    ends.append(net.add("LeakyReLU", a, alpha=0.3))
    ends.append(net.add("ELU", a, alpha=1.0))
    ends.append(normalization(net, a, 12))
    b = net.dense(x, 8, 12, "relu")
    merges = ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum")
    ends += [net.add(kind, b, ends[1]) for kind in merges]
    ends.append(net.add("Concatenate", b, ends[2], axis=-1))
    return net, ends


def normalization(net: Net, x: str, channels: int) -> str:
    weights = {name: net.normal(channels) for name in ("gamma", "beta", "moving_mean")}
    weights["moving_variance"] = np.abs(net.normal(channels)) + 0.5
    facts = {"axis": [-1], "epsilon": 1e-3, "scale": True, "center": True}
    return net.add("BatchNormalization", x, weights=weights, **facts)


def images() -> tuple[Net, list[str]]:
    """Every window, pool and movement of a map."""
    net = Net(1)
    x = net.input(8, 6, 3)
    a = net.conv(x, (3, 3), 3, 4, padding="same", activation="relu")
    b = net.conv(x, (3, 3), 3, 4, strides=2, padding="same")
    ends = [
        net.pool("MaxPooling2D", a, 2),
        net.pool("AveragePooling2D", a, 2),
        net.pool("AveragePooling2D", a, 3, "same"),
        net.pool("MaxPooling2D", b, 2, "same"),
        net.conv(a, (3, 3), 4, 4, depthwise=True),
        net.add("GlobalAveragePooling2D", a, keepdims=False),
        net.add("GlobalMaxPooling2D", b, keepdims=False),
        net.add("ZeroPadding2D", b, padding=[[1, 1], [0, 2]]),
        net.add("UpSampling2D", b, size=[2, 2], interpolation="nearest"),
        net.add("Add", a, net.conv(x, (1, 1), 3, 4)),
        net.add("Permute", b, dims=[2, 1, 3]),
    ]
    ends.append(normalization(net, ends[0], 4))
    ends.append(net.dense(net.add("Flatten", b), 48, 5))
    return net, ends


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("network", [vectors, images])
def test_every_layer_is_that_of_the_c_simulation(network, precision, tmp_path):
    net, ends = network()
    compare(net.save(tmp_path, *ends), PRECISIONS[precision], tmp_path / "project")


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["default", "eight", "mixed"])
@pytest.mark.parametrize("pruned", ["", "_70pruned_retrained"])
def test_the_jet_tagger_is_that_of_the_c_simulation(precision, pruned, shared_data, tmp_path):
    folder = shared_data / "jet_mlp"
    files = (folder / f"KERAS_3layer{pruned}_weights.h5", folder / "KERAS_3layer.json")
    compare(files, PRECISIONS[precision], tmp_path)


def tuned() -> dict[str, Any]:
    """Eight bits everywhere, each tensor with its own point: what a user of hls4ml would set."""
    eight = {
        "default": "fixed<8,3,RND,SAT>",
        "accum": "fixed<24,12>",
        "weight": "fixed<8,2,RND,SAT>",
        "bias": "fixed<12,4,RND,SAT>",
    }
    sums = dict.fromkeys(("conv1d", "conv1d_1", "dense"), "fixed<24,12>")
    relus = dict.fromkeys(("conv1d_relu", "conv1d_1_relu", "dense_relu"), "ufixed<8,2,RND,SAT>")
    ends = {
        "conv1d_input": "fixed<8,2,RND,SAT>",
        "dense_1": "fixed<8,6,RND,SAT>",
        "dense_1_softmax": "fixed<16,6>",
    }
    named = {k: {"Precision": {"result": v}} for k, v in (sums | relus | ends).items()}
    return {"Model": {"Precision": eight, "ReuseFactor": 1}, "LayerName": named}


HAR = {
    "default": {"Model": {"Precision": "fixed<16,6>", "ReuseFactor": 1}},
    "mixed": {"Model": {"Precision": MIXED, "ReuseFactor": 1}},
    "tuned": tuned(),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HAR)
def test_activity_recognition_is_that_of_the_c_simulation(name, shared_data, tmp_path):
    folder = shared_data / "har_cnn1d"
    x = np.load(folder / "har_windows.npz")["x"][:300]
    places = compare((folder / "model.h5",), HAR[name], tmp_path, x)
    assert places.count("accelerator") == {"default": 0, "mixed": 7, "tuned": 4}[name]


def test_activity_recognition_keeps_its_accuracy_in_eight_bits(shared_data, tmp_path):
    folder = shared_data / "har_cnn1d"
    data = np.load(folder / "har_windows.npz")
    options = {"overlay": "tiny", "device": "golden", "output_dir": tmp_path}
    model = quietly(keras_file, folder / "model.h5", config=tuned(), **options)
    right = model.predict(data["x"][::4]).argmax(axis=1) == data["y"][::4]
    assert right.mean() > 0.985  # 98.83 % in float32
