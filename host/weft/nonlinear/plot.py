"""Pictures: a method against the true function, and its error below."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from weft.errors import MissingDependency, UsageError
from weft.nonlinear.functions import Function, Real
from weft.nonlinear.spec import Method

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

PICTURES = (".png", ".svg", ".pdf")
TRUE, BOUND = "#888888", "#bbbbbb"
COLORS = (
    *("#0b6e99", "#c8553d", "#588157", "#8d5a97", "#d19c1d"),
    *("#3d405b", "#00a896", "#e07a9b", "#6b705c"),
)
POINTS = 4096
ROWS, ROW_LENGTH = 200, 64
BINS, ROW_BINS = 160, 40


def plot(methods: Method | Sequence[Method], path: str | Path) -> Path:
    """Draws one method, or several of one function, against the function, with their errors.

    Row functions are drawn over random rows: probabilities or normalised values against the true
    ones. Raises UsageError for a name that is no picture's or methods of several functions,
    MissingDependency without matplotlib.
    """
    path = Path(path)
    chosen = [methods] if isinstance(methods, Method) else list(methods)
    functions = {m.function for m in chosen}
    if len(functions) != 1:
        raise UsageError(f"a picture shows one function, not {len(functions)}: {sorted(functions)}")
    if path.suffix not in PICTURES:
        raise UsageError(f"{path}: a picture's name ends in {', '.join(PICTURES)}")
    figure, (above, below) = _figure()
    function = chosen[0].of
    codes, x, true = _samples(function)
    _draw_true(above, function, x, true)
    for method, color in zip(chosen, COLORS * 2, strict=False):
        y = method.output.decode(method.golden(codes)).ravel()
        _draw_method(above, method, x, y, color)
        draw = _draw_error if len(chosen) == 1 else _draw_envelope
        draw(below, method, x, y - true, color)
    _label(above, below, chosen)
    return _save(figure, path)


def _samples(function: Function) -> tuple[Any, Real, Real]:
    """(input codes, what to draw along x, the true values there), flat but for the codes."""
    if not function.row:
        step = max((function.high - function.low) // POINTS, 1)
        codes = function.codes[::step]
        x = function.input.decode(codes)
        return codes, x, np.asarray(function.real(x))
    rng = np.random.default_rng(0)
    deviation = np.exp(rng.uniform(np.log(0.3), np.log(6), (ROWS, 1)))
    scale = deviation / function.input.step if function.name == "softmax" else 1000 * deviation
    codes = function.input.encode(
        rng.normal(0, 1, (ROWS, ROW_LENGTH)) * scale * function.input.step
    )
    true = np.asarray(function.real(function.input.decode(codes))).ravel()
    return codes, true, true


def _draw_true(axes: Axes, function: Function, x: Real, true: Real) -> None:
    if function.row:
        ends = [float(true.min()), float(true.max())]
        axes.plot(ends, ends, color=TRUE, lw=1, label=f"{function.name}, exact")
    else:
        axes.plot(x, true, color=TRUE, lw=3, label=f"{function.name}, exact")


def _draw_method(above: Axes, method: Method, x: Real, y: Real, color: str) -> None:
    label = f"{method.name}, ≤ {_bound(method):.2g}"
    if method.of.row:
        above.scatter(x, y, s=4, lw=0, alpha=0.5, color=color, rasterized=True, label=label)
    else:
        above.plot(x, y, color=color, lw=1, label=label)


def _draw_error(below: Axes, method: Method, x: Real, error: Real, color: str) -> None:
    """Of a method alone: every sample, between the stated bounds."""
    if method.of.row:
        below.scatter(x, error, s=4, lw=0, alpha=0.5, color=color, rasterized=True)
    else:
        below.plot(x, error, color=color, lw=0.8)
    bound = _bound(method)
    for side in (bound, -bound):
        below.axhline(side, color=BOUND, lw=1, ls="--")
    below.text(0.995, 0.97, f"largest {np.abs(error).max():.2g}, stated {bound:.2g}",
               transform=below.transAxes, ha="right", va="top", fontsize=8)  # fmt: skip
    below.set_ylim(-1.35 * bound, 1.35 * bound)
    below.set_ylabel("error")


def _draw_envelope(below: Axes, method: Method, x: Real, error: Real, color: str) -> None:
    """Of several methods: the largest magnitude in each of many bins."""
    edges = np.linspace(float(x.min()), float(x.max()), (ROW_BINS if method.of.row else BINS) + 1)
    bins = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, len(edges) - 2)
    largest = np.full(len(edges) - 1, np.nan)
    np.fmax.at(largest, bins, np.abs(error))
    least = method.output.step / 4
    some = ~np.isnan(largest)  # bins without a sample leave no gap
    middles = (edges[1:] + edges[:-1]) / 2
    below.plot(middles[some], np.maximum(largest, least)[some], color=color, lw=1.2)
    below.set_yscale("log")
    below.set_ylabel("largest error near x" if not method.of.row else "largest error near it")


def _bound(method: Method) -> float:
    """What the method states: of a softmax, for the rows that are drawn."""
    return method.row_bounds(ROW_LENGTH)[0] if method.row_sum is not None else method.error


def _label(above: Axes, below: Axes, chosen: list[Method]) -> None:
    first = chosen[0]
    above.legend(frameon=False, fontsize=8, loc="upper left", markerscale=2)
    name = f"{first.function} by {first.name}" if len(chosen) == 1 else first.function
    above.set_title(f"{name}: {first.input} in, {first.output} out", loc="left", fontsize=10)
    above.set_ylabel("value")
    if first.of.row:
        below.set_xlabel(f"exact value; {ROWS} random rows of {ROW_LENGTH}")
    else:
        below.set_xlabel("x")
        below.set_xlim(*first.domain)


def _figure() -> tuple[Any, Any]:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingDependency("a picture needs matplotlib: pip install 'weft[plot]'") from None
    figure = Figure(figsize=(7.5, 5.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(which="major", lw=0.3, color="#cccccc")
        axes.tick_params(which="both", labelsize=8)
    return figure, panels


def _save(figure: Any, path: Path) -> Path:
    from weft.program_file import replacing

    with replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=150)
    return path
