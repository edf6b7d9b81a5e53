"""Ranges per token and head of a cache: units of epilogues, room, and how magnitudes move.

With M the magnitude of a head's token, int16 in steps s of it (`passes.token_ranges.head_step`), a
code c stands for c * M * s / 127. Of keys the sums of a column are multiplied by M / 2^12 behind
the array; of values exponentials e, of 15 fraction bits, by M / 2^SHIFT in front of it, where the
largest M that calibration has seen makes the code 127 of e = 1. The row's sum stays that of e.

In memory magnitudes lie in words of int16, a lane per token: for each head those of all texts, and
a spare word. A run reads those of the earlier tokens, and writes those of its own back, as many
words as its number of tokens may touch. It may touch one fewer; then what else is written is behind
all tokens, where it harms nobody, or it is the next text's first word, as it was.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from weft import isa
from weft.errors import CapacityError
from weft.graph import Quant
from weft.lower.attention import NORMALIZED
from weft.lower.cache import Cache, Magnitudes
from weft.lower.fields import Rules
from weft.lower.registers import ORIGIN, PLACE, POSITION, TOKENS, follow
from weft.lower.stage import CachedOp, HostOnlyError
from weft.passes.token_ranges import head_step
from weft.program import Layout, Region
from weft.units import ranges

if TYPE_CHECKING:
    from weft.lower.context import Context
    from weft.lower.emit import Emitter
    from weft.lower.partition import Partition

SHIFT = 22  # of an exponential times a magnitude: 2^15 * 127 * STEPS / 2^22 = 127
UNIT = "token_ranges"
INT16 = Quant(np.asarray(1.0, np.float32), format="int16")


def key_unit(quant: Quant, head: int) -> float:
    """What sums with keys count in behind their magnitudes, but for the scale of queries."""
    return head_step(quant, head) * (1 << ranges.SHIFT) / ranges.CODE


def value_unit(quant: Quant, head: int) -> float:
    """What results of values count in, once they are divided by the sum of exponentials."""
    return head_step(quant, head) * 2.0 ** (SHIFT - NORMALIZED) / ranges.CODE


def with_magnitudes(ctx: Context, op: CachedOp, tokens: int) -> CachedOp:
    """The operation with room for the magnitudes of a head, on chip and in memory, where a run
    takes `tokens` new tokens at most.

    Raises HostOnlyError where the overlay has none.
    """
    overlay, words, own = ctx.overlay, -(-op.keys // ctx.lanes), -(-tokens // ctx.lanes)
    if UNIT not in overlay.units:
        raise HostOnlyError(f"ranges per token, and overlay {overlay.name!r} has no unit {UNIT}")
    behind = 2 * words + int(tokens > 1)  # values come to the word behind keys when these are kept
    need = behind + (2 * own if op.fresh else 0)
    if need > overlay.range_words:
        raise HostOnlyError(
            f"ranges of {op.keys} tokens take range_words = {need}; overlay {overlay.name!r} has "
            f"{overlay.range_words}"
        )
    made = []
    for i, cache in enumerate(op.caches):
        apart = behind + i * own if op.fresh else None
        found = Magnitudes(f"{cache.name}/ranges", words, i * words, apart)
        ctx.magnitudes[found.name] = len(cache.rotations), words
        made.append(replace(cache, magnitudes=found))
    return replace(op, key_cache=made[0], value_cache=made[1])


def rows_of(heads: int, words: int, slots: int) -> int:
    """Rows of memory that magnitudes of keys, or of values, take."""
    return 2 * heads * (words * slots + 1)


def region(ctx: Context, name: str, row: int) -> Region:
    """Magnitudes in memory, all heads one behind another."""
    height = rows_of(*ctx.magnitudes[name], ctx.slots) // 2
    return Region(row, Layout(ctx.lanes, height, 1, ((), ("h",), ("c",)), 16), INT16)


def check_slots(ctx: Context) -> None:
    """Raises CapacityError where texts would share a word of magnitudes."""
    if ctx.magnitudes and ctx.slots > 1 and ctx.cached % ctx.lanes:
        raise CapacityError(
            f"a cache of {ctx.cached} tokens for each of {ctx.slots} texts: with ranges per token "
            f"overlay {ctx.overlay.name!r} takes multiples of {ctx.lanes}; compile with "
            f"cache={-(-ctx.cached // ctx.lanes) * ctx.lanes}"
        )


def check_placed(found: Partition) -> None:
    """Raises CapacityError where keys or values of ranges per token run on the host."""
    graph, overlay = found.context.graph, found.context.overlay
    names = {n for n, t in graph.tensors.items() if t.quant is not None and t.quant.heads}
    for place in found.placements:
        if names & {*place.node.inputs, *place.node.outputs} and place.where == "host":
            raise CapacityError(
                f"{place.op} {place.name!r} has ranges per token, which overlay {overlay.name!r} "
                f"can't take ({place.why}): leave token_ranges out, or take another overlay"
            )


def _memory(emitter: Emitter, found: Magnitudes, head: int) -> int:
    each = found.words * emitter.context.slots + 1
    return emitter.regions[found.name] + 2 * head * each


def recall(emitter: Emitter, cache: Cache, head: int, tokens: int) -> None:
    """Magnitudes of a head's earlier tokens, and what may be written behind those of new ones."""
    found, lanes = cache.magnitudes, emitter.context.lanes
    if found is None:
        return
    memory = _memory(emitter, found, head)
    fields = {"buffer": found.first, "chunks": 1, "space": isa.RANGES}
    emitter.put(
        isa.READ_HOST.encode(memory=memory, words=found.words, **fields),
        (
            follow("words", POSITION, unit=lanes, drop=True),
            follow("memory", ORIGIN, memory, unit=lanes, scale=2),
        ),
    )
    if emitter.context.slots > 1 and tokens > 1:  # the next text's, which must stay as they are
        fields["buffer"] += found.words
        behind = memory + 2 * found.words
        emitter.put(
            isa.READ_HOST.encode(memory=behind, words=1, **fields),
            (
                follow("", TOKENS, offset=1, drop=True),
                follow("memory", ORIGIN, behind, unit=lanes, scale=2),
            ),
        )


def found_by(cache: Cache, alone: bool) -> tuple[dict[str, int], Rules]:
    """Fields of a Rotate that finds magnitudes of new tokens, and what follows the position;
    `alone`: where those lie by themselves.
    """
    found = cache.magnitudes
    if found is None:
        return {}, ()
    if alone and found.own is not None:
        return {"ranges": 1, "range_word": found.own}, ()
    fields = {"ranges": 1, "range_word": found.first}
    return fields, (follow("range_first", POSITION),)


def keep(emitter: Emitter, cache: Cache, head: int, tokens: int) -> None:
    """The words that magnitudes of new tokens are in, back to memory."""
    found, lanes = cache.magnitudes, emitter.context.lanes
    if found is None:
        return
    memory = _memory(emitter, found, head)
    emitter.put(
        isa.WRITE_HOST.encode(
            memory=memory, buffer=found.first, words=1, chunks=1, space=isa.RANGES
        ),
        (
            *((follow("words", TOKENS, 1, offset=1, unit=lanes),) if tokens > 1 else ()),
            follow("buffer", POSITION, found.first, offset=lanes - 1, unit=lanes),
            follow("memory", PLACE, memory, offset=lanes - 1, unit=lanes, scale=2),
        ),
    )


def of_keys(cache: Cache, tile: int | None = 0) -> dict[str, int]:
    """Fields of the Activate of scores with keys from column tile `tile` of the cache on, or
    (None) with those of new tokens that lie by themselves.
    """
    if cache.magnitudes is None:
        return {}
    return {"normalize": isa.BY_TOKEN, "ranges": _word(cache.magnitudes, tile)}


def of_values(cache: Cache, tile: int | None = 0) -> dict[str, int]:
    """Fields of the Attend of exponentials with such values."""
    if cache.magnitudes is None:
        return {}
    return {"ranged": 1, "ranges": _word(cache.magnitudes, tile), "range_shift": SHIFT}


def _word(found: Magnitudes, tile: int | None) -> int:
    if tile is not None:
        return found.first + tile
    assert found.own is not None, "new tokens lie by themselves"
    return found.own
