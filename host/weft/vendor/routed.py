"""Reports of Vivado: utilization and timing summary, and what they say about a board."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from weft.config import Board
from weft.errors import BuildError, ReportError
from weft.vendor.reports import read_text, tables

# Rows by label: sections move from release to release and between families.
_LABELS = {
    "lut": ("CLB LUTs", "Slice LUTs"),
    "ff": ("CLB Registers", "Slice Registers"),
    "bram36": ("Block RAM Tile",),
    "uram": ("URAM",),
    "dsp": ("DSPs",),
}
_OPTIONAL = ("uram",)  # 7-series has none

MET = "All user specified timing constraints are met."
FAILED = "Timing constraints are not met."

TIMING_REMEDIES = (
    "lower clock_mhz of the board, raise the clock uncertainty (hls/project.tcl), or choose a "
    "smaller overlay; large arrays may close with another implementation strategy"
)


@dataclass(frozen=True)
class Utilization:
    """Resources that a design takes, by the names of Board; BRAM tiles come in halves."""

    device: str
    state: str  # "Synthesized", "Fully Placed", "Routed"
    used: Mapping[str, float]
    available: Mapping[str, float]


@dataclass(frozen=True)
class Timing:
    """The design timing summary: slacks in ns, endpoints that fail; `met` is the tool's verdict."""

    met: bool
    wns_ns: float | None  # setup
    tns_ns: float | None
    failing: int
    whs_ns: float | None  # hold
    ths_ns: float | None
    wpws_ns: float | None  # pulse width


def read_utilization(path: str | Path) -> Utilization:
    """A report of report_utilization. Raises ReportError for a truncated or foreign one."""
    path = Path(path)
    text = read_text(path)
    facts = dict(re.findall(r"^\| ([A-Z][A-Za-z ]+?)\s*: (.*?)\s*$", text, re.MULTILINE))
    if "Device" not in facts:
        raise ReportError(f"{path}: not a utilization report: no line '| Device'")
    used: dict[str, float] = {}
    available: dict[str, float] = {}
    for table in tables(text):
        head = table[0]
        if head[0] != "Site Type" or "Used" not in head or "Available" not in head:
            continue
        for name, labels in _LABELS.items():
            for row in table[1:]:
                # "Slice LUTs*" points to a footnote; the first table that has a row counts.
                if row[0].rstrip("*") in labels and name not in used:
                    used[name] = _number(row, head.index("Used"), path)
                    available[name] = _number(row, head.index("Available"), path)
    missing = [name for name in _LABELS if name not in used and name not in _OPTIONAL]
    if missing:
        raise ReportError(f"{path}: no row for {', '.join(missing)}: the report is truncated")
    for name in _OPTIONAL:
        used.setdefault(name, 0.0)
        available.setdefault(name, 0.0)
    return Utilization(facts["Device"], facts.get("Design State", ""), used, available)


def _number(row: list[str], column: int, path: Path) -> float:
    try:
        return float(row[column])
    except (ValueError, IndexError):
        raise ReportError(f"{path}: row {row[0]!r} is damaged: {row[1:]}") from None


def read_timing(path: str | Path) -> Timing:
    """A report of report_timing_summary. Raises ReportError for a truncated or foreign one."""
    path = Path(path)
    text = read_text(path)
    met, failed = MET in text, FAILED in text
    if not met and not failed:
        raise ReportError(
            f"{path}: no verdict on the timing constraints: truncated, or not a timing summary"
        )
    found = re.search(r"^ *WNS\(ns\).*\n[- ]*\n(.*)$", text, re.MULTILINE)
    cells = found[1].split() if found else []
    if len(cells) < 10:
        raise ReportError(f"{path}: no figures under 'Design Timing Summary'")
    try:
        values = [None if cell in ("NA", "inf") else float(cell) for cell in cells]
    except ValueError:
        raise ReportError(f"{path}: damaged figures: {' '.join(cells)}") from None
    return Timing(
        met=met and not failed,
        wns_ns=values[0],
        tns_ns=values[1],
        failing=int(values[2] or 0) + int(values[6] or 0),
        whs_ns=values[4],
        ths_ns=values[5],
        wpws_ns=values[8],
    )


def check_timing(path: str | Path) -> Timing:
    """The timing; raises BuildError where it is not met."""
    timing = read_timing(path)
    if timing.met:
        return timing
    raise BuildError(
        f"{FAILED} {timing.failing} endpoints fail, worst setup slack {timing.wns_ns} ns, worst "
        f"hold slack {timing.whs_ns} ns ({path}). The bitstream would compute wrong results; "
        f"{TIMING_REMEDIES}"
    )


def check_utilization(path: str | Path, board: Board) -> Utilization:
    """The utilization; raises BuildError where it is of another part or exceeds the board."""
    found = read_utilization(path)
    if not same_part(found.device, board.part):
        raise BuildError(f"{path}: built for {found.device}, but {board.name} carries {board.part}")
    over = [
        f"{name} {used:g} of {getattr(board, name)}"
        for name, used in found.used.items()
        if used > getattr(board, name)
    ]
    if over:
        raise BuildError(f"{path}: does not fit {board.name}: {', '.join(over)}")
    return found


def same_part(device: str, part: str) -> bool:
    """Whether a report's device is a part: Vivado leaves out "xc", hyphens and grade at times."""

    def plain(name: str) -> str:
        return re.sub(r"^xc|-", "", name.lower())

    short, long = sorted((plain(device), plain(part)), key=len)
    return bool(short) and long.startswith(short)
