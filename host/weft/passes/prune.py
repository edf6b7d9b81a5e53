"""Pruning: a graph → the same graph with zeros among its weights, in patterns that hardware skips.

A layer that was pruned carries attrs["sparsity"], the canonical text of its pattern.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from weft.errors import UsageError, unknown
from weft.formats import parse as format_of
from weft.graph import Array, Graph, Node, Tensor
from weft.passes.choices import layer_name
from weft.passes.ranges import check_data, feeds
from weft.passes.weights import is_depthwise
from weft.pruning import masks
from weft.pruning.criteria import NEED_DATA, Criterion
from weft.pruning.criteria import criterion as criterion_of
from weft.pruning.magnitude import scores as magnitudes
from weft.pruning.pixels import Pixels, pixels
from weft.pruning.spec import DENSE, Sparsity, parse
from weft.quantization import codec, statistics
from weft.quantization.statistics import Statistics

SCOPES = ("layer", "global")
MANY = 0.5  # share of zeros from which it pays to skip them
NM = ((1, 16), (1, 8), (2, 16), (1, 4), (2, 8), (3, 8), (2, 4), (4, 8), (8, 16))

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Decision:
    """The pattern that a layer gets, and why it stays dense where another was asked for."""

    layer: str
    sparsity: Sparsity
    reason: str = ""


def weighted(graph: Graph) -> list[Node]:
    """Conv and Linear nodes with constant weights, float or codes."""
    return [
        node
        for node in graph
        if node.op in ("Conv", "Linear") and graph[node.inputs[1]].data is not None
    ]


def decide(
    graph: Graph,
    sparsity: str | Sparsity = "2:4",
    layers: Mapping[str, str | Sparsity] | None = None,
    keep_first: bool = False,
) -> dict[str, Decision]:
    """What `prune` does with each layer, by the name of its output. Raises UsageError as it."""
    default, own = parse(sparsity), {k: parse(v) for k, v in (layers or {}).items()}
    nodes = weighted(graph)
    names = [layer_name(node) for node in nodes]
    for name in own:
        if name not in names:
            raise UsageError(f"model {graph.name!r}: {unknown('layer with weights', name, names)}")
    made = {}
    for index, (node, name) in enumerate(zip(nodes, names, strict=True)):
        wanted = own.get(name, default)
        reason = _obstacle(graph, node, wanted)
        if keep_first and index == 0 and name not in own:
            reason = "the first layer, which is kept"
        dense = wanted == DENSE or bool(reason)
        made[node.outputs[0]] = Decision(name, DENSE if dense else wanted, reason)
    return made


def _obstacle(graph: Graph, node: Node, wanted: Sparsity) -> str:
    """Why a layer can't have a pattern; "" if it can."""
    if wanted == DENSE:
        return ""
    if is_depthwise(graph, node):
        return "a depthwise convolution: one input channel per output"
    shape = graph[node.inputs[1]].shape
    flat = pixels(graph, node)
    channels = shape[0] if node.op == "Linear" else shape[1]
    channels = channels if flat is None else flat.channels
    if wanted.structured and channels < wanted.m:
        return f"{channels} input channels, fewer than the {wanted.m} of a group"
    return ""


def prune(
    graph: Graph,
    sparsity: str | Sparsity = "2:4",
    *,
    criterion: str = "magnitude",
    calibration: Mapping[str, Array] | None = None,
    layers: Mapping[str, str | Sparsity] | None = None,
    keep_first: bool = False,
    scope: str = "layer",
    permute: bool = False,
    progress: Progress | None = None,
) -> Graph:
    """`graph` with zeros in the weights of its Conv and Linear nodes.

    `sparsity` is a text of `weft.pruning.spec.parse`, `layers` names another for single layers;
    `keep_first` leaves the first layer dense. `criterion` is one of `weft.pruning.criteria`; all
    but magnitude need `calibration`, samples [n, ...] by input, which the dense network sees. With
    the scope "global" one threshold holds for all layers that are unstructured (magnitude only).
    `permute` first orders input channels so that N:M groups lose less. `progress` hears
    (layers done, layers in all). `decide` tells which layers stay dense, and why.

    Quantized graphs are pruned by magnitude; their codes stay as they are, or become 0.

    Raises UsageError for unknown names, missing calibration, and what the graph's form excludes;
    InputError for calibration data that does not fit.
    """
    made = criterion_of(criterion)
    if scope not in SCOPES:
        raise UsageError(unknown("scope", scope, SCOPES))
    quantized = any(t.quant is not None for t in graph.tensors.values())
    _check(graph, criterion, scope, permute, quantized, calibration)
    if permute:
        from weft.pruning.permute import permuted

        graph = permuted(graph, {k: d.sparsity for k, d in decide(graph, sparsity, layers).items()})
    chosen = decide(graph, sparsity, layers, keep_first)
    nodes = [n for n in weighted(graph) if chosen[n.outputs[0]].sparsity != DENSE]
    seen: dict[str, Statistics] = {}
    if criterion in NEED_DATA and calibration is not None:
        seen = statistics.observe(graph, feeds(graph, calibration), nodes)
    limits = _shared(graph, nodes, chosen) if scope == "global" else {}
    for done, node in enumerate(nodes):
        key = node.outputs[0]
        own = chosen[key].sparsity
        weights = codec.canonical(_real(graph, node), node.op)
        if key in limits:
            kept = limits[key]
            found = np.where(kept, weights, weights.dtype.type(0))
        else:
            flat = pixels(graph, node) if own.structured else None
            found = _pruned(made, weights, own, seen.get(key), flat)
        graph = _with_zeros(graph, node, found, own)
        if progress:
            progress(done + 1, len(nodes))
    return graph.pruned().verify()


def _pruned(
    made: Criterion, weights: Array, own: Sparsity, seen: Statistics | None, flat: Pixels | None
) -> Array:
    """Canonical weights with their zeros; behind a flattened map groups are of channels."""
    if flat is None:
        return made.prune(weights, own, seen)
    known = None if seen is None else flat.moments(seen)
    return flat.joined(made.prune(flat.split(weights), own, known))


def _check(
    graph: Graph,
    criterion: str,
    scope: str,
    permute: bool,
    quantized: bool,
    calibration: Mapping[str, Array] | None,
) -> None:
    if scope == "global" and criterion != "magnitude":
        raise UsageError(f"a global threshold is of magnitudes, not of {criterion!r}")
    if quantized and (criterion != "magnitude" or permute):
        what = "permute" if permute else f"criterion {criterion!r}"
        raise UsageError(
            f"model {graph.name!r} is quantized already: {what} is for float models; prune by "
            "magnitude"
        )
    if criterion not in NEED_DATA:
        return
    if not calibration:
        raise UsageError(
            f"criterion {criterion!r} needs typical inputs: calibration=x in Python, "
            "--calibrate DATA.npz on the command line"
        )
    check_data(graph, calibration)


def _real(graph: Graph, node: Node) -> Array:
    """Real values of a layer's weights. Raises UsageError for formats without a 0."""
    tensor = graph[node.inputs[1]]
    if tensor.quant is not None:
        grid = format_of(tensor.quant.format).grid
        if grid is not None and not np.any(grid == 0):
            raise UsageError(
                f"{node.op} {node.name!r} has weights in {tensor.quant.format}, which has no 0: "
                "it can't be pruned; name it dense"
            )
    return tensor.real()


def _shared(
    graph: Graph, nodes: list[Node], chosen: Mapping[str, Decision]
) -> dict[str, masks.Mask]:
    """Masks of all unstructured layers for one threshold, by the name of the layer's output."""
    free = [n for n in nodes if not chosen[n.outputs[0]].sparsity.structured]
    kinds = {chosen[n.outputs[0]].sparsity for n in free}
    if len(kinds) > 1:
        listed = ", ".join(sorted(map(str, kinds)))
        raise UsageError(f"a global threshold needs one sparsity for its layers, not {listed}")
    if not free:
        return {}
    parts = [magnitudes(codec.canonical(_real(graph, n), n.op)) for n in free]
    flat = np.concatenate([p.reshape(-1) for p in parts])
    kept = masks.select(flat[None, None, :], kinds.pop())[0, 0]
    found, start = {}, 0
    for node, part in zip(free, parts, strict=True):
        found[node.outputs[0]] = kept[start : start + part.size].reshape(part.shape)
        start += part.size
    return found


def _with_zeros(graph: Graph, node: Node, weights: Array, sparsity: Sparsity) -> Graph:
    """The graph whose `node` has the canonical `weights`; of codes only the zeros are taken."""
    old = graph[node.inputs[1]]
    assert old.data is not None, "layers have constant weights"
    values = codec.restored(weights, node.op, old.shape)
    if old.quant is not None:
        values = np.where(values != 0, old.data, old.data.dtype.type(0))
    tensors, name = dict(graph.tensors), old.name
    shared = sum(n.inputs.count(name) for n in graph) > 1 or name in graph.outputs
    if shared:
        name = f"{name}/{node.outputs[0]}"
        while name in tensors:
            name += "'"
    tensors[name] = Tensor(name, old.shape, old.dtype, values.astype(old.data.dtype), old.quant)
    changed = replace(node, inputs=(node.inputs[0], name, *node.inputs[2:]))
    changed = changed.with_attrs(sparsity=str(sparsity))
    nodes = tuple(changed if n is node else n for n in graph)
    return graph.replace(nodes=nodes, tensors=tensors)


def detect(weights: Array) -> Sparsity | None:
    """The pattern that canonical `weights` [N, T, I] have already; None for dense ones.

    N:M before others, that with the fewest non-zeros; else csc where at least half is 0.
    """
    mask = np.asarray(weights) != 0
    zeros = 1 - float(mask.mean())
    if zeros < MANY:
        return None
    for n, m in NM:
        found = Sparsity("nm", n, m)
        if m <= mask.shape[-1] and masks.follows(mask, found):
            return found
    return Sparsity("csc", fraction=min(int(zeros * 1e4), 9999) / 1e4)
