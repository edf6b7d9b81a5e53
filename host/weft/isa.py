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
from typing import Any

from weft.errors import ProgramError
from weft.instruction import ADDRESS, MEMORY, STRIDE
from weft.instruction import COUNT as COUNT
from weft.instruction import WORDS as WORDS
from weft.instruction import Field as Field
from weft.instruction import Instruction as Instruction
from weft.instruction import Words as Words
from weft.instruction import signed as _signed
from weft.instruction import unsigned as _unsigned
from weft.isa_adjust import ADJUST as ADJUST
from weft.isa_adjust import ADJUSTMENTS as ADJUSTMENTS
from weft.isa_adjust import MOST_ADJUSTS as MOST_ADJUSTS
from weft.isa_adjust import PACKED_GROUP as PACKED_GROUP
from weft.isa_adjust import REGISTERS as REGISTERS
from weft.isa_cache import PACK_CACHE as PACK_CACHE

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
    *_unsigned(
        2,
        space="of the buffer: 0 unified, 1 operand; of two rows per word 2 wide, 3 token ranges",
    ),
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
            memory="first row in weight memory; of the cache in activation memory",
            rows="rows that enter the stream",
            memory_rows="rows of memory that they are decoded from; of the cache of each run",
        ),
        *_unsigned(6, format="number of the format; 0: int8, row for row"),
        *_unsigned(4, group="log2 of the input channels that share a record; 0: none"),
        *_unsigned(1, zeros="records hold a row of zero points, too"),
        *_unsigned(COUNT, blocks="tiles of a run: the channel blocks seen through one tap"),
        *_unsigned(STRIDE, runs="number of runs: taps × column tiles; of the cache channel blocks"),
        *_unsigned(8, index="rows of positions in front of each tile, which pass as they are"),
        *_unsigned(1, matvec="1: for engine matvec, stream_rows rows at once"),
        *_unsigned(1, cached="1: int8 rows of activation memory, each run filled up with zeros"),
        *_unsigned(MEMORY, memory_step="of the cache: rows from run to run"),
    ),
)
SET_TABLE = Instruction(
    "SetTable",
    4,
    "weight stream → parameter, tap or lookup table, or the wide or operand buffer",
    (
        *_unsigned(
            3,
            target="0 parameters, 1 taps, 2 lookup, 3 softmax, 4 norm, 5 wide buffer, "
            "6 operand buffer",
        ),
        *_unsigned(COUNT, index="first block, entry or word", count="blocks, entries or words"),
        *_unsigned(COUNT, runs="of the operand buffer: runs of `count` words"),
        *_unsigned(STRIDE, step="words from run to run"),
        *_unsigned(4, bits="of the operand buffer: 4 or 2, packed groups; 0: words as they are"),
        *_unsigned(1, values="of packed groups: 1: a range per token, 0: per channel"),
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
        *_unsigned(2, residual="a word of the wide buffer, scaled: 1 is added, 2 is a factor"),
        *_unsigned(ADDRESS, residual_base="its first word"),
        *_unsigned(
            STRIDE,
            residual_sample="words from sample to sample",
            residual_block="words from channel block to channel block",
            residual_row="words from map row to map row",
            residual_col="words from map column to map column",
        ),
        *_signed(MEMORY, residual_multiplier="of that word or product, as in the parameters"),
        *_signed(8, residual_shift="of that word or product"),
        *_unsigned(
            2,
            normalize="1: divide by the row sums of Attend; times magnitudes 2: of Norm, 3: of the "
            "tokens that keys are of",
        ),
        *_unsigned(1, maximum="1: scores; mask them, and keep the maximum of each row"),
        *_unsigned(COUNT, keys="columns that are not masked"),
        *_signed(COUNT, left="least column - row that is not masked", right="the largest one"),
        *_unsigned(1, running="1: the maxima go on from those of the rows' scores before"),
        *_unsigned(1, discard="1: maxima alone; no word is written"),
        *_unsigned(COUNT, ranges="first word of the ranges of tokens, for normalize = 3"),
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
        *_unsigned(1, matvec="1: on engine matvec, a group of the operand's words per clock"),
        *_unsigned(1, goes_on="1: add to the sums that stayed, those of exponentials too"),
        *_unsigned(1, stays="1: the sums stay, for the Attend that goes on or an Activate"),
        *_unsigned(COUNT, accumulator="first accumulator row of sums that are not finished"),
        *_unsigned(1, ranged="1: exponentials times magnitudes of the tokens that values are of"),
        *_unsigned(COUNT, ranges="first word of these"),
        *_unsigned(5, range_shift="right shift of such products"),
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
        *_unsigned(1, ranges="1: codes fill int8 in each row, whose magnitude is kept"),
    ),
)
ROTATE = Instruction(
    "Rotate",
    12,
    "rotary embedding or requantization of words of the wide buffer → an on-chip buffer",
    (
        *_unsigned(ADDRESS, source="first word of the input, in the wide buffer"),
        *_unsigned(
            STRIDE,
            source_block="words from channel block to channel block",
            source_col="words from row to row",
        ),
        *_unsigned(COUNT, rows="rows of the input", blocks="channel blocks of a row"),
        *_unsigned(COUNT, head_blocks="channel blocks of a head, a power of two"),
        *_unsigned(1, plain="1: no rotation, requantization alone"),
        *_unsigned(4, swap="log2 + 1 of the distance of lanes that change places; 0: none do"),
        *_unsigned(COUNT, half="block xor this is the partner's; 0: the same block"),
        *_unsigned(ADDRESS, table="first word of cosines and sines, in the wide buffer"),
        *_unsigned(STRIDE, table_col="words from row to row"),
        *_signed(MEMORY, multiplier="of the results, as in the parameters"),
        *_signed(8, shift="of the results"),
        *_unsigned(2, space="of the output: 0 unified, 1 operand, 2 wide buffer (int16)"),
        *_unsigned(ADDRESS, target="first word of the output"),
        *_unsigned(
            STRIDE,
            target_block="words from channel block to channel block",
            target_col="words from row to row",
        ),
        *_unsigned(1, ranges="1: codes fill int8 in each row, whose magnitude is kept"),
        *_unsigned(COUNT, range_word="first word of the ranges of tokens"),
        *_unsigned(MEMORY, range_first="number of the first row's token, from that word on"),
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
        ADJUST,
        ROTATE,
        PACK_CACHE,
    )
}
OPERATIONS = ("max", "sum", "add", "mul", "depthwise")
MODES = ("single_round", "double_round", "float_even")
RAW_BYTE = 4  # Activate.mode of the accumulator's byte 0
FLOAT_CODE, BF16_LOW, BF16_HIGH = 8, 9, 10  # and of sums that are float32
ENGINES = ("systolic", "fusion", "shift", "binary", "bf16", "nm", "eie", "snap", "gather", "matvec")
COMPRESSED = ("eie", "snap", "gather")  # those with a stream of their own instead of tiles
TERMS = ("int", "uint", "flint", "uflint", "pot", "e2m1", "olive")  # what the shift engine decodes
TABLES = ("parameters", "taps", "lookup", "softmax", "norm", "wide", "operands")
SPACES = ("unified", "operand", "wide", "ranges")  # on-chip buffers; magnitudes of tokens
UNIFIED, OPERAND, WIDE, RANGES = range(len(SPACES))
PARAMETER_ROWS = 14  # weight-stream rows per parameter block: byte planes, see units/requant.py
LOOKUP_ENTRIES = 256
ADDED, FACTOR = 1, 2  # Activate.residual
BY_SUM, BY_MAGNITUDE, BY_TOKEN = 1, 2, 3  # Activate.normalize


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
        "adjustments": ADJUSTMENTS,
        "most_adjusts": MOST_ADJUSTS,
        "packed_group": PACKED_GROUP,
        "registers": REGISTERS,
        "added": ADDED,
        "factor": FACTOR,
        "by_sum": BY_SUM,
        "by_magnitude": BY_MAGNITUDE,
        "by_token": BY_TOKEN,
    }


def fingerprint() -> str:
    """Text that changes whenever the instruction set does; part of an overlay's digest."""
    return repr([(i.name, i.opcode, i.fields) for i in INSTRUCTIONS.values()])
