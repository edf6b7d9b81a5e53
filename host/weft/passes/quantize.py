"""Post-training quantization: a float graph and typical inputs → a quantized graph.

The result follows ARCHITECTURE.md, "The quantized graph". Activations are asymmetric int8 per
tensor (the residual stream of a transformer int16: `weft.passes.stream`), weights symmetric per
output channel, as in Jacob et al. (CVPR 2018) and TFLite, unless another format is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np

from weft import activation, isa, ops
from weft.calibrate import CALIBRATORS
from weft.errors import UsageError, unknown
from weft.formats import int8
from weft.graph import Array, Graph, Node, Quant, Tensor
from weft.passes import products
from weft.passes.choices import Choice, activation_formats, choices, layers
from weft.passes.even import STRENGTH, even_out
from weft.passes.front import front_tokens
from weft.passes.placement import FOLLOWS, accelerated, coded, quantized_roots
from weft.passes.ranges import BATCH, Progress, check_data, feeds, ranges
from weft.passes.roles import pools, saturated
from weft.passes.row_ranges import check_one, row_tensors, symmetric_rows, with_rows
from weft.passes.stream import reads_wide, stream, with_copies
from weft.passes.weights import BIAS_LIMIT, encode, finite, format_for
from weft.passes.wide_products import wide_products
from weft.passes.wide_sums import coarser
from weft.plan import Plan
from weft.quantization import awq, equalize, methods, smooth, statistics
from weft.quantization.statistics import Statistics
from weft.samples import take_feeds

__all__ = ["BATCH", "BIAS_LIMIT", "Options", "prepare", "quantize", "simulate"]

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Options:
    """How `quantize` chooses formats and rounds weights; each field as its argument there."""

    weights: str = "int8"
    activations: str = "int8"
    weight_method: str = "nearest"
    plan: Plan | None = None
    keep_first_last: bool = False
    equalize: bool = False
    smooth: float | None = None
    correct_bias: bool = False

    def choices(self, graph: Graph) -> dict[str, Choice]:
        """Each layer's choice, by the name of its output."""
        default = Choice(self.weights, self.activations, self.weight_method)
        return choices(graph, default, self.plan, self.keep_first_last)


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
    weight_method: str = "nearest",
    plan: Plan | None = None,
    keep_first_last: bool = False,
    equalize: bool = False,
    smooth: float | None = None,
    correct_bias: bool = False,
    row_ranges: bool = False,
    states: Mapping[str, str] = MappingProxyType({}),
    progress: Progress | None = None,
) -> Graph:
    """`graph` with codes and scales wherever the accelerator can run.

    `data` maps each input to calibration samples [n, ...]. Ranges of inputs cover all of the
    data; those of other activations are chosen by `calibrator`, a name in CALIBRATORS. `requant`
    names the rounding of every quantized node, `symmetric` asks for activations with zero point
    0. With `dynamic` only the weights of Linear nodes are quantized, `data` is not needed, and
    the nodes carry the attribute dynamic. `progress` hears (samples done, samples in all).

    `weights` names a number format (`weft.formats`) or ant4, the best of four per layer;
    `activations` what the inputs of layers are (`weft.activation`), all else stays int8;
    `weight_method` how weights are rounded (`weft.quantization.methods`). A `plan` says it layer by
    layer, `keep_first_last` leaves the first and the last layer at int8. `equalize`, `smooth`
    (SmoothQuant's strength; 0.5 behind norms) and `correct_bias` apply the method of that name.
    Tensors to which `states` gives one name get one scale. With `row_ranges` what norms give to
    Linear layers has a range per row, found while it runs (`weft.passes.row_ranges`).

    A channel whose bias or sums would not fit int32 gets a larger weight scale, and a depthwise
    convolution int8 weights where it can't take the format; the node's attribute "notes" says so.
    Activations that become infinite stay float.

    Raises UsageError for unknown names and for a graph that is quantized already, InputError for
    data that is missing, misshapen or not finite, ModelError for weights that are not finite.
    """
    if calibrator not in CALIBRATORS:
        raise UsageError(unknown("calibrator", calibrator, CALIBRATORS))
    if requant not in isa.MODES:
        raise UsageError(unknown("requantization mode", requant, isa.MODES))
    if any(t.quant is not None for t in graph.tensors.values()):
        raise UsageError(f"graph {graph.name!r} is quantized already")
    options = Options(
        weights, activations, weight_method, plan, keep_first_last, equalize, smooth, correct_bias
    )
    graph = graph if dynamic else front_tokens(graph)
    chosen = options.choices(graph)
    if dynamic:
        return _dynamic(graph, chosen, row_ranges)
    check_data(graph, data)
    graph = prepare(graph, data, options)
    products_16 = wide_products(graph, chosen)
    wide = stream(graph) | products_16
    graph = with_copies(graph, wide, products_16)
    if wide and not (products_16 and weights == "int8"):  # weights alone of fewer bits gain by it
        graph = even_out(graph, feeds(graph, data), STRENGTH if smooth is None else smooth)
    rows = row_tensors(graph) if row_ranges else frozenset()
    shared = pools(graph, quantized_roots(graph), states)
    roots = shared.roots
    formats = activation_formats(graph, roots, chosen)
    formats |= {roots[name]: activation.WIDE for name in wide if name in roots}
    found = ranges(graph, data, formats, CALIBRATORS[calibrator], progress, shared.members)
    for root, limit in saturated(graph, roots).items():
        if root in found:
            found[root] = max(found[root][0], -limit), min(found[root][1], limit)
    balanced = {roots[n] for n in rows.union(*map(_balanced, graph)) if n in roots}
    quants = {
        root: activation.affine(*bounds, formats[root], symmetric or root in balanced)
        for root, bounds in found.items()
    }
    tensors = dict(graph.tensors)
    for name, root in roots.items():
        if root in quants:
            tensors[name] = replace(tensors[name], quant=with_rows(quants[root], name in rows))
    scaled = coarser(graph.replace(tensors=tensors), products_16, chosen)
    return _rewrite(scaled, requant, chosen, _seen(scaled, data, chosen, options), correct_bias)


def prepare(graph: Graph, data: Mapping[str, Array], options: Options) -> Graph:
    """The same function in float, its weights and activations easier to round.

    Equalization first, then factors between products of activations, then
    SmoothQuant, then AWQ's factors for the layers whose method that is.
    """
    if options.equalize:
        graph = equalize.equalize(graph)
    strength = products.STRENGTH if options.smooth is None else options.smooth
    graph = products.even_products(graph, feeds(graph, data), strength)
    if options.smooth is not None:
        graph = smooth.smooth(graph, feeds(graph, data), options.smooth)
    chosen = options.choices(graph)
    names = [n.outputs[0] for n in layers(graph) if chosen[n.outputs[0]].method == "awq"]
    nodes = [node for node in graph if node.outputs[0] in names]
    if not nodes:
        return graph
    found = statistics.observe(graph, feeds(graph, data), nodes)
    for name in names:
        node = graph.producers()[name]
        if not np.isfinite(np.asarray(graph[node.inputs[1]].data)).all():
            continue  # it will stay float
        fmt, _ = format_for(graph, node, chosen[name].weights)
        graph = awq.scale_layer(graph, node, fmt, found[name])
    return graph


def _seen(
    graph: Graph, data: Mapping[str, Array], chosen: Mapping[str, Choice], options: Options
) -> dict[str, Statistics]:
    """Statistics of the layers that need them: of activations as their codes keep them."""
    nodes = [
        node
        for node in layers(graph)
        if graph[node.inputs[0]].quant is not None
        and (options.correct_bias or chosen[node.outputs[0]].method in methods.NEED_DATA)
    ]
    return statistics.observe(graph, feeds(graph, data), nodes, rounded=True) if nodes else {}


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
            part[node.inputs[0]] = symmetric_rows(part[node.inputs[0]])
        alone = graph.replace(
            nodes=(node,), inputs=names, outputs=tuple(filter(None, node.outputs))
        )
        values.update(ops.evaluate(alone, part))
    return {name: values[name] for name in graph.outputs}


@dataclass
class _Constants:
    """The graph's tensors while constants get their codes.

    `shared` are the constants, and remarks, of layers that other steps of a recurrence have, too.
    """

    tensors: Tensors
    readers: Mapping[str, list[Node]]
    shared: dict[object, tuple[tuple[str, ...], tuple[str, ...]]] = field(default_factory=dict)

    def new(self, name: str) -> str:
        """`name`, or it with marks, that no tensor has."""
        while name in self.tensors:
            name += "'"
        return name

    def put(self, name: str, node: Node, data: Array, quant: Quant | None) -> str:
        """Adds codes for the constant `name` that `node` reads; the name they have.

        A constant with other readers stays as it is: their scales may differ.
        """
        target = name
        if len(self.readers.get(name, ())) > 1:
            target = f"{name}/{node.name}"
            while target in self.tensors:
                target += "'"
        self.tensors[target] = Tensor(target, data.shape, str(data.dtype), data, quant)
        return target


def _rewrite(
    graph: Graph,
    requant: str,
    chosen: Mapping[str, Choice],
    seen: Mapping[str, Statistics],
    correct: bool,
) -> Graph:
    """The graph whose activations have scales, with codes for the constants."""
    constants = _Constants(dict(graph.tensors), graph.consumers())
    nodes, crossed = [], set()
    for node in graph:
        names = coded(graph, node)
        if accelerated(graph, node) and _coded(graph, node, names):
            if node.op in ("Conv", "Linear"):
                key = node.outputs[0]
                node = _with_weights(graph, node, constants, chosen[key], seen.get(key), correct)
            else:
                node = _with_codes(graph, node, constants)
            node = node.with_attrs(requant=requant)
            crossed.update(names)
        nodes.append(node)
    for name, tensor in graph.tensors.items():
        if tensor.data is None and name not in crossed:
            constants.tensors[name] = replace(tensor, quant=None)
    return graph.replace(nodes=tuple(nodes), tensors=constants.tensors).pruned().verify()


def _coded(graph: Graph, node: Node, names: list[str]) -> bool:
    """Whether all activations of a node are what the accelerator takes there.

    The vector unit takes codes; bf16 goes through layers, and what only moves values; int16 what
    the residual stream is made of.
    """
    quants = [graph[n].quant for n in names]
    if any(quant is None for quant in quants):
        return False
    wide = {n for n, q in zip(names, quants, strict=True) if q and q.format == activation.WIDE}
    if not reads_wide(graph, node, wide):
        return False
    passes = node.op in ("Conv", "Linear") or node.op in FOLLOWS
    return passes or all(q is not None and q.format != activation.REAL for q in quants)


def _balanced(node: Node) -> tuple[str, ...]:
    """Operands whose zero point must be 0: those of products of two activations."""
    return node.inputs[:3] if node.op == "Attention" else ()


def _with_codes(graph: Graph, node: Node, constants: _Constants) -> Node:
    inputs = list(node.inputs)
    if node.op in ("Add", "Sub", "Mul", "Concat"):
        y = graph[node.outputs[0]].quant
        for index, name in enumerate(inputs):
            if y is not None and y.format == activation.WIDE:
                continue  # an int16 constant is made when it is lowered
            if graph[name].data is not None and not _per_channel(graph[name]):
                inputs[index] = _map_constant(graph[name], node, constants)
    return replace(node, inputs=tuple(inputs))


def _per_channel(tensor: Tensor) -> bool:
    """Whether a constant is one number, or one per index of one axis.

    Such an operand becomes a scale and bias per channel, which are better than codes.
    """
    return tensor.size == max(tensor.shape, default=1)


def _map_constant(tensor: Tensor, node: Node, constants: _Constants) -> str:
    data = finite(tensor, node)
    quant = int8.affine(float(data.min()), float(data.max()))
    return constants.put(tensor.name, node, int8.quantize(data, quant), quant)


def _with_weights(
    graph: Graph,
    node: Node,
    constants: _Constants,
    choice: Choice,
    seen: Statistics | None,
    correct: bool,
) -> Node:
    """Conv or Linear with weights in their format and an int32 (for bf16 a float32) bias."""
    x = graph[node.inputs[0]].quant
    assert x is not None, "the caller has checked it"
    key = node.attrs.get("roles"), node.inputs[1:], choice, float(x.scale), x.zero_point
    names, notes = constants.shared.get(key, ((), ()))
    if not names:
        names, notes = _encoded(graph, node, constants, choice, seen, correct)
    if "roles" in node.attrs:
        constants.shared[key] = names, notes
    changed = replace(node, inputs=(node.inputs[0], *names))
    return changed.with_attrs(notes=notes) if notes else changed


def _encoded(
    graph: Graph,
    node: Node,
    constants: _Constants,
    choice: Choice,
    seen: Statistics | None,
    correct: bool,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the codes of a layer's weights and bias, and remarks."""
    x = graph[node.inputs[0]].quant
    assert x is not None, "the caller has checked it"
    made = encode(graph, node, choice, x, seen, correct)
    weights = graph[node.inputs[1]]
    names = [constants.put(weights.name, node, made.data, made.quant)]
    has_bias = len(node.inputs) > 2 and bool(node.inputs[2])
    if has_bias or (correct and seen is not None):
        name = node.inputs[2] if has_bias else constants.new(f"{node.outputs[0]}/bias")
        names.append(_put_bias(name, node, constants, made.bias, x, made.quant))
    return tuple(names), made.notes


def _put_bias(name: str, node: Node, constants: _Constants, bias: Array, x: Quant, w: Quant) -> str:
    from weft.formats import parse

    if parse(w.format).operand == activation.REAL:
        return constants.put(name, node, bias.astype(np.float32), None)
    unit = np.broadcast_to(np.float64(x.scale) * w.scale.astype(np.float64), bias.shape)
    codes = np.rint(bias / unit).astype(np.int32)
    return constants.put(name, node, codes, Quant(unit.astype(np.float32), axis=0))


def _dynamic(graph: Graph, chosen: Mapping[str, Choice], row_ranges: bool) -> Graph:
    """Codes for the weights of Linear nodes only."""
    check_one(row_ranges)
    constants = _Constants(dict(graph.tensors), graph.consumers())
    nodes = []
    for node in graph:
        if node.op == "Linear" and accelerated(graph, node):
            choice = chosen[node.outputs[0]]
            _check_dynamic(node, choice)
            weights, bare = graph[node.inputs[1]], replace(node, inputs=node.inputs[:2])
            made = encode(graph, bare, choice, _UNIT, None, False)
            name = constants.put(weights.name, node, made.data, made.quant)
            inputs = (node.inputs[0], name, *node.inputs[2:])
            node = replace(node, inputs=inputs).with_attrs(dynamic=True)
        nodes.append(node)
    return graph.replace(nodes=tuple(nodes), tensors=constants.tensors).pruned().verify()


_UNIT = Quant(np.asarray(1, np.float32))  # rows are symmetric int8 with a scale found at run time


def _check_dynamic(node: Node, choice: Choice) -> None:
    if choice.activations != "int8":
        raise UsageError(
            f"dynamic ranges are int8's, not {choice.activations}; leave activations at int8"
        )
    if choice.method in methods.NEED_DATA:
        raise UsageError(
            f"method {choice.method!r} needs calibration data, which dynamic ranges have not: "
            f"nearest or mse for layer {node.name!r}"
        )
