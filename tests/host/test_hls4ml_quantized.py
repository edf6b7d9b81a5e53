"""hls4ml models that weft quantizes itself: exact=False, formats per layer."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hls4ml_models import Net, quietly

import weft

pytest.importorskip("hls4ml")
pytest.importorskip("h5py")

from weft.errors import UnsupportedError, UsageError
from weft.frontend.hls4ml import keras_file, lower_for
from weft.frontend.hls4ml_backend import program_of
from weft.frontend.hls4ml_float import load_float
from weft.ops import evaluate

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from test_hls4ml_csim import images, vectors

WIDE = {"Model": {"Precision": {"default": "fixed<40,16>"}, "ReuseFactor": 1}}
# hls4ml's tables are coarse: by how much they differ from the functions they stand for.
TABLES = {
    "activation3": 0.01,
    "activation4": 0.01,
    "activation5": 0.02,
    "activation6": 0.02,
    "elu10": 0.01,
    "concatenate19": 0.01,
    **dict.fromkeys(("add13", "subtract14", "multiply15", "average16"), 0.02),
    **dict.fromkeys(("maximum17", "minimum18"), 0.01),
}


@pytest.mark.parametrize("network", [vectors, images])
def test_float_layers_are_those_of_many_bits(network, tmp_path):
    """The float graph against the exact one of 40-bit types, which differ by rounding."""
    net, ends = network()
    files = net.save(tmp_path, *ends)
    model = quietly(keras_file, *files, config=WIDE, output_dir=tmp_path)
    graph, exact = load_float(model), lower_for(model, "tiny").graph
    shape = tuple(model.get_input_variables()[0].shape)
    x = np.random.default_rng(0).normal(0, 1, (20, *shape)).astype(np.float32)
    ours, theirs = (list(evaluate(g, {g.inputs[0]: x}).values()) for g in (graph, exact))
    for name, y, wanted in zip(ends, ours, theirs, strict=True):
        if name == "activation8":  # softmax, whose table has 1,024 entries for 40 bits
            np.testing.assert_allclose(y.sum(axis=-1), 1, rtol=1e-5)
            assert np.abs(np.log(y) - np.log(y).mean(-1, keepdims=True)).max() > 1
            continue
        bound = TABLES.get(name, 2e-5) if network is vectors else 2e-5
        assert np.abs(y - wanted.reshape(y.shape)).max() < bound, name
    assert not any(node.op.startswith("Fixed") for node in graph)


def small(tmp_path: Path, layers: Any = None, **options: Any) -> tuple[Any, np.ndarray]:
    net = Net(2)
    x = net.input(6)
    out = net.dense(net.dense(x, 6, 8, "relu"), 8, 3)
    files = net.save(tmp_path, out)
    config = {"Model": {"Precision": "fixed<16,6>", "ReuseFactor": 1}, "LayerName": layers or {}}
    given = {"overlay": "lab", "device": "golden", "output_dir": tmp_path, "exact": False}
    samples = net.normal(200, 6, scale=2)
    given |= {"calibration": samples, **options}
    return quietly(keras_file, *files, config=config, **given), samples


def formats(program: Any) -> dict[str, str]:
    """Layer → its weights' format."""
    graph = program.graph()
    nodes = [node for node in graph if node.op in ("Conv", "Linear")]
    return {node.name: graph[node.inputs[1]].quant.format for node in nodes}


def test_weft_quantizes_where_exactness_is_not_asked_for(tmp_path):
    model, x = small(tmp_path)
    program, found = program_of(model)
    assert [note.where for note in found.notes] == ["accelerator"] * len(found.notes)
    direct = weft.compile(load_float(model), "lab", calibration=x)
    with weft.open(direct, "golden") as session:
        np.testing.assert_array_equal(model.predict(x), session.run(x))
    exact, _ = small(tmp_path, exact=True, calibration=None)
    assert all(note.where == "host" for note in program_of(exact)[1].notes)
    assert np.abs(model.predict(x) - exact.predict(x)).max() < 0.15
    quietly(model.write)
    np.testing.assert_array_equal(weft.load(tmp_path / "myproject.weft").weights, program.weights)


def test_layers_have_formats_methods_and_zeros_of_their_own(tmp_path):
    own = {
        "dense1": {"WeightFormat": "flint4", "ActivationFormat": "int8"},
        "dense2": {"WeightFormat": "int4:g32", "WeightMethod": "adaround"},
    }
    model, x = small(tmp_path, own)
    assert formats(program_of(model)[0]) == {"dense1": "flint4", "dense2": "int4:g32"}
    plain, _ = small(tmp_path, {**own, "dense2": {"WeightFormat": "int4:g32"}})
    assert not np.array_equal(plain.predict(x), model.predict(x))
    model, x = small(tmp_path, {"dense1": {"Sparsity": "2:4"}})
    graph = program_of(model)[0].graph()
    w = next(graph[n.inputs[1]].data for n in graph if n.name == "dense1")
    assert np.count_nonzero(w, axis=0).max() <= 4  # of 6 inputs: 2 of the first 4, 2 more
    assert model.predict(x).shape == (200, 3)


def test_calibration_may_be_a_file(tmp_path):
    model, x = small(tmp_path)
    np.savez(tmp_path / "x.npz", x=x)
    again, _ = small(tmp_path, calibration=str(tmp_path / "x.npz"))
    np.testing.assert_array_equal(again.predict(x), model.predict(x))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"calibration": None}, "calibration missing"),
        ({"exact": True}, "calibration given"),
        ({"layers": {"dense1": {"WeightFormat": "int9"}}}, "dense1.*WeightFormat.*'int9'"),
        ({"layers": {"dense1": {"Sparsity": "5:4"}}}, "dense1.*Sparsity"),
    ],
)
def test_wrong_options_are_refused(tmp_path, options, text):
    def convert_and_run() -> None:
        model, x = small(tmp_path, **options)
        model.predict(x)

    with pytest.raises(UsageError, match=text):
        convert_and_run()


def test_only_exact_models_have_traces_and_only_others_have_formats(tmp_path):
    model, x = small(tmp_path)
    with pytest.raises(UsageError, match="exact=True"):
        model.trace(x)
    facts = {"exact": True, "calibration": None}
    model, x = small(tmp_path, {"dense1": {"WeightFormat": "int4"}}, **facts)
    with pytest.raises(UsageError, match=r"'dense1'.*'int4'.*exact=False"):
        model.predict(x)


def test_what_float_has_not_is_named(tmp_path):
    net = Net()
    x = net.input(8, 4)
    files = net.save(tmp_path, net.add("Cropping1D", x, cropping=[1, 1]))
    with pytest.raises(UnsupportedError, match=r"cropping1d1.*Cropping1D"):
        load_float(quietly(keras_file, *files))


def test_activity_recognition_keeps_its_accuracy(shared_data, tmp_path):
    """Real windows: int8 within half a point of float, 4-bit weights in a layer within one."""
    folder = shared_data / "har_cnn1d"
    data = np.load(folder / "har_windows.npz")
    x, y = data["x"], data["y"]
    for layers, least in (({}, 0.983), ({"dense": {"WeightFormat": "int4"}}, 0.978)):
        config = {"Model": {"Precision": "fixed<16,6>", "ReuseFactor": 1}, "LayerName": layers}
        options = {"overlay": "lab", "device": "golden", "output_dir": tmp_path}
        options |= {"exact": False, "calibration": x[::20]}
        model = quietly(keras_file, folder / "model.h5", config=config, **options)
        right = model.predict(x[::4]).argmax(axis=1) == y[::4]
        assert right.mean() > least
        assert [n.where for n in program_of(model)[1].notes].count("accelerator") == 7
