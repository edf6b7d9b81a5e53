"""Functions of one activation: lookup tables, per-channel slopes, constant operands."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from weft.graph import Array, Graph, Node, Quant
from weft.lower.context import Context
from weft.lower.epilogue import epilogue, scaling
from weft.lower.geometry import Value, plain_window
from weft.lower.layout import kept, ranked
from weft.lower.stage import Epilogue, HostOnlyError, Second, Stage, VectorOp

CONSTANT_FACTOR = 16384  # of the activation where the other operand is a constant
_NOT_TABLES = ("BatchNormalization", "Cast", "QuantizeLinear", "DequantizeLinear", "Where")


def lower_unary(ctx: Context, node: Node) -> Stage:
    """A lone element-wise function: a copy through the lookup table."""
    x, y = ctx.value(variable_input(ctx.graph, node)), ctx.quant(node.outputs[0])
    table = lookup_table(ctx.graph, node, x.quant)
    if ctx.graph[x.root].size != ctx.graph[node.outputs[0]].size:
        raise HostOnlyError("a constant that broadcasts the activation")
    identity = Quant(np.asarray(1.0, np.float32), x.quant.zero_point)
    bare = node.with_attrs(activation=None, requant="single_round")
    values = scaling(bare, 1.0, 1.0, identity)
    done = epilogue(bare, values, identity, ctx.lanes, step=0)
    done = with_lookup(done, table)
    op = _copy(ctx, x, done)
    return ctx.stage(
        node, y, ranked(x.layout, ctx.graph[node.outputs[0]].shape), (op,), engine="vector"
    )


def _copy(ctx: Context, x: Value, done: Epilogue) -> VectorOp:
    """Every word through the epilogue."""
    window, blocks = plain_window(x.layout), x.layout.blocks(ctx.lanes)
    return VectorOp("max", x.root, window, blocks, done, x.quant.zero_point)


def lower_prelu(ctx: Context, node: Node) -> Stage:
    """A lone PRelu with a slope per channel: a copy with a second scale below zero."""
    x, y = ctx.value(node.inputs[0]), ctx.quant(node.outputs[0])
    slopes = ctx.constant(node.inputs[1])
    if slopes is None:
        raise HostOnlyError("slopes that are no constant")
    per_channel = channel_values(ctx, node, x, slopes)
    values = scaling(node, x.quant.scale, np.ones(len(per_channel)), y)
    done = epilogue(node, values, y, ctx.lanes, activation=("PRelu", per_channel))
    op = _copy(ctx, x, done)
    return ctx.stage(node, y, x.layout, (op,), engine="vector")


def lower_constant(ctx: Context, node: Node, left: Array | None, right: Array | None) -> Stage:
    """Add, Sub, Mul with a constant per channel: it becomes the bias, or the scale."""
    constant = left if right is None else right
    if constant is None or (left is not None and right is not None):
        raise HostOnlyError("two constants")
    x = ctx.value(node.inputs[0 if left is None else 1])
    y = ctx.quant(node.outputs[0])
    per_channel = channel_values(ctx, node, x, constant)
    blocks, window, zero = x.layout.blocks(ctx.lanes), plain_window(x.layout), x.quant.zero_point
    if node.op == "Mul":
        signs = np.zeros(blocks * ctx.lanes, np.int8)
        signs[: x.layout.channels] = np.sign(per_channel)
        done = epilogue(node, scaling(node, x.quant.scale, np.abs(per_channel), y), y, ctx.lanes)
        taps = signs.reshape(blocks, 1, ctx.lanes)
        op = VectorOp("depthwise", x.root, window, blocks, done, zero, taps=taps)
        return ctx.stage(node, y, x.layout, (op,), engine="vector")
    unit = float(np.float32(x.quant.scale)) / CONSTANT_FACTOR
    bias = np.rint(per_channel / unit * (-1 if node.op == "Sub" and left is None else 1))
    if np.abs(bias).max() >= 1 << 30:
        raise HostOnlyError("a constant far larger than the activation's scale")
    factor = -CONSTANT_FACTOR if node.op == "Sub" and left is not None else CONSTANT_FACTOR
    values = scaling(node, unit, np.ones(len(bias)), y, bias.astype(np.int64))
    done = epilogue(node, values, y, ctx.lanes)
    second = Second(x.root, True, True, True, 0, 0)
    op = VectorOp("add", x.root, window, blocks, done, zero, factor, second=second)
    return ctx.stage(node, y, x.layout, (op,), engine="vector")


def channel_values(ctx: Context, node: Node, x: Value, constant: Array) -> NDArray[np.float64]:
    """A constant operand as one number per channel. Raises HostOnlyError if it varies in space."""
    shape = ctx.graph[node.outputs[0]].shape
    if shape != ctx.graph[variable_input(ctx.graph, node)].shape or constant.ndim > len(shape):
        raise HostOnlyError("a constant that broadcasts the activation")
    for axis in range(1, constant.ndim + 1):
        if constant.shape[-axis] > 1 and kept(x.layout, -axis) != ("c",):
            raise HostOnlyError("a constant that is not one number per channel")
    return np.broadcast_to(constant.reshape(-1), (x.layout.channels,)).astype(np.float64)


def with_lookup(done: Epilogue, table: NDArray[np.int8]) -> Epilogue:
    """The epilogue followed by a table [256]; two tables become one, and a clamp needs none."""
    if done.lookup is not None:
        table = table[done.lookup.astype(np.int64) + 128]
    first, last = int(table[0]), int(table[-1])
    if np.array_equal(table, np.clip(np.arange(-128, 128), first, last)):
        low, high = (min(max(bound, first), last) for bound in (done.low, done.high))
        return replace(done, lookup=None, low=low, high=high)
    return replace(done, lookup=table)


def lookup_table(graph: Graph, node: Node, x: Quant) -> NDArray[np.int8]:
    """Output code for each input code -128..127, by the operator's reference on real values.

    `x` says what the input's codes mean. All but one operand must be single numbers. Raises
    HostOnlyError where they are not, or where the function is not one of single elements.
    """
    from weft import ops

    if "opset" in node.attrs or node.op not in ops.OPS or node.op in _NOT_TABLES:
        raise HostOnlyError(f"no lookup table for {node.op}")
    if np.ndim(node.attrs.get("thresholds", 0)) and len(node.attrs["thresholds"]) > 1:
        raise HostOnlyError("thresholds per channel")
    spec = ops.OPS[node.op]
    if spec.category not in ("elementwise", "binary"):
        raise HostOnlyError(f"{node.op} has no accelerator form")
    variable = variable_input(graph, node)
    y = graph[node.outputs[0]]
    if y.quant is None:
        raise HostOnlyError("an activation that is not quantized")
    if node.op == "Lookup":
        return np.asarray(node.attrs["table"], np.int8)
    codes = np.arange(-128, 128).astype(np.int8)
    operands = [
        x.dequantize(codes) if name == variable else np.asarray(graph[name].real())
        for name in node.inputs
        if name
    ]
    if any(operand.size > 1 for operand in operands if operand.shape != (256,)):
        raise HostOnlyError(f"{node.op} with a constant that is not one number")
    operands = [o if o.shape == (256,) else o.reshape(()).astype(np.float32) for o in operands]
    with np.errstate(all="ignore"):
        found = np.asarray(spec.reference(node, operands)[0], np.float32)
        return y.quant.quantize(np.where(np.isnan(found), np.float32(0), found))


def variable_input(graph: Graph, node: Node) -> str:
    """The only operand that is no constant. Raises HostOnlyError if there are others."""
    names = {name for name in node.inputs if name and graph[name].data is None}
    if len(names) != 1 or len([n for n in node.inputs if n in names]) != 1:
        raise HostOnlyError(f"{node.op} of several activations")
    return names.pop()
