"""Fields of instructions from windows, places and rectangles; parts that fit a limit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from weft.lower.geometry import Place, Rect, Target, Window
from weft.lower.stage import Pass, Residual, Second
from weft.program import Rule

Rules = tuple[Rule, ...]


def seen(part: Pass, rect: Rect, place: Place) -> tuple[Window, dict[str, int]]:
    """The window of an operation and where its input lies."""
    if not part.flat:
        return part.window.cut(rect, place.origin, place.rows), source(place, part.block0)
    assert place.block == place.rows * place.width, "a map that is a vector has no gaps"
    fields = {"source": place.base, "source_sample": place.sample, "source_block": 1}
    return Window(1, 1, 1, 1), fields | {"source_row": 1, "source_col": 1}


def source(place: Place, block: int) -> dict[str, int]:
    """Where MatMul and Vector read a map, from a channel block on."""
    return {
        "source": place.at(block, place.origin),
        "source_sample": place.sample,
        "source_block": place.block,
        "source_row": place.width,
        "source_col": 1,
    }


def second(second: Second, place: Place, rect: Rect, block: int) -> dict[str, int]:
    """Where add and mul read their second operand."""
    y = rect.y0 if second.per_row else place.origin
    x = rect.x0 if second.per_col else 0
    return {
        "second": place.at(block if second.per_block else 0, y, x),
        "second_sample": place.sample,
        "second_block": place.block if second.per_block else 0,
        "second_row": place.width if second.per_row else 0,
        "second_col": 1 if second.per_col else 0,
        "second_zero": second.zero,
        "second_scale": second.scale,
    }


def joined(taps: NDArray[np.int8]) -> NDArray[np.int8]:
    """Taps of several blocks as rows of the stream."""
    return taps.reshape(-1, taps.shape[-1])


def even(low: int, high: int, limit: int, unit: int = 1) -> Iterator[tuple[int, int]]:
    """low..high-1 in as few parts of at most `limit` as can be, of nearly equal size.

    Parts begin at multiples of `unit` from `low`, which is no more than the limit.
    """
    count = -(-max(high - low, 0) // unit)
    parts = -(-count // max(limit // unit, 1))
    for i in range(parts):
        first, last = (low + (i + j) * count // parts * unit for j in range(2))
        yield first, min(last, high)


def added(
    residual: Residual | None, places: Mapping[str, Place], rect: Rect, block: int, to: Target
) -> dict[str, int]:
    """Fields of Activate for what it adds, which lies as the output that goes `to` its target."""
    if residual is None:
        return {}
    place = places[residual.source]
    return {
        "residual": residual.kind,
        "residual_base": place.at(block, to.y0 + rect.y0 * to.step_y, to.x0 + rect.x0 * to.step_x),
        "residual_sample": place.sample,
        "residual_block": place.block,
        "residual_row": place.width * to.step_y,
        "residual_col": to.step_x,
        "residual_multiplier": residual.multiplier,
        "residual_shift": residual.shift,
    }


def ifs(rules: Rules) -> Rules:
    """The conditions of rules, without their fields."""
    return tuple(replace(rule, field="") for rule in rules)


def moved(symbol: str, place: Place, each: int, blocks: int) -> Rules:
    """Rules of a transfer of tokens, a row each: samples lie one behind another in memory."""
    words = Rule(0, 0, "words", symbol, place.origin, place.rows)
    steps = (("memory_step", each), ("memory_sample", each * blocks))
    return words, *(Rule(0, 0, name, symbol, scale=scale) for name, scale in steps)
