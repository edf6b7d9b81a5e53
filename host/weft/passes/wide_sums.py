"""How large sums of products of int16 can be: what int32 accumulators and scales have to allow for.

A bound of Σ|w| · 32767 would cost weights of 4 bits in groups, whose operands are large, bits that
they don't have. What makes the int16 of a decoder bounds them better:

- rows of a norm have Σ z² ≤ n, so that |Σ w y| ≤ √n · ‖w γ / s‖ (Cauchy-Schwarz);
- attention gives weighted means of values, which are int8;
- a product of two int16 is at most 32767² steps of both;
- a function is one of numbers in a known range.

Where that is not enough, int16 are taken to have fewer bits: a larger scale, in which they stay
below what the sums allow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from weft import ops
from weft.activation import WIDE, limits
from weft.graph import Array, Graph, Node, Quant
from weft.passes.choices import Choice
from weft.passes.placement import NORMS
from weft.passes.stream import MOVES, of_elements
from weft.quantization import codec, methods

Floats = NDArray[np.float64]
MOST = limits(WIDE)[1]
INT32 = float((1 << 31) - 1)
SLACK = 1 + 1 / 64  # of a norm's root and factors, and of slopes: they are better than that
STEPS = 4.0  # of int16, for roundings
SHARE = 0.9  # of int32 that is asked for before weights are rounded
ROUNDS, COARSEST = 8, 64.0  # how often, and how far, a scale is made larger
CELLS = np.arange(-127, 129) - 0.5  # where the straight lines of a function begin and end


def largest_sums(graph: Graph, node: Node, operands: Array) -> Floats:
    """Bounds [N] of the magnitudes of a Linear's sums; operands [N, K], its input int16."""
    name = node.inputs[0]
    w = np.abs(operands.astype(np.float64))
    found = np.asarray(w.sum(1) * largest_code(graph, name), np.float64)
    norm = graph.producers().get(name)
    if norm is None or norm.op not in NORMS or "heads" in norm.attrs:
        return found
    gamma, beta = _factors(graph, norm, name)
    length = np.sqrt(((w * gamma) ** 2).sum(1)) * np.sqrt(len(gamma)) * SLACK
    rest = (w * (beta + gamma / 512 + STEPS)).sum(1)
    return np.asarray(np.minimum(found, length + rest), np.float64)


def largest_code(graph: Graph, name: str) -> float:
    """The largest magnitude of an int16 activation's codes, 32767 at most."""
    node = graph.producers().get(name)
    if node is None:
        return MOST
    if node.op in MOVES:
        return largest_code(graph, node.inputs[0])
    unit, bound = _scale(graph, name), float("inf")
    inputs = [n for n in node.inputs if n and graph[n].data is None]
    if node.op in NORMS and "heads" not in node.attrs:
        gamma, beta = _factors(graph, node, name)
        bound = float((gamma * np.sqrt(len(gamma)) * SLACK + beta).max())
    elif node.op == "Attention":
        bound = 127 * SLACK * _scale(graph, node.inputs[2]) / unit
    elif node.op == "Mul" and len(inputs) == 2:
        both = (largest_code(graph, n) * _scale(graph, n) for n in inputs)
        bound = next(both) * next(both) / unit
    elif of_elements(node) and len(inputs) == 1:
        edges = np.asarray(CELLS * 258 * _scale(graph, inputs[0]), np.float64)
        bound = _of_function(node, edges) / unit
    return min(MOST, bound + STEPS)


def coarser(graph: Graph, names: frozenset[str], chosen: Mapping[str, Choice]) -> Graph:
    """The graph with larger scales of those of its int16 activations `names` that layers read whose
    sums would leave int32 otherwise, by weights rounded to nearest.
    """
    readers: dict[str, list[tuple[Node, Array]]] = {}
    for node in graph:
        if node.op == "Linear" and node.inputs[0] in names:
            operands = _operands(graph, node, chosen[node.outputs[0]])
            if operands is not None:
                readers.setdefault(node.inputs[0], []).append((node, operands))
    tensors = dict(graph.tensors)
    for name, layers in readers.items():
        tensors[name] = replace(tensors[name], quant=_coarser(graph, name, layers))
    return graph.replace(tensors=tensors)


def _coarser(graph: Graph, name: str, layers: list[tuple[Node, Array]]) -> Quant:
    first = graph[name].quant
    assert first is not None, "it is int16"
    quant = first
    for _ in range(ROUNDS):
        tensor = replace(graph[name], quant=quant)
        scaled = graph.replace(tensors={**graph.tensors, name: tensor})
        sums = (largest_sums(scaled, node, w).max() for node, w in layers)
        excess = max(sums) / (SHARE * INT32)
        if excess <= 1:
            break
        scale = min(float(quant.scale) * excess * SLACK, float(first.scale) * COARSEST)
        quant = replace(quant, scale=np.asarray(scale, np.float32))
    return quant


def _operands(graph: Graph, node: Node, choice: Choice) -> Array | None:
    """Operands [N, K] of weights rounded to nearest; None for what is no integers, or not finite
    (`weft.passes.weights` says so).
    """
    from weft.passes.weights import format_for

    fmt, _ = format_for(graph, node, choice.weights)
    weights = codec.canonical(np.asarray(graph[node.inputs[1]].data, np.float32), node.op)
    if fmt.operand == "bf16" or not np.isfinite(weights).all():
        return None
    quant = methods.fit(weights, fmt, "nearest", None)
    return methods.solve(weights, quant, fmt, "nearest", None)[:, 0]


def _scale(graph: Graph, name: str) -> float:
    quant = graph[name].quant
    assert quant is not None, "activations of products have scales"
    return float(np.float32(quant.scale))


def _factors(graph: Graph, norm: Node, name: str) -> tuple[Floats, Floats]:
    """Magnitudes of gamma and beta [n] of a norm, in steps of what it gives."""
    size, unit = graph[norm.inputs[0]].shape[-1], _scale(graph, name)
    given = [norm.inputs[i] if len(norm.inputs) > i else "" for i in (1, 2)]
    made = []
    for constant, default in zip(given, (1.0, 0.0), strict=True):
        data = np.asarray(graph[constant].data, np.float64) if constant else np.full(1, default)
        made.append(np.broadcast_to(np.abs(data.reshape(-1)) / unit, (size,)))
    return made[0], made[1]


def _of_function(node: Node, x: Floats) -> float:
    """The largest magnitude of a function's straight lines between the numbers x, and of itself."""
    with np.errstate(all="ignore"):
        middle = (x[1:] + x[:-1]) / 2
        reference = ops.OPS[node.op].reference
        ends, values = (
            np.nan_to_num(np.asarray(reference(node, [v.astype(np.float32)])[0], np.float64))
            for v in (x, middle)
        )
    return float((np.abs(values) + np.abs(np.diff(ends)) * SLACK).max())
