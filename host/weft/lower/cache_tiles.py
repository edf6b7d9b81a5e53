"""Attention with a cache that does not fit the chip: its tokens come from memory tile by tile.

Keys of a run are its new tokens, which lie in the operand buffer by themselves, and tiles of the
cache as far as the position reaches. Two sweeps over them as in docs/isa.md (Attend): maxima, then
sums. The new tokens are the first tile of either, as they are always there; an Adjust leaves out
the tiles behind the position, so that one program still serves every length. Of a packed cache the
newest group lies by itself, with what it has from earlier runs, and tiles are whole groups.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from weft import isa
from weft.lower.cache_rows import append
from weft.lower.context import Context
from weft.lower.few_rows import attend
from weft.lower.fields import Rules, even, ifs
from weft.lower.geometry import OPERAND, WIDE, Map, Place
from weft.lower.packed_rows import full, keep_packed, recall_groups, recall_ring
from weft.lower.registers import OFFSET, ORIGIN, POSITION, follow
from weft.lower.rows import (
    KEYS,
    LIMIT,
    VALUES,
    divided,
    kept_scores,
    parameters,
    recalled,
    scored,
    weighted,
)
from weft.lower.stage import CachedOp
from weft.lower.token_ranges import of_keys, of_values, recall
from weft.program import Rule
from weft.units.packed_cache import GROUP

if TYPE_CHECKING:
    from weft.lower.emit import Emitter

Places = Mapping[str, Place]


@dataclass(frozen=True)
class _Part:
    """Queries first..last-1 of a head, and what the tokens of a run change."""

    query: int
    first: int
    last: int
    rows: Rules


@dataclass(frozen=True)
class _Tile:
    """Keys that are on chip together: `tiles` column tiles of the cache from token `start` on, or
    the new tokens. `count` says how many of them a run has.
    """

    tiles: int
    start: int
    places: tuple[Place, Place]
    count: Rules
    new: bool = False

    def column(self, lanes: int) -> int | None:
        """The first column tile of the cache; None of new tokens."""
        return None if self.new else self.start // lanes


def arrange(ctx: Context, op: CachedOp, tokens: int) -> CachedOp:
    """The operation with a map for its scores; where the cache of a head does not fit, with maps
    for a tile of it and for the new tokens.
    """
    overlay, lanes, packed = ctx.overlay, ctx.lanes, op.caches[KEYS].is_packed
    own = GROUP if packed else tokens  # of a packed cache with those of its group before them
    blocks, new = -(-op.keys // lanes), -(-own // lanes)
    each = (op.query_blocks + op.value_blocks) * lanes
    bias = ctx.maps[op.bias].words if op.bias else 0
    rows = min(tokens, overlay.accumulator_rows)
    fits = blocks * each <= overlay.operand_words and blocks + bias <= overlay.wide_words
    few = min(rows, overlay.accumulator_rows // (op.value_blocks + 1))
    most = overlay.operand_words // each - new
    if most > 0 and few:
        most = min(most, overlay.wide_words // few)
    if packed:  # tiles of whole groups
        most -= most % max(GROUP // lanes, 1)
    if fits or op.bias or not few or most < 1 or new > overlay.wide_words:
        ctx.maps[op.scratch] = Map(blocks, rows, 1, space=WIDE)
        return op
    ctx.maps[op.scratch] = Map(max(most, new), few, 1, space=WIDE)
    names = []
    for cache, wide in zip(op.caches, (op.query_blocks, op.value_blocks), strict=True):
        ctx.maps[cache.place] = Map(wide, most * lanes, 1, space=OPERAND, unit=lanes)
        names.append(f"{cache.name}/own")
        ctx.maps[names[-1]] = Map(wide, own, 1, space=OPERAND, unit=lanes)
    return replace(op, fresh=tuple(names))


def tiled_attention(
    emitter: Emitter, op: CachedOp, rows: tuple[int, int], places: Places, target: Place
) -> None:
    """Head of keys by head of keys: the new tokens, and the queries that share them."""
    tokens = op.window.height * op.window.width
    assert rows == (0, op.window.height), "new tokens are together"
    symbol = emitter.symbol(op.query)
    for head in range(op.heads // op.group):
        for which in (KEYS, VALUES):
            recall(emitter, op.caches[which], head, tokens)
            _append(emitter, op, which, head, places)
        for query in range(head * op.group, (head + 1) * op.group):
            for first, last in even(0, tokens, places[op.scratch].rows):
                rule = Rule(0, 0, "rows", symbol, first, last - first)
                _sweeps(emitter, op, _Part(query, first, last, (rule,)), places, target)


def _append(emitter: Emitter, op: CachedOp, which: int, head: int, places: Places) -> None:
    """New tokens, of a packed cache behind those of their group."""
    cache, source = op.caches[which], places[(op.key, op.value)[which]]
    own = places[op.fresh[which]]
    if not cache.is_packed:
        append(emitter, cache, source, own, head, op.keys, places)
        return
    recall_ring(emitter, cache, head, own)
    behind = follow("target", OFFSET, own.at(0))
    append(emitter, cache, source, own, head, op.keys, places, behind)
    keep_packed(emitter, cache, head, own, places, apart=True)


def _tiles(emitter: Emitter, op: CachedOp, tokens: int, places: Places) -> Iterator[_Tile]:
    """The new tokens, then those of the cache."""
    lanes = emitter.context.lanes
    own = places[op.fresh[KEYS]], places[op.fresh[VALUES]]
    packed = op.caches[KEYS].is_packed
    if packed:  # a whole group, of which a query sees what is not behind it
        yield _Tile(-(-GROUP // lanes), 0, own, (), new=True)
    else:
        rule = Rule(0, 0, "", emitter.token_symbol, 0, tokens)
        yield _Tile(-(-tokens // lanes), 0, own, (rule,), new=True)
    held = places[op.caches[KEYS].place], places[op.caches[VALUES].place]
    size = held[KEYS].rows
    for start in range(0, op.keys, size):
        most = min(size, op.keys - start)
        count = follow("", POSITION, offset=start, most=most, drop=True)
        if packed:
            count = full("", 1, start, most)
        yield _Tile(-(-most // lanes), start, held, (count,))


def _sweeps(emitter: Emitter, op: CachedOp, part: _Part, places: Places, target: Place) -> None:
    """Some queries of a head: the maxima of their scores, then the sums."""
    tokens = op.window.height * op.window.width
    tiles = list(_tiles(emitter, op, tokens, places))
    for tile in tiles:
        _recall(emitter, op, tile, part, KEYS)
        _scores(emitter, op, tile, part, places, discard=1, running=int(not tile.new))
    for tile in tiles:
        for which in (KEYS, VALUES):
            _recall(emitter, op, tile, part, which)
        _scores(emitter, op, tile, part, places, running=1)
        _weighted(emitter, op, tile, part, places)
    parameter = emitter.epilogue(op.heads_values[part.query // op.group], 0, 1)
    emitter.put(divided(op, parameter, part.query, part.first, target), ifs(part.rows))


def _recall(emitter: Emitter, op: CachedOp, tile: _Tile, part: _Part, which: int) -> None:
    """Keys, or values, of a tile of the cache."""
    if tile.new:
        return
    cache, head = op.caches[which], part.query // op.group
    if cache.is_packed:
        most = min(tile.places[which].rows, op.keys - tile.start)
        conditions = ifs(part.rows)
        recall_groups(
            emitter, cache, head, tile.places[which], *conditions, start=tile.start, most=most
        )
        return
    place, step = tile.places[which], op.keys * emitter.context.slots
    memory = emitter.regions[op.caches[which].name] + tile.start
    memory += part.query // op.group * place.blocks * step
    emitter.put(
        recalled(place, memory, step, place.rows),
        (*_named(tile, "words"), *ifs(part.rows), follow("memory", ORIGIN, memory)),
    )


def _named(tile: _Tile, field: str, unit: int = 1) -> Rules:
    """The rule of a tile's tokens for a field; packed ones come in groups."""
    steps = [max(rule.unit, unit) for rule in tile.count]
    return tuple(
        replace(rule, field=field, unit=step, scale=step // unit)
        for rule, step in zip(tile.count, steps, strict=True)
    )


def _scores(
    emitter: Emitter, op: CachedOp, tile: _Tile, part: _Part, places: Places, **sweep: int
) -> None:
    """q·kᵀ with the keys of a tile, masked: their maxima, or they themselves."""
    source, scores, key = places[op.query], places[op.scratch], tile.places[KEYS]
    parameter = emitter.epilogue(op.heads_scores[part.query // op.group], 0, 1)
    lanes, rows = emitter.context.lanes, part.last - part.first
    queries = source.at(part.query * op.query_blocks, 0, part.first), source.block
    fields = scored(emitter, op, (rows, tile.tiles), queries, (key.at(0), key.block))
    attend(
        emitter,
        fields | {"accumulator": rows * op.value_blocks},
        (*part.rows, *_named(tile, "tiles", lanes)),
    )
    right, left = part.first + min(op.most, 0), part.first + op.least
    sides: Rules = ()
    if tile.new and op.caches[KEYS].is_packed:  # column 0 is the first token of the group
        sides = (follow("right", OFFSET, right),)
        if op.least > -LIMIT:
            sides = (*sides, follow("left", OFFSET, left))
    if not tile.new:  # column 0 is `position` − `start` keys before the first new token
        sides = (follow("right", POSITION, right - tile.start),)
        if op.least > -LIMIT:
            sides = (*sides, follow("left", POSITION, left - tile.start))
    emitter.put(
        isa.ACTIVATE.encode(
            **kept_scores(scores, **sweep),
            keys=tile.tiles * lanes,
            left=left if tile.new and op.least > -LIMIT else -LIMIT,
            right=right if tile.new else LIMIT,
            **parameters(op.scores, parameter),
            **of_keys(op.caches[KEYS], tile.column(lanes)),
        ),
        (*ifs(part.rows), *_named(tile, "keys"), *sides),
    )


def _weighted(emitter: Emitter, op: CachedOp, tile: _Tile, part: _Part, places: Places) -> None:
    """Exponentials of a tile's scores times its values, to the sums that stay."""
    emitter.epilogue(op.heads_values[part.query // op.group], 0, 1)  # tables come before
    value, rows = tile.places[VALUES], part.last - part.first
    sizes, column = (rows, tile.tiles), tile.column(emitter.context.lanes)
    fields = weighted(emitter, op, sizes, places[op.scratch], (value.at(0), value.block))
    attend(
        emitter,
        fields | {"stays": 1, "goes_on": int(not tile.new)} | of_values(op.caches[VALUES], column),
        (*part.rows, *_named(tile, "blocks", emitter.context.lanes)),
    )
