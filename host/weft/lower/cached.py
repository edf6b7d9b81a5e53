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
from weft.lower.cache_tiles import arrange
from weft.lower.context import Context
from weft.lower.epilogue import epilogue, scaling
from weft.lower.geometry import OPERAND, UNIFIED, WIDE, Map, Value, plain_window
from weft.lower.norm import method_of
from weft.lower.packed_rows import bits_of, enter_packed
from weft.lower.rotate import rotation_of
from weft.lower.stage import Cache, CachedOp, Epilogue, HostOnlyError, Stage
from weft.lower.token_ranges import key_unit, value_unit, with_magnitudes
from weft.nonlinear.build import SCORE_FRACTION
from weft.passes.row_ranges import STEPS
from weft.transformer_ops import by_distance

SHARES = ("key_scales", "value_scales")


def lower_cached(ctx: Context, node: Node) -> Stage:
    """Causal attention of new tokens, whose keys and values are in a cache."""
    q, k, v = (ctx.value(name) for name in node.inputs[:3])
    y, heads = ctx.quant(node.outputs[0]), int(node.attrs["heads"])
    shared, capacity = int(node.attrs["kv_heads"]), int(node.attrs["cache"])
    _check(ctx, node, q)
    widths = head_blocks(ctx, (q, k, v), heads, shared)
    least, most = window_of(node)
    shares = _shares(node, (k, v), shared)
    scores, done = _epilogues(ctx, node, (q, k, v), y, shares)
    tokens = q.layout.height * q.layout.width
    name, bits = node.outputs[0], bits_of(ctx, node)
    caches = [
        _cache(ctx, f"{name}/{part}", source, width, own, (tokens, capacity), bits)
        for part, source, width, own in zip(
            ("keys", "values"), node.inputs[1:3], widths, shares, strict=True
        )
    ]
    op = CachedOp(
        q.root, k.root, v.root, plain_window(q.layout),
        heads, heads // shared, widths[0], widths[1], capacity, k.layout.height, least, most,
        scores[0],
        done[0],
        name + SCORES,
        method_of("attention", ctx.overlay.softmax),
        distances(ctx, node, heads, tokens),
        heads,
        heads_scores=scores,
        heads_values=done,
        key_cache=caches[0],
        value_cache=caches[1],
    )  # fmt: skip
    op = arrange(ctx, op, tokens)
    op = with_magnitudes(ctx, op, tokens) if k.quant.heads else op
    check_capacity(ctx, op, [*(cache.place for cache in caches), *op.fresh])
    layout = replace(q.layout, channels=heads * widths[1] * ctx.lanes)
    macs = heads * tokens * capacity * _true_width(ctx, node, widths)
    stage = ctx.stage(node, y, layout, (op,), engine="systolic", macs=macs)
    tables = [n for n in (*(c.rotations[0].table for c in caches), op.bias) if n]
    places = [name for c in caches for name in c.scratch]
    return replace(stage, scratch=(op.scratch, *tables, *places, *op.fresh))


def _true_width(ctx: Context, node: Node, widths: tuple[int, int]) -> int:
    """Channels of a head of keys and one of values that are no padding."""
    names = ("true_width", "true_value_width")
    return sum(
        int(node.attrs.get(name, width * ctx.lanes))
        for name, width in zip(names, widths, strict=True)
    )


def _epilogues(
    ctx: Context,
    node: Node,
    values: tuple[Value, Value, Value],
    y: Quant,
    shares: tuple[tuple[float, ...], ...],
) -> tuple[tuple[Epilogue, ...], tuple[Epilogue, ...]]:
    """Of scores and of results, for each head of keys."""
    q, k, v = (float(np.float32(value.quant.scale)) for value in values)
    plain = node.with_attrs(activation=None, requant="single_round")
    score = Quant(np.asarray(2.0**-SCORE_FRACTION, np.float32))

    def made(scale: float, unit: float, quant: Quant) -> Epilogue:
        return epilogue(plain, scaling(plain, scale, unit, quant), quant, ctx.lanes, step=0)

    scale, key, value = float(node.attrs["scale"]), values[1].quant, values[2].quant
    if key.heads:
        heads = range(len(key.heads))
        scores = tuple(made(q * scale * key_unit(key, head), 1.0, score) for head in heads)
        return scores, tuple(made(value_unit(value, head), 1.0, y) for head in heads)
    product = q * k * scale
    scores = tuple(made(product * share, 1.0, score) for share in shares[0])
    return scores, tuple(made(v * share, 2.0**-NORMALIZED, y) for share in shares[1])


def _shares(node: Node, values: tuple[Value, Value], heads: int) -> tuple[tuple[float, ...], ...]:
    """Of the scales of keys and values, for each head."""
    pairs = zip(values, SHARES, strict=True)
    return tuple(x.quant.heads or head_shares(node, part, heads) for x, part in pairs)


def head_shares(node: Node, attribute: str, heads: int) -> tuple[float, ...]:
    """What part of the tensor's scale each head has (`weft.passes.head_scales`)."""
    shares = tuple(float(s) for s in node.attrs.get(attribute, (1.0,) * heads))
    if len(shares) != heads or not all(0 < s <= 1 for s in shares):
        raise HostOnlyError(f"{attribute} = {shares}: a share of the scale for {heads} heads")
    return shares


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
    source: str,
    blocks: int,
    shares: tuple[float, ...],
    sizes: tuple[int, int],
    bits: int,
) -> Cache:
    """The cache of keys or values, with the maps that one head takes on chip."""
    tokens, capacity = sizes
    whole = ctx.rotations[source]
    finer = STEPS if ctx.values[source].quant.heads else 1
    scales = (whole.scale * finer / share for share in shares)
    rotations = tuple(rotation_of(scale, whole.table, whole.head_blocks) for scale in scales)
    values = name.endswith("/values")
    cache = Cache(name, rotations, f"{name}/head", f"{name}/new", bits, values)
    quant = ctx.values[source].quant
    ctx.caches[cache.name] = (Map(len(shares) * blocks, capacity, 1), quant)
    if cache.is_packed:
        enter_packed(ctx, cache, len(shares), blocks, capacity)
    ctx.maps[cache.place] = Map(blocks, capacity, 1, space=OPERAND, unit=ctx.lanes)
    ctx.maps[cache.fresh] = Map(blocks, tokens, 1)
    return cache
