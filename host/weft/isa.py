"""The instruction set, written once: fields and their widths, encoding, decoding, the C++ header.

An instruction is 32 little-endian 32-bit words: the opcode, then one word per field. A field's
`bits` are what the hardware keeps of it; encoding checks them. A word each instead of packed bits
makes decoding wires only, and instruction traffic is below a thousandth of the weights'.

Addresses: `buffer` words and `memory` rows both hold one vector of `lanes` int8 (the overlay's
rows); a memory address counts rows from the base of the buffer that the host passes.
docs/isa.md describes what each instruction does; the golden device is the living definition.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weft.errors import CapacityError, ProgramError

WORDS = 32  # words of 32 bits per instruction
Words = NDArray[np.int32]


@dataclass(frozen=True)
class Field:
    """One operand: its name, width in bits, whether it is signed, and what it means."""

    name: str
    bits: int
    doc: str
    signed: bool = False

    @property
    def low(self) -> int:
        """Smallest legal value."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def high(self) -> int:
        """Largest legal value."""
        return (1 << (self.bits - self.signed)) - 1


@dataclass(frozen=True)
class Instruction:
    """One kind of instruction."""

    name: str
    opcode: int
    doc: str
    fields: tuple[Field, ...]

    def encode(self, **values: int) -> Words:
        """Words of one instruction; fields that are not named are 0.

        Raises CapacityError if a value does not fit its field.
        """
        words = np.zeros(WORDS, np.int32)
        words[0] = self.opcode
        for index, field in enumerate(self.fields, start=1):
            value = int(values.pop(field.name, 0))
            if not field.low <= value <= field.high:
                raise CapacityError(
                    f"{self.name}.{field.name} = {value} is outside {field.low}..{field.high} "
                    f"({field.doc})"
                )
            words[index] = value if value < 1 << 31 else value - (1 << 32)
        assert not values, f"{self.name} has no field {sorted(values)}"
        return words


ADDRESS, STRIDE, COUNT, MEMORY = 24, 24, 16, 32


def _unsigned(bits: int, **docs: str) -> tuple[Field, ...]:
    return tuple(Field(name, bits, doc) for name, doc in docs.items())


def _signed(bits: int, **docs: str) -> tuple[Field, ...]:
    return tuple(Field(name, bits, doc, signed=True) for name, doc in docs.items())


_WINDOW = (
    *_unsigned(
        COUNT,
        height="rows of the input map",
        width="columns of the input map",
        kernel_h="taps in y",
        kernel_w="taps in x",
        stride_y="input rows per output row",
        stride_x="input columns per output column",
        dilation_y="input rows per tap",
        dilation_x="input columns per tap",
    ),
    *_signed(COUNT, pad_y="rows above the map", pad_x="columns left of the map"),
    *_unsigned(COUNT, out_h="rows of the output map", out_w="columns of the output map"),
)

_TRANSFER = (
    *_unsigned(MEMORY, memory="first row in memory"),
    *_unsigned(ADDRESS, buffer="first word in the buffer"),
    *_unsigned(COUNT, words="contiguous words of a chunk", chunks="number of chunks"),
    *_unsigned(MEMORY, memory_step="rows from chunk to chunk"),
    *_unsigned(STRIDE, buffer_step="words from chunk to chunk"),
    *_unsigned(MEMORY, memory_sample="rows from sample to sample"),
    *_unsigned(STRIDE, buffer_sample="words from sample to sample"),
    *_unsigned(2, space="of the buffer: 0 unified, 1 operand, 2 wide (two rows per word)"),
)

READ_HOST = Instruction("ReadHost", 1, "memory → on-chip buffer", _TRANSFER)
WRITE_HOST = Instruction("WriteHost", 2, "on-chip buffer → memory", _TRANSFER)
READ_WEIGHTS = Instruction(
    "ReadWeights",
    3,
    "memory → weight stream, in the background",
    (
        *_unsigned(
            MEMORY,
            memory="first row in weight memory",
            rows="rows that enter the stream",
            memory_rows="rows of memory that they are decoded from",
        ),
        *_unsigned(6, format="number of the format; 0: int8, row for row"),
        *_unsigned(4, group="log2 of the input channels that share a record; 0: none"),
        *_unsigned(1, zeros="records hold a row of zero points, too"),
        *_unsigned(COUNT, blocks="tiles of a run: the channel blocks seen through one tap"),
        *_unsigned(STRIDE, runs="number of runs: taps × column tiles"),
        *_unsigned(8, index="rows of positions in front of each tile, which pass as they are"),
        *_unsigned(1, matvec="1: for engine matvec, stream_rows rows at once"),
    ),
)
SET_TABLE = Instruction(
    "SetTable",
    4,
    "weight stream → parameter, tap or lookup table, or the wide buffer",
    (
        *_unsigned(3, target="0 parameters, 1 taps, 2 lookup, 3 softmax, 4 norm, 5 wide buffer"),
        *_unsigned(COUNT, index="first block, entry or word", count="blocks, entries or words"),
    ),
)
MAT_MUL = Instruction(
    "MatMul",
    5,
    "matrix product or convolution on the systolic array, into the accumulators",
    (
        *_unsigned(ADDRESS, source="first word of the input"),
        *_unsigned(
            STRIDE,
            source_sample="words from sample to sample",
            source_block="words from channel block to channel block",
            source_row="words from map row to map row",
            source_col="words from map column to map column",
        ),
        *_WINDOW,
        *_unsigned(COUNT, blocks="channel blocks of the input", tiles="column tiles of the output"),
        *_signed(8, pad="code outside the map"),
        *_unsigned(1, first="overwrite the accumulators instead of adding"),
        *_unsigned(1, last="hand the sums to the Activate that follows"),
        *_unsigned(1, overlap="shift the next tile in while this one computes"),
        *_unsigned(8, pace="clocks per tile row that the weights take to arrive"),
        *_unsigned(
            4,
            engine="0 systolic, 1 fusion, 2 shift, 3 binary, 4 bf16, 5 nm, 6 eie, 7 snap, "
            "8 gather, 9 matvec",
        ),
        *_unsigned(3, words="words of the input that a clock reads, channel blocks side by side"),
        *_unsigned(5, activation_bits="of a code in these words", weight_bits="of a code"),
        *_unsigned(8, codes="what the codes are, as the engine takes it"),
        *_unsigned(5, shift="left shift of the sums"),
        *_unsigned(MEMORY, rows="rows of the weight stream that a compressed layer takes"),
    ),
)
ACTIVATE = Instruction(
    "Activate",
    6,
    "accumulators → requantize, activation → unified buffer",
    (
        *_unsigned(ADDRESS, target="first word of the output"),
        *_unsigned(
            STRIDE,
            target_sample="words from sample to sample",
            target_block="words from channel block to channel block",
            target_row="words from map row to map row",
            target_col="words from map column to map column",
        ),
        *_unsigned(COUNT, parameter="first parameter block"),
        *_unsigned(1, parameter_step="1: a parameter block per channel block; 0: one for all"),
        *_unsigned(
            4,
            mode="0 single_round, 1 double_round, 2 float_even, 4..7 raw byte 0..3; of float sums "
            "8 code, 9 and 10 low and high byte as bf16",
        ),
        *_signed(8, zero_point="added after scaling", low="lower clamp", high="upper clamp"),
        *_unsigned(1, lookup="1: map the code through the lookup table"),
        *_unsigned(2, pack="log2 of the codes that share a byte"),
        *_unsigned(2, space="of the output: 0 unified, 1 operand, 2 wide buffer (int16)"),
        *_unsigned(1, residual="1: add a word of the wide buffer, scaled"),
        *_unsigned(ADDRESS, residual_base="its first word"),
        *_unsigned(
            STRIDE,
            residual_sample="words from sample to sample",
            residual_block="words from channel block to channel block",
            residual_row="words from map row to map row",
            residual_col="words from map column to map column",
        ),
        *_signed(MEMORY, residual_multiplier="of the added word, as in the parameters"),
        *_signed(8, residual_shift="of the added word"),
        *_unsigned(1, normalize="1: divide by the row sums of Attend"),
        *_unsigned(1, maximum="1: scores; mask them, and keep the maximum of each row"),
        *_unsigned(COUNT, keys="columns that are not masked"),
        *_signed(COUNT, left="least column - row that is not masked", right="the largest one"),
    ),
)
VECTOR = Instruction(
    "Vector",
    7,
    "lane-wise operation on the unified buffer, into the accumulators",
    (
        *_unsigned(3, operation="0 max, 1 sum, 2 add, 3 mul, 4 depthwise"),
        *_unsigned(ADDRESS, source="first word of the input"),
        *_unsigned(
            STRIDE,
            source_sample="words from sample to sample",
            source_block="words from channel block to channel block",
            source_row="words from map row to map row",
            source_col="words from map column to map column",
        ),
        *_WINDOW,
        *_unsigned(COUNT, blocks="channel blocks", tap="first entry of the tap table"),
        *_unsigned(ADDRESS, second="first word of the second input (add, mul)"),
        *_unsigned(
            STRIDE,
            second_sample="words from sample to sample",
            second_block="words from channel block to channel block",
            second_row="words from map row to map row",
            second_col="words from map column to map column",
        ),
        *_signed(8, zero="zero point of the input", second_zero="zero point of the second"),
        *_signed(16, scale="factor of the input (add)", second_scale="factor of the second"),
    ),
)
ATTEND = Instruction(
    "Attend",
    9,
    "product of two on-chip operands on the systolic array, into the accumulators",
    (
        *_unsigned(ADDRESS, source="first word of the input: of the unified or the wide buffer"),
        *_unsigned(
            STRIDE,
            source_block="words from channel block to channel block",
            source_col="words from row to row",
        ),
        *_unsigned(COUNT, rows="rows of the input: queries", blocks="channel blocks of the input"),
        *_unsigned(COUNT, tiles="column tiles of the output"),
        *_unsigned(ADDRESS, operand="first word of the stationary operand, in the operand buffer"),
        *_unsigned(STRIDE, operand_block="words from channel block to channel block"),
        *_unsigned(1, transposed="1: rows of the operand are columns of the weights"),
        *_unsigned(1, scores="1: the input is exp(score - maximum) of scores in the wide buffer"),
        *_unsigned(1, normalized="1: and divided by its row's sum, which takes a pass of its own"),
        *_unsigned(3, method="of the exponential, among those of the overlay"),
        *_unsigned(7, most="largest code of an exponential"),
        *_unsigned(1, overlap="shift the next tile in while this one computes"),
    ),
)
NORM = Instruction(
    "Norm",
    10,
    "LayerNorm or RMSNorm of rows of the wide buffer → unified buffer",
    (
        *_unsigned(ADDRESS, source="first word of the input, in the wide buffer"),
        *_unsigned(
            STRIDE,
            source_block="words from channel block to channel block",
            source_col="words from row to row",
        ),
        *_unsigned(COUNT, rows="rows of the input", blocks="channel blocks of a row"),
        *_unsigned(COUNT, elements="channels of a row"),
        *_unsigned(3, method="of the root, among those of the overlay"),
        *_unsigned(1, rms="1: RMSNorm", keep="1: the normalized int16 stay in place of the input"),
        *_unsigned(ADDRESS, target="first word of the output, in the unified buffer"),
        *_unsigned(
            STRIDE,
            target_block="words from channel block to channel block",
            target_col="words from row to row",
        ),
        *_unsigned(COUNT, parameter="first parameter block, of one per channel block"),
        *_signed(8, zero_point="added after scaling", low="lower clamp", high="upper clamp"),
        *_unsigned(MEMORY, epsilon_low="what is added to n² · variance: its low 32 bits"),
        *_unsigned(MEMORY, epsilon_high="its high 32 bits"),
    ),
)
BARRIER = Instruction("Barrier", 8, "end of a segment: all writes are in memory", ())

INSTRUCTIONS: dict[int, Instruction] = {
    i.opcode: i
    for i in (
        READ_HOST,
        WRITE_HOST,
        READ_WEIGHTS,
        SET_TABLE,
        MAT_MUL,
        ACTIVATE,
        VECTOR,
        BARRIER,
        ATTEND,
        NORM,
    )
}
OPERATIONS = ("max", "sum", "add", "mul", "depthwise")
MODES = ("single_round", "double_round", "float_even")
RAW_BYTE = 4  # Activate.mode of the accumulator's byte 0
FLOAT_CODE, BF16_LOW, BF16_HIGH = 8, 9, 10  # and of sums that are float32
ENGINES = ("systolic", "fusion", "shift", "binary", "bf16", "nm", "eie", "snap", "gather", "matvec")
COMPRESSED = ("eie", "snap", "gather")  # those with a stream of their own instead of tiles
TERMS = ("int", "uint", "flint", "uflint", "pot", "e2m1", "olive")  # what the shift engine decodes
TABLES = ("parameters", "taps", "lookup", "softmax", "norm", "wide")
SPACES = ("unified", "operand", "wide")  # on-chip buffers of activations
UNIFIED, OPERAND, WIDE = range(len(SPACES))
PARAMETER_ROWS = 14  # weight-stream rows per parameter block: byte planes, see units/requant.py
LOOKUP_ENTRIES = 256


def decode(words: Words) -> tuple[Instruction, dict[str, int]]:
    """The instruction in 32 words and its fields by name.

    Raises ProgramError for an unknown opcode or a value outside its field.
    """
    kind = INSTRUCTIONS.get(int(words[0]))
    if kind is None:
        raise ProgramError(f"opcode {int(words[0])} is none of {sorted(INSTRUCTIONS)}")
    values: dict[str, int] = {}
    for index, field in enumerate(kind.fields, start=1):
        value = int(words[index])
        if field.bits == MEMORY and not field.signed:
            value &= 0xFFFFFFFF
        if not field.low <= value <= field.high:
            raise ProgramError(
                f"{kind.name}.{field.name} = {value} is outside {field.low}..{field.high}"
            )
        values[field.name] = value
    return kind, values


def text(words: Words) -> str:
    """One line of disassembly: the name, then the fields that are not 0."""
    kind, values = decode(words)
    shown = " ".join(f"{name}={value}" for name, value in values.items() if value)
    return f"{kind.name:<11} {shown}".rstrip()


def template_values() -> Mapping[str, Any]:
    """What hls/templates/isa.hpp.j2 needs to write the C++ half of this file."""
    return {
        "words": WORDS,
        "instructions": list(INSTRUCTIONS.values()),
        "operations": OPERATIONS,
        "modes": MODES,
        "raw_byte": RAW_BYTE,
        "float_modes": {"FloatCode": FLOAT_CODE, "Bf16Low": BF16_LOW, "Bf16High": BF16_HIGH},
        "engines": ENGINES,
        "terms": TERMS,
        "tables": TABLES,
        "spaces": SPACES,
        "parameter_rows": PARAMETER_ROWS,
        "lookup_entries": LOOKUP_ENTRIES,
    }


def fingerprint() -> str:
    """Text that changes whenever the instruction set does; part of an overlay's digest."""
    return repr([(i.name, i.opcode, i.fields) for i in INSTRUCTIONS.values()])
