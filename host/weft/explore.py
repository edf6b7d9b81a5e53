"""The design space of a board: which overlay fits it and is fastest, and what the others trade.

Every design is judged by the formulas of weft.resources and weft.workload on numpy arrays; the
Pareto front is then compiled and estimated exactly, where there is a graph to compile.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weft import resources, workload
from weft.config import Board, Overlay, load_board
from weft.designs import Designs, space
from weft.errors import CapacityError, OverlayError
from weft.fanout import Progress, fan_out
from weft.graph import Graph
from weft.workload import Layers, Work

Floats = NDArray[np.float64]
CHUNK = 16_384  # designs per task
GRAIN = 1.1  # designs closer than this in every respect count as one
FRONT_LARGEST = 40
POOL_FROM_S = 5.0  # less work than this is done before processes have started
URAM_TILES = 8  # an UltraRAM holds as much as eight RAMB36


@dataclass(frozen=True)
class Candidate:
    """A design of the front; `exact` tells that its time is that of the compiled program."""

    overlay: Overlay
    seconds: float
    fit: resources.Fit
    exact: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Plain values: the sizes, the time, what it takes."""
        sizes = {f.name: getattr(self.overlay, f.name) for f in fields(Designs)}
        return {
            **sizes,
            "multiplier": self.overlay.multiplier,
            "seconds": self.seconds,
            "exact": self.exact,
            "resources": self.fit.total.as_dict(),
            "utilization": self.fit.utilization,
            "tight": self.fit.tight,
        }


@dataclass(frozen=True)
class Exploration:
    """What `explore` found: the front by time, fastest first."""

    board: Board
    networks: Mapping[str, Layers]
    batch: int
    designs: int
    fitting: int
    front: tuple[Candidate, ...]
    wall_s: float

    @property
    def best(self) -> Candidate:
        """The design of highest predicted throughput."""
        return self.front[0]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "board": self.board.name,
            "networks": list(self.networks),
            "batch": self.batch,
            "designs": self.designs,
            "fitting": self.fitting,
            "wall_s": self.wall_s,
            "best": self.best.as_dict(),
            "front": [candidate.as_dict() for candidate in self.front],
        }


def explore(
    board: Board | str,
    networks: Mapping[str, Layers] | None = None,
    *,
    graph: Graph | None = None,
    batch: int = 1,
    designs: Designs | None = None,
    comfortable: bool = False,
    workers: int = 1,
    dask: str | None = None,
    progress: Progress | None = None,
) -> Exploration:
    """The front of a board for `networks`, by default those of weft.workload.MIX.

    The time of several networks is the geometric mean of theirs. With `graph`, a quantized one,
    the front is compiled, and its times are exact. `comfortable` keeps to the shares of the part
    that UG1393 advises; else LUTs may reach 90 %, the rest 100 %. `workers` processes, or the
    Dask cluster at address `dask`, share the work; `progress` hears (done, total).

    Raises UsageError for an unknown board, OverlayError where nothing fits.
    """
    start = time.perf_counter()
    place = load_board(board) if isinstance(board, str) else board
    chosen = networks or {name: make() for name, make in workload.MIX.items()}
    every = designs if designs is not None else space(place)
    judge = partial(_judge, board=place, networks=tuple(chosen.values()), batch=batch)
    tell = progress or (lambda done, total: None)
    starts = range(0, len(every), CHUNK)
    cuts = [every.take(np.arange(i, min(i + CHUNK, len(every)))) for i in starts]
    # The arithmetic of a chunk takes less time than a process to start: only a cluster shares it.
    judged = np.concatenate(fan_out(judge, cuts, dask=dask, progress=tell), axis=1)
    fitting = np.flatnonzero(_fits(judged, place, comfortable) & np.isfinite(judged[0]))
    if not len(fitting):
        raise OverlayError(
            f"none of {len(every):,} designs fits board {place.name!r}"
            f"{' comfortably' if comfortable else ''} and runs {', '.join(chosen)} at batch {batch}"
        )
    keep = fitting[pareto(_objectives(judged[:, fitting]))]
    front = [_candidate(every.overlay(int(i)), judged[0, i], place) for i in _spread(keep)]
    if graph is not None:
        front = _exact(front, graph, place, batch, workers, dask, tell)
    wall = time.perf_counter() - start
    return Exploration(place, chosen, batch, len(every), len(fitting), tuple(front), wall)


def _judge(
    designs: Designs, board: Board, networks: Sequence[Sequence[Work]], batch: int
) -> Floats:
    """Time and resources of designs: [seconds, dsp, lut, bram36, ff, uram] × designs."""
    times = [workload.seconds(layers, designs, board, batch) for layers in networks]
    with np.errstate(divide="ignore"):
        mean = np.exp(np.mean(np.log(times), axis=0))
    used = resources.total(designs, board)
    rows = (mean, used.dsp, used.lut, used.bram36, used.ff, used.uram)
    return np.stack([np.broadcast_to(row, len(designs)) for row in rows]).astype(np.float64)


def _fits(judged: Floats, board: Board, comfortable: bool) -> NDArray[np.bool_]:
    limits = resources.CEILINGS if comfortable else resources.LIMITS
    there = resources.available(board)
    kinds = ("dsp", "lut", "bram36", "ff", "uram")
    room = np.array([getattr(there, kind) * limits[kind] for kind in kinds])
    return np.asarray((judged[1:] <= room[:, None]).all(axis=0))


def _objectives(judged: Floats) -> Floats:
    """What a design is chosen by: [seconds, dsp, lut, memory in RAMB36] × designs."""
    memory = judged[3] + URAM_TILES * judged[5]
    return np.stack([judged[0], judged[1], judged[2], memory])


def _spread(kept: NDArray[np.intp]) -> NDArray[np.intp]:
    """At most FRONT_LARGEST of them, from the first to the last."""
    many = min(len(kept), FRONT_LARGEST)
    return kept[np.linspace(0, len(kept) - 1, many).astype(np.intp)]


def _candidate(overlay: Overlay, seconds: float, board: Board) -> Candidate:
    return Candidate(overlay, float(seconds), resources.fit(overlay, board))


def pareto(values: Floats) -> NDArray[np.intp]:
    """Columns of `values` [objectives, designs] that no other betters in all, by the first.

    Values within a factor of GRAIN count as equal: of many like designs the fastest remains, and
    of equally fast ones that with the smallest product of the others.
    """
    coarse = np.round(np.log(np.maximum(values, 1e-12)) / np.log(GRAIN)).astype(np.int64)
    order = np.lexsort((coarse[1:].sum(axis=0), values[0]))
    kept: list[int] = []
    for column in order:
        point = coarse[:, column]
        if not kept or not (coarse[:, kept] <= point[:, None]).all(axis=0).any():
            kept.append(int(column))
    return np.array(kept, np.intp)


def _exact(
    front: list[Candidate],
    graph: Graph,
    board: Board,
    batch: int,
    workers: int,
    dask: str | None,
    progress: Progress,
) -> list[Candidate]:
    """The front with the times of compiled programs; what can't be compiled is left out."""
    task = partial(_compiled, graph=graph, board=board, batch=batch)
    overlays = [candidate.overlay for candidate in front]
    began = time.perf_counter()
    found = [task(overlays[0])]
    if (time.perf_counter() - began) * len(overlays) < POOL_FROM_S:
        workers = 1
    found += fan_out(task, overlays[1:], workers=workers, dask=dask, progress=progress)
    exact = [
        replace(candidate, seconds=took, exact=True)
        for candidate, took in zip(front, found, strict=True)
        if took is not None
    ]
    if not exact:
        raise OverlayError(
            f"no design of the front holds {graph.name!r} at batch {batch}; try a smaller batch"
        )
    used = [c.fit.total for c in exact]
    rows = [[c.seconds for c in exact]]
    rows += [[getattr(u, kind) for u in used] for kind in ("dsp", "lut", "bram36", "ff", "uram")]
    return [exact[i] for i in pareto(_objectives(np.array(rows, np.float64)))]


def _compiled(overlay: Overlay, graph: Graph, board: Board, batch: int) -> float | None:
    """Seconds of a run by the compiled program's estimate; None where it doesn't fit."""
    from weft.estimate import estimate
    from weft.lower import lower

    try:
        return estimate(lower(graph, overlay, batch=batch), batch, board).wall_s
    except CapacityError:
        return None


def toml(candidate: Candidate, board: Board, networks: Sequence[str], name: str) -> str:
    """The text of an overlay file for a design."""
    o = candidate.overlay
    sizes: dict[str, Callable[[Overlay], int]] = {
        "rows": lambda o: o.rows,
        "cols": lambda o: o.cols,
    }
    numbers = [f.name for f in fields(Designs) if f.name not in ("rows", "products_per_dsp")]
    lines = [f"# Found by `weft explore --board {board.name}` for {', '.join(networks)}."]
    lines += [f'name = "{name}"', *(f"{key} = {get(o)}" for key, get in sizes.items())]
    lines += [f"{key} = {getattr(o, key)}" for key in numbers]
    return "\n".join([*lines, f'multiplier = "{o.multiplier}"', f'boards = ["{board.name}"]', ""])
