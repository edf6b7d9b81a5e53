"""One line of the benchmark's table, and how its times are taken."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """`ours` and `peer` in `unit`, `target` in words, `met` (None: nothing to compare)."""

    metric: str
    ours: float | None
    peer: float | str | None
    unit: str
    target: str = ""
    met: bool | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values: metric, ours, peer, unit, target, met."""
        return asdict(self)


def at_most(metric: str, ours: float, limit: float, unit: str, peer: Any = None) -> Row:
    """A row whose target is an upper limit."""
    return Row(metric, ours, peer, unit, f"≤ {limit:g}", bool(ours <= limit))


def at_least(metric: str, ours: float, limit: float, unit: str, peer: Any = None) -> Row:
    """A row whose target is a lower limit."""
    return Row(metric, ours, peer, unit, f"≥ {limit:g}", bool(ours >= limit))


def absent(metric: str, reason: str, unit: str = "", target: str = "") -> Row:
    """A row that can't be measured here, and why."""
    return Row(metric, None, reason, unit, target)


def interleaved(*calls: Callable[[], Any], seconds: float = 2.0, least: int = 3) -> list[float]:
    """Shortest time of each call, in seconds; the calls take turns, so all see the same machine."""
    for call in calls:
        call()
    best = [float("inf")] * len(calls)
    start, rounds = time.perf_counter(), 0
    while rounds < least or time.perf_counter() - start < seconds:
        for i, call in enumerate(calls):
            before = time.perf_counter()
            call()
            best[i] = min(best[i], time.perf_counter() - before)
        rounds += 1
    return best
