"""hls4ml models on weft: equal to an independent evaluation of ap_fixed, element by element."""

from __future__ import annotations

import runpy
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from fixed_standard import OVERFLOWS, ROUNDINGS, Standard, conv1d, dense, relu
from hls4ml_models import Net, quietly
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import weft

pytest.importorskip("hls4ml")
pytest.importorskip("h5py")

from weft.errors import InputError, ModelError, UnsupportedError, UsageError
from weft.frontend.hls4ml import keras_file, load_hls4ml, lower_for

WIDE = Standard(30, 15)


def precision(types: dict[str, Standard]) -> dict[str, dict[str, str]]:
    return {"Precision": {name: str(kind) for name, kind in types.items()}}


def config(layers: dict[str, dict[str, Standard]]) -> dict[str, object]:
    named = {name: precision(types) for name, types in layers.items()}
    model = {"Precision": "fixed<16,6>", "ReuseFactor": 1}
    return {"Model": model, "LayerName": named}


@st.composite
def narrow(draw: st.DrawFn, *, overflows: tuple[str, ...] = OVERFLOWS) -> Standard:
    """A type of up to 8 bits whose numbers are around one."""
    width = draw(st.integers(3, 8))
    integer = draw(st.integers(1, 4))
    rounding, overflow = draw(st.sampled_from(ROUNDINGS)), draw(st.sampled_from(overflows))
    return Standard(width, integer, draw(st.booleans()), rounding, overflow)


def signed(kind: Standard) -> Standard:
    return Standard(kind.width, kind.integer, True, kind.rounding, kind.overflow)


@st.composite
def layer_types(draw: st.DrawFn) -> dict[str, Standard]:
    accum = draw(
        st.sampled_from([WIDE, WIDE, Standard(14, 8), Standard(12, 6, True, "RND", "SAT")])
    )
    return {
        "weight": signed(draw(narrow())),
        "bias": signed(draw(narrow())),
        "accum": accum,
        "result": draw(narrow()),
    }


def run(model: object, x: np.ndarray, tmp: str = "golden") -> np.ndarray:
    program = weft.compile(load_hls4ml(model), "tiny")
    with weft.open(program, tmp) as session:
        return session.run(x)


RANDOM = settings(
    max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@RANDOM
@given(narrow(), layer_types(), narrow(), layer_types(), st.integers(0, 99))
def test_random_mlps_are_exact(tmp_path, start, first, between, second, seed):
    net = Net(seed)
    x = net.input(5)
    hidden = net.dense(x, 5, 6, "relu")
    out = net.dense(hidden, 6, 3)
    types = {
        x: {"result": start},
        hidden: first,
        f"{hidden}_relu": {"result": between},
        out: second,
        f"{out}_linear": {"result": second["result"]},
    }
    model = quietly(keras_file, *net.save(tmp_path, out), config=config(types))
    samples = net.normal(8, 5, scale=2)
    weights = net.weights
    y = start.array(samples)
    y = dense(y, weights[hidden]["kernel"], weights[hidden]["bias"], first)
    y = relu(y, between)
    y = dense(y, weights[out]["kernel"], weights[out]["bias"], second)
    np.testing.assert_array_equal(run(model, samples), y.astype(np.float64))


@RANDOM
@given(narrow(), layer_types(), narrow(), st.integers(0, 99))
def test_random_convolutions_are_exact(tmp_path, start, types, after, seed):
    net = Net(seed)
    x = net.input(6, 2)
    out = net.conv(x, (3,), 2, 4, activation="relu")
    named = {x: {"result": start}, out: types, f"{out}_relu": {"result": after}}
    model = quietly(keras_file, *net.save(tmp_path, out), config=config(named))
    samples = net.normal(4, 6, 2, scale=2)
    w = net.weights[out]
    y = relu(conv1d(start.array(samples), w["kernel"], w["bias"], types), after)
    np.testing.assert_array_equal(run(model, samples), y.astype(np.float64))


@pytest.mark.parametrize("rounding", ["TRN", "RND", "RND_MIN_INF", "RND_CONV"])
@pytest.mark.parametrize("signed_result", [True, False])
def test_eight_bits_run_on_the_accelerator(tmp_path, rounding, signed_result):
    """Not only exact: the matrix and its ReLU are one instruction, with the model's rounding."""
    net = Net(3)
    x = net.input(7)
    out = net.dense(x, 7, 5, "relu")
    result = Standard(8, 3, signed_result, rounding, "SAT")
    narrow8 = Standard(8, 3, True, "RND", "SAT")
    types = {"weight": narrow8, "bias": Standard(12, 4), "accum": WIDE, "result": WIDE}
    named = {x: {"result": narrow8}, out: types, f"{out}_relu": {"result": result}}
    model = quietly(keras_file, *net.save(tmp_path, out), config=config(named))
    found = lower_for(model, "tiny")
    assert [n.where for n in found.notes] == ["accelerator"]
    samples = net.normal(40, 7, scale=2)
    w = net.weights[out]
    y = dense(narrow8.array(samples), w["kernel"], w["bias"], types)
    np.testing.assert_array_equal(run(model, samples), relu(y, result).astype(np.float64))


def test_notes_say_why_a_layer_is_not_on_the_accelerator(tmp_path):
    net = Net()
    x = net.input(4)
    out = net.dense(x, 4, 2)
    model = quietly(keras_file, *net.save(tmp_path, out))
    (note,) = lower_for(model, "tiny").notes
    assert (note.layer, note.where) == (out, "host")
    assert "fixed<16,6,TRN,WRAP> has more than 8 bits" in note.why


def test_a_wrapping_result_is_not_left_to_the_accelerator(tmp_path):
    net = Net(5)
    x = net.input(9)
    out = net.dense(x, 9, 4)
    eight = Standard(8, 2, True, "RND", "SAT")
    wraps = Standard(8, 2, True, "TRN", "WRAP")
    types = {"weight": eight, "bias": eight, "accum": WIDE, "result": wraps}
    named = {x: {"result": eight}, out: types, f"{out}_linear": {"result": wraps}}
    model = quietly(keras_file, *net.save(tmp_path, out), config=config(named))
    (note,) = lower_for(model, "tiny").notes
    assert note.where == "host"
    assert "may overflow" in note.why
    samples = net.normal(50, 9, scale=3)
    y = dense(eight.array(samples), net.weights[out]["kernel"], net.weights[out]["bias"], types)
    assert (y.astype(float) < 0).any()
    np.testing.assert_array_equal(run(model, samples), y.astype(np.float64))


def small(tmp_path: Path, **options: object) -> tuple[object, np.ndarray]:
    net = Net(2)
    x = net.input(6)
    out = net.dense(net.dense(x, 6, 8, "relu"), 8, 3)
    default = {"Model": {"Precision": "fixed<8,3,RND,SAT>", "ReuseFactor": 1}}
    files = net.save(tmp_path, out)
    settings = {"config": default, "output_dir": tmp_path / "project", **options}
    return quietly(keras_file, *files, **settings), net.normal(10, 6)


def test_weft_is_a_backend_of_hls4ml(tmp_path):
    import hls4ml

    assert "weft" in hls4ml.backends.get_available_backends()
    model, x = small(tmp_path, board="kv260", overlay="tiny", device="golden")
    assert model.config.get_config_value("Board") == "KV260"
    quietly(model.compile)
    y = model.predict(x)
    assert y.shape == (10, 3)
    np.testing.assert_array_equal(y, run(model, x))
    np.testing.assert_array_equal(model.predict(x[:1]), y[0])


def test_golden_and_the_compiled_simulation_agree(tmp_path):
    model, x = small(tmp_path, overlay="tiny")
    quietly(model.compile)
    np.testing.assert_array_equal(model.predict(x), run(model, x))


def test_trace_gives_every_layer(tmp_path):
    model, x = small(tmp_path, overlay="tiny", device="golden")
    y, layers = model.trace(x)
    names = list(layers)
    assert names == [layer.name for layer in model.get_layers()][1:]  # but for the input
    np.testing.assert_array_equal(layers[names[-1]], y)
    np.testing.assert_array_equal(layers[names[1]], np.maximum(layers[names[0]], 0))


def test_build_writes_the_program_and_the_project(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    model, x = small(tmp_path, board="KV260", overlay="tiny", device="golden")
    outcome = model.build()
    folder = tmp_path / "project"
    assert (folder / "bitstream" / "Makefile").is_file()
    assert any("make bitstream" in line for line in outcome.next)
    program = weft.load(folder / "myproject.weft")
    with weft.open(program, "golden") as session:
        np.testing.assert_array_equal(session.run(x), model.predict(x))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"board": "KV261"}, "KV260"),
        ({"overlay": "labb"}, "lab"),
        ({"device": "goldn"}, "golden"),
    ],
)
def test_unknown_names_are_answered_with_the_known(tmp_path, options, text):
    with pytest.raises(UsageError, match=text):
        small(tmp_path, **options)


def test_an_unknown_weight_format_names_the_known(tmp_path):
    named = {"dense1": {"WeightFormat": "int9", "Precision": {"result": "fixed<8,3>"}}}
    default = {"Model": {"Precision": "fixed<8,3>", "ReuseFactor": 1}, "LayerName": named}
    model, x = small(tmp_path, config=default, device="golden", overlay="tiny")
    with pytest.raises(UsageError, match=r"dense1.*'int9'.*int8"):
        model.predict(x)


def test_wrong_inputs_are_refused(tmp_path):
    model, x = small(tmp_path, device="golden", overlay="tiny")
    with pytest.raises(InputError, match=r"\(10, 5\) given"):
        model.predict(x[:, :5])
    with pytest.raises(InputError, match="2 inputs given, 1 expected"):
        model.predict([x, x])
    with pytest.raises(InputError, match="ModelGraph expected"):
        load_hls4ml("model.h5")


def test_layers_that_weft_has_not_are_named(tmp_path):
    net = Net()
    x = net.input(4)
    files = net.save(tmp_path, net.add("Lambda", x))
    with pytest.raises(UnsupportedError, match="Lambda"):
        quietly(keras_file, *files)
    net = Net()
    x = net.input(8, 4)
    files = net.save(tmp_path / "crop", net.add("Cropping1D", x, cropping=[1, 1]))
    with pytest.raises(UnsupportedError, match=r"cropping1d1.*Cropping1D"):
        load_hls4ml(quietly(keras_file, *files))


def test_broken_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        keras_file(tmp_path / "none.h5")
    path = tmp_path / "broken.h5"
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + b"\0" * 100)
    with pytest.raises(ModelError, match=r"broken\.h5"):
        quietly(keras_file, path)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    net = Net()
    x = net.input(4)
    out = net.dense(x, 4, 2)
    net.weights[out]["kernel"][1, 1] = np.nan
    with pytest.raises(ModelError, match=r"dense1.*1 of 8 values of 'weight'"):
        load_hls4ml(quietly(keras_file, *net.save(tmp_path, out)))


def test_floating_point_precisions_are_refused(tmp_path):
    net = Net()
    x = net.input(4)
    out = net.dense(x, 4, 2)
    facts = {"Model": {"Precision": "float", "ReuseFactor": 1}}
    with pytest.raises(UnsupportedError, match="not fixed point"):
        load_hls4ml(quietly(keras_file, *net.save(tmp_path, out), config=facts))


def test_fractions_are_exact():
    assert Standard(4, 2, True, "RND", "SAT").of(Fraction(9, 8)) == Fraction(5, 4)


def test_the_example_runs(monkeypatch, capsys):
    path = Path(__file__).resolve().parents[2] / "examples" / "hls4ml_model.py"
    monkeypatch.setattr("sys.argv", [str(path)])
    runpy.run_path(str(path), run_name="__main__")
    printed = capsys.readouterr().out
    assert "dense_1_relu" in printed
    assert "the same class in" in printed


@pytest.mark.parametrize("overflow", ["WRAP", "SAT"])
def test_products_beyond_64_bits_wrap_or_are_refused(tmp_path, overflow):
    """Codes of 40 bits times such ones: what wraps has its bits, what saturates would not."""
    net = Net(3)
    x = net.input(3)
    out = net.dense(x, 3, 2)
    net.weights[out]["kernel"] *= 20_000
    wide = Standard(40, 16, True, "TRN", overflow)
    types = dict.fromkeys(("weight", "bias", "accum", "result"), wide)
    named = {x: {"result": wide}, out: types, f"{out}_linear": {"result": wide}}
    model = quietly(keras_file, *net.save(tmp_path, out), config=config(named))
    if overflow == "SAT":
        with pytest.raises(UnsupportedError, match=r"Dense 'dense1': numbers of 7\d bits"):
            load_hls4ml(model)
        return
    samples = net.normal(20, 3, scale=5_000)
    w = net.weights[out]
    y = dense(wide.array(samples), w["kernel"], w["bias"], types)
    assert (np.abs(y.astype(float)) < 2**15).all()
    np.testing.assert_array_equal(run(model, samples), y.astype(np.float64).astype(np.float32))


def test_too_wide_types_say_what_to_set(tmp_path):
    net = Net()
    x = net.input(4)
    out = net.dense(x, 4, 2)
    named = {out: {"accum": Standard(70, 30)}}
    model = quietly(keras_file, *net.save(tmp_path, out), config=config(named))
    with pytest.raises(UnsupportedError, match=r"accum_t: fixed<70,30>.*max_precision="):
        load_hls4ml(model)
