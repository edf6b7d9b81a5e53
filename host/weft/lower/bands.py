"""Stages whose maps don't fit the unified buffer: bands of target rows, with the rows they read."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from weft.config import Overlay, load_overlay, overlay_names
from weft.errors import CapacityError
from weft.lower.context import Context
from weft.lower.geometry import WIDE, Place, union
from weft.lower.places import capacities
from weft.lower.stage import AttentionOp, Stage


@dataclass(frozen=True)
class Band:
    """Target rows [low, high), and where they and what they read lie."""

    rows: tuple[int, int]
    places: dict[str, Place]
    words: tuple[int, ...]  # per buffer


def bands(context: Context, stage: Stage) -> list[Band]:
    """The fewest bands that fit. Raises CapacityError if a single row does not."""
    height = context.maps[stage.target].height
    limits = capacities(context.overlay)
    count = 1
    while True:
        ends = [_end(stage, i * height // count) for i in range(count)]
        cuts = [cut for cut in itertools.pairwise([*ends, height]) if cut[0] < cut[1]]
        found = [_band(context, stage, cut) for cut in cuts]
        needs = [max(sizes) for sizes in zip(*(band.words for band in found), strict=True)]
        if all(need <= limit for need, limit in zip(needs, limits, strict=True)):
            return found
        if count == height:
            raise CapacityError(_too_large(context, stage, needs[0]))
        worst = max(n / max(limit, 1) for n, limit in zip(needs, limits, strict=True))
        count = min(height, max(count + 1, int(count * worst / 2)))


def _end(stage: Stage, row: int) -> int:
    """A row of the target up to which whole rows of every operation's output go: `row`, or the
    last one before it."""
    for op in stage.ops:
        if op.target.flat and row:
            over = (row - op.target.y0) % op.target.step_y
            row = row - over if row > op.target.y0 else 0
    return row


def _band(context: Context, stage: Stage, rows: tuple[int, int]) -> Band:
    needs = union(_needs(stage, rows))
    whole = {name: (0, context.maps[name].height) for name in stage.scratch}
    scores = {op.scratch for op in stage.ops if isinstance(op, AttentionOp)}
    positions = (rows[1] - rows[0]) * context.maps[stage.target].width
    whole |= {name: (0, min(positions, context.maps[name].height)) for name in scores}
    places: dict[str, Place] = {}
    used = [0, 0, 0]
    for name, (low, high) in {**needs, **whole, **dict.fromkeys(stage.targets, rows)}.items():
        space = context.maps[name].space if name in stage.sources or name in whole else None
        if space is None:
            space = context.maps[name].space if context.maps[name].space == WIDE else 0
        if name == stage.also:
            places[name] = replace(places[stage.over], origin=low)
            continue
        place = context.place(name, used[space], high - low, low, space)
        places[name] = place
        used[space] += place.sample
    return Band(rows, places, tuple(used))


def _needs(stage: Stage, rows: tuple[int, int]) -> Iterator[tuple[str, tuple[int, int]]]:
    """Input rows of every operation that writes target rows [low, high)."""
    for op in stage.ops:
        first, last = op.output_rows(*rows)
        if first < last:
            yield from op.reads(first, last).items()


def _too_large(context: Context, stage: Stage, need: int) -> str:
    overlay = context.overlay
    fitting = [o.name for o in _overlays() if _least_words(context, stage, o) <= o.buffer_words]
    known = f"; of those that come with weft: {', '.join(fitting)}" if fitting else ""
    return (
        f"layer {stage.layer.name!r} ({stage.layer.op}): one row of its output and the rows that "
        f"it reads take {need} words of the unified buffer; overlay {overlay.name!r} has "
        f"{overlay.buffer_words}. An overlay of {overlay.rows} rows with buffer_words of {need} "
        f"or more would do{known}"
    )


def _overlays() -> list[Overlay]:
    return [load_overlay(name) for name in overlay_names()]


def _least_words(context: Context, stage: Stage, overlay: Overlay) -> int:
    """Words that the largest one-row band of `stage` takes on an overlay of another width."""
    ratio = context.lanes / overlay.lanes
    height = context.maps[stage.target].height
    found = [_band(context, stage, (y, y + 1)) for y in range(height)]
    return max(
        sum(
            math.ceil(context.maps[name].blocks * ratio) * place.block
            for name, place in band.places.items()
        )
        for band in found
    )
