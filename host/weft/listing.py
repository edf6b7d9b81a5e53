"""What there is to choose from: `weft list`, read from the registries themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from weft.errors import UsageError, unknown

Row = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """One thing to list: its columns (# marks numbers) and the function that gives the rows."""

    columns: tuple[str, ...]
    rows: Callable[[], list[Row]]


def _overlays() -> list[Row]:
    from weft.config import load_overlay, overlay_names

    return [
        {
            "name": o.name,
            "array": f"{o.rows}x{o.cols}",
            "buffer KiB": o.buffer_words * o.lanes // 1024,
            "accumulator rows": o.accumulator_rows,
            "bus bytes": o.bus_bytes,
            "multiplier": o.multiplier,
            "engines": ", ".join(o.engines),
            "formats": ", ".join(o.formats),
            "boards": ", ".join(o.boards),
            "digest": o.digest(),
        }
        for o in map(load_overlay, overlay_names())
    ]


def _boards() -> list[Row]:
    from weft.config import board_names, load_board

    return [
        {
            "name": b.name,
            "part": b.part,
            "family": b.family,
            "MHz": b.clock_mhz,
            "DDR GB/s": b.ddr_bytes_per_s / 1e9,
            "LUT": b.lut,
            "DSP": b.dsp,
            "BRAM36": b.bram36,
            "URAM": b.uram,
        }
        for b in map(load_board, board_names())
    ]


def _ops() -> list[Row]:
    from weft.ops import OPS

    return [
        {"name": op.name, "category": op.category, "what": op.doc}
        for op in sorted(OPS.values(), key=lambda op: op.name)
    ]


def _units() -> list[Row]:
    from weft.units import UNITS

    return [
        {"name": u.name, "instructions": ", ".join(i.name for i in u.instructions), "what": u.doc}
        for u in UNITS.values()
    ]


def _formats() -> list[Row]:
    from weft.format import describe
    from weft.formats import FORMATS

    return [describe(f) for f in FORMATS.values()]


def _calibrators() -> list[Row]:
    from weft.calibrate import CALIBRATORS

    return [
        {"name": name, "what": (function.__doc__ or "").strip().partition("\n")[0]}
        for name, function in CALIBRATORS.items()
    ]


def _methods() -> list[Row]:
    from weft.quantization.methods import METHODS

    return [{"name": name, "what": what} for name, what in METHODS.items()]


def _isa() -> list[Row]:
    from weft.isa import INSTRUCTIONS

    return [
        {
            "instruction": i.name,
            "opcode": i.opcode,
            "word": number,
            "field": f.name,
            "bits": f.bits,
            "range": f"{f.low}..{f.high}",
            "what": f.doc,
        }
        for i in INSTRUCTIONS.values()
        for number, f in enumerate(i.fields, start=1)
    ]


KINDS: dict[str, Kind] = {
    "overlays": Kind(
        (
            "name",
            "array",
            "#buffer KiB",
            "#accumulator rows",
            "#bus bytes",
            "multiplier",
            "engines",
            "formats",
            "boards",
            "digest",
        ),
        _overlays,
    ),
    "ops": Kind(("name", "category", "what"), _ops),
    "formats": Kind(("name", "#bits", "#range", "operands", "source"), _formats),
    "units": Kind(("name", "instructions", "what"), _units),
    "boards": Kind(
        ("name", "part", "family", "#MHz", "#DDR GB/s", "#LUT", "#DSP", "#BRAM36", "#URAM"), _boards
    ),
    "calibrators": Kind(("name", "what"), _calibrators),
    "methods": Kind(("name", "what"), _methods),
    "isa": Kind(("instruction", "#opcode", "#word", "field", "#bits", "range", "what"), _isa),
}


def listing(kind: str) -> list[Row]:
    """Rows of a kind, one dict each. Raises UsageError for an unknown kind."""
    if kind not in KINDS:
        raise UsageError(unknown("list of", kind, KINDS))
    return KINDS[kind].rows()
