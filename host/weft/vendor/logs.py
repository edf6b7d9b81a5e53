"""Messages in the tools' logs, with what to do about the ones that matter here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_MESSAGE = re.compile(r"^\s*(INFO|WARNING|CRITICAL WARNING|ERROR): \[([\w+]+ [\d-]+)\] (.*)$")
_II = re.compile(
    r"Pipelining result ?: Target II = (\d+|NA), Final II = (\d+)(?:, Depth = (\d+))?"
    r"(?:, (?:loop|function) '([^']+)')?"
)

# Causes and remedies after UG1448 (HLS Messaging) and UG1399.
REMEDIES = {
    "HLS 207-5572": "unknown pragma: it was ignored, so the design lost it; correct its name",
    "HLS 207-5554": "unknown option of a pragma: the pragma was ignored; correct it",
    "HLS 207-5555": "bad argument of a pragma: the pragma was ignored; name a variable in scope",
    "HLS 200-880": "a value is needed before it is computed: shorten the recurrence, interleave "
    "independent sums, or prove the distance with DEPENDENCE",
    "HLS 200-885": "more than two accesses per clock to one memory: partition or reshape it",
    "HLS 200-448": "more than two accesses per clock to one memory: partition or reshape it",
    "HLS 200-871": "the estimated clock misses the target: often still met after routing; else "
    "add register stages or lower clock_mhz",
    "HLS 200-1016": "the estimated clock misses the target: often still met after routing; else "
    "add register stages or lower clock_mhz",
    "HLS 200-779": "not canonical dataflow: one writer and one reader per channel",
    "HLS 200-992": "not canonical dataflow: one writer and one reader per channel",
    "HLS 200-979": "not canonical dataflow: one writer and one reader per channel",
    "HLS 200-805": "a stream of default depth may deadlock: give it a depth",
    "HLS 214-230": "no burst: the access has a stride",
    "HLS 214-231": "no burst: reads and writes of one port mix",
    "HLS 214-232": "no burst: the access is conditional",
    "HLS 214-234": "no burst: odd length",
    "HLS 214-109": "a loop in a dataflow region must start at 0 and step by 1",
    "COSIM 212-369": "depth of an m_axi port differs from what the test bench passes",
    "VPL 101-2": "implementation failed: look for the first ERROR of Vivado above",
}
_IGNORED = ("HLS 207-5572", "HLS 207-5554", "HLS 207-5555")


@dataclass(frozen=True)
class Message:
    """One line of a log: severity, the tool's number for it, its words, and what to do."""

    severity: str
    code: str
    text: str
    remedy: str = ""

    @property
    def ignored_pragma(self) -> bool:
        """Whether the design lost a pragma."""
        return self.code in _IGNORED

    def __str__(self) -> str:
        remedy = f" → {self.remedy}" if self.remedy else ""
        return f"[{self.code}] {self.text}{remedy}"


@dataclass(frozen=True)
class Pipelined:
    """What became of a PIPELINE pragma; `target` is None where none was asked for."""

    loop: str
    target: int | None
    final: int
    depth: int | None


def messages(lines: Iterable[str]) -> Iterator[Message]:
    """The numbered messages of a log."""
    for line in lines:
        found = _MESSAGE.match(line)
        if found:
            severity, code, text = found.groups()
            yield Message(severity, code, text.strip(), REMEDIES.get(code, ""))


def remarkable(lines: Iterable[str]) -> list[Message]:
    """Errors, and warnings that have a remedy; each once, in the order of the log."""
    found = (m for m in messages(lines) if "ERROR" in m.severity or m.remedy)
    return list(dict.fromkeys(found))


def pipelines(lines: Iterable[str]) -> list[Pipelined]:
    """Results of pipelining in a log of C synthesis; the loop "" is one the tool did not name."""
    found = []
    for message in messages(lines):
        match = _II.search(message.text)
        if match:
            target, final, depth, loop = match.groups()
            asked = int(target) if target != "NA" else None
            found.append(Pipelined(loop or "", asked, int(final), int(depth) if depth else None))
    return found


def missed(lines: Iterable[str]) -> list[Pipelined]:
    """Loops that start a new iteration less often than asked for."""
    return [p for p in pipelines(lines) if p.target is not None and p.final > p.target]


def first_error(lines: Iterable[str]) -> Message | None:
    """The first error of a log: the later ones usually follow from it."""
    return next((m for m in messages(lines) if m.severity == "ERROR"), None)
