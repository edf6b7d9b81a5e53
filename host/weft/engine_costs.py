"""What the cells of an overlay's other engines take, and the decoders in front of them.

Counted by hand from the operators of each cell (hls/weft/units/), with the LUTs that the published
operators of docs/estimates.md take: no synthesis of such a cell is published as HLS, so these are
coarser than the int8 array's.
"""

from __future__ import annotations

from collections.abc import Iterable

ADDER, SHIFTER_32 = 33, 94  # LUTs of 32 bits (B5, B10)
OPERAND_32 = 4 * 32 + 32 + 4  # registers: an activation, three weights, a sum, control

# Fusion: 16 bricks of two digits (a nine-way choice of 2 bits each: 10 LUTs), a product of 3 × 3
# bits (6) and the choice of its place (30); 15 adders of about 16 bits; the sum.
# Shift: four products of 4 × 4 bits (14, B26), a shifter to 22 bits (60), a sign and an adder.
# Binary: 32 gates within a counter of 32 bits (two terms: ternary), and the sum.
# bf16: a product of 8 × 8 bits in a DSP; two shifters, an adder, the count of leading zeros.
CELLS = {
    "fusion": (16 * (10 + 6 + 30) + 15 * 16 + ADDER, OPERAND_32, 0),
    "shift": (4 * (14 + 60 + ADDER) + ADDER, OPERAND_32, 0),
    "binary": (2 * 31 + ADDER, OPERAND_32, 0),
    "bf16": (2 * SHIFTER_32 + ADDER + 20, 4 * 16 + 32 + 4 + 4 * 32, 1),
}  # (LUT, FF, DSP) of one cell
DECODER = 12  # LUTs of a lane and format: from a code to sign, exponent and base
CHOICE = 16 / 3  # LUTs of a lane and format: which of them the 16 bits of an operand come from


def decoders(formats: Iterable[str], weight_bits: int) -> tuple[float, int]:
    """LUTs and DSPs of a lane that decodes these formats; int8 alone needs none."""
    others = sum(name != "int8" for name in formats)
    scaled = int(others > 0 and weight_bits == 16)  # by the byte of a group
    return others * (DECODER + CHOICE), scaled
