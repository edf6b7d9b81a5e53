"""Where values lie: addresses for intervals of life, none of which overlap in both time and place.

Used for the unified buffer (time = step of a segment, words) and for activation memory
(time = segment of a program, rows).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Request:
    """A value of `size` words that lives from step `first` to step `last`, both included."""

    name: str
    size: int
    first: int
    last: int


@dataclass(frozen=True)
class Plan:
    """Offset of every value, and the number of words that all of them together span."""

    offsets: Mapping[str, int]
    peak: int


def plan(requests: Sequence[Request | tuple[str, int, int, int]]) -> Plan:
    """Offsets in which no two values that live at the same time share a word.

    Greedy by size: the largest values are placed first, each in the smallest gap between those
    that live at the same time and are placed already (Pisarchyk and Lee, "Efficient Memory
    Management for Deep Neural Net Inference", 2020). The peak never exceeds the sum of the sizes.
    """
    wanted = [r if isinstance(r, Request) else Request(*r) for r in requests]
    assert all(r.size > 0 and r.first <= r.last for r in wanted), "an empty value"
    order = sorted(wanted, key=lambda r: (-r.size, r.first, r.name))
    placed: list[tuple[int, Request]] = []
    for request in order:
        placed.append((_place(request, placed), request))
    peak = max((offset + r.size for offset, r in placed), default=0)
    return Plan({r.name: offset for offset, r in placed}, peak)


def _place(request: Request, placed: Sequence[tuple[int, Request]]) -> int:
    """Offset of the smallest gap that `request` fits, or behind everything."""
    taken = sorted(
        (offset, offset + r.size)
        for offset, r in placed
        if r.first <= request.last and request.first <= r.last
    )
    best, best_size, end = -1, 0, 0
    for low, high in taken:
        gap = low - end
        if gap >= request.size and (best < 0 or gap < best_size):
            best, best_size = end, gap
        end = max(end, high)
    return end if best < 0 else best
