"""Plan files, the integer program behind `weft plan`, and its command."""

from __future__ import annotations

import itertools
import json
from shutil import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft import cli, plan
from weft.compiler import load_model
from weft.config import load_overlay
from weft.demo import MODELS, load_data
from weft.errors import UsageError
from weft.formats import parse
from weft.passes.choices import layer_name, layers
from weft.passes.quantize import quantize
from weft.plan import LayerPlan, Plan
from weft.quantization import codec, costs, planner, sensitivity


@pytest.fixture(scope="module")
def graph():
    return load_model(MODELS / "digits.onnx")


@pytest.fixture(scope="module")
def data(graph):
    return {graph.inputs[0]: load_data().calibration[:64]}


@settings(max_examples=50, deadline=None)
@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=("Cs",)), min_size=1),
        st.sampled_from(["int4:g32", "ant4", None]),
    ),
    st.sampled_from(["gptq", None]),
)
def test_plans_are_read_as_written(layers, method):
    made = Plan(None, "int6", method, {n: LayerPlan(w, None, "mse") for n, w in layers.items()})
    assert plan.parse(made.toml()) == made


def test_plan_errors_name_the_place(tmp_path, graph, data):
    path = tmp_path / "plan.toml"
    cases = {
        'weight = "int4"': r"plan.toml: no key 'weight'. Did you mean 'weights'",
        '[layers.conv1]\nmethods = "mse"': r"layer 'conv1': no key 'methods'. Did you mean",
        '[layers.conv1]\nweights = "int44"': r"layer 'conv1': no number format 'int44'",
        '[layers.conv1]\nweights = "mxfp4:g32"': r"layer 'conv1': .*mxfp4:g32",
        'activations = "mxfp4"': r"plan.toml: no format of activations 'mxfp4'",
        'method = "gtpq"': r"plan.toml: no method 'gtpq'. Did you mean 'gptq'",
        "weights = 4": r"plan.toml: weights = 4; a name in quotes",
        "layers = 1": r"tables \[layers",
        "[layers]\nconv1 = 1": r"a table \[layers.\"conv1\"\] expected",
        "weights = ": r"plan.toml: not TOML",
    }
    for text, message in cases.items():
        path.write_text(text)
        with pytest.raises(UsageError, match=message):
            plan.read(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="not a text file"):
        plan.read(path)
    with pytest.raises(UsageError, match="no such file; `weft plan` writes one"):
        plan.read(tmp_path / "none.toml")
    made = Plan(layers={"conv3": LayerPlan("int4")})
    with pytest.raises(UsageError, match=r"no layer with weights 'conv3'. Did you mean 'conv1'"):
        quantize(graph, data, plan=made)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0.3x", 300), ("1x", 1000), ("250", 250), ("1.5k", 1500), ("2M", 2_000_000)],
)
def test_budgets(text, expected):
    assert planner.budget_of(text, 1000) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["", "x", "0", "-3", "30%", "1 GB", "0.0x"])
def test_budgets_that_say_nothing(text):
    with pytest.raises(UsageError, match=r"0\.3x \(of int8\)"):
        planner.budget_of(text, 1000)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(2, 4))
def test_no_choice_within_the_budget_is_better(seed, count, width):
    rng = np.random.default_rng(seed)
    names, formats = [f"l{i}" for i in range(count)], [f"f{i}" for i in range(width)]
    errors = {n: dict(zip(formats, rng.lognormal(0, 2, width), strict=True)) for n in names}
    prices = {n: {f: float(rng.integers(1, 1000)) for f in formats} for n in names}
    least = sum(min(row.values()) for row in prices.values())
    budget = least * float(rng.uniform(1, 3))
    found = planner.solve(errors, prices, budget)
    every = []
    for choice in itertools.product(formats, repeat=count):
        pairs = list(zip(names, choice, strict=True))
        if sum(prices[n][f] for n, f in pairs) <= budget:
            every.append(sum(errors[n][f] for n, f in pairs))
    assert sum(prices[n][f] for n, f in found.items()) <= budget * (1 + 1e-9)
    assert sum(errors[n][f] for n, f in found.items()) <= min(every) + 1e-5 * max(
        max(row.values()) for row in errors.values()
    )
    with pytest.raises(UsageError, match="below the smallest possible"):
        planner.solve(errors, prices, least * 0.99)


def test_sensitivity_falls_with_the_bits(graph, data):
    heard = []
    found = sensitivity.measure(
        graph,
        data,
        ("int2", "int4", "int8"),
        "mse",
        lambda done, total: heard.append((done, total)),
    )
    assert list(found) == [layer_name(node) for node in layers(graph)]
    for errors in found.values():
        assert errors["int2"] > errors["int4"] > errors["int8"] > 0
    assert heard[-1] == (9, 9)


def test_bytes_are_those_of_the_packed_codes(graph):
    for layer in costs.of_layers(graph).values():
        n, taps, channels = layer.shape
        count = n * taps * channels
        assert costs.cost(layer, "int8", "int8") == count
        assert costs.cost(layer, "int4", "int8") == count / 2
        assert costs.cost(layer, "ternary", "int8") == -(-count // 5)
        groups = n * taps * -(-channels // 32)
        assert costs.cost(layer, "int4:g32", "int8") == count / 2 + groups
        assert costs.cost(layer, "mxfp4", "int8") == count / 2 + groups
        assert costs.cost(layer, "codebook16", "int8") == count / 2 + 32
    assert codec.packed_bytes((1, 1, 7), parse("int4")) == 4


def test_clocks_never_grow_with_fewer_bits(graph):
    for name in ("tiny", "lab"):
        overlay = load_overlay(name)
        for layer in costs.of_layers(graph).values():
            taken = [costs.cost(layer, f, "int8", overlay) for f in ("int8", "int4", "int2")]
            assert taken == sorted(taken, reverse=True)
            assert taken[-1] > 0


def test_the_cost_function_can_be_replaced(graph, data):
    seen = set()

    def cost(layer, weights, activations, overlay):
        seen.add((layer.name, weights, activations, overlay))
        return float(parse(weights).bits)

    task = planner.Task(graph, data, ("int8", "int4"), cost=cost)
    found = planner.plan(task, "20")
    assert found.chosen.cost <= 20
    assert found.base == 24
    assert len(seen) == 6


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    copy(MODELS / "digits.onnx", "model.onnx")
    data = load_data()
    np.savez("calibration.npz", image=data.calibration[:48])
    np.savez("test.npz", image=data.images[:200], y=data.labels[:200])
    return tmp_path


def test_command_writes_a_plan_within_the_budget(folder, capsys):
    arguments = ["--calibrate", "calibration.npz", "--eval", "test.npz", "--plot", "front.png"]
    words = ["plan", "model.onnx", "--budget", "0.5x", *arguments, "-o", "plan.toml", "--json"]
    assert cli.run(words) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["chosen"]["cost"] <= 0.5 * facts["int8"]
    assert facts["chosen"]["top1"] > facts["float_top1"] - 0.03
    costs_ = [point["cost"] for point in facts["front"]]
    assert costs_ == sorted(costs_)
    assert costs_[-1] == facts["int8"]
    predicted = [point["predicted_error"] for point in facts["front"]]
    assert predicted == sorted(predicted, reverse=True)
    table = plan.read(folder / "plan.toml")
    assert {n: t.weights for n, t in table.layers.items()} == facts["chosen"]["layers"]
    assert (folder / "front.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "message", "code"),
    [
        (["--budget", "0.01x"], "below the smallest possible", 2),
        (["--budget", "much"], "0.3x (of int8)", 2),
        (["--budget", "1x", "--formats", "int8,int1"], "no number format 'int1'", 2),
        (["--budget", "1x", "--method", "best"], "no method 'best'", 2),
        (["--budget", "1x", "--eval", "calibration.npz"], "labels are expected in 'y'", 6),
        (["--budget", "1x", "--overlay", "labs"], "no overlay 'labs'", 2),
    ],
)
def test_command_errors(folder, capsys, words, message, code):
    given = ["plan", "model.onnx", "--calibrate", "calibration.npz", "-o", "p.toml", *words]
    assert cli.run(given) == code
    assert message in capsys.readouterr().err
    assert not (folder / "p.toml").exists()
