"""Weights in any format: operands and what memory keeps beside them, per layer.

Formats work on weights as [N, taps, I]: output channels first, input channels last.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from weft.errors import UsageError, unknown
from weft.format import Format
from weft.formats import parse
from weft.graph import Array, Graph, Node, Quant
from weft.passes.placement import weight_axis

Float = NDArray[np.float32]
LARGEST_SUM = (1 << 31) // 128 - 1  # of magnitudes of an output: then sums fit int32


@dataclass(frozen=True)
class Layer:
    """What a method of rounding may look at: the node, its weights [N, taps, I] and their format;
    the graph, whose activations carry scales, and the calibration samples by input.
    """

    node: Node
    real: Float
    fmt: Format
    graph: Graph
    data: Mapping[str, Array]


Method = Callable[[Layer], tuple[Array, Quant]]


def nearest(layer: Layer) -> tuple[Array, Quant]:
    """Scales from the largest magnitude, nearest values."""
    quant = layer.fmt.fit(layer.real, 0)
    return layer.fmt.quantize(layer.real, quant), quant


def least_squares(layer: Layer) -> tuple[Array, Quant]:
    """Scales with the least squared error, nearest values."""
    quant = layer.fmt.fit(layer.real, 0, "mse")
    return layer.fmt.quantize(layer.real, quant), quant


METHODS: dict[str, Method] = {"max": nearest, "mse": least_squares}


def method_of(name: str) -> Method:
    """The method of that name. Raises UsageError for an unknown one."""
    if name not in METHODS:
        raise UsageError(unknown("method for weights", name, METHODS))
    return METHODS[name]


def canonical(real: Array, node: Node) -> Array:
    """Weights [N, taps, I] of a Conv's [O, I, *k] or a Linear's [K, N]."""
    if node.op == "Linear":
        return np.ascontiguousarray(real.T)[:, None, :]
    moved = np.moveaxis(real, 1, -1)
    return np.ascontiguousarray(moved.reshape(len(real), -1, real.shape[1]))


def native(weights: Array, node: Node, shape: tuple[int, ...]) -> Array:
    """The inverse of `canonical`, for a tensor of `shape`."""
    if node.op == "Linear":
        return np.ascontiguousarray(weights[:, 0].T)
    taps = weights.reshape(shape[0], *shape[2:], shape[1])
    return np.ascontiguousarray(np.moveaxis(taps, -1, 1))


def format_for(node: Node, name: str, weights: Array) -> tuple[Format, tuple[str, ...]]:
    """The format of a layer's weights, and a note where another one must do.

    Depthwise convolutions run on the vector unit, whose taps are int8; others in groups are split
    into int8 parts.
    """
    fmt = parse(name)
    group = int(node.attrs.get("group", 1))
    depthwise = group > 1 and group == len(weights)
    able = group == 1 or (fmt.operand == "int8" if depthwise else fmt.operand != "bf16")
    if able:
        return fmt, ()
    return parse("int8"), (f"weights in int8, not {name}: a convolution in {group} groups",)


def encode_weights(layer: Layer, method: Method, least: NDArray[np.float32]) -> tuple[Array, Quant]:
    """Operands [N, taps, I] and their Quant.

    No scale is below `least` [N], with which the bias fits int32; none lets the sums of int8 codes
    and operands leave int32.
    """
    operands, quant = method(layer)
    if layer.fmt.operand == "bf16":
        return operands, quant
    dead = ~np.any(layer.real, axis=(1, 2))
    wanted = np.where(dead & (least > 0), least, np.maximum(quant.scale, least))
    if (wanted != quant.scale).any():
        quant = replace(quant, scale=wanted.astype(np.float32))
        operands = layer.fmt.quantize(layer.real, quant)
    sums = np.abs(operands.astype(np.int64)).sum(axis=(1, 2))
    while (sums > LARGEST_SUM).any():
        quant = replace(quant, scale=np.where(sums > LARGEST_SUM, quant.scale * 1.5, quant.scale))
        operands = layer.fmt.quantize(layer.real, quant)
        sums = np.abs(operands.astype(np.int64)).sum(axis=(1, 2))
    return operands, quant


def axis_of(node: Node, quant: Quant) -> Quant:
    """The quant of the tensor as the node has it: scales along its output channels."""
    return replace(quant, axis=weight_axis(node))
