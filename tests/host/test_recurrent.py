"""GRU, LSTM and RNN of ONNX: as ONNX Runtime in float, and on the accelerator step by step."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx_models import Net, run_onnx

import weft
from weft.errors import InputError, ModelError, ShapeError, UnsupportedError
from weft.frontend.onnx import load_onnx
from weft.frontend.recurrent import STEPS_LIMIT
from weft.ops import evaluate
from weft.passes.fuse import fuse
from weft.passes.placement import quantized_roots
from weft.passes.quantize import quantize
from weft.passes.roles import SATURATED, pools, roles_of, saturated
from weft.program import AcceleratorSegment

GATES = {"GRU": 3, "LSTM": 4, "RNN": 1}
OUTPUTS = {"GRU": 2, "LSTM": 3, "RNN": 2}
KINDS = [
    ("GRU", {}),
    ("GRU", {"linear_before_reset": 1}),
    ("LSTM", {}),
    ("RNN", {}),
    ("RNN", {"activations": ["Relu"]}),
]
Arrays = dict[str, np.ndarray]


class Layers(Net):
    """Recurrent layers over x [T, N, I], or [N, T, I] with `first`."""

    def __init__(self, steps: int, size: int, first: bool = False, batch: Any = "n") -> None:
        super().__init__(*((batch, steps, size) if first else (steps, batch, size)), seed=steps)
        self.x = self.op("Transpose", "x", perm=[1, 0, 2]) if first else "x"
        self.states: dict[str, tuple[int, int]] = {}

    def layer(
        self,
        op: str,
        size: int,
        hidden: int,
        direction: str = "forward",
        states: bool = False,
        bias: bool = True,
        **attrs: Any,
    ) -> list[str]:
        """The outputs of a layer with random weights; initial states become inputs."""
        d, g = 1 + (direction == "bidirectional"), GATES[op]
        inputs = [self.x, self.weights(d, g * hidden, size), self.weights(d, g * hidden, hidden)]
        inputs.append(self.weights(d, 2 * g * hidden) if bias else "")
        if states:
            names = [f"{kind}{len(self.nodes)}" for kind in ("h", "cell")[: OUTPUTS[op] - 1]]
            inputs += ["", *(self.add_input(name, d, "n", hidden) for name in names)]
            self.states |= dict.fromkeys(names, (d, hidden))
        if d == 2 and "activations" in attrs:
            attrs["activations"] = attrs["activations"] * 2
        more = {"hidden_size": hidden, "direction": direction, **attrs}
        return self.op(op, *inputs, outputs=OUTPUTS[op], **more)

    def feeds(self, samples: int, first: bool = False) -> Arrays:
        """Inputs as weft takes them, samples first."""
        dims = [d.dim_value for d in self.inputs[0].type.tensor_type.shape.dim]
        shape = (samples, *(dims[1:] if first else (dims[0], dims[2])))
        found = {"x": self.random.standard_normal(shape).astype(np.float32)}
        for name, size in self.states.items():
            found[name] = self.random.uniform(-1, 1, (samples, *size)).astype(np.float32)
        return found


def expected(model: onnx.ModelProto, feeds: Arrays, first: bool = False) -> list[np.ndarray]:
    """ONNX Runtime's outputs, with the blocks of one sample behind those of another."""
    given = {n: v if first and n == "x" else v.swapaxes(0, 1) for n, v in feeds.items()}
    found = []
    for y in run_onnx(model, given):
        samples = np.moveaxis(y, -2, 0)[..., None, :]
        found.append(samples.reshape(-1, *samples.shape[2:]))
    return found


@pytest.mark.oracle
@pytest.mark.parametrize("states", [False, True], ids=["zeros", "states"])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(("op", "attrs"), KINDS, ids=lambda v: "-".join(v) if v else "plain")
def test_float_graphs_compute_what_onnxruntime_does(
    op: str, attrs: dict[str, Any], direction: str, states: bool
) -> None:
    for bias in (True, False):
        net = Layers(5, 3)
        outputs = net.layer(op, 3, 4, direction, states, bias, **attrs)
        model, feeds = net.model(*outputs), net.feeds(2)
        found = evaluate(fuse(load_onnx(model)), feeds)
        for name, wanted in zip(outputs, expected(model, feeds), strict=True):
            np.testing.assert_allclose(found[name], wanted, atol=2e-6)


@pytest.mark.oracle
def test_one_step_and_constant_states() -> None:
    for steps in (1, 3):
        net = Layers(steps, 3)
        states = net.const(np.repeat(net.random.uniform(-1, 1, (1, 1, 4)), 2, axis=1))
        w, r, b = net.weights(1, 12, 3), net.weights(1, 12, 4), net.weights(1, 24)
        attrs = {"linear_before_reset": 1, "hidden_size": 4}
        outputs = net.op("GRU", "x", w, r, b, "", states, outputs=2, **attrs)
        model, feeds = net.model(*outputs), net.feeds(2)
        found = evaluate(fuse(load_onnx(model)), feeds)
        for name, wanted in zip(outputs, expected(model, feeds), strict=True):
            np.testing.assert_allclose(found[name], wanted, atol=2e-6)


@pytest.mark.oracle
def test_stacked_layers_as_pytorch_writes_them() -> None:
    """States of all layers in one input and one output, two directions side by side."""
    net = Layers(4, 6, first=True)
    net.states["h0"] = (4, 5)
    net.add_input("h0", 4, "n", 5)
    last = []
    for layer, size in enumerate((6, 10)):
        w, r, b = net.weights(2, 15, size), net.weights(2, 15, 5), net.weights(2, 30)
        bounds = [net.const([v], np.int64) for v in (2 * layer, 2 * layer + 2, 0)]
        part = net.op("Slice", "h0", *bounds)
        options = {"linear_before_reset": 1, "direction": "bidirectional", "hidden_size": 5}
        y, h = net.op("GRU", net.x, w, r, b, "", part, outputs=2, **options)
        swapped = net.op("Transpose", y, perm=[0, 2, 1, 3])
        net.x = net.op("Reshape", swapped, net.const([0, 0, -1], np.int64))
        last.append(h)
    outputs = (net.op("Transpose", net.x, perm=[1, 0, 2]), net.op("Concat", *last, axis=0))
    model, feeds = net.model(*outputs), net.feeds(3, first=True)
    graph = fuse(load_onnx(model))
    found = evaluate(graph, feeds)
    y, h = run_onnx(model, {n: v if n == "x" else v.swapaxes(0, 1) for n, v in feeds.items()})
    np.testing.assert_allclose(found[outputs[0]], y, atol=2e-6)
    one_by_one = h.swapaxes(0, 1).reshape(-1, 1, 5)
    np.testing.assert_allclose(found[outputs[1]], one_by_one, atol=2e-6)
    assert graph[outputs[0]].shape == (1, 4, 10)


SIZES = [("tiny", 5, 8, 12), ("lab", 1, 20, 24), ("lab", 6, 16, 33), ("edge", 3, 40, 64)]


@pytest.mark.oracle
@pytest.mark.parametrize(("overlay", "steps", "size", "hidden"), SIZES)
@pytest.mark.parametrize("op", GATES)
def test_steps_run_on_the_accelerator(
    op: str, overlay: str, steps: int, size: int, hidden: int
) -> None:
    net = Layers(steps, size, first=True)
    outputs = net.layer(op, size, hidden, states=True)
    model, feeds = net.model(*outputs), net.feeds(40, first=True)
    program = weft.compile(model, overlay, calibration=feeds)
    places = weft.preflight(model, overlay)
    assert {p.op for p in places if p.where == "host"} <= {"Reshape", "Transpose"}
    assert sum(isinstance(s, AcceleratorSegment) for s in program.segments) == 1
    with weft.open(program, "csim") as session:
        found, took = session.run(feeds, detail=True)
    with weft.open(program, "golden") as session:
        golden, wanted = session.run(feeds, detail=True)
    assert took.counters == wanted.counters
    for name, real in zip(outputs, expected(model, feeds, first=True), strict=True):
        np.testing.assert_array_equal(found[name], golden[name])
        assert np.sqrt(np.mean((found[name] - real) ** 2)) < 0.008 + 0.02 * real.std()


@pytest.mark.parametrize("direction", ["reverse", "bidirectional"])
@pytest.mark.parametrize(("op", "attrs"), KINDS, ids=lambda v: "-".join(v) if v else "plain")
def test_directions_on_the_accelerator(op: str, attrs: dict[str, Any], direction: str) -> None:
    net = Layers(4, 16, first=True)
    outputs = net.layer(op, 16, 32, direction, **attrs)
    model, feeds = net.model(*outputs), net.feeds(40, first=True)
    program = weft.compile(model, "lab", calibration=feeds)
    with weft.open(program, "golden") as golden, weft.open(program, "csim") as session:
        wanted, found = golden.run(feeds), session.run(feeds)
    for name, real in zip(outputs, expected(model, feeds, first=True), strict=True):
        np.testing.assert_array_equal(found[name], wanted[name])
        assert np.sqrt(np.mean((found[name] - real) ** 2)) < 0.008 + 0.02 * real.std()


def test_time_major_inputs_have_their_samples_first() -> None:
    net = Layers(5, 3)
    outputs = net.layer("GRU", 3, 4, states=True)
    graph = load_onnx(net.model(*outputs))
    assert [graph[name].shape for name in graph.inputs] == [(1, 5, 3), (1, 1, 4)]
    fixed = Layers(5, 3, batch=4)
    outputs = fixed.layer("GRU", 3, 4)
    graph = load_onnx(fixed.model(outputs[1]))
    assert (graph["x"].shape, graph[outputs[1]].shape) == ((1, 5, 3), (1, 1, 4))


def layer(op: str = "LSTM", steps: int = 6, **options: Any) -> tuple[Any, Arrays]:
    """A float graph of one layer, and inputs."""
    net = Layers(steps, 16, first=True)
    outputs = net.layer(op, 16, 16, states=True, **options)
    return fuse(load_onnx(net.model(*outputs))), net.feeds(32, first=True)


@pytest.mark.parametrize("op", GATES)
def test_steps_share_scales_and_weights(op: str) -> None:
    graph, feeds = layer(op)
    made = quantize(graph, feeds)
    scales: dict[str, set[tuple[float, int]]] = {}
    for node in made:
        for name, role in roles_of(node):
            quant = made[name].quant
            if quant is not None and made[name].data is None:
                scales.setdefault(role, set()).add((float(quant.scale), quant.zero_point))
    assert len(scales) > 2
    assert {role for role, found in scales.items() if len(found) > 1} == set()
    weights = {n.inputs[1] for n in made if n.op == "Linear"}
    assert len(weights) == 2 * GATES[op]
    state, hidden = graph.inputs[1], graph.outputs[1]
    assert made[state].quant == made[graph.reshaped_from(hidden)].quant or op == "LSTM"


def test_weights_lie_in_memory_once() -> None:
    """More steps read the same rows of weights and tables again."""
    rows = {}
    for steps in (3, 9):
        net = Layers(steps, 64, first=True)
        outputs = net.layer("GRU", 64, 64)
        feeds = {"x": np.tile(net.random.standard_normal((8, 1, 64)), (1, steps, 1))}
        program = weft.compile(
            net.model(outputs[1]), "lab", calibration={"x": feeds["x"].astype(np.float32)}
        )
        rows[steps] = len(program.weights)
    assert 6 * 64 * 64 // 16 < rows[3] == rows[9]


def test_gates_spend_codes_where_they_change() -> None:
    """What σ and tanh read is cut off where their codes stay the same; a state is not."""
    graph, feeds = layer("LSTM")
    roots = pools(graph, quantized_roots(graph)).roots
    limits = saturated(graph, roots)
    readers = graph.consumers()
    for name, root in roots.items():
        ops = {n.op for n in readers.get(name, ())}
        if ops and ops <= set(SATURATED) and name not in graph.outputs:
            assert limits[root] == max(SATURATED[op] for op in ops)
        elif ops - set(SATURATED) - {"Reshape", "Slice"}:
            assert root not in limits
    made = quantize(graph, {name: 20 * value for name, value in feeds.items()})
    sums = [n.inputs[0] for n in made if n.op == "Sigmoid"]
    for name in sums:
        quant = made[name].quant
        assert quant is not None
        assert abs(quant.dequantize(np.array([-128, 127]))).max() < 1.01 * SATURATED["Sigmoid"]
    for op, limit in SATURATED.items():
        step = 1 / 255 if op == "Sigmoid" else 2 / 255
        x = np.array([limit * 0.99, limit * 1.01, 100.0])
        y = 1 / (1 + np.exp(-x)) if op == "Sigmoid" else np.tanh(x)
        near = np.rint((1 - y) / step)
        assert near.tolist() == [1, 0, 0]


@pytest.mark.parametrize("method", ["nearest", "gptq"])
def test_other_formats_and_methods_give_steps_the_same_weights(method: str) -> None:
    graph, feeds = layer("GRU")
    made = quantize(graph, feeds, weights="int4", weight_method=method, correct_bias=True)
    assert len({n.inputs[1:] for n in made if n.op == "Linear"}) == 6
    program = weft.compile(graph, "lab", calibration=feeds, weights="int4", weight_method=method)
    with weft.open(program, "golden") as golden, weft.open(program, "csim") as session:
        wanted, found = golden.run(feeds), session.run(feeds)
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value)


def test_int16_weights_are_multiplied_in_parts() -> None:
    graph, feeds = layer("GRU", steps=3)
    program = weft.compile(graph, "lab", calibration=feeds, weights="int16")
    with weft.open(program, "golden") as golden, weft.open(program, "csim") as session:
        wanted, found = golden.run(feeds), session.run(feeds)
    real = evaluate(graph, feeds)
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value)
        assert np.abs(value - real[name]).max() < 0.06


REFUSED = [
    ("GRU", {"activations": ["Sigmoid", "Relu"]}, "activations"),
    ("GRU", {"clip": 3.0}, "clips"),
    ("LSTM", {"input_forget": 1}, "input_forget"),
    ("RNN", {"activations": ["Affine"]}, "activations"),
    ("RNN", {"direction": "sideways"}, "direction 'sideways'"),
]


@pytest.mark.parametrize(("op", "attrs", "words"), REFUSED)
def test_what_cells_lack_is_refused_by_name(op: str, attrs: dict[str, Any], words: str) -> None:
    net = Layers(3, 4)
    net.layer(op, 4, 4, **attrs)
    net.nodes[-1].name = "cell"
    model = net.model()
    model.graph.output.append(onnx.ValueInfoProto(name=net.nodes[-1].output[0]))
    with pytest.raises((UnsupportedError, ModelError), match=f"'cell'.*{words}"):
        load_onnx(model)


def raw(*inputs: Any, op: str = "LSTM", steps: int = 3, **attrs: Any) -> onnx.ModelProto:
    """A layer whose inputs behind x are constants as they are given, or names of inputs."""
    net = Layers(steps, 4)
    names = [v if isinstance(v, str) else net.const(v, np.asarray(v).dtype) for v in inputs]
    for name in names:
        if name.startswith("in_"):
            net.add_input(name, 1)
    net.op(op, "x", *names, outputs=2, **attrs)
    model = net.model()
    model.graph.output.append(onnx.ValueInfoProto(name=net.nodes[-1].output[0]))
    return model


def test_peepholes_lengths_and_wrong_shapes_are_refused() -> None:
    w, r = np.ones((1, 16, 4), np.float32), np.ones((1, 16, 4), np.float32)
    bias, peepholes = np.ones((1, 32), np.float32), np.ones((1, 12), np.float32)
    with pytest.raises(UnsupportedError, match="peepholes"):
        load_onnx(raw(w, r, bias, "", "", "", peepholes))
    load_onnx(raw(w, r, bias, np.array([3], np.int32), "", "", 0 * peepholes))
    with pytest.raises(UnsupportedError, match="sequence_lens"):
        load_onnx(raw(w, r, bias, np.array([2], np.int32)))
    with pytest.raises(UnsupportedError, match=f"at most {STEPS_LIMIT}.*weft.recurrent"):
        load_onnx(raw(w, r, bias, steps=STEPS_LIMIT + 1))
    with pytest.raises(ShapeError, match="do not fit an input of 4"):
        load_onnx(raw(w[:, :, :3], r, bias))
    with pytest.raises(ShapeError, match="1 directions"):
        load_onnx(raw(np.ones((2, 16, 4), np.float32), r, bias))
    with pytest.raises(ShapeError, match="bias"):
        load_onnx(raw(w, r, bias[:, :31]))
    with pytest.raises(ShapeError, match=r"initial state.*directions of 4"):
        load_onnx(raw(w, r, bias, "", np.ones((2, 1, 4), np.float32)))
    states = np.arange(8, dtype=np.float32).reshape(1, 2, 4)
    with pytest.raises(UnsupportedError, match="differ between samples"):
        load_onnx(raw(w, r, bias, "", states))
    with pytest.raises(UnsupportedError, match="'in_w' is computed at run time"):
        load_onnx(raw("in_w", r, bias))


def test_sessions_refuse_other_lengths_and_states() -> None:
    graph, feeds = layer("GRU")
    program = weft.compile(graph, "lab", calibration=feeds)
    state = graph.inputs[1]
    with weft.open(program, "golden") as session:
        for name, wrong in (
            ("x", feeds["x"][:, :5]),
            ("x", np.concatenate([feeds["x"]] * 2, axis=1)),
            ("x", feeds["x"][:, :0]),
            (state, feeds[state][..., :15]),
            (state, feeds[state][:-1]),
        ):
            with pytest.raises(InputError):
                session.run({**feeds, name: wrong})
        session.run(feeds)
