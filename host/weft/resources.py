"""What an overlay takes of a part: LUT, FF, DSP, block RAM and UltraRAM of every unit.

Every figure follows from the geometry: memories by their depth and width, multipliers by their
operands, arithmetic by its bits, ports by their width. The sizes may be numbers (one overlay) or
numpy arrays (many designs at once: weft.explore). Constants, their sources and how far published
designs agree: docs/estimates.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any

import numpy as np

from weft import (
    attention_costs,
    engine_costs,
    isa,
    norm_costs,
    packed_costs,
    sparse_costs,
    storage,
    stream_costs,
)
from weft.config import Board, Overlay, load_board
from weft.designs import Geometry
from weft.errors import OverlayError

KINDS = ("lut", "ff", "dsp", "bram36", "uram")
CEILINGS = {"lut": 0.70, "ff": 0.50, "dsp": 0.80, "bram36": 0.80, "uram": 0.80}  # UG1393
LIMITS = {"lut": 0.90, "ff": 1.0, "dsp": 1.0, "bram36": 1.0, "uram": 1.0}
NAMES = {"lut": "LUT", "ff": "FF", "dsp": "DSP", "bram36": "BRAM36", "uram": "URAM"}

ADDER, MULTIPLEXER, COMPARE = 33, 32, 18  # LUTs for 32 bits (B5, B9, B6)
SHIFTER_32, SHIFTER_64, SATURATE = 94, 200, 34  # LUTs (B10; B7 less its multiplexer)
PRODUCT_32 = (48, 4)  # LUTs and DSPs of 32 × 32 → 64 bits (B12)
LOW_PRODUCT_DSPS = 3  # the low 32 bits of it: the product of the high parts is left out
CALLERS = 3  # MatMul, Vector and Activate; they take turns on the epilogue
EPILOGUE_STAGES = 12  # registers of about 64 bits that a lane passes
SCALAR_PRODUCTS = 60  # address and limit products of 16 to 24 bits, a DSP each
COMMAND_BITS = 32 * isa.WORDS
COMMAND_DEPTH, TRANSFER_DEPTH, COMMAND_QUEUES = 16, 64, 4  # hls/weft/kernel.hpp
PROCESSES = 5  # fetch, load, weights, compute, store
POINTERS = 8.5  # s_axilite: four of 64 bits, nine scalars of 32
GROUP_REGISTERS = 3  # of a packed cache, that Adjusts refer to
ADJUSTED = isa.MOST_ADJUSTS * isa.ADJUSTMENTS  # values that wait for their instruction
PROGRAM_PORT_BITS = 32
HLS_TO_ROUTED = (0.75, 0.81)  # LUT and FF: sums of HLS operators against routed kernels
SYNTH_TO_ROUTED = (0.85, 1.0)


@dataclass(frozen=True)
class Resources:
    """Amounts of each kind; bram36 counts halves for a RAMB18."""

    lut: Any = 0
    ff: Any = 0
    dsp: Any = 0
    bram36: Any = 0
    uram: Any = 0

    def __add__(self, other: Resources) -> Resources:
        return Resources(*(getattr(self, k) + getattr(other, k) for k in KINDS))

    def routed(self, factors: tuple[float, float] = HLS_TO_ROUTED) -> Resources:
        """What is left of an earlier stage's LUTs and FFs after place and route."""
        return replace(self, lut=self.lut * factors[0], ff=self.ff * factors[1])

    def as_dict(self) -> dict[str, float]:
        """Kind → amount; whole numbers but for block RAM, which comes in halves."""
        return {k: _plain(getattr(self, k), 2 if k == "bram36" else 1) for k in KINDS}


@dataclass(frozen=True)
class Fit:
    """An overlay on a board: what each unit takes, and what the part has for it."""

    overlay: str
    board: str
    units: Mapping[str, Resources]
    total: Resources
    available: Resources

    @property
    def utilization(self) -> dict[str, float]:
        """Kind → share of what is available; 0 of nothing is 0."""
        return {k: _share(getattr(self.total, k), getattr(self.available, k)) for k in KINDS}

    @property
    def over(self) -> list[str]:
        """Kinds of which the part has too little, with how much."""
        return [self._told(k, LIMITS[k]) for k in KINDS if self.utilization[k] > LIMITS[k]]

    @property
    def tight(self) -> list[str]:
        """Kinds beyond what leaves the tools room for a good clock (UG1393)."""
        return [
            self._told(k, CEILINGS[k])
            for k in KINDS
            if CEILINGS[k] < self.utilization[k] <= LIMITS[k]
        ]

    @property
    def fits(self) -> bool:
        """Whether it can be placed: LUTs to 90 %, the rest to 100 %."""
        return not self.over

    def _told(self, kind: str, limit: float) -> str:
        used, there = float(getattr(self.total, kind)), float(getattr(self.available, kind))
        return f"{NAMES[kind]} {used:,.0f} of {there:,.0f} (limit {limit:.0%})"

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "fits": self.fits,
            "utilization": self.utilization,
            "over": self.over,
            "tight": self.tight,
            "total": self.total.as_dict(),
            "available": self.available.as_dict(),
            "units": {name: used.as_dict() for name, used in self.units.items()},
        }


def units(g: Geometry, board: Board) -> dict[str, Resources]:
    """What each unit of a design takes on a board's part."""
    return {
        "array": array(
            g.rows, g.cols, g.products_per_dsp, weight_bits=getattr(g, "weight_bits", 8)
        ),
        **other_engines(g),
        **row_units(g, board),
        "accumulators": accumulators(g, board),
        "buffer": memory(g.buffer_words, g.rows * 8, board),
        "requantization": requantization(g),
        "vector": vector(g),
        "transfer": transfer(g),
        "control": control(),
        "interconnect": interconnect(board, stream_costs.ports(g)),
    }


def total(g: Geometry, board: Board) -> Resources:
    """The sum over the units."""
    return sum(units(g, board).values(), Resources())


def fit(overlay: Overlay, board: Board | str) -> Fit:
    """An overlay on a board. Raises UsageError for an unknown board."""
    return _fit(overlay, load_board(board) if isinstance(board, str) else board)


@cache
def _fit(overlay: Overlay, board: Board) -> Fit:
    found = units(overlay, board)
    return Fit(overlay.name, board.name, found, sum(found.values(), Resources()), available(board))


def check(overlay: Overlay, board: Board | str) -> Fit:
    """As `fit`; raises OverlayError if the overlay does not fit: which resource, by how much."""
    found = fit(overlay, board)
    if found.over:
        raise OverlayError(
            f"overlay {overlay.name!r} does not fit {found.board}: {'; '.join(found.over)}. "
            f"`weft explore --board {found.board}` finds designs that do"
        )
    return found


def available(board: Board) -> Resources:
    """What the part has, less the shell of an Alveo card."""
    return Resources(*(getattr(board, k) - getattr(board, f"shell_{k}") for k in KINDS))


def array(
    rows: Any, cols: Any, products_per_dsp: Any = 1, bits: int = 8, weight_bits: int = 8
) -> Resources:
    """The systolic array and its delay lines (hls/weft/units/systolic.hpp).

    An element keeps its activation and control bits (shared where columns share a DSP) and three
    weights. One product per DSP: the sum is the DSP's own register, 8 LUTs are enables (A6). Two:
    both sums are added in LUTs, 34 for each (the slope over A1 to A5: 135 for four).
    """
    rows, cols, shared = np.asarray(rows), np.asarray(cols), np.asarray(products_per_dsp)
    elements, packed = rows * cols, shared > 1
    skew_lut, skew_bram = np.asarray(0), np.asarray(0)
    for lanes, width in ((rows, bits), (cols, weight_bits), (cols, 32)):
        lut, bram = storage.ram(lanes, width)
        skew_lut, skew_bram = skew_lut + lanes * lut, skew_bram + lanes * bram
    lut = elements * np.where(packed, ADDER + 1, 8) + skew_lut
    ff = elements * (3 * weight_bits + (bits + 2) / shared + 4 + np.where(packed, 32, 0))
    return Resources(lut + 20 * rows, ff + 40 * rows, elements / shared, skew_bram)


def other_engines(g: Geometry) -> dict[str, Resources]:
    """Engines beside the int8 array, by name, and the decoders of formats; designs have none."""
    engines = getattr(g, "engines", ())
    names = [name for name in engines if name in engine_costs.CELLS]
    cells = g.rows * g.cols
    made = {
        name: Resources(*(cells * amount for amount in engine_costs.CELLS[name])) for name in names
    }
    for name in (n for n in engines if n in sparse_costs.COSTS):
        made[name] = Resources(*sparse_costs.COSTS[name](g))
    if "matvec" in engines:
        made["matvec"] = Resources(*stream_costs.matvec(g))
    lut, dsp = engine_costs.decoders(getattr(g, "formats", ()), getattr(g, "weight_bits", 8))
    lanes = g.cols * stream_costs.stream_rows(g)
    return {**made, "decoders": Resources(lut=lanes * lut, dsp=lanes * dsp)} if lut else made


def row_units(g: Geometry, board: Board) -> dict[str, Resources]:
    """Attention, norms and rotations, with the wide buffer of all; designs have none."""
    there = set(getattr(g, "units", ())) & {"attention", "norm", "rotate"}
    made: dict[str, tuple[Any, ...]] = {}
    if there:
        made["wide"] = attention_costs.wide(g, board)
    if "attention" in there:
        made["attention"] = attention_costs.attention(g)
    if "norm" in there:
        made["norm"] = norm_costs.norm(g)
    if "ranges" in getattr(g, "units", ()):
        made["ranges"] = norm_costs.ranges(g)
    if "packed_cache" in getattr(g, "units", ()):
        made["packed_cache"] = packed_costs.packed_cache(g)
    if "token_ranges" in getattr(g, "units", ()):
        made["token_ranges"] = norm_costs.token_ranges(g)
    if "rotate" in there:
        made["rotate"] = attention_costs.rotate(g)
    return {name: Resources(*amounts).routed() for name, amounts in made.items()}


def accumulators(g: Geometry, board: Board) -> Resources:
    """Two banks of int32 per column with an adder (hls/weft/units/matmul.hpp)."""
    bank = memory(g.accumulator_rows, 32, board)
    banks = 2 * np.asarray(g.cols)
    stages = Resources(lut=g.cols * (ADDER + 2), ff=g.cols * 3 * 32)
    return stages + Resources(*(banks * getattr(bank, k) for k in KINDS))


def memory(depth: Any, width: Any, board: Board) -> Resources:
    """A large memory: UltraRAM if the part has it and the memory is deep, else block RAM."""
    deep = (np.asarray(depth) >= storage.URAM_FROM) & (board.uram > 0)
    lut, bram = storage.ram(depth, width)
    return Resources(
        lut=np.where(deep, 0, lut),
        bram36=np.where(deep, 0, bram),
        uram=np.where(deep, storage.uram(depth, width), 0),
    )


def requantization(g: Geometry, shared: bool = True) -> Resources:
    """Epilogue per lane, its parameters and lookup (hls/weft/units/activate.hpp, requant.hpp).

    One multiplier of a lane serves the three modes (requant.hpp). `shared`: one pipeline also
    serves MatMul, Vector and Activate, which never run at once, as the source asks by an ALLOCATION
    pragma; without it each of the three has its own.
    """
    before = ADDER + MULTIPLEXER + 8  # bias, and which of the two scales
    single = PRODUCT_32[0] + 2 * ADDER + SHIFTER_64 + SATURATE
    double = SHIFTER_32 + SATURATE + 4 * ADDER + SATURATE + SHIFTER_32 + ADDER + COMPARE
    even = 2 * ADDER + 2 * 30 + SHIFTER_32 + 2 * SHIFTER_64 + 3 * ADDER
    after = 2 * (COMPARE + MULTIPLEXER) + ADDER + 2 * 8  # clamp, zero point, raw byte, lookup
    pipelines = np.asarray(g.cols) * (1 if shared else CALLERS)
    arithmetic = Resources(
        pipelines * (before + single + double + even + after),
        pipelines * EPILOGUE_STAGES * 64,
        pipelines * PRODUCT_32[1],
    ).routed()
    lut, bram = np.asarray(0), np.asarray(0)
    for width, count in ((32 * g.cols, 3), (8 * g.cols, 2)):
        table = storage.ram(g.parameter_blocks, width)
        lut, bram = lut + count * table[0], bram + count * table[1]
    table = storage.ram(isa.LOOKUP_ENTRIES, 8)
    return arithmetic + Resources(lut=lut + g.cols * table[0], bram36=bram + g.cols * table[1])


def vector(g: Geometry) -> Resources:
    """Lane-wise arithmetic, 16 × 16 and 32 × 16 bits, and the taps (hls/weft/units/vector.hpp)."""
    lanes = np.asarray(g.cols)
    lut, bram = storage.ram(g.tap_words, 8 * g.rows)
    each = 17 + COMPARE + 2 * MULTIPLEXER + ADDER
    arithmetic = Resources(lanes * each, lanes * 120, 3 * lanes).routed()
    return arithmetic + Resources(lut=lut, bram36=bram)


def transfer(g: Geometry) -> Resources:
    """Memory ports, register map, and the streams between the processes."""
    bits, port = 8 * np.asarray(g.rows), 8 * np.asarray(g.bus_bytes)
    made, further = Resources(*stream_costs.feed(g)), stream_costs.ports(g) - 1
    tiles = (g.weight_tiles * g.rows, stream_costs.tile_bits(g))
    for depth, width in (tiles, (TRANSFER_DEPTH, bits), (TRANSFER_DEPTH, bits)):
        lut, ff, bram = storage.fifo(depth, width)
        made += Resources(lut=lut, ff=ff, bram36=bram)
    ports = [m_axi(port)] * (3 + further)
    return sum([*ports, m_axi(PROGRAM_PORT_BITS), s_axilite(POINTERS + further)], made).routed()


def m_axi(bits: Any) -> Resources:
    """One memory port, read and write (fitted to Vitis HLS 2023.2: M32 to M512, within 8 %)."""
    bits = np.asarray(bits)
    return Resources(632 + 4.0 * bits, 476 + 5.9 * bits, 0, np.minimum(bits / 32, 15))


def s_axilite(pointers: Any) -> Resources:
    """The register map, by pointers of 64 bits (exact on eleven sizes, M6)."""
    return Resources(40 + 128 * pointers, 36 + 70 * pointers)


def control() -> Resources:
    """Fetch, checks, window walks and the queues of commands: the same in every design.

    Adjust (hls/weft/adjust.hpp) has a product of 32 bits, of which the low half counts, a shifter
    and the values of two of them.
    """
    lut, ff, bram = storage.fifo(COMMAND_DEPTH, COMMAND_BITS)
    arithmetic = SCALAR_PRODUCTS * (ADDER + COMPARE)
    adjust = SHIFTER_32 + (4 + GROUP_REGISTERS) * ADDER + COMPARE + (ADJUSTED + 2) * MULTIPLEXER
    return Resources(
        COMMAND_QUEUES * lut + 2 * arithmetic + adjust,
        COMMAND_QUEUES * ff + PROCESSES * COMMAND_BITS + SCALAR_PRODUCTS * 64 + ADJUSTED * 40,
        SCALAR_PRODUCTS + LOW_PRODUCT_DSPS,
        COMMAND_QUEUES * bram,
    ).routed()


def interconnect(board: Board, weight_ports: int = 1) -> Resources:
    """SmartConnects to the memory, AXI-Lite and reset beside the kernel (X6 to X13).

    On Alveo all of it belongs to the shell.
    """
    if board.family == "alveo":
        return Resources()
    connects = 3 + weight_ports
    return Resources(connects * 930 + 690, connects * 1310 + 650).routed(SYNTH_TO_ROUTED)


def _share(used: Any, there: Any) -> float:
    return float(used) / float(there) if there else float("inf") if used else 0.0


def _plain(value: Any, steps: int) -> float:
    rounded = float(np.ceil(float(value) * steps - 1e-9)) / steps
    return int(rounded) if rounded.is_integer() else rounded


assert tuple(f.name for f in fields(Resources)) == KINDS
