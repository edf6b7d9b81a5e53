"""A cache in 4 or 2 bits as instructions: packed groups come in, a group that is full goes out.

Keys and values of a head lie in two regions: groups of 32 tokens, packed
(`weft.units.packed_cache`), and a ring of the newest tokens in int8 until their group is full, as
in KIVI (Liu et al., ICML 2024). No run goes beyond the end of a group (`weft.text.forward`), so a
query sees packed what comes before its own group, and that in int8: whatever the runs are, the
bits are the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from weft import isa
from weft.graph import Node
from weft.lower.context import Context
from weft.lower.geometry import Map, Place
from weft.lower.registers import (
    COMPLETED,
    OFFSET,
    ORIGIN,
    PLACE,
    POSITION,
    RING,
    SOURCE,
    Follow,
    follow,
)
from weft.lower.rows import recalled
from weft.lower.stage import Cache, HostOnlyError
from weft.passes.cache_bits import ATTRIBUTE, PLAIN
from weft.program import Rule
from weft.units.packed_cache import BITS, GROUP, UNIT_NAME, group_rows

if TYPE_CHECKING:
    from weft.lower.emit import Emitter

LARGEST = (1 << 31) - 1
Places = Mapping[str, Place]


def bits_of(ctx: Context, node: Node) -> int:
    """Bits of a cache's codes. Raises HostOnlyError for those that the overlay can't have."""
    bits, o = int(node.attrs.get(ATTRIBUTE, PLAIN)), ctx.overlay
    if bits == PLAIN:
        return bits
    if bits not in BITS or UNIT_NAME not in o.units:
        raise HostOnlyError(
            f"a cache of {bits} bits: overlay {o.name!r} has 8"
            + (", 4 and 2" if UNIT_NAME in o.units else f" (no unit {UNIT_NAME})")
        )
    if int(node.attrs["cache"]) % GROUP:
        raise HostOnlyError(f"a cache of {node.attrs['cache']} tokens in groups of {GROUP}")
    if ctx.sources:
        raise HostOnlyError(f"a cache of {bits} bits behind an encoder")
    return bits


def enter_packed(ctx: Context, cache: Cache, heads: int, blocks: int, capacity: int) -> None:
    """Maps of a cache of heads of `blocks` channel blocks: its packed groups and its ring in
    memory, and a group on chip.
    """
    rows = group_rows(ctx.overlay, cache.bits, cache.values).total
    quant = ctx.caches[cache.name][1]
    ctx.maps[cache.packed] = Map(blocks, rows, 1)
    ctx.caches[cache.name] = (Map(heads * blocks, capacity // GROUP * rows, 1), quant)
    ctx.caches[cache.ring] = (Map(heads * blocks, GROUP, 1), quant)


def _groups(field: str, base: int, scale: int, register: int = POSITION) -> Follow:
    """base + scale · full groups in front of the position."""
    return follow(field, register, base, offset=GROUP - 1, unit=GROUP, scale=scale)


def _memory(emitter: Emitter, cache: Cache, head: int, blocks: int) -> tuple[int, int, int]:
    """First row of a head's packed groups, rows from block to block, rows of a group."""
    ctx = emitter.context
    rows = group_rows(ctx.overlay, cache.bits, cache.values).total
    step = ctx.caches[cache.name][0].height * ctx.slots
    return emitter.regions[cache.name] + head * blocks * step, step, rows


def ring_of(emitter: Emitter, cache: Cache, block: int) -> tuple[int, int, Follow]:
    """First row of a ring's block, rows from block to block, and where new tokens go."""
    step = GROUP * emitter.context.slots
    memory = emitter.regions[cache.ring] + block * step
    return memory, step, follow("memory", RING, memory)


def recall_packed(emitter: Emitter, cache: Cache, head: int, blocks: int, places: Places) -> None:
    """Earlier tokens into the operand buffer: packed groups, and those of the ring behind them."""
    place = places[cache.place]
    recall_groups(emitter, cache, head, place)
    recall_ring(emitter, cache, head, place, _groups("buffer", place.at(0), GROUP))


def recall_groups(
    emitter: Emitter,
    cache: Cache,
    head: int,
    place: Place,
    *ifs: Rule,
    start: int = 0,
    most: int = LARGEST,
) -> None:
    """Packed groups of a head from token `start` on, `most` tokens at most."""
    memory, step, rows = _memory(emitter, cache, head, place.blocks)
    memory += start // GROUP * rows

    def counted(field: str, scale: int, drop: bool = False) -> Follow:
        return full(field, scale, start, most, drop)

    emitter.flush()
    emitter.put(
        isa.READ_WEIGHTS.encode(
            memory=memory,
            rows=rows * place.blocks,
            memory_rows=rows,
            runs=place.blocks,
            matvec=1,
            cached=1,
            memory_step=step,
        ),
        (
            counted("memory_rows", rows, drop=True),
            counted("rows", rows * place.blocks),
            follow("memory", ORIGIN, memory, unit=GROUP, scale=rows),
            *ifs,
        ),
    )
    emitter.put(
        isa.SET_TABLE.encode(
            target=isa.TABLES.index("operands"),
            index=place.at(0),
            count=GROUP,
            runs=place.blocks,
            step=place.block,
            bits=cache.bits,
            values=int(cache.values),
        ),
        (counted("count", GROUP, drop=True), *ifs),
    )
    emitter.flush()


def full(field: str, scale: int, start: int = 0, most: int = LARGEST, drop: bool = True) -> Follow:
    """`scale` for each of the full groups in front of the position, from token `start` on and of
    `most` tokens at most.
    """
    offset = start + GROUP - 1
    return follow(field, POSITION, offset=offset, most=most, unit=GROUP, scale=scale, drop=drop)


def recall_ring(emitter: Emitter, cache: Cache, head: int, place: Place, *rules: Rule) -> None:
    """Tokens of the group that is not full yet, to the front of a place or where `rules` say."""
    memory, step, _ = ring_of(emitter, cache, head * place.blocks)
    emitter.put(
        recalled(place, memory, step, GROUP),
        (follow("words", OFFSET, drop=True), follow("memory", SOURCE, memory), *rules),
    )


def keep_packed(
    emitter: Emitter, cache: Cache, head: int, place: Place, places: Places, apart: bool = False
) -> None:
    """The group that ends in this run, if one does: out of the operand buffer to memory. `apart`:
    the place holds nothing but the group.
    """
    packed, blocks = places[cache.packed], place.blocks
    memory, step, rows = _memory(emitter, cache, head, blocks)
    ends = follow("", COMPLETED, drop=True)
    emitter.put(
        isa.PACK_CACHE.encode(
            operand=place.at(0),
            operand_block=place.block,
            blocks=blocks,
            bits=cache.bits,
            values=int(cache.values),
            target=packed.at(0),
            target_block=packed.block,
        ),
        (ends,) if apart else (_groups("operand", place.at(0), GROUP), ends),
    )
    emitter.put(
        isa.WRITE_HOST.encode(
            memory=memory,
            buffer=packed.at(0),
            words=rows,
            chunks=blocks,
            memory_step=step,
            buffer_step=packed.block,
            space=packed.space,
        ),
        (_groups("memory", memory, rows, PLACE), ends),
    )
