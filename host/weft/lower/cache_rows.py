"""Rotations and attention with a cache as instructions, whose fields follow the registers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from weft import isa
from weft.config import Overlay
from weft.lower.few_rows import attend
from weft.lower.fields import Rules, even, ifs
from weft.lower.geometry import Place
from weft.lower.packed_rows import keep_packed, recall_packed, ring_of
from weft.lower.registers import ORIGIN, PLACE, POSITION, TOTAL, follow
from weft.lower.rotate import SWAP
from weft.lower.rows import LIMIT, divided, kept_scores, parameters, recalled, scored, weighted
from weft.lower.stage import Cache, CachedOp, RotateOp, Rotation
from weft.lower.token_ranges import found_by, keep, of_keys, of_values, recall
from weft.pack import split
from weft.program import Rule

if TYPE_CHECKING:
    from weft.lower.emit import Emitter

Places = Mapping[str, Place]


@dataclass(frozen=True)
class _Part:
    """Queries first..last-1, and what the tokens of a run change."""

    first: int
    last: int
    rows: Rules


def positions(emitter: Emitter, name: str, place: Place) -> None:
    """Loads the words of a run's positions into the wide buffer."""
    words = emitter.context.tables[name]  # [positions, words, lanes]
    each = words.shape[1]
    start, _ = emitter.store(name, lambda: split(words.reshape(-1, words.shape[2])))
    rows = Rule(0, 0, "rows", emitter.token_symbol, 0, place.rows // each, scale=2 * each)
    emitter.flush()
    emitter.put(
        isa.READ_WEIGHTS.encode(memory=start, rows=2 * place.rows, memory_rows=2 * place.rows),
        (
            rows,
            replace(rows, field="memory_rows"),
            follow("memory", POSITION, start, scale=2 * each),
        ),
    )
    wide = isa.TABLES.index("wide")
    emitter.put(
        isa.SET_TABLE.encode(target=wide, index=place.at(0), count=place.rows),
        (replace(rows, field="count", scale=each),),
    )
    emitter.flush()


def rotate(
    emitter: Emitter, op: RotateOp, rows: tuple[int, int], places: Places, target: Place
) -> None:
    """Rows of a map."""
    width = op.window.width
    first, last = rows[0] * width, rows[1] * width
    rules = (Rule(0, 0, "rows", emitter.symbol(op.source), first, last - first),)
    turn(emitter, op.rotation, op.blocks, places[op.source], 0, first, last, places, {
        "target": target.at(op.target.block0, op.target.y0, op.target.x0 + first),
        "target_block": target.block,
        "space": target.space,
    }, rules)  # fmt: skip


def turn(
    emitter: Emitter,
    rotation: Rotation,
    blocks: int,
    source: Place,
    block: int,
    first: int,
    last: int,
    places: Places,
    to: Mapping[str, int],
    rules: Rules,
) -> None:
    """Rows first..last-1 of channel blocks from `block` on."""
    turned = {}
    if rotation.table:
        words = 2 * rotation.head_blocks
        turned = {
            "table": places[rotation.table].at(0) + first * words,
            "table_col": words,
            "head_blocks": rotation.head_blocks,
            "swap": SWAP,
        }
    emitter.put(
        isa.ROTATE.encode(
            source=source.at(block, 0, first),
            source_block=source.block,
            source_col=1,
            rows=last - first,
            blocks=blocks,
            plain=int(not rotation.table),
            multiplier=rotation.multiplier,
            shift=rotation.shift,
            target_col=1,
            **turned,
            **to,
        ),
        rules,
    )


def cached_attention(
    emitter: Emitter, op: CachedOp, rows: tuple[int, int], places: Places, target: Place
) -> None:
    """Head of keys by head of keys: the cache, the new tokens, and the queries that share them."""
    tokens = op.window.height * op.window.width
    assert rows == (0, op.window.height), "new tokens are together"
    blocks = {"keys": op.query_blocks, "values": op.value_blocks}
    for head in range(op.heads // op.group):
        for cache, source, count in zip(
            op.caches, (op.key, op.value), blocks.values(), strict=True
        ):
            codes = recall_packed if cache.is_packed else _recall
            codes(emitter, cache, head, count, places)
            recall(emitter, cache, head, tokens)
            place = places[cache.place]
            behind = follow("target", POSITION, place.at(0))
            append(emitter, cache, places[source], place, head, place.rows, places, behind)
            if cache.is_packed:
                keep_packed(emitter, cache, head, place, places)
        for query in range(head * op.group, (head + 1) * op.group):
            for part in _parts(emitter, op, tokens, places[op.scratch].rows):
                _scores(emitter, op, part, query, places)
                _values(emitter, op, part, query, places, target)


def _parts(emitter: Emitter, op: CachedOp, tokens: int, most: int) -> Iterator[_Part]:
    symbol = emitter.symbol(op.query)
    for first, last in even(0, tokens, most):
        yield _Part(first, last, (Rule(0, 0, "rows", symbol, first, last - first),))


def _recall(emitter: Emitter, cache: Cache, head: int, blocks: int, places: Places) -> None:
    """Tokens of the cache into the operand buffer."""
    place, step = places[cache.place], places[cache.place].rows * emitter.context.slots
    memory = emitter.regions[cache.name] + head * blocks * step
    if _streams(emitter.context.overlay, place):
        _stream(emitter, place, memory, blocks, step)
        return
    emitter.put(
        recalled(place, memory, step, place.rows),
        (follow("words", POSITION, drop=True), follow("memory", ORIGIN, memory)),
    )


def _streams(overlay: Overlay, place: Place) -> bool:
    """Whether keys or values may come through the weight ports, several words a clock."""
    group, unit = overlay.operand_group, overlay.run_rows
    fits = -(-place.rows // unit) * unit <= place.block
    return overlay.cached and not (place.at(0) | place.block) % group and fits


def _stream(emitter: Emitter, place: Place, memory: int, blocks: int, step: int) -> None:
    """The same through the weight ports: a run per channel block, filled up with zeros."""
    unit = emitter.context.overlay.run_rows
    emitter.flush()
    emitter.put(
        isa.READ_WEIGHTS.encode(
            memory=memory,
            rows=unit * blocks,
            memory_rows=1,
            runs=blocks,
            matvec=1,
            cached=1,
            memory_step=step,
        ),
        (
            follow("memory_rows", POSITION, drop=True),
            follow("rows", POSITION, unit=unit, scale=unit * blocks),
            follow("memory", ORIGIN, memory),
        ),
    )
    emitter.put(
        isa.SET_TABLE.encode(
            target=isa.TABLES.index("operands"),
            index=place.at(0),
            count=unit,
            runs=blocks,
            step=place.block,
        ),
        (follow("count", POSITION, unit=unit, scale=unit, drop=True),),
    )
    emitter.flush()


def append(
    emitter: Emitter,
    cache: Cache,
    source: Place,
    to: Place,
    head: int,
    capacity: int,
    places: Places,
    *rules: Rule,
) -> None:
    """A head's new tokens to the operand buffer, where `rules` put them, and by way of the unified
    buffer to its cache of `capacity` tokens.
    """
    fresh, tokens = places[cache.fresh], places[cache.fresh].rows
    rows = Rule(0, 0, "rows", emitter.token_symbol, 0, tokens)
    block = head * to.blocks
    for where, more in ((to, rules), (fresh, ())):
        fields = {"target": where.at(0), "target_block": where.block, "space": where.space}
        found, following = found_by(cache, where is to)
        made = cache.rotations[head], to.blocks, source, block, 0, tokens, places
        turn(emitter, *made, fields | found, (rows, *more, *following))
    step = capacity * emitter.context.slots
    memory = emitter.regions[cache.name] + block * step
    goes = follow("memory", PLACE, memory)
    if cache.is_packed:
        memory, step, goes = ring_of(emitter, cache, block)
    emitter.put(
        isa.WRITE_HOST.encode(
            memory=memory,
            buffer=fresh.at(0),
            words=tokens,
            chunks=to.blocks,
            memory_step=step,
            buffer_step=fresh.block,
            space=fresh.space,
        ),
        (replace(rows, field="words"), goes),
    )
    keep(emitter, cache, head, tokens)


def _scores(emitter: Emitter, op: CachedOp, part: _Part, query: int, places: Places) -> None:
    """q·kᵀ of one head into the wide buffer, masked, with the maximum of each row."""
    source, key, scores = places[op.query], places[op.caches[0].place], places[op.scratch]
    parameter = emitter.epilogue(op.heads_scores[query // op.group], 0, 1)
    lanes = emitter.context.lanes
    sizes = part.last - part.first, -(-op.keys // lanes)
    queries = source.at(query * op.query_blocks, 0, part.first), source.block
    attend(
        emitter,
        scored(emitter, op, sizes, queries, (key.at(0), key.block)),
        (*part.rows, follow("tiles", TOTAL, most=op.keys, unit=lanes)),
    )
    window = [follow("right", POSITION, part.first + min(op.most, 0))]
    if op.least > -LIMIT:
        window.append(follow("left", POSITION, part.first + op.least))
    emitter.put(
        isa.ACTIVATE.encode(
            **kept_scores(scores),
            keys=op.keys,
            left=-LIMIT,
            right=LIMIT,
            **parameters(op.scores, parameter),
            **_bias(op, part, query, lanes, places),
            **of_keys(op.caches[0]),
        ),
        (*ifs(part.rows), follow("keys", TOTAL, most=op.keys), *window),
    )


def _bias(op: CachedOp, part: _Part, query: int, lanes: int, places: Places) -> dict[str, int]:
    """What is added to the scores of one head: a row of words per new token."""
    if not op.bias:
        return {}
    blocks = -(-op.keys // lanes)
    row = op.biases * blocks
    return {
        "residual": 1,
        "residual_base": places[op.bias].at(0) + part.first * row + query * blocks,
        "residual_block": 1,
        "residual_col": row,
        "residual_multiplier": 1 << 30,
        "residual_shift": 1,
    }


def _values(
    emitter: Emitter, op: CachedOp, part: _Part, query: int, places: Places, target: Place
) -> None:
    """Exponentials of the scores times values, divided by the sum of the exponentials."""
    value, scores = places[op.caches[1].place], places[op.scratch]
    parameter = emitter.epilogue(op.heads_values[query // op.group], 0, 1)
    lanes = emitter.context.lanes
    sizes = part.last - part.first, -(-op.keys // lanes)
    attend(
        emitter,
        weighted(emitter, op, sizes, scores, (value.at(0), value.block)) | of_values(op.caches[1]),
        (*part.rows, follow("blocks", TOTAL, most=op.keys, unit=lanes)),
    )
    emitter.put(divided(op, parameter, query, part.first, target), ifs(part.rows))
