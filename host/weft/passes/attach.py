"""Attaches quantization that training chose: a float graph → the quantized graph it was trained as.

The result follows ARCHITECTURE.md, "The quantized graph". Nothing is chosen here: weights are the
operands that were trained with, activations have the scales that were learned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from weft import isa
from weft.errors import ModelError, UsageError, unknown
from weft.graph import Array, Graph, Node, Quant, Tensor
from weft.passes.fuse import fuse
from weft.passes.placement import follows, weight_axis
from weft.passes.quantize import BIAS_LIMIT
from weft.quantization import codec

LARGEST_SUM = (1 << 31) // 128 - 1  # of the magnitudes of an output: sums with int8 fit int32


@dataclass(frozen=True)
class Weights:
    """Operands [N, taps, I] of a layer and what they stand for, `quant.axis` 0 or None."""

    operands: Array
    quant: Quant


def attach(
    graph: Graph,
    weights: Mapping[str, Weights],
    activations: Mapping[str, Quant],
    *,
    requant: str = "single_round",
) -> Graph:
    """`graph`, not yet fused, with `weights` by the constant's name, `activations` by the tensor's.

    Tensors that only move values get the quant of what they move. `requant` names the rounding.

    Raises UsageError for names that the graph doesn't have and unknown modes, ModelError for
    operands that don't fit their constant and a bias beyond int32.
    """
    if requant not in isa.MODES:
        raise UsageError(unknown("requantization mode", requant, isa.MODES))
    for name in (*weights, *activations):
        if name not in graph.tensors:
            raise UsageError(unknown("tensor", name, graph.tensors))
    tensors = dict(graph.tensors)
    for node in graph:
        if node.op in ("Conv", "Linear") and node.inputs[1] in weights:
            name = node.inputs[1]
            tensors[name] = _constant(graph[name], node, weights[name])
    for name, quant in activations.items():
        tensors[name] = replace(tensors[name], quant=quant)
    return _settled(fuse(graph.replace(tensors=tensors)), requant)


def _constant(tensor: Tensor, node: Node, given: Weights) -> Tensor:
    """The constant with its operands, in its own order of axes."""
    if given.operands.size != tensor.size:
        raise ModelError(
            f"{node.op} {node.name!r}: operands of shape {given.operands.shape} for the weights "
            f"{tensor.name!r} of shape {tensor.shape}"
        )
    data = codec.restored(given.operands, node.op, tensor.shape)
    sums = np.abs(given.operands.astype(np.float64)).sum(axis=(1, 2)).max(initial=0)
    if data.dtype.kind != "f" and sums > LARGEST_SUM:
        raise ModelError(
            f"{node.op} {node.name!r}: operands of an output channel add up to {sums:.0f}, beyond "
            f"{LARGEST_SUM} sums of products may leave int32; train the layer in a format of fewer "
            "bits"
        )
    axis = None if given.quant.axis is None else weight_axis(node)
    return replace(tensor, data=data, quant=replace(given.quant, axis=axis))


def _settled(graph: Graph, requant: str) -> Graph:
    """Moved values get the range of what they move; quantized nodes their rounding."""
    tensors, nodes = dict(graph.tensors), []
    for node in graph:
        if follows(graph, node) and tensors[node.outputs[0]].quant is None:
            quant = tensors[node.inputs[0]].quant
            tensors[node.outputs[0]] = replace(tensors[node.outputs[0]], quant=quant)
        names = [n for n in (*node.inputs, *node.outputs) if n and tensors[n].data is None]
        if all(tensors[n].quant is not None for n in names):
            node = node.with_attrs(requant=requant)
        if node.op in ("Conv", "Linear"):
            _check_bias(node, tensors)
        nodes.append(node)
    return graph.replace(nodes=tuple(nodes), tensors=tensors).verify()


def _check_bias(node: Node, tensors: Mapping[str, Tensor]) -> None:
    name = node.inputs[2] if len(node.inputs) > 2 else ""
    bias = tensors[name] if name else None
    if bias is None or bias.data is None or bias.quant is None:
        return
    largest = int(np.abs(bias.data.astype(np.int64)).max(initial=0))
    if largest > BIAS_LIMIT:
        channel = int(np.abs(bias.data.astype(np.int64)).argmax())
        raise ModelError(
            f"{node.op} {node.name!r}: the bias of output channel {channel} is {largest} units of "
            f"its input's scale times its weights', the limit is {BIAS_LIMIT}: its weights' scale "
            "has become too small; keep the layer in float by plan={layer: None}, or retrain it"
        )
