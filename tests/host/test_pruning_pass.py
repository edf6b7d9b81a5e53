"""Pruning of graphs, and that no later pass makes a pruned weight something else than 0."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_quantize import POOL, Net
from test_quantizers import EACH, correlated, seen_of, weights_of

import weft
from weft import ops
from weft.errors import UsageError
from weft.formats import parse as format_of
from weft.graph import Graph
from weft.passes.prune import decide, detect, prune, weighted
from weft.passes.quantize import quantize
from weft.plan import LayerPlan, Plan
from weft.plan import parse as plan_of
from weft.pruning import magnitude, masks
from weft.pruning.pixels import grouped
from weft.pruning.spec import parse
from weft.quantization import methods

RNG = np.random.default_rng(11)
SAMPLES = {"x": RNG.normal(size=(40, 3, 8, 8)).astype(np.float32)}


def network() -> Graph:
    net = Net(1, 3, 8, 8)
    y = net.add("Relu", net.conv("x", 16))
    y = net.add("Relu", net.conv(y, 16, 1))
    shape = (16, 1, 3, 3)
    taps = RNG.normal(size=shape).astype(np.float32)
    window = {"strides": (1, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1)}
    y = net.add("Conv", y, taps, np.zeros(16, np.float32), group=16, **window)
    y = net.add("MaxPool", net.conv(y, 24), **POOL)
    size = int(np.prod(net.tensors[y].shape))
    y = net.add("Reshape", y, shape=(1, size))
    return net.graph(net.linear(y, 10, RNG.normal(size=10).astype(np.float32)))


def canonical(graph: Graph, index: int) -> np.ndarray:
    node = weighted(graph)[index]
    return grouped(graph, node)


@pytest.mark.parametrize("criterion", ["magnitude", "wanda", "sparsegpt"])
@pytest.mark.parametrize("text", ["2:4", "1:8", "4:2:8", "csc:0.7", "dense"])
def test_layers_get_their_pattern_or_a_reason(criterion: str, text: str) -> None:
    graph = network()
    told: list[tuple[int, int]] = []
    made = prune(
        graph,
        text,
        criterion=criterion,
        calibration=SAMPLES,
        progress=lambda *now: told.append(now),
    )
    decisions = decide(graph, text)
    for index, node in enumerate(weighted(made)):
        found = decisions[node.outputs[0]]
        sparse = str(found.sparsity) == text and text != "dense"
        assert node.attrs.get("sparsity") == (text if sparse else None)
        assert masks.follows(canonical(made, index), found.sparsity)
        if not sparse:
            np.testing.assert_array_equal(canonical(made, index), canonical(graph, index))
    assert len(told) == sum(str(d.sparsity) != "dense" for d in decisions.values())
    if text == "2:4":
        reasons = [d.reason for d in decisions.values()]
        assert [bool(r) for r in reasons] == [True, False, True, False, False]
        assert "3 input channels" in reasons[0]
        assert "depthwise" in reasons[2]


def test_layers_and_ends_can_differ() -> None:
    graph = network()
    names = [d.layer for d in decide(graph).values()]
    made = prune(graph, "csc:0.5", layers={names[1]: "1:4", names[3]: "dense"}, keep_first=True)
    texts = [node.attrs.get("sparsity") for node in weighted(made)]
    assert texts == [None, "1:4", None, None, "csc:0.5"]


def test_one_threshold_for_all_layers() -> None:
    made = prune(network(), "csc:0.8", scope="global")
    nodes = [i for i, n in enumerate(weighted(made)) if "sparsity" in n.attrs]
    before = np.concatenate([np.abs(canonical(network_, i)).ravel()
                             for network_ in (prune(made, "dense"),) for i in nodes])  # fmt: skip
    assert (before == 0).mean() == pytest.approx(0.8, abs=1e-3)
    # Weights that stay are above one threshold in all layers: the smallest are alike.
    least = [np.abs(w[w != 0]).min() for w in (canonical(made, i) for i in nodes)]
    assert max(least) / min(least) < 1.3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"criterion": "wnada"}, "Did you mean 'wanda'"),
        ({"criterion": "wanda"}, "--calibrate"),
        ({"scope": "network"}, "scope"),
        ({"layers": {"nosuch": "2:4"}}, "no layer with weights 'nosuch'"),
        ({"scope": "global", "criterion": "wanda", "calibration": SAMPLES}, "magnitudes"),
        ({"sparsity": "4:2"}, "N < M"),
    ],
)
def test_what_can_not_be_is_a_usage_error(options: dict, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        prune(network(), **options)
    assert said in str(caught.value)


@pytest.mark.parametrize("method", methods.METHODS)
@pytest.mark.parametrize("name", [n for n in EACH if n != "binary"])
def test_no_format_and_no_method_fills_a_zero(name: str, method: str) -> None:
    fmt = format_of(name)
    weights = magnitude.prune(weights_of(8, 2, 36), parse("2:4"))
    seen = seen_of(correlated(300, 72), 36)
    quant = methods.fit(weights, fmt, method, seen)
    operands = methods.solve(weights, quant, fmt, method, seen)
    assert not operands[weights == 0].any()
    assert operands.any()
    np.testing.assert_array_equal(fmt.decode(fmt.encode(operands, quant), quant), operands)


@pytest.mark.parametrize("method", ["nearest", "awq", "gptq", "adaround"])
def test_quantized_graphs_keep_zeros_and_attributes(method: str) -> None:
    made = prune(network(), "2:4")
    coded = quantize(
        made,
        SAMPLES,
        weights="int4",
        weight_method=method,
        equalize=True,
        smooth=0.5,
        correct_bias=True,
    )
    for index, node in enumerate(weighted(coded)):
        assert node.attrs.get("sparsity") == weighted(made)[index].attrs.get("sparsity")
        lost = canonical(coded, index)[canonical(made, index) == 0]
        assert not lost.any()


def test_a_format_without_a_zero_is_refused_for_a_pruned_layer() -> None:
    with pytest.raises(UsageError, match="binary has no 0"):
        quantize(prune(network(), "2:4"), SAMPLES, weights="binary")
    coded = quantize(network(), SAMPLES, weights="binary")
    with pytest.raises(UsageError, match="has no 0"):
        prune(coded, "2:4")


def test_codes_are_pruned_by_magnitude() -> None:
    coded = quantize(network(), SAMPLES)
    made = prune(coded, "2:4")
    assert made.is_quantized
    for index, node in enumerate(weighted(made)):
        before, after = canonical(coded, index), canonical(made, index)
        np.testing.assert_array_equal(after[after != 0], before[after != 0])
        assert made[node.inputs[1]].quant is coded[weighted(coded)[index].inputs[1]].quant
        if "sparsity" in node.attrs:
            assert masks.follows(after, parse("2:4"))
    for option in ({"criterion": "wanda", "calibration": SAMPLES}, {"permute": True}):
        with pytest.raises(UsageError, match="quantized already"):
            prune(coded, "2:4", **option)


def test_a_shared_constant_is_pruned_for_the_layer_that_asked() -> None:
    net = Net(1, 8)
    y = net.linear("x", 8)
    weights = net.nodes[0].inputs[1]
    node = replace(net.nodes[0], name="second", inputs=(y, weights), outputs=("z",))
    net.nodes.append(node)
    net.tensors["z"] = replace(net.tensors[y], name="z")
    graph = net.graph("z")
    made = prune(graph, "dense", layers={"second": "2:4"})
    np.testing.assert_array_equal(canonical(made, 0), canonical(graph, 0))
    assert masks.follows(canonical(made, 1), parse("2:4"))


@pytest.mark.parametrize(
    ("text", "found"),
    [("2:4", "2:4"), ("1:4", "1:4"), ("3:4", None), ("4:8", "4:8"), ("csc:0.75", "csc:0.75")],
)
def test_patterns_are_detected(text: str, found: str | None) -> None:
    weights = magnitude.prune(weights_of(8, 2, 32), parse(text))
    made = detect(weights)
    assert (None if made is None else str(made)) == found


def test_detect_of_zeros_alone_is_a_pattern_that_holds() -> None:
    for channels in (2, 16):
        made = detect(np.zeros((3, 1, channels), np.float32))
        assert made is not None
        assert parse(str(made)) == made


def test_compile_prunes_as_arguments_and_plan_say() -> None:
    graph = network()
    plan = Plan(sparsity="2:4", layers={"Conv_2": LayerPlan(sparsity="dense")})
    assert plan_of(plan.toml()) == plan
    program = weft.compile(graph, "tiny", calibration=SAMPLES, plan=plan)
    expected = weft.compile(
        prune(graph, "2:4", layers={"Conv_2": "dense"}), "tiny", calibration=SAMPLES
    )
    x = SAMPLES["x"][:3]
    with weft.open(program) as one, weft.open(expected) as two:
        np.testing.assert_array_equal(one.run(x), two.run(x))
    with pytest.raises(UsageError, match="sparsity"):
        weft.compile(graph, "tiny", calibration=SAMPLES, permute=True)
    with pytest.raises(UsageError, match="no sparsity 'bitmsk"):
        plan_of('[layers."a"]\nsparsity = "bitmsk:0.5"')


def test_pruned_graph_is_the_masked_function() -> None:
    graph = network()
    made = prune(graph, "2:4")
    again = ops.evaluate(made, {"x": SAMPLES["x"][:1]})
    for name, value in ops.evaluate(prune(made, "2:4"), {"x": SAMPLES["x"][:1]}).items():
        np.testing.assert_array_equal(value, again[name])


def test_the_command_line_prunes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from weft import cli
    from weft.demo import MODELS, load_data

    np.savez(tmp_path / "c.npz", x=load_data().calibration)
    command = ["compile", str(MODELS / "digits.onnx"), "--calibrate", str(tmp_path / "c.npz")]
    command += ["-o", str(tmp_path / "p.weft")]
    assert cli.run([*command, "--sparsity", "2:4", "--criterion", "wanda", "--permute"]) == 0
    assert cli.run([*command, "--sparsity", "4:4"]) == UsageError.exit_code
    assert "0 < N < M <= 16" in capsys.readouterr().err
    assert cli.run([*command, "--permute"]) == UsageError.exit_code
    assert "say how sparse" in capsys.readouterr().err


@pytest.mark.parametrize("criterion", ["magnitude", "wanda", "sparsegpt"])
def test_groups_behind_a_flattened_map_are_of_channels(criterion):
    """So that hardware, which reads the channels of a pixel together, has them in one clock."""
    from quantized import Net

    from weft.config import load_overlay
    from weft.lower import lower
    from weft.passes.quantize import quantize

    rng = np.random.default_rng(3)
    net = Net()
    x = net.input("x", (1, 32, 3, 4), None)
    x = net.node("Relu", [x], (1, 32, 3, 4), None)
    flat = net.node("Reshape", [x], (1, 384), None, shape=(1, 384))
    weights = net.constant("w", rng.normal(size=(384, 40)).astype(np.float32))
    graph = net.graph(net.node("Linear", [flat, weights, ""], (1, 40), None))
    data = {"x": rng.normal(size=(64, 32, 3, 4)).astype(np.float32)}
    found = prune(graph, "2:4", criterion=criterion, calibration=data)
    kept = found[found.nodes[-1].inputs[1]].data.reshape(8, 4, 12, 40) != 0
    assert (kept.sum(axis=1) == 2).all()
    program = lower(quantize(found, data), load_overlay("lab"), batch=1)
    assert [layer.engine for layer in program.layers if layer.macs] == ["nm"]
