"""Adjust, the instruction that lets fields of others follow the registers of a run."""

from __future__ import annotations

from weft.instruction import MEMORY, Field, Instruction
from weft.instruction import signed as _signed
from weft.instruction import unsigned as _unsigned

# An adjustment of an Adjust: field = base + scale · ⌈min(most, register − offset) / 2^unit⌉.
_ADJUSTMENT = (
    *_unsigned(5, field="word of the next instruction that is set; 0: none"),
    *_unsigned(
        4,
        register="0 tokens, 1 position, 2 both, 3 origin, 4 origin + position, 5 source, "
        "6 groups completed, 7 position in its group, 8 source + that",
    ),
    *_unsigned(1, drop="1: leave the next instruction out if min(most, register − offset) < 1"),
    *_unsigned(5, unit="log2 of what the register is counted in, rounded up"),
    *_signed(
        MEMORY,
        offset="subtracted from the register",
        most="what the difference is at most",
        scale="per unit",
        base="added to that",
    ),
)
ADJUSTMENTS, MOST_ADJUSTS = 3, 2  # of an Adjust; Adjusts in front of an instruction
PACKED_GROUP = 32  # tokens of a packed cache whose codes are made together; as in KIVI
# What adjustments refer to: `total` = tokens + position, `place` = origin + position, `completed` =
# groups that end in the run, `offset` = tokens of the position's group before it, `ring` = source +
# offset.
REGISTERS = (
    "tokens", "position", "total", "origin", "place", "source", "completed", "offset", "ring",
)  # fmt: skip

ADJUST = Instruction(
    "Adjust",
    11,
    "fields of the next instruction follow the registers of the run",
    tuple(
        Field(f"{field.name}_{i}", field.bits, field.doc, field.signed)
        for i in range(ADJUSTMENTS)
        for field in _ADJUSTMENT
    ),
)
