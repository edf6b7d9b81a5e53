"""Reports of C synthesis: csynth.xml (Vivado HLS 2019 to Vitis HLS 2025) and <top>_csynth.rpt.

Values are found by tag or label, never by position: tools add columns and sections from release to
release. Whatever can't be read is a ReportError that names the file and the part.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from weft.errors import ReportError

RESOURCES = ("BRAM_18K", "DSP", "FF", "LUT", "URAM")
_ALIASES = {"DSP48E": "DSP"}  # Vivado HLS
_UNKNOWN = ("", "-", "?", "undef", "inf", "N/A", "n/a")


@dataclass(frozen=True)
class Loop:
    """A loop of a module; counts are None where the tool could not tell."""

    name: str
    trip_count: int | None
    latency: int | None
    pipeline_ii: int | None
    pipeline_depth: int | None


@dataclass(frozen=True)
class Synthesis:
    """What C synthesis says of one module.

    Clocks in ns, latency and interval in clocks, resources in the units of RESOURCES (BRAM_18K are
    halves of a 36 Kb block). `loops` holds nested loops as "outer/inner".
    """

    version: str
    part: str
    top: str
    target_ns: float
    estimated_ns: float
    uncertainty_ns: float | None
    latency: tuple[int | None, int | None]  # best, worst
    interval: tuple[int | None, int | None]
    pipeline: str
    resources: Mapping[str, int]
    available: Mapping[str, int]
    loops: tuple[Loop, ...] = ()

    @property
    def estimated_mhz(self) -> float:
        """Clock that the estimate allows."""
        return 1000.0 / self.estimated_ns


def read_text(path: Path) -> str:
    """A report's text. Raises ReportError where there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise ReportError(f"{path}: cannot read the report ({error.strerror})") from None


def read_synthesis(path: str | Path) -> Synthesis:
    """A csynth.xml or a <top>_csynth.rpt. Raises ReportError for anything else."""
    path = Path(path)
    text = read_text(path)
    try:
        return _from_xml(text) if text.lstrip().startswith("<") else _from_rpt(text)
    except ET.ParseError as error:
        raise ReportError(f"{path}: truncated or not XML ({error})") from None
    except ReportError as error:
        raise ReportError(f"{path}: {error}") from None


def number(text: str | None) -> int | None:
    """A count; None where the tool could not tell. Of a range "1 ~ 12", the larger one."""
    text = (text or "").strip()
    if "~" in text:
        text = text.rpartition("~")[2].strip()
    if text in _UNKNOWN:
        return None
    try:
        return int(float(text.replace(",", "")))
    except (ValueError, OverflowError):
        raise ReportError(f"{text!r} where a number must be") from None


def real(text: str | None, what: str) -> float:
    """A positive number of `what`. Raises ReportError where there is none."""
    found = re.match(r"\s*(\d+(?:\.\d*)?)", text or "")
    if not found or float(found[1]) <= 0:
        raise ReportError(f"{what}: {(text or '').strip()!r} where a number must be")
    return float(found[1])


def _from_xml(text: str) -> Synthesis:
    root = ET.fromstring(text)
    if root.tag != "profile":
        raise ReportError(f"root element <{root.tag}>, expected <profile> of a csynth.xml")
    assigned, estimates = "UserAssignments", "PerformanceEstimates"
    latency, interval = f"{estimates}/SummaryOfOverallLatency", "Interval-"
    return Synthesis(
        version=_text(root, "ReportVersion/Version"),
        part=_text(root, f"{assigned}/Part"),
        top=_text(root, f"{assigned}/TopModelName"),
        target_ns=real(_text(root, f"{assigned}/TargetClockPeriod"), "TargetClockPeriod"),
        estimated_ns=real(
            _text(root, f"{estimates}/SummaryOfTimingAnalysis/EstimatedClockPeriod"),
            "EstimatedClockPeriod",
        ),
        uncertainty_ns=float(root.findtext(f"{assigned}/ClockUncertainty") or 0) or None,
        latency=_pair(root, f"{latency}/Best-caseLatency", f"{latency}/Worst-caseLatency"),
        interval=_pair(root, f"{latency}/{interval}min", f"{latency}/{interval}max"),
        pipeline=root.findtext(f"{estimates}/PipelineType", "").strip(),
        resources=_resources(root, "AreaEstimates/Resources"),
        available=_resources(root, "AreaEstimates/AvailableResources"),
        loops=tuple(_loops(root.find(f"{estimates}/SummaryOfLoopLatency"), "")),
    )


def _text(root: ET.Element, path: str) -> str:
    found = (root.findtext(path) or "").strip()
    if not found:
        raise ReportError(f"no {path}: the report is truncated, or of an unknown tool")
    return found


def _pair(root: ET.Element, low: str, high: str) -> tuple[int | None, int | None]:
    return number(root.findtext(low)), number(root.findtext(high))


def _resources(root: ET.Element, path: str) -> dict[str, int]:
    element = root.find(path)
    if element is None:
        raise ReportError(f"no {path}: the report is truncated, or of an unknown tool")
    found = {_ALIASES.get(e.tag, e.tag): number(e.text) or 0 for e in element}
    missing = [name for name in RESOURCES if name not in found and name != "URAM"]
    if missing:
        raise ReportError(f"{path} has no {', '.join(missing)}")
    return {name: found.get(name, 0) for name in RESOURCES}


def _loops(element: ET.Element | None, prefix: str) -> Iterator[Loop]:
    """Loops are elements named by their label, nested ones inside; figures are their other tags."""
    for loop in element if element is not None else ():
        if loop.find("TripCount") is None and loop.find("Latency") is None:
            continue
        name = prefix + (loop.findtext("Name") or loop.tag).strip()
        tags = ("TripCount", "Latency", "PipelineII", "PipelineDepth")
        yield Loop(name, *(number(_high(loop.find(tag))) for tag in tags))
        yield from _loops(loop, f"{name}/")


def _high(element: ET.Element | None) -> str:
    """Text of a figure; of one given as <range><min/><max/></range>, the larger one."""
    if element is None:
        return ""
    return element.findtext("range/max") or element.text or ""


def tables(text: str) -> Iterator[list[list[str]]]:
    """The tables of a report: rows of cells between lines of "+---+"; rules are left out."""
    rows: list[list[str]] = []
    for line in text.splitlines():
        line = line.strip()
        if line.startswith("|") and line.endswith("|") and len(line) > 1:
            rows.append([cell.strip() for cell in line[1:-1].split("|")])
        elif not re.fullmatch(r"\+[-+]*\+", line) and rows:
            yield rows
            rows = []
    if rows:
        yield rows


def _from_rpt(text: str) -> Synthesis:
    facts = dict(re.findall(r"^\* ([A-Z][A-Za-z ]+):\s+(.*)$", text, re.MULTILINE))
    top = re.search(r"^== \S+ HLS Report for '([^']+)'", text, re.MULTILINE)
    if not top or "Version" not in facts or "Target device" not in facts:
        raise ReportError("not a report of C synthesis: its head is missing")
    clock = _row(text, "Clock", "ap_clk")
    latency = _latency(text)
    used = _utilization(text, "Total")
    return Synthesis(
        version=facts["Version"].split()[0],
        part=facts["Target device"].strip(),
        top=top[1],
        target_ns=real(clock.get("Target"), "Target"),
        estimated_ns=real(clock.get("Estimated"), "Estimated"),
        uncertainty_ns=real(clock.get("Uncertainty"), "Uncertainty"),
        latency=(number(latency[0]), number(latency[1])),
        interval=(number(latency[4]), number(latency[5])),
        pipeline=latency[6],
        resources=used,
        available=_utilization(text, "Available"),
    )


def _row(text: str, first: str, label: str) -> dict[str, str]:
    """Row `label` of the table whose first column is headed `first`."""
    for table in tables(text):
        for row in table[1:]:
            if table[0][0] == first and row[0] == label:
                return dict(zip(table[0], row, strict=False))
    raise ReportError(f"no row {label!r} under {first!r}: the report is truncated")


def _latency(text: str) -> list[str]:
    """Cells of the summary: latency min, max, the same in seconds, interval min, max, pipeline."""
    for table in tables(text):
        if len(table) > 2 and table[0][0].startswith("Latency") and len(table[-1]) == 7:
            return table[-1]
    raise ReportError("no summary of the latency: the report is truncated")


def _utilization(text: str, label: str) -> dict[str, int]:
    row = _row(text, "Name", label)
    row = {_ALIASES.get(name, name): cell for name, cell in row.items()}
    if "LUT" not in row:
        raise ReportError(f"row {label!r} has no column LUT")
    return {name: number(row.get(name)) or 0 for name in RESOURCES}
