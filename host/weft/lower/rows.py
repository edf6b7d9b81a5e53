"""Attention as instructions: queries by rows, keys whole or in tiles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from weft import isa
from weft.isa import Words
from weft.lower.few_rows import attend
from weft.lower.fields import Rules, even, ifs
from weft.lower.geometry import WIDE, Place
from weft.lower.key_tiles import cuts
from weft.lower.stage import AttentionOp, Epilogue, Stage
from weft.program import Rule

if TYPE_CHECKING:
    from weft.lower.context import Context
    from weft.lower.emit import Emitter

MOST = 127  # code of the largest exponential
LIMIT = 32767  # of what counts: key − query
KEYS, VALUES = range(2)  # of AttentionOp.held


@dataclass(frozen=True)
class _Part:
    """Queries first..last-1, the tiles of keys that count, and what fewer tokens change. Keys and
    biases are those of the window of kind `kind` whose tokens begin at `start`. Where keys and
    values come from memory, those that are there begin with tile `loaded`.
    """

    first: int
    last: int
    tile: int
    tiles: int
    rows: Rules
    keys: Rules
    start: int = 0
    kind: int = 0
    loaded: int = 0


def attention(
    emitter: Emitter,
    op: AttentionOp,
    rows: tuple[int, int],
    places: Mapping[str, Place],
    target: Place,
) -> None:
    """Head by head, some queries at a time: as many as the scores have room for."""
    parts = list(_parts(emitter, op, rows, places[op.scratch].rows))
    if not op.held or _streams(op, places):
        for part in parts:
            for head in range(op.heads):
                _head(emitter, op, part, head, places, target)
        return
    for head in range(op.heads):
        if head % op.group == 0:
            _recall_all(emitter, op, head, places)
        for part in parts:
            _head(emitter, op, part, head, places, target)


def _streams(op: AttentionOp, places: Mapping[str, Place]) -> bool:
    """Whether the keys of a head come from memory tile by tile."""
    return bool(op.held) and places[op.held[KEYS]].rows < op.keys


def _head(
    emitter: Emitter,
    op: AttentionOp,
    part: _Part,
    head: int,
    places: Mapping[str, Place],
    target: Place,
) -> None:
    """Some queries of one head, in two sweeps over tiles of keys if there are several."""
    tiles = _tiles(emitter, op, part, places)
    streams = _streams(op, places)
    if len(tiles) == 1:
        (piece,) = tiles
        for which in (KEYS, VALUES) if streams else ():
            _recall(emitter, op, piece, head, which, places)
        _scores(emitter, op, piece, head, places)
        _weighted(emitter, op, piece, head, places)
        _divided(emitter, op, piece, head, target)
        return
    for number, piece in enumerate(tiles if streams else [part]):  # maxima, which take no room
        if streams:
            _recall(emitter, op, piece, head, KEYS, places)
        _scores(emitter, op, piece, head, places, discard=1, running=int(number > 0))
    for number, piece in enumerate(tiles):
        for which in (KEYS, VALUES) if streams else ():
            _recall(emitter, op, piece, head, which, places)
        _scores(emitter, op, piece, head, places, running=1)
        _weighted(emitter, op, piece, head, places, stays=1, goes_on=int(number > 0))
    _divided(emitter, op, part, head, target)


def _tiles(
    emitter: Emitter, op: AttentionOp, part: _Part, places: Mapping[str, Place]
) -> list[_Part]:
    """A part in tiles of keys whose scores there is room for."""
    lanes, found = emitter.context.lanes, []
    for tile, count in cuts(part.tile, part.tiles, places[op.scratch].blocks):
        keys = tuple(replace(r, offset=tile * lanes, most=count * lanes) for r in part.keys)
        loaded = tile if _streams(op, places) else 0
        found.append(replace(part, tile=tile, tiles=count, keys=keys, loaded=loaded))
    return found


def _recall_all(emitter: Emitter, op: AttentionOp, head: int, places: Mapping[str, Place]) -> None:
    """Keys and values of one head from memory."""
    lanes, symbol = emitter.context.lanes, emitter.symbol(op.key)
    tiles = -(-op.keys // lanes)
    keys = (Rule(0, 0, "", symbol, 0, tiles * lanes, lanes),) if symbol else ()
    for which in (KEYS, VALUES):
        _recall(emitter, op, _Part(0, 0, 0, tiles, (), keys), head, which, places)


def _recall(
    emitter: Emitter,
    op: AttentionOp,
    part: _Part,
    head: int,
    which: int,
    places: Mapping[str, Place],
) -> None:
    """The keys, or the values, of one head that a part attends to, from memory."""
    place, first = places[op.held[which]], part.tile * emitter.context.lanes
    words = min(part.tiles * emitter.context.lanes, op.keys - first)
    memory = emitter.regions[(op.key, op.value)[which]] + head // op.group * place.blocks * op.keys
    emitter.put(
        recalled(place, memory + first, op.keys, words),
        tuple(Rule(0, 0, "words", r.input, first, words) for r in part.keys),
    )


def recalled(place: Place, memory: int, step: int, words: int) -> Words:
    """ReadHost of `words` tokens of all channel blocks of a head, which lie `step` rows apart."""
    return isa.READ_HOST.encode(
        memory=memory,
        buffer=place.at(0),
        words=words,
        chunks=place.blocks,
        memory_step=step,
        buffer_step=place.block,
        space=place.space,
    )


def _operand(
    emitter: Emitter,
    op: AttentionOp,
    part: _Part,
    head: int,
    which: int,
    places: Mapping[str, Place],
) -> Walk:
    """Where the keys, or the values, of one head lie that a part attends to."""
    lanes = emitter.context.lanes
    if op.held:
        place = places[op.held[which]]
        return place.at(0) + (part.tile - part.loaded) * lanes, place.block
    name, blocks = ((op.key, op.query_blocks), (op.value, op.value_blocks))[which]
    place = places[name]
    first = place.at(head // op.group * blocks, 0, _key(op, part))
    return first + part.tile * lanes, place.block


def _parts(emitter: Emitter, op: AttentionOp, rows: tuple[int, int], most: int) -> Iterator[_Part]:
    """Parts of the queries. Tiles of keys that are masked for all of them are left out; where
    queries and keys may be fewer independently, only those behind the last one that counts.
    """
    lanes, width = emitter.context.lanes, op.window.width
    queries, keys = emitter.symbol(op.query), emitter.symbol(op.key)
    if op.windows > 1:
        yield from _windows(op, lanes, (rows[0] * width, rows[1] * width), most)
        return
    for first, last in even(rows[0] * width, rows[1] * width, most):
        low = max(0, min(first + op.least, op.keys - 1)) // lanes if queries == keys else 0
        high = max(1, min(op.keys, last + op.most))
        tiles = -(-high // lanes) - low
        yield _Part(
            first,
            last,
            low,
            tiles,
            (Rule(0, 0, "rows", queries, first, last - first),) if queries else (),
            (Rule(0, 0, "", keys, low * lanes, tiles * lanes, lanes),) if keys else (),
        )


def _windows(op: AttentionOp, lanes: int, tokens: tuple[int, int], most: int) -> Iterator[_Part]:
    """Parts of the queries tokens[0]..tokens[1]-1, none of more than one window."""
    each = op.window.height * op.window.width // op.windows
    for place, kind in enumerate(op.kinds):
        start = place * each
        cut = max(tokens[0], start), min(tokens[1], start + each)
        for first, last in even(*cut, most) if cut[0] < cut[1] else ():
            low = max(0, min(first - start + op.least, op.keys - 1)) // lanes
            high = max(1, min(op.keys, last - start + op.most))
            yield _Part(first, last, low, -(-high // lanes) - low, (), (), start, kind)


def _named(rules: Rules, field: str) -> Rules:
    """The rules with another field."""
    return tuple(replace(rule, field=field) for rule in rules)


def _scores(
    emitter: Emitter,
    op: AttentionOp,
    part: _Part,
    head: int,
    places: Mapping[str, Place],
    **sweep: int,
) -> None:
    """q·kᵀ of one head into the wide buffer, masked, with the maximum of each row. Of keys in tiles
    `sweep` says what of Activate is set; partial sums stay clear of those of values.
    """
    query, scores = places[op.query], places[op.scratch]
    lanes, rows = emitter.context.lanes, part.last - part.first
    parameter = emitter.epilogue(op.scores, 0, 1)
    source = query.at(head * op.query_blocks, 0, part.first), query.block
    operand = _operand(emitter, op, part, head, KEYS, places)
    clear = {"accumulator": rows * op.value_blocks} if sweep else {}
    attend(
        emitter,
        scored(emitter, op, (rows, part.tiles), source, operand) | clear,
        (*part.rows, *_named(part.keys, "tiles")),
    )
    shift = part.first - part.start - part.tile * lanes
    most = min(op.keys - part.tile * lanes, part.tiles * lanes)
    keys = tuple(Rule(0, 0, "keys", r.input, r.offset, most) for r in part.keys)
    emitter.put(
        isa.ACTIVATE.encode(
            **kept_scores(scores, **sweep),
            keys=most,
            left=max(-LIMIT, min(op.least + shift, LIMIT)),
            right=max(-LIMIT, min(op.most + shift, LIMIT)),
            **parameters(op.scores, parameter),
            **_bias(op, part, head, places),
        ),
        (*ifs(part.rows), *keys),
    )


def kept_scores(scores: Place, **sweep: int) -> dict[str, int]:
    """Fields of Activate for a part's scores, whose maxima are kept, and what `sweep` sets; scores
    that are not written have no strides.
    """
    strides = {} if sweep.get("discard") else {"target_block": scores.block, "target_col": 1}
    return {"target": scores.at(0), **strides, "space": scores.space, "maximum": 1, **sweep}


def parameters(done: Epilogue, parameter: int) -> dict[str, int]:
    """Fields of Activate for one parameter block of all channels."""
    return {"parameter": parameter, "parameter_step": 0, "mode": done.mode}


def _bias(op: AttentionOp, part: _Part, head: int, places: Mapping[str, Place]) -> dict[str, int]:
    """What is added to the scores: codes as they are."""
    if not op.bias:
        return {}
    place = places[op.bias]
    queries = op.window.height * op.window.width // op.windows
    square = part.kind * op.biases + (head if op.biases > 1 else 0)
    row = square * queries + part.first - part.start
    return {
        "residual": 1,
        "residual_base": place.at(part.tile, row),
        "residual_block": place.block,
        "residual_col": 1,
        "residual_multiplier": 1 << 30,
        "residual_shift": 1,
    }


def _weighted(
    emitter: Emitter,
    op: AttentionOp,
    part: _Part,
    head: int,
    places: Mapping[str, Place],
    **sums: int,
) -> None:
    """Exponentials of the scores times values; `sums` says what becomes of the sums."""
    emitter.epilogue(op.epilogue, 0, 1)  # tables come before the Attend
    operand = _operand(emitter, op, part, head, VALUES, places)
    sizes = part.last - part.first, part.tiles
    attend(
        emitter,
        weighted(emitter, op, sizes, places[op.scratch], operand) | sums,
        (*part.rows, *_named(part.keys, "blocks")),
    )


def _divided(emitter: Emitter, op: AttentionOp, part: _Part, head: int, target: Place) -> None:
    """The sums of values, divided by those of exponentials."""
    parameter = emitter.epilogue(op.epilogue, 0, 1)
    emitter.put(
        divided(op, parameter, head, part.first, target), (*ifs(part.rows), *ifs(part.keys))
    )


def _key(op: AttentionOp, part: _Part) -> int:
    """The first key of a part's window."""
    return part.start // (op.window.height * op.window.width // op.windows) * op.keys


Walk = tuple[int, int]  # first word, and words from channel block to channel block


def scored(
    emitter: Emitter, op: AttentionOp, sizes: tuple[int, int], source: Walk, operand: Walk
) -> dict[str, int]:
    """Attend of queries, `sizes` (rows, tiles of keys), with keys."""
    return {
        "source": source[0],
        "source_block": source[1],
        "source_col": 1,
        "rows": sizes[0],
        "blocks": op.query_blocks,
        "tiles": sizes[1],
        "operand": operand[0],
        "operand_block": operand[1],
        "transposed": 1,
        "overlap": int(emitter.overlap),
    }


def weighted(
    emitter: Emitter, op: AttentionOp, sizes: tuple[int, int], scores: Place, operand: Walk
) -> dict[str, int]:
    """Attend of exponentials of scores, `sizes` (rows, tiles of keys), with values."""
    return {
        "source": scores.at(0),
        "source_block": scores.block,
        "source_col": 1,
        "rows": sizes[0],
        "blocks": sizes[1],
        "tiles": op.value_blocks,
        "operand": operand[0],
        "operand_block": operand[1],
        "scores": 1,
        "method": op.method,
        "most": MOST,
        "overlap": int(emitter.overlap),
    }


def divided(op: AttentionOp, parameter: int, head: int, first: int, target: Place) -> Words:
    """Activate of one head's results behind it, from row `first` on."""
    done, block = op.epilogue, op.target.block0 + head * op.value_blocks
    wide = target.space == WIDE  # which has no zero point and is clamped to its own ends
    return isa.ACTIVATE.encode(
        target=target.at(block, op.target.y0, op.target.x0 + first),
        target_block=target.block,
        target_col=1,
        normalize=1,
        zero_point=done.zero_point,
        low=0 if wide else done.low,
        high=0 if wide else done.high,
        lookup=int(done.lookup is not None),
        space=target.space,
        **parameters(done, parameter),
    )


def layer_tokens(context: Context, stage: Stage) -> tuple[str, ...]:
    """The inputs whose numbers of tokens a layer's multiplications are in proportion to."""
    names = {stage.target: 1}
    for op in stage.ops:
        if isinstance(op, AttentionOp):
            names[op.key] = 1
    symbols = (context.maps[name].tokens for name in names)
    return tuple(symbol for symbol in symbols if symbol and symbol not in context.fixed)
