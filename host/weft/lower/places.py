"""Where the maps of a segment lie on chip: a plan per buffer, for one sample."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from weft.config import Overlay
from weft.lower.context import Context
from weft.lower.geometry import OPERAND, UNIFIED, WIDE, Place
from weft.lower.stage import AttentionOp, Stage
from weft.memory import Request, plan

Lives = dict[str, tuple[int, int]]  # first and last step of every map


@dataclass(frozen=True)
class Places:
    """Place of every map, and the words that all of them span, per buffer."""

    places: Mapping[str, Place]
    peaks: tuple[int, int, int]

    @property
    def peak(self) -> int:
        """Words of the unified buffer."""
        return self.peaks[UNIFIED]

    @property
    def alone(self) -> bool:
        """Whether a run holds one sample: operand and wide buffer know no other."""
        return any(self.peaks[UNIFIED + 1 :])

    def fits(self, overlay: Overlay, batch: int = 1) -> bool:
        """Whether all of it is there for `batch` samples."""
        sizes = capacities(overlay)
        return all(batch * p <= size for p, size in zip(self.peaks, sizes, strict=True))

    def of(self, batch: int) -> dict[str, Place]:
        """The places with room for `batch` samples."""
        return {n: replace(p, base=p.base * batch) for n, p in self.places.items()}


def capacities(overlay: Overlay) -> tuple[int, int, int]:
    """Words of the unified, the operand and the wide buffer."""
    return overlay.buffer_words, overlay.operand_words, overlay.wide_words


def lives_of(stages: Sequence[Stage]) -> Lives:
    """First and last step in which a map is used."""
    found: Lives = {}
    for step, stage in enumerate(stages):
        for name in (*stage.sources, *stage.targets, *stage.scratch):
            found[name] = (found.get(name, (step, step))[0], step)
    return found


def spaces_of(context: Context, stages: Sequence[Stage], names: Collection[str]) -> dict[str, int]:
    """The buffer of every map: keys and values that no stage here reads lie in the unified one."""
    read = {name for stage in stages for name in (*stage.sources, *stage.scratch)}
    own = {name: context.maps[name].space for name in names}
    return {n: UNIFIED if s == OPERAND and n not in read else s for n, s in own.items()}


def place_all(
    context: Context, stages: Sequence[Stage], lives: Lives, spaces: Mapping[str, int]
) -> Places:
    """Places of all maps. Scores take as many rows of queries at a time as fit beside the rest."""
    scores = [op.scratch for s in stages for op in s.ops if isinstance(op, AttentionOp)]
    rows = {name: context.maps[name].height for name in lives}
    while True:
        found = _placed(context, stages, lives, spaces, rows)
        if found.peaks[WIDE] <= context.overlay.wide_words or all(rows[n] == 1 for n in scores):
            return found
        rows |= {n: (rows[n] + 1) // 2 for n in scores}


def _placed(
    context: Context,
    stages: Sequence[Stage],
    lives: Lives,
    spaces: Mapping[str, int],
    rows: Mapping[str, int],
) -> Places:
    holder = _shared(stages, lives, spaces)
    spans: Lives = {}
    for name, (first, last) in lives.items():
        root = holder.get(name, name)
        known = spans.get(root, (first, last))
        spans[root] = (min(first, known[0]), max(last, known[1]))
    sizes = {n: context.place(n, 0, rows[n], 0, spaces[n]).sample for n in lives}
    offsets: dict[str, int] = {}
    peaks = [0, 0, 0]
    for space in (UNIFIED, OPERAND, WIDE):
        mine = [Request(n, sizes[n], *spans[n]) for n in spans if spaces[n] == space]
        found = plan(mine)
        offsets |= found.offsets
        peaks[space] = found.peak
    places = {n: context.place(n, offsets[holder.get(n, n)], rows[n], 0, spaces[n]) for n in lives}
    return Places(places, (peaks[0], peaks[1], peaks[2]))


def _shared(stages: Sequence[Stage], lives: Lives, spaces: Mapping[str, int]) -> dict[str, str]:
    """Maps that take the words of another one, which nothing reads any more → that one."""
    holder: dict[str, str] = {}
    for step, stage in enumerate(stages):
        result = stage.also or stage.target
        if stage.over and lives[stage.over][1] == step and spaces[result] == spaces[stage.over]:
            holder[result] = holder.get(stage.over, stage.over)
    return holder
