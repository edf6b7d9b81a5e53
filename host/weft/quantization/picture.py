"""The picture of a plan: accuracy (or error) against cost, and each layer's sensitivity."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from weft.roofline import COLD, HOT, INK, new_figure, save

if TYPE_CHECKING:
    from weft.quantization.planner import Planned


def draw(found: Planned, path: Path, title: str) -> Path:
    """Writes the picture.

    Raises UsageError for a name that is no picture's, MissingDependency without matplotlib.
    """
    figure, (left, right) = new_figure(path, columns=2, one_scale=False)
    _front(left, found)
    left.set_title(f"{title}: accuracy against cost", loc="left")
    _sensitivity(right, found)
    return save(figure, path)


def _front(axes: Any, found: Planned) -> None:
    cost = [point.cost / found.base for point in found.front]
    labelled = found.chosen.top1 is not None
    value = [100 * (p.top1 or 0) if labelled else p.error for p in found.front]
    axes.plot(cost, value, "o-", color=COLD, lw=1, ms=5)
    chosen = found.front.index(found.chosen)
    axes.plot(cost[chosen], value[chosen], "o", color=HOT, ms=9, label="the plan")
    if labelled and found.float_top1 is not None:
        axes.axhline(100 * found.float_top1, color=INK, lw=0.8, ls=":", label="float")
    if not labelled:
        axes.set_yscale("log")
    axes.set_xlabel(f"{found.unit} of the layers, relative to int8")
    axes.set_ylabel("top-1, %" if labelled else "error of the outputs, relative")
    axes.legend(frameon=False, fontsize=8)


def _sensitivity(axes: Any, found: Planned) -> None:
    names = list(found.errors)
    for fmt in next(iter(found.errors.values())):
        values = [found.errors[name][fmt] for name in names]
        axes.plot(range(len(names)), values, "o-", lw=1, ms=3, label=fmt)
    axes.set_yscale("log")
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=7)
    axes.set_ylabel("error of the outputs, relative")
    axes.set_title("one layer alone in a format", loc="left")
    axes.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
