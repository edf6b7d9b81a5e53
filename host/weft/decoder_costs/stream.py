"""The weight stream of decoders: several memory ports, and an engine for products of a few rows.

`matvec` consumes the tiles of the systolic array as fast as memory brings them: `stream_rows` tile
rows per clock, in all columns, and a clock per row of the input. It is a design: the hardware
source has no such engine yet, and every estimate with it says so (`planned`).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import ceil

from weft.config import Overlay
from weft.isa import ENGINES
from weft.state import ISSUE_CLOCKS, Clocks

ROWS = 8  # of the input that the engine takes
FRACTION = 256  # parts of a clock in which a MatMul tells how fast its weights arrive


@dataclass(frozen=True)
class Streaming(Overlay):
    """An overlay with such an engine, whose weights come through `weight_ports` ports."""

    stream_rows: int = 8
    weight_ports: int = 4


def planned(overlay: Overlay) -> list[str]:
    """The engines of an overlay that no hardware source has."""
    return [name for name in overlay.engines if name not in ENGINES]


def matvec_clocks(m: int, rows: int, memory_rows: int, o: Streaming) -> Clocks:
    """Clocks of a product of m rows; `rows` tile rows arrive as `memory_rows` rows of memory."""
    groups = rows // o.stream_rows
    parts = max(FRACTION, -(-memory_rows * o.beats * FRACTION // (o.weight_ports * groups)))
    waits = ceil(parts / FRACTION)
    if parts > m * FRACTION:
        waits = -(-groups * parts // FRACTION) - (groups - 1) * m
    latency = 3 + o.stream_rows.bit_length()
    return Clocks(ISSUE_CLOCKS, matrix=groups * m, weight_shift=waits, drain=latency)


def streaming(overlay: Overlay | None = None) -> Streaming:
    """An overlay as decoders see it, one port and no such engine where it says nothing else.

    None: the array and buffers of `encoder16` behind four ports of 128 bits, which are as fast as
    DDR4-2400 of 64 bits.
    """
    if overlay is not None:
        facts = {f.name: getattr(overlay, f.name) for f in fields(Overlay)}
        return Streaming(**facts, stream_rows=1, weight_ports=1)
    return Streaming(
        name="decoder",
        rows=16,
        cols=16,
        bus_bytes=16,
        buffer_words=49_152,
        wide_words=24_576,
        operand_words=8_192,
        accumulator_rows=512,
        parameter_blocks=512,
        tap_words=1_024,
        weight_bits=16,
        engines=("systolic", "matvec"),
        formats=("int8", "int4", "flint4", "mxfp4", "ternary"),
        units=("requant", "vector", "lookup", "attention", "norm", "rotate"),
    )
