"""Attention and norms as instructions: what works on rows of the wide buffer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from weft import isa
from weft.isa import Words
from weft.lower.fields import Rules, even, ifs
from weft.lower.geometry import Place
from weft.lower.stage import AttentionOp, Epilogue, MergeOp, NormOp, Stage
from weft.program import Rule

if TYPE_CHECKING:
    from weft.lower.context import Context
    from weft.lower.emit import Emitter

MOST = 127  # code of the largest exponential
LIMIT = 32767  # of what counts: key − query


@dataclass(frozen=True)
class _Part:
    """Queries first..last-1, the tiles of keys that count, and what fewer tokens change. Keys and
    biases are those of the window of kind `kind` whose tokens begin at `start`.
    """

    first: int
    last: int
    tile: int
    tiles: int
    rows: Rules
    keys: Rules
    start: int = 0
    kind: int = 0


def norm(
    emitter: Emitter, op: NormOp, rows: tuple[int, int], places: Mapping[str, Place], target: Place
) -> None:
    """Rows of a norm: an instruction for as many as statistics are kept of."""
    source, width, done = places[op.source], op.window.width, op.epilogue
    blocks = len(done.rows) // isa.PARAMETER_ROWS
    parameter = emitter.epilogue(done, 0, blocks)
    symbol, limit = emitter.symbol(op.source), emitter.context.overlay.accumulator_rows
    for first, last in even(rows[0] * width, rows[1] * width, limit):
        rule = Rule(0, 0, "rows", symbol, first, last - first)
        emitter.put(
            isa.NORM.encode(
                source=source.at(op.block0, 0, first),
                source_block=source.block,
                source_col=1,
                rows=last - first,
                blocks=blocks,
                elements=op.elements,
                method=op.method,
                rms=int(op.rms),
                keep=int(op.keep),
                ranges=int(op.ranges),
                target=target.at(op.target.block0, op.target.y0, op.target.x0 + first),
                target_block=target.block,
                target_col=1,
                parameter=parameter,
                zero_point=done.zero_point,
                low=done.low,
                high=done.high,
                epsilon_low=op.epsilon & 0xFFFFFFFF,
                epsilon_high=op.epsilon >> 32,
            ),
            (rule,) if symbol else (),
        )


def attention(
    emitter: Emitter,
    op: AttentionOp,
    rows: tuple[int, int],
    places: Mapping[str, Place],
    target: Place,
) -> None:
    """Head by head, some queries at a time: as many as the scores have room for."""
    for part in _parts(emitter, op, rows, places[op.scratch].rows):
        for head in range(op.heads):
            _scores(emitter, op, part, head, places)
            _values(emitter, op, part, head, places, target)


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
    emitter: Emitter, op: AttentionOp, part: _Part, head: int, places: Mapping[str, Place]
) -> None:
    """q·kᵀ of one head into the wide buffer, masked, with the maximum of each row."""
    query, key, scores = places[op.query], places[op.key], places[op.scratch]
    lanes = emitter.context.lanes
    parameter = emitter.epilogue(op.scores, 0, 1)
    block = head // op.group * op.query_blocks
    source = query.at(head * op.query_blocks, 0, part.first), query.block
    operand = key.at(block, 0, _key(op, part)) + part.tile * lanes, key.block
    emitter.put(
        scored(emitter, op, (part.last - part.first, part.tiles), source, operand),
        (*part.rows, *_named(part.keys, "tiles")),
    )
    shift = part.first - part.start - part.tile * lanes
    most = min(op.keys - part.tile * lanes, part.tiles * lanes)
    keys = tuple(Rule(0, 0, "keys", r.input, r.offset, most) for r in part.keys)
    emitter.put(
        isa.ACTIVATE.encode(
            target=scores.at(0),
            target_block=scores.block,
            target_col=1,
            space=scores.space,
            maximum=1,
            keys=most,
            left=max(-LIMIT, min(op.least + shift, LIMIT)),
            right=max(-LIMIT, min(op.most + shift, LIMIT)),
            **parameters(op.scores, parameter),
            **_bias(op, part, head, places),
        ),
        (*ifs(part.rows), *keys),
    )


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


def _values(
    emitter: Emitter,
    op: AttentionOp,
    part: _Part,
    head: int,
    places: Mapping[str, Place],
    target: Place,
) -> None:
    """Exponentials of the scores times values, divided by the sum of the exponentials."""
    value, scores = places[op.value], places[op.scratch]
    parameter = emitter.epilogue(op.epilogue, 0, 1)
    operand = value.at(head // op.group * op.value_blocks, 0, _key(op, part))
    operand += part.tile * emitter.context.lanes
    sizes = part.last - part.first, part.tiles
    emitter.put(
        weighted(emitter, op, sizes, scores, (operand, value.block)),
        (*part.rows, *_named(part.keys, "blocks")),
    )
    emitter.put(
        divided(op, parameter, head, part.first, target), (*ifs(part.rows), *ifs(part.keys))
    )


def _key(op: AttentionOp, part: _Part) -> int:
    """The first key of a part's window."""
    return part.start // (op.window.height * op.window.width // op.windows) * op.keys


Walk = tuple[int, int]  # first word, and words from channel block to channel block


def scored(
    emitter: Emitter, op: AttentionOp, sizes: tuple[int, int], source: Walk, operand: Walk
) -> Words:
    """Attend of queries, `sizes` (rows, tiles of keys), with keys."""
    return isa.ATTEND.encode(
        source=source[0],
        source_block=source[1],
        source_col=1,
        rows=sizes[0],
        blocks=op.query_blocks,
        tiles=sizes[1],
        operand=operand[0],
        operand_block=operand[1],
        transposed=1,
        overlap=int(emitter.overlap),
    )


def weighted(
    emitter: Emitter, op: AttentionOp, sizes: tuple[int, int], scores: Place, operand: Walk
) -> Words:
    """Attend of exponentials of scores, `sizes` (rows, tiles of keys), with values."""
    return isa.ATTEND.encode(
        source=scores.at(0),
        source_block=scores.block,
        source_col=1,
        rows=sizes[0],
        blocks=sizes[1],
        tiles=op.value_blocks,
        operand=operand[0],
        operand_block=operand[1],
        scores=1,
        method=op.method,
        most=MOST,
        overlap=int(emitter.overlap),
    )


def divided(op: AttentionOp, parameter: int, head: int, first: int, target: Place) -> Words:
    """Activate of one head's results behind it, from row `first` on."""
    done, block = op.epilogue, op.target.block0 + head * op.value_blocks
    return isa.ACTIVATE.encode(
        target=target.at(block, op.target.y0, op.target.x0 + first),
        target_block=target.block,
        target_col=1,
        normalize=1,
        zero_point=done.zero_point,
        low=done.low,
        high=done.high,
        lookup=int(done.lookup is not None),
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


def merge(
    emitter: Emitter, op: MergeOp, rows: tuple[int, int], places: Mapping[str, Place], target: Place
) -> None:
    """Rows of merged patches: of each of the four neighbours a copy that skips the others."""
    source, half = places[op.source], op.window.width // 2
    for y in range(*rows):
        for quarter in range(4):
            right, down = divmod(quarter, 2)
            emitter.put(
                isa.ROTATE.encode(
                    source=source.at(0, 2 * y + down, right),
                    source_block=source.block,
                    source_col=2,
                    rows=half,
                    blocks=op.blocks,
                    plain=1,
                    multiplier=op.rotation.multiplier,
                    shift=op.rotation.shift,
                    target=target.at(quarter * op.blocks, y),
                    target_block=target.block,
                    target_col=1,
                    space=target.space,
                )
            )
