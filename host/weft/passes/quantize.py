"""Post-training quantization: a float graph and typical inputs → a quantized graph.

The result follows ARCHITECTURE.md, "The quantized graph". Activations are asymmetric int8 per
tensor, weights symmetric per output channel, as in Jacob et al. (CVPR 2018) and TFLite.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from weft import isa, ops
from weft.calibrate import CALIBRATORS, Calibrator, MinMax
from weft.errors import InputError, ModelError, UsageError, unknown
from weft.format import SMALLEST_SCALE
from weft.formats import int8
from weft.graph import Array, Graph, Node, Quant, Tensor
from weft.passes.choices import Choice, Choices, activation_quant
from weft.passes.placement import accelerated, quantized_roots, weight_axis
from weft.passes.weights import (
    Layer,
    axis_of,
    canonical,
    encode_weights,
    format_for,
    method_of,
    native,
)
from weft.samples import take_feeds

if TYPE_CHECKING:
    from weft.plan import Plan

BATCH = 16  # samples that are evaluated at a time
BIAS_LIMIT = 1 << 30  # largest bias: leaves the sums of products the other half of int32

Progress = Callable[[int, int], None]
Tensors = dict[str, Tensor]


def quantize(
    graph: Graph,
    data: Mapping[str, Array],
    *,
    calibrator: str = "minmax",
    requant: str = "single_round",
    symmetric: bool = False,
    dynamic: bool = False,
    weights: str = "int8",
    activations: str = "int8",
    method: str = "max",
    plan: Plan | None = None,
    progress: Progress | None = None,
) -> Graph:
    """`graph` with codes and scales wherever the accelerator can run.

    `data` maps each input to calibration samples [n, ...]. Ranges of inputs cover all of the
    data; those of other activations are chosen by `calibrator`, a name in CALIBRATORS. `requant`
    names the rounding of every quantized node, `symmetric` asks for activations with zero point
    0. With `dynamic` only the weights of Linear nodes are quantized, `data` is not needed, and
    the nodes carry the attribute dynamic. `progress` hears (samples done, samples in all).

    `weights` names the number format of weights (`weft list formats`), `activations` that of what
    Conv and Linear read, and `method` how weights are rounded; `plan` may say otherwise for single
    layers. The graph's own inputs and outputs stay int8 unless the plan says so.

    A channel whose bias would not fit int32 gets a larger weight scale, which the node's
    attribute "notes" says. Activations that become infinite stay float.

    Raises UsageError for unknown names and for a graph that is quantized already, InputError for
    data that is missing, misshapen or not finite, ModelError for weights that are not finite.
    """
    if calibrator not in CALIBRATORS:
        raise UsageError(unknown("calibrator", calibrator, CALIBRATORS))
    if requant not in isa.MODES:
        raise UsageError(unknown("requantization mode", requant, isa.MODES))
    if any(t.quant is not None for t in graph.tensors.values()):
        raise UsageError(f"graph {graph.name!r} is quantized already")
    chosen = Choices(weights, activations, method, plan).verify(graph)
    if dynamic:
        return _dynamic(graph)
    _check_data(graph, data)
    roots = quantized_roots(graph)
    found = _ranges(graph, data, set(roots.values()), CALIBRATORS[calibrator], progress)
    formats = chosen.formats(graph, roots)
    quants = {
        root: activation_quant(formats.get(root, "int8"), *bounds, symmetric)
        for root, bounds in found.items()
    }
    tensors = dict(graph.tensors)
    for name, root in roots.items():
        if root in quants:
            tensors[name] = replace(tensors[name], quant=quants[root])
    return _rewrite(graph.replace(tensors=tensors), requant, chosen, data)


def simulate(graph: Graph, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Outputs of a quantized graph for n samples in float arithmetic.

    Weights are what their codes stand for, and every tensor that carries `quant` is rounded to
    its codes; the input rows of dynamic Linear nodes to theirs. It shows the accuracy that
    quantization costs; the accelerator's own rounding differs in single codes. Raises as
    `weft.ops.evaluate` does.
    """
    if not any(node.attrs.get("dynamic") for node in graph):
        return ops.evaluate(graph, feeds, fake_quant=True)
    values: dict[str, Array] = {}
    take_feeds(graph, feeds, values)
    for node in graph:
        names = tuple(dict.fromkeys(n for n in node.inputs if n and graph[n].data is None))
        part = {name: values[name] for name in names}
        if node.attrs.get("dynamic"):
            part[node.inputs[0]] = _rounded_rows(part[node.inputs[0]])
        alone = graph.replace(
            nodes=(node,), inputs=names, outputs=tuple(filter(None, node.outputs))
        )
        values.update(ops.evaluate(alone, part))
    return {name: values[name] for name in graph.outputs}


def _rounded_rows(x: Array) -> Array:
    """`x` [..., K] as symmetric int8 with a scale per row keeps it."""
    rows = np.asarray(x, np.float32).reshape(-1, x.shape[-1])
    quant = int8.symmetric(rows, 0)
    return quant.dequantize(int8.quantize(rows, quant)).reshape(x.shape)


def _check_data(graph: Graph, data: Mapping[str, Array]) -> None:
    """Raises InputError for samples that are missing, misshapen, or not finite."""
    take_feeds(graph, data, {})
    for name in graph.inputs:
        array = np.asarray(data[name])
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            bad = int(np.count_nonzero(~np.isfinite(array)))
            raise InputError(
                f"calibration data of input {name!r}: {bad} of {array.size} values are NaN or "
                "infinite; leave those samples out"
            )


def _ranges(
    graph: Graph,
    data: Mapping[str, Array],
    names: Iterable[str],
    kind: Callable[[], Calibrator],
    progress: Progress | None,
) -> dict[str, tuple[float, float]]:
    """(low, high) of the tensors `names`, without those that take infinite values."""
    collectors = {n: MinMax() if n in graph.inputs else kind() for n in sorted(names)}
    if not collectors:
        return {}
    for part, done, total in _batches(graph, data):
        with np.errstate(all="ignore"):  # what overflows is refused by observe
            values = ops.evaluate(graph, part, keep=list(collectors))
        for name in list(collectors):
            if not _observed(collectors[name], values[name]):
                del collectors[name]
        if progress:
            progress(done, total)
    return {name: collector.range() for name, collector in collectors.items()}


def _observed(collector: Calibrator, x: Array) -> bool:
    try:
        collector.observe(x)
    except InputError:
        return False
    return True


def _batches(
    graph: Graph, data: Mapping[str, Array]
) -> Iterator[tuple[dict[str, Array], int, int]]:
    """(feeds, samples done with them, samples in all), BATCH samples at a time."""
    sizes = {name: (graph[name].shape or (1,))[0] for name in graph.inputs}
    arrays = {name: np.atleast_1d(data[name]) for name in graph.inputs}
    total = min((len(a) // sizes[n] for n, a in arrays.items()), default=1)
    for start in range(0, total, BATCH):
        stop = min(start + BATCH, total)
        part = {n: a[start * sizes[n] : stop * sizes[n]] for n, a in arrays.items()}
        yield part, stop, total


# Weights


@dataclass
class _Constants:
    """The graph's tensors while constants get their codes."""

    tensors: Tensors
    readers: Mapping[str, list[Node]]

    def put(self, name: str, node: Node, data: Array, quant: Quant) -> str:
        """Adds codes for the constant `name` that `node` reads; the name they have.

        A constant with other readers stays as it is: their scales may differ.
        """
        target = name
        if len(self.readers[name]) > 1:
            target = f"{name}/{node.name}"
            while target in self.tensors:
                target += "'"
        self.tensors[target] = Tensor(target, data.shape, str(data.dtype), data, quant)
        return target


def _rewrite(graph: Graph, requant: str, chosen: Choices, data: Mapping[str, Array]) -> Graph:
    """The graph whose activations have scales, with codes for the constants."""
    constants = _Constants(dict(graph.tensors), graph.consumers())
    nodes, crossed = [], set()
    for node in graph:
        names = [n for n in (*node.inputs, *node.outputs) if n and graph[n].data is None]
        if accelerated(graph, node) and all(graph[n].quant is not None for n in names):
            node = _with_codes(graph, node, constants, chosen, data).with_attrs(requant=requant)
            crossed.update(names)
        nodes.append(node)
    for name, tensor in graph.tensors.items():
        if tensor.data is None and name not in crossed:
            constants.tensors[name] = replace(tensor, quant=None)
    return graph.replace(nodes=tuple(nodes), tensors=constants.tensors).pruned().verify()


def _with_codes(
    graph: Graph, node: Node, constants: _Constants, chosen: Choices, data: Mapping[str, Array]
) -> Node:
    if node.op in ("Conv", "Linear"):
        choice = chosen.of(node)
        if choice.weights != "int8" or choice.method != "max":
            return _with_format(graph, node, constants, choice, data)
        return _with_weights(graph, node, constants)
    inputs = list(node.inputs)
    if node.op in ("Add", "Sub", "Mul", "Concat"):
        for index, name in enumerate(inputs):
            if graph[name].data is not None and not _per_channel(graph[name]):
                inputs[index] = _map_constant(graph[name], node, constants)
    return replace(node, inputs=tuple(inputs))


def _per_channel(tensor: Tensor) -> bool:
    """Whether a constant is one number, or one per index of one axis.

    Such an operand becomes a scale and bias per channel, which are better than codes.
    """
    return tensor.size == max(tensor.shape, default=1)


def _map_constant(tensor: Tensor, node: Node, constants: _Constants) -> str:
    data = _finite(tensor, node)
    quant = int8.affine(float(data.min()), float(data.max()))
    return constants.put(tensor.name, node, int8.quantize(data, quant), quant)


def _finite(tensor: Tensor, node: Node) -> NDArray[np.float32]:
    data = np.asarray(tensor.data, np.float32)
    if not np.isfinite(data).all():
        bad = int(np.count_nonzero(~np.isfinite(data)))
        raise ModelError(
            f"{node.op} {node.name!r}: {bad} of {data.size} values of {tensor.name!r} are NaN or "
            "infinite"
        )
    return data


def _with_weights(graph: Graph, node: Node, constants: _Constants) -> Node:
    """Conv or Linear with int8 weights and an int32 bias."""
    x = graph[node.inputs[0]].quant
    assert x is not None, "the caller has checked it"
    weights, axis = graph[node.inputs[1]], weight_axis(node)
    real = _finite(weights, node)
    has_bias = len(node.inputs) > 2 and bool(node.inputs[2])
    bias = np.zeros(real.shape[axis], np.float32)
    if has_bias:
        bias = _finite(graph[node.inputs[2]], node).reshape(-1)
    own, notes = _scales(real, axis, float(x.scale), bias)
    names = [node.inputs[0], constants.put(weights.name, node, int8.quantize(real, own), own)]
    if has_bias:
        unit = np.float64(x.scale) * own.scale.astype(np.float64)
        codes = np.rint(bias / unit).astype(np.int32)
        quant = Quant(unit.astype(np.float32), axis=0)
        names.append(constants.put(node.inputs[2], node, codes, quant))
    changed = replace(node, inputs=tuple(names))
    return changed.with_attrs(notes=notes) if notes else changed


def _with_format(
    graph: Graph, node: Node, constants: _Constants, choice: Choice, data: Mapping[str, Array]
) -> Node:
    """Conv or Linear with weights in the format chosen, and the bias that goes with it."""
    x, weights = graph[node.inputs[0]].quant, graph[node.inputs[1]]
    assert x is not None, "the caller has checked it"
    real = canonical(_finite(weights, node), node)
    fmt, notes = format_for(node, choice.weights, real)
    method = method_of(choice.method)
    has_bias = len(node.inputs) > 2 and bool(node.inputs[2])
    bias = _finite(graph[node.inputs[2]], node).reshape(-1) if has_bias else np.zeros(len(real))
    least = (np.abs(bias.astype(np.float64)) / (float(x.scale) * BIAS_LIMIT)).astype(np.float32)
    least = np.nextafter(least, np.float32(math.inf)) * (least > 0)
    layer = Layer(node, real, fmt, graph, data)
    operands, quant = encode_weights(layer, method, least)
    own = axis_of(node, quant)
    codes = native(operands, node, weights.shape)
    names = [node.inputs[0], constants.put(weights.name, node, codes, own)]
    if has_bias and fmt.operand == "bf16":
        names.append(node.inputs[2])
    elif has_bias:
        unit = np.float64(x.scale) * np.asarray(quant.scale, np.float64)
        integers = np.rint(bias / unit).astype(np.int32)
        names.append(constants.put(node.inputs[2], node, integers,
                                   Quant(unit.astype(np.float32), axis=0)))  # fmt: skip
    changed = replace(node, inputs=tuple(names))
    return changed.with_attrs(notes=notes) if notes else changed


def _scales(
    real: NDArray[np.float32], axis: int, x_scale: float, bias: NDArray[np.float32]
) -> tuple[Quant, tuple[str, ...]]:
    """Scales of weights, with which each bias is within BIAS_LIMIT units; what was widened for it.

    A dead channel has weights of zero only and any scale does: it gets the one with which its
    bias is most precise, or that of the others where it has none.
    """
    own = int8.symmetric(real, axis).scale
    dead = ~np.any(real, axis=tuple(a for a in range(real.ndim) if a != axis))
    least = (np.abs(bias.astype(np.float64)) / (x_scale * BIAS_LIMIT)).astype(np.float32)
    # Rounded up, so that the bias in units of the float32 scale is within the limit.
    least = np.maximum(np.nextafter(least, np.float32(math.inf)), np.float32(SMALLEST_SCALE))
    scale = np.where(dead, least, np.maximum(own, least))
    silent = dead & (bias == 0)
    scale[silent] = scale[~silent].max(initial=0) or 1
    wide = np.flatnonzero((scale > own) & ~dead)
    notes = tuple(
        f"output channel {c}: weight scale widened from {own[c]:.3g} to {scale[c]:.3g}, because "
        f"its bias of {bias[c]:.3g} exceeds int32 otherwise"
        for c in wide
    )
    return Quant(scale.astype(np.float32), axis=axis), notes


def _dynamic(graph: Graph) -> Graph:
    """Codes for the weights of Linear nodes only."""
    constants = _Constants(dict(graph.tensors), graph.consumers())
    nodes = []
    for node in graph:
        if node.op == "Linear" and accelerated(graph, node):
            weights = graph[node.inputs[1]]
            real = _finite(weights, node)
            quant = int8.symmetric(real, weight_axis(node))
            name = constants.put(weights.name, node, int8.quantize(real, quant), quant)
            inputs = (node.inputs[0], name, *node.inputs[2:])
            node = replace(node, inputs=inputs).with_attrs(dynamic=True)
        nodes.append(node)
    return graph.replace(nodes=tuple(nodes), tensors=constants.tensors).pruned().verify()
