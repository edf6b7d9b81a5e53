"""Attention: per head, scores of some queries and all keys, then their exponentials times values.

    scores = q·kᵀ · scale + bias            in Q5.10, masked, the maximum of each row kept
    y = Σ exp(score − maximum)·v / Σ exp(score − maximum)

Keys and values lie in the operand buffer, scores of one head at a time in the wide buffer; those of
long sequences in tiles (`weft.lower.key_tiles`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from weft.graph import Array, Node, Quant
from weft.lower.context import Context, key_of
from weft.lower.epilogue import epilogue, scaling
from weft.lower.geometry import OPERAND, UNIFIED, WIDE, Map, Value, plain_window
from weft.lower.key_tiles import arrange, window_words
from weft.lower.layout import kept
from weft.lower.norm import method_of
from weft.lower.stage import AttentionOp, HostOnlyError, Stage
from weft.nonlinear.build import SCORE_FRACTION

SCORES = "/scores"  # behind a tensor's name: the map that its scores lie in
KEYS = 4  # input: how many keys of a sample are there
TOKENS = ((), ("h",), ("w",), ("h", "w"))  # dimensions that run over a map's positions in order
UNLIMITED = 32767
NORMALIZED = 16  # fraction bits of sums that are divided by their row's sum
LOWEST_SCORE = -32767.0  # a finite one, in codes: masked positions have their own


def lower_attention(ctx: Context, node: Node) -> Stage:
    """Multi-head attention, with fewer heads of keys and values, masks and a constant bias."""
    if key_of(node) in ctx.refused:
        raise HostOnlyError(ctx.refused[key_of(node)])
    q, k, v = (ctx.value(name) for name in node.inputs[:3])
    y, heads = ctx.quant(node.outputs[0]), int(node.attrs["heads"])
    shared = int(node.attrs.get("kv_heads") or heads)
    _check_operands(ctx, node, (q, k, v))
    widths = head_blocks(ctx, (q, k, v), heads, shared)
    count = int(node.attrs.get("windows", 1))
    queries, keys = (value.layout.height * value.layout.width // count for value in (q, k))
    kinds = tuple(node.attrs.get("kinds", (0,) * count))
    scale = float(node.attrs.get("scale") or 1 / math.sqrt(widths[0] * ctx.lanes))
    least, most = window_of(node)
    plain = node.with_attrs(activation=None, requant="single_round")
    score = Quant(np.asarray(2.0**-SCORE_FRACTION, np.float32))
    product = float(np.float32(q.quant.scale)) * float(np.float32(k.quant.scale)) * scale
    done = scaling(plain, v.quant.scale, 2.0**-NORMALIZED, y)
    name = node.outputs[0] + SCORES
    bias = _bias(ctx, node, (heads, max(kinds) + 1), queries, keys)
    op = AttentionOp(
        q.root, k.root, v.root, plain_window(q.layout),
        heads, heads // shared, widths[0], widths[1], keys, k.layout.height // count, least, most,
        epilogue(plain, scaling(plain, product, 1.0, score), score, ctx.lanes, step=0),
        epilogue(plain, done, y, ctx.lanes, step=0),
        name,
        method_of("attention", ctx.overlay.softmax),
        bias,
        heads if bias and ctx.maps[bias].height > (max(kinds) + 1) * queries else 1,
        kinds,
    )  # fmt: skip
    layout = replace(q.layout, channels=heads * widths[1] * ctx.lanes)
    op = arrange(ctx, node, op, queries)
    check_capacity(ctx, op, op.held or {op.key, op.value})
    true = int(node.attrs.get("true_width", widths[0] * ctx.lanes))
    true_value = int(node.attrs.get("true_value_width", widths[1] * ctx.lanes))
    macs = heads * count * queries * keys * (true + true_value)
    stage = ctx.stage(node, y, layout, (op,), engine="systolic", macs=macs)
    return replace(stage, scratch=(name, *op.held, *([bias] if bias else [])))


def _check_operands(ctx: Context, node: Node, values: tuple[Value, ...]) -> None:
    """Raises HostOnlyError for operands that the array can't multiply as they lie."""
    if len(node.inputs) > KEYS and node.inputs[KEYS]:
        raise HostOnlyError("a number of keys per sample, where the number of tokens is fixed")
    rows, count = values[1].layout.height, int(node.attrs.get("windows", 1))
    if rows % count:
        raise HostOnlyError(f"{count} windows in a map of {rows} rows")
    for name, value in zip(node.inputs[:3], values, strict=True):
        layout = value.layout
        if value.quant.zero_point:
            raise HostOnlyError(f"attention of {name!r}, whose zero point is not 0")
        if value.quant.format != "int8" or layout.bits != 8:
            raise HostOnlyError(f"attention of {name!r}, which is {value.quant.format}")
        letters = [kept(layout, axis) for axis in range(len(layout.dims))]
        if len(letters) != 3 or letters[1] not in TOKENS or letters[2] not in ((), ("c",)):
            raise HostOnlyError(f"attention of {name!r}, whose tokens are no positions of the map")
    query, *rest = node.inputs[:3]
    if ctx.maps[values[0].root].space != UNIFIED:
        raise HostOnlyError(f"queries {query!r} that are keys or values, too")
    for name, value in zip(rest, values[1:], strict=True):
        if ctx.maps[value.root].space != OPERAND:
            raise HostOnlyError(f"keys or values {name!r} that something else reads, too")


def head_blocks(
    ctx: Context, values: tuple[Value, ...], heads: int, shared: int
) -> tuple[int, int]:
    """Channel blocks of a head of queries and keys, and of one of values."""
    q, k, v = (value.layout.channels for value in values)
    widths = q // heads, v // shared
    if heads % shared or q % heads or k != shared * widths[0] or v % shared:
        raise HostOnlyError(f"{heads} heads of {q} channels over {shared} of {k} and {v}")
    for width in widths:
        if width % ctx.lanes:
            raise HostOnlyError(
                f"heads of {width} channels, which are no whole words of {ctx.lanes}"
            )
    return widths[0] // ctx.lanes, widths[1] // ctx.lanes


def window_of(node: Node) -> tuple[int, int]:
    """Least and largest key − query that counts."""
    least = max(int(node.attrs.get("left", -UNLIMITED)), -UNLIMITED)
    most = min(int(node.attrs.get("right", UNLIMITED)), UNLIMITED)
    return least, min(most, 0) if node.attrs.get("causal") else most


def _bias(ctx: Context, node: Node, sizes: tuple[int, int], queries: int, keys: int) -> str:
    """The map of the constant that is added to the scores, of `sizes` (heads, kinds of windows);
    "" if there is none.
    """
    name = node.inputs[3] if len(node.inputs) > 3 else ""
    if not name:
        return ""
    real = ctx.constant(name)
    each = queries * keys * sizes[1]
    if real is None or real.size not in (each, each * sizes[0]):
        raise HostOnlyError("a bias of scores that is no constant, or of another shape")
    codes = np.clip(np.rint(real.reshape(-1, keys) * 2.0**SCORE_FRACTION), LOWEST_SCORE, UNLIMITED)
    root = f"{name}/int16"
    ctx.constants[root] = _words(codes, ctx.lanes)
    ctx.maps[root] = Map(-(-keys // ctx.lanes), len(codes), 1, space=WIDE)
    return root


def _words(codes: Array, lanes: int) -> Array:
    """int16 words [blocks · rows, lanes] of a matrix [rows, columns]."""
    rows, columns = codes.shape
    blocks = -(-columns // lanes)
    whole = np.zeros((rows, blocks * lanes), np.int16)
    whole[:, :columns] = codes
    return whole.reshape(rows, blocks, lanes).transpose(1, 0, 2).reshape(-1, lanes)


def check_capacity(ctx: Context, op: AttentionOp, operands: Iterable[str]) -> None:
    """Raises HostOnlyError where even one row of queries does not fit beside keys and values."""
    overlay = ctx.overlay
    words = sum(window_words(ctx.maps[name], op.windows) for name in operands)
    scores = ctx.maps[op.scratch].blocks + (ctx.maps[op.bias].words if op.bias else 0)
    needs = {
        "operand_words": words,
        "wide_words": scores,
        "buffer_words": op.heads * (op.query_blocks + op.value_blocks),
    }
    for name, need in needs.items():
        if need > getattr(overlay, name):
            raise HostOnlyError(
                f"attention to {op.keys} tokens takes {name} = {need}; overlay "
                f"{overlay.name!r} has {getattr(overlay, name)}"
            )
    if max(op.keys, op.window.out_h * op.window.out_w) >= UNLIMITED:
        raise HostOnlyError(f"attention to {op.keys} tokens: fewer than {UNLIMITED} can be masked")
