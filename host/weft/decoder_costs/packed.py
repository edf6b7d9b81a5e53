"""A cache in 4 or 2 bits: what a run reads of it, and what a group that is full takes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from weft import isa
from weft.config import Overlay
from weft.state import Clocks
from weft.units import packed_cache, transfer
from weft.units.packed_cache import GROUP as GROUP

if TYPE_CHECKING:
    from weft.decoder_costs.config import Decoder
    from weft.decoder_costs.steps import Machine

KINDS = ("keys", "values")


def rows(overlay: Overlay, bits: int) -> list[int]:
    """Rows of a group of a channel block: of keys, of values."""
    return [packed_cache.group_rows(overlay, bits, kind == "values").total for kind in KINDS]


def loads(overlay: Overlay, bits: int, past: int, blocks: int) -> tuple[Clocks, int, int]:
    """Keys and values of a head of `past` tokens into the operand buffer: clocks, instructions,
    rows of memory.
    """
    groups, ring = divmod(past, GROUP)
    found: list[Clocks] = []
    for values in range(len(KINDS)):
        if groups:
            f = {"target": transfer.OPERANDS, "count": groups * GROUP, "runs": blocks}
            f |= {"bits": bits, "values": values}
            found.append(transfer.clocks(f, overlay, 1, {}))
        if ring:
            f = {"chunks": blocks, "words": ring, "space": isa.OPERAND}
            found.append(transfer.clocks(f, overlay, 1, {}))
    read = blocks * (groups * sum(rows(overlay, bits)) + 2 * ring)
    summed = {name: sum(getattr(c, name) for c in found) for name in vars(Clocks())}
    return Clocks(**summed), 6, read


def packs(overlay: Overlay, bits: int, blocks: int) -> Iterator[tuple[str, Clocks, int]]:
    """(name, clocks of PackCache, rows to write) of a head's group of keys and of values."""
    for values, each in enumerate(rows(overlay, bits)):
        f = {"blocks": blocks, "bits": bits, "values": values}
        yield f"packed {KINDS[values]}", packed_cache.clocks(f, overlay, 1, {}), each


def nbytes(machine: Machine, d: Decoder, tokens: int) -> int:
    """Of the groups of `tokens` tokens in all layers, and of the newest ones in int8."""
    o = machine.overlay
    each = -(-tokens // GROUP) * sum(rows(o, machine.cache_bits)) + 2 * GROUP
    return d.layers * d.kv_heads * machine.head_blocks(d) * each * o.lanes


def splits(tokens: int, past: int) -> Iterator[tuple[int, int]]:
    """(tokens, past) of the runs that some tokens take: none goes beyond the end of a group."""
    while tokens:
        part = min(tokens, GROUP - past % GROUP)
        yield part, past
        tokens, past = tokens - part, past + part
