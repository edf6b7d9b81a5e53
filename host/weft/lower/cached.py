"""Attention with a cache: keys and values of earlier tokens come from memory, head by head.

The cache of a layer holds, for each head of keys (values), [channel blocks][capacity] words of
int8. A run reads the first `position` tokens of a head into the operand buffer, writes the new
ones behind them, there and in memory, and attends to both.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from weft.graph import Node, Quant
from weft.lower.attention import (
    KEYS,
    LOWEST_SCORE,
    NORMALIZED,
    SCORES,
    UNLIMITED,
    check_capacity,
    head_blocks,
    window_of,
)
from weft.lower.context import Context
from weft.lower.epilogue import epilogue, scaling
from weft.lower.geometry import OPERAND, UNIFIED, WIDE, Map, Value, plain_window
from weft.lower.norm import method_of
from weft.lower.stage import Cache, CachedOp, HostOnlyError, Stage
from weft.nonlinear.build import SCORE_FRACTION
from weft.transformer_ops import by_distance


def lower_cached(ctx: Context, node: Node) -> Stage:
    """Causal attention of new tokens, whose keys and values are in a cache."""
    q, k, v = (ctx.value(name) for name in node.inputs[:3])
    y, heads = ctx.quant(node.outputs[0]), int(node.attrs["heads"])
    shared, capacity = int(node.attrs["kv_heads"]), int(node.attrs["cache"])
    _check(ctx, node, q)
    widths = head_blocks(ctx, (q, k, v), heads, shared)
    least, most = window_of(node)
    plain = node.with_attrs(activation=None, requant="single_round")
    score = Quant(np.asarray(2.0**-SCORE_FRACTION, np.float32))
    product = float(np.float32(q.quant.scale)) * float(np.float32(k.quant.scale))
    product *= float(node.attrs["scale"])
    done = scaling(plain, v.quant.scale, 2.0**-NORMALIZED, y)
    tokens = q.layout.height * q.layout.width
    name = node.outputs[0]
    caches = [
        _cache(ctx, name, part, source, width, shared, (tokens, capacity))
        for part, source, width in zip(("keys", "values"), node.inputs[1:3], widths, strict=True)
    ]
    op = CachedOp(
        q.root, k.root, v.root, plain_window(q.layout),
        heads, heads // shared, widths[0], widths[1], capacity, k.layout.height, least, most,
        epilogue(plain, scaling(plain, product, 1.0, score), score, ctx.lanes, step=0),
        epilogue(plain, done, y, ctx.lanes, step=0),
        name + SCORES,
        method_of("attention", ctx.overlay.softmax),
        distances(ctx, node, heads, tokens),
        heads,
        key_cache=caches[0],
        value_cache=caches[1],
    )  # fmt: skip
    rows = min(tokens, ctx.overlay.accumulator_rows)
    ctx.maps[op.scratch] = Map(-(-capacity // ctx.lanes), rows, 1, space=WIDE)
    check_capacity(ctx, op, [cache.place for cache in caches])
    layout = replace(q.layout, channels=heads * widths[1] * ctx.lanes)
    true = node.attrs.get("true_width", widths[0] * ctx.lanes)
    true += node.attrs.get("true_value_width", widths[1] * ctx.lanes)
    macs = heads * tokens * capacity * int(true)
    stage = ctx.stage(node, y, layout, (op,), engine="systolic", macs=macs)
    tables = [n for n in (*(c.rotation.table for c in caches), op.bias) if n]
    places = [name for c in caches for name in (c.place, c.fresh)]
    return replace(stage, scratch=(op.scratch, *tables, *places))


def distances(ctx: Context, node: Node, heads: int, tokens: int) -> str:
    """The map of what is added to the scores of `tokens` new tokens, by how far a key lies behind
    its query: a row of words per position, from which a run reads those of its own. "" without.
    """
    name = node.inputs[3] if len(node.inputs) > 3 else ""
    if not name:
        return ""
    real, capacity = ctx.constant(name), ctx.cached
    if real is None or real.shape != (heads, capacity):
        raise HostOnlyError(f"a bias of scores that is none of {heads} heads by distance")
    codes = np.clip(np.rint(real * 2.0**SCORE_FRACTION), LOWEST_SCORE, UNLIMITED)
    blocks = -(-capacity // ctx.lanes)
    whole = np.zeros((capacity, heads, blocks * ctx.lanes), np.int16)
    rows = by_distance(codes, capacity, capacity)
    whole[..., :capacity] = rows.swapaxes(0, 1)
    root = f"{name}/int16"
    ctx.tables[root] = whole.reshape(capacity, heads * blocks, ctx.lanes)
    ctx.maps[root] = Map(1, tokens * heads * blocks, 1, space=WIDE)
    return root


def _check(ctx: Context, node: Node, q: Value) -> None:
    """Raises HostOnlyError for operands that are not as a cache wants them."""
    if any(node.inputs[KEYS : KEYS + 1]):
        raise HostOnlyError("a number of keys, with a cache")
    if q.quant.zero_point or q.quant.format != "int8" or ctx.maps[q.root].space != UNIFIED:
        raise HostOnlyError(f"queries {node.inputs[0]!r} that are no symmetric int8")
    for name in node.inputs[1:3]:
        if name not in ctx.rotations:
            raise HostOnlyError(f"{name!r} is not made of int16, so it can't go to the cache")
    if not node.attrs.get("causal"):
        raise HostOnlyError("attention with a cache that is not causal")
    if int(node.attrs["cache"]) >= UNLIMITED:
        raise HostOnlyError(f"a cache of {node.attrs['cache']} tokens: fewer than {UNLIMITED}")


def _cache(
    ctx: Context,
    name: str,
    part: str,
    source: str,
    blocks: int,
    heads: int,
    sizes: tuple[int, int],
) -> Cache:
    """The cache of keys or values, with the maps that one head takes on chip."""
    tokens, capacity = sizes
    cache = Cache(
        f"{name}/{part}", ctx.rotations[source], f"{name}/{part}/head", f"{name}/{part}/new"
    )
    ctx.caches[cache.name] = (Map(heads * blocks, capacity, 1), ctx.values[source].quant)
    ctx.maps[cache.place] = Map(blocks, capacity, 1, space=OPERAND, unit=ctx.lanes)
    ctx.maps[cache.fresh] = Map(blocks, tokens, 1)
    return cache
