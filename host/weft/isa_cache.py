"""PackCache, the instruction that makes codes of fewer bits of keys and values."""

from __future__ import annotations

from weft.instruction import ADDRESS, COUNT, STRIDE, Instruction
from weft.instruction import unsigned as _unsigned

PACK_CACHE = Instruction(
    "PackCache",
    13,
    "a group of keys or values in the operand buffer → codes of fewer bits in the unified buffer",
    (
        *_unsigned(ADDRESS, operand="first word of the group, in the operand buffer"),
        *_unsigned(STRIDE, operand_block="words from channel block to channel block"),
        *_unsigned(COUNT, blocks="channel blocks"),
        *_unsigned(4, bits="of a code: 4 or 2"),
        *_unsigned(1, values="1: a range per token, as of values; 0: per channel, as of keys"),
        *_unsigned(ADDRESS, target="first word of the result, in the unified buffer"),
        *_unsigned(STRIDE, target_block="words from channel block to channel block"),
    ),
)
