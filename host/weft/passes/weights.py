"""Weights and bias of one layer: operands of a number format whose sums fit int32."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weft import activation
from weft.errors import ModelError, UsageError
from weft.format import SMALLEST_SCALE, Format
from weft.formats import parse
from weft.graph import Array, Graph, Node, Quant, Tensor
from weft.passes.choices import Choice
from weft.passes.wide_sums import largest_sums
from weft.quantization import ant, codec, methods
from weft.quantization.statistics import Statistics

BIAS_LIMIT = 1 << 30  # largest bias: leaves the sums of products the other half of int32
SUM_LIMIT = (1 << 31) - 1
ROUNDS = 8  # how often scales are made larger until the sums fit

Notes = tuple[str, ...]


@dataclass(frozen=True)
class Encoded:
    """A layer's weights in its tensor's order, its bias in real numbers, and remarks."""

    data: Array
    quant: Quant
    bias: NDArray[np.float64]
    notes: Notes


def finite(tensor: Tensor, node: Node) -> NDArray[np.float32]:
    """A constant's values. Raises ModelError, naming node and tensor, for NaN and infinities."""
    data = np.asarray(tensor.data, np.float32)
    if not np.isfinite(data).all():
        bad = int(np.count_nonzero(~np.isfinite(data)))
        raise ModelError(
            f"{node.op} {node.name!r}: {bad} of {data.size} values of {tensor.name!r} are NaN or "
            "infinite"
        )
    return data


def format_for(graph: Graph, node: Node, name: str) -> tuple[Format, Notes]:
    """The format of a layer's weights; what had to be another than `name`, and why."""
    weights = graph[node.inputs[1]]
    if name == ant.NAME:
        return ant.choose(codec.canonical(finite(weights, node), node.op)), ()
    fmt = parse(name)
    if fmt.operand != "int8" and is_depthwise(graph, node):
        reason = f"weights int8, not {name}: a depthwise convolution runs on the vector unit"
        return parse("int8"), (f"{reason}, which takes int8 taps only",)
    return fmt, ()


def is_depthwise(graph: Graph, node: Node) -> bool:
    """Whether a Conv has a group for every channel, so that the vector unit runs it."""
    shape = graph[node.inputs[1]].shape
    group = int(node.attrs.get("group", 1))
    return node.op == "Conv" and group > 1 and shape[:2] == (group, 1)


def encode(
    graph: Graph, node: Node, choice: Choice, x: Quant, seen: Statistics | None, correct: bool
) -> Encoded:
    """Weights of a Conv or Linear whose input has `x`.

    With `correct` the bias makes up for the expected shift of the output (`seen` is needed).
    Raises ModelError for weights that are not finite, or sums that fit no scale; UsageError for a
    pruned layer in a format without a 0.
    """
    fmt, notes = format_for(graph, node, choice.weights)
    tensor = graph[node.inputs[1]]
    weights = codec.canonical(finite(tensor, node), node.op)
    bias = np.zeros(len(weights), np.float32)
    if len(node.inputs) > 2 and node.inputs[2]:
        bias = finite(graph[node.inputs[2]], node).reshape(-1)
    task = _Task(graph, node, weights, bias, fmt, choice.method, x, seen)
    quant = methods.fit(weights, fmt, choice.method, seen)
    if fmt.operand != "bf16":
        quant, wider = task.for_bias(quant)
        operands, quant, more = task.for_sums(quant)
        notes += wider + more
    else:
        operands = methods.solve(weights, quant, fmt, choice.method, seen)
    if node.attrs.get("sparsity", "dense") != "dense":
        _check_zeros(node, weights, operands, fmt)
    exact = bias.astype(np.float64)
    if correct and seen is not None:
        exact += expected_shift(weights, codec.real(operands, quant), seen)
    data = codec.restored(operands, node.op, tensor.shape)
    return Encoded(data, codec.own_quant(quant, node.op, tensor.shape), exact, notes)


def _check_zeros(node: Node, weights: Array, operands: Array, fmt: Format) -> None:
    """Raises UsageError where the format has made something else of pruned weights."""
    lost = int(np.count_nonzero(operands[weights == 0]))
    if lost:
        raise UsageError(
            f"{node.op} {node.name!r} is pruned ({node.attrs['sparsity']}), but {fmt.name} has no "
            f"0: {lost} zeros would be lost; take another format, ternary for one, or leave the "
            "layer dense"
        )


def expected_shift(weights: Array, kept: Array, seen: Statistics) -> NDArray[np.float64]:
    """E[w x] - E[q x] per output channel: what bias correction adds.

    Nagel et al., "Data-Free Quantization through Weight Equalization and Bias Correction" (ICCV
    2019), section 4.2, with the means of calibration data.
    """
    errors = codec.matrix(weights) - codec.matrix(kept)
    groups = len(seen.mean)
    shift = np.einsum("gnk,gk->gn", errors.reshape(groups, -1, errors.shape[1]), seen.mean)
    return np.asarray(shift.reshape(-1))


@dataclass(frozen=True)
class _Task:
    """Canonical weights and bias that become integers, for an input with the scale of `x`."""

    graph: Graph
    node: Node
    weights: Array
    bias: NDArray[np.float32]
    fmt: Format
    method: str
    x: Quant
    seen: Statistics | None

    def for_bias(self, quant: Quant) -> tuple[Quant, Notes]:
        """Scales with which each bias is within BIAS_LIMIT units; what was widened for it.

        A dead channel has weights of zero only and any scale does: it gets the one with which its
        bias is most precise, or that of the others where it has none.
        """
        own, bias = codec.scales(quant, len(self.weights)), self.bias
        dead = ~np.any(self.weights, axis=(1, 2))
        exact = np.abs(bias.astype(np.float64)) / (float(self.x.scale) * BIAS_LIMIT)
        # Rounded up, so that the bias in units of the float32 scale is within the limit.
        least = np.nextafter(exact.astype(np.float32), np.float32(math.inf))
        least = np.maximum(least, np.float32(SMALLEST_SCALE))
        scale = np.where(dead, least, np.maximum(own, least))
        silent = dead & (bias == 0)
        if self.fmt.grid is None or np.any(self.fmt.grid == 0):  # else as close to 0 as can be
            scale[silent] = scale[~silent].max(initial=0) or 1
        wide = np.flatnonzero((scale > own) & ~dead)
        notes = tuple(
            f"output channel {c}: weight scale widened from {own[c]:.3g} to {scale[c]:.3g}, "
            f"because its bias of {bias[c]:.3g} exceeds int32 otherwise"
            for c in wide
        )
        return codec.with_scale(quant, scale), notes

    def for_sums(self, quant: Quant) -> tuple[Array, Quant, Notes]:
        """Operands and scales with which no sum of products and bias can leave int32."""
        notes: Notes = ()
        for _ in range(ROUNDS):
            operands = methods.solve(self.weights, quant, self.fmt, self.method, self.seen)
            excess = self._excess(operands, quant)
            over = int((excess > 1).sum())
            if not over:
                return operands, quant, notes
            notes = (f"{over} output channels: weight scales widened, so that sums fit int32",)
            # Powers of two: a grid of them fits as well as before.
            wider = np.exp2(np.ceil(np.log2(np.maximum(excess, 1))))
            quant = codec.with_scale(quant, codec.scales(quant, len(operands)) * wider)
        raise ModelError(
            f"{self.node.op} {self.node.name!r}: with weights in {self.fmt.name} the sums of "
            f"products exceed int32 {excess.max():.3g} times; choose a format with smaller values, "
            "int8 for one"
        )

    def _excess(self, operands: Array, quant: Quant) -> NDArray[np.float64]:
        """Largest sum of each output channel in units of what int32 leaves for it."""
        if self.x.format == activation.WIDE:
            sums = largest_sums(self.graph, self.node, operands[:, 0])
        else:
            magnitudes = np.abs(operands.astype(np.int64)).sum(axis=(1, 2))
            sums = magnitudes * activation.largest_operand(self.x)
        unit = np.float64(self.x.scale) * codec.scales(quant, len(operands)).astype(np.float64)
        # What the bias leaves is the products', but never less than half.
        room = np.maximum(SUM_LIMIT - np.abs(self.bias) / unit, BIAS_LIMIT - 1)
        return np.asarray(sums / room)
