"""Roofs of an overlay on a board, the layers under them, and pictures of both.

The model is that of Williams et al., "Roofline", CACM 2009, with MACs for operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weft.errors import MissingDependency, UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from weft.estimate import Estimate
    from weft.explore import Exploration

PICTURES = (".png", ".svg", ".pdf")
NAMES_SHOWN = 3  # of layers that share a label
INK, ROOF, HOT, COLD = "#333333", "#555555", "#c05a2b", "#2f6f8f"


@dataclass(frozen=True)
class Roofline:
    """Two roofs: multiply-accumulates per second of the array, bytes per second of the memory."""

    macs_per_s: float
    bytes_per_s: float

    @property
    def ridge(self) -> float:
        """MACs per byte from which on the array is the limit."""
        return self.macs_per_s / self.bytes_per_s

    def bound(self, intensity: float) -> float:
        """MACs per second that `intensity` MACs per byte may reach."""
        return min(self.macs_per_s, intensity * self.bytes_per_s)


@dataclass(frozen=True)
class Point:
    """One layer: MACs per byte moved, MACs per second reached, its share of the time."""

    name: str
    intensity: float
    macs_per_s: float
    share: float


def roofline(made: Estimate) -> Roofline:
    """The roofs of an estimate's overlay and board. Raises UsageError without a board.

    Bytes come and go as fast as the memory, or the kernel's ports for them, if these are slower.
    """
    if made.board is None or not made.layers:
        raise UsageError("a roofline needs a board, and a program with layers: --board NAME")
    clock = made.board.clock_mhz * 1e6
    peak = max(layer.multipliers for layer in made.layers) * clock
    return Roofline(peak, min(made.board.memory_bytes_per_s, made.port_bytes * clock))


def points(made: Estimate) -> list[Point]:
    """Layers that multiply, in order. A layer with no bytes of its own moves its instructions."""
    whole = made.wall_s or 1.0
    return [
        Point(layer.name, layer.macs / layer.bytes, layer.macs / layer.wall_s, layer.wall_s / whole)
        for layer in made.layers
        if layer.macs and layer.bytes and layer.wall_s
    ]


def draw(made: Estimate, path: Path) -> Path:
    """Writes the picture of an estimate; areas show shares of the time.

    Raises UsageError without a board or for a name that is no picture's, MissingDependency
    without matplotlib.
    """
    import numpy as np

    roof, layers = roofline(made), points(made)
    figure, axes = new_figure(path)
    reach = [p.intensity for p in layers] + [roof.ridge]
    x = np.geomspace(min(reach) / 4, max(reach) * 6, 200)
    axes.loglog(x, [roof.bound(float(v)) / 1e9 for v in x], color=ROOF, lw=1.6)
    axes.axvline(roof.ridge, color=ROOF, lw=0.6, ls=":")
    for p in layers:
        color = COLD if p.intensity >= roof.ridge else HOT
        axes.scatter(
            p.intensity, p.macs_per_s / 1e9, s=20 + 600 * p.share, color=color, alpha=0.55, lw=0
        )
    _label(axes, [(p.name, p.intensity, p.macs_per_s / 1e9, p.share) for p in layers])
    assert made.board is not None
    axes.set_title(f"{made.program}, batch {made.batch}, on {made.board.name}", loc="left")
    axes.set_xlabel("MACs per byte from and to memory")
    axes.set_ylabel("GMAC/s")
    axes.text(x[-1], roof.macs_per_s / 1e9 * 1.12, f"array: {roof.macs_per_s / 1e9:,.0f} GMAC/s",
              ha="right", fontsize=8, color=INK)  # fmt: skip
    memory = f"memory: {roof.bytes_per_s / 1e9:.3g} GB/s "
    height = roof.bound(float(x[60])) / 1e9 * 1.12
    axes.text(x[60], height, memory, ha="right", fontsize=8, color=INK)
    axes.text(roof.ridge, axes.get_ylim()[0] * 1.2, f" ridge {roof.ridge:,.0f}", fontsize=8)
    axes.set_ylim(top=roof.macs_per_s / 1e9 * 2)
    return save(figure, path)


def draw_front(found: Exploration, path: Path) -> Path:
    """Writes the picture of an exploration: time against DSPs, LUTs and memory.

    Raises UsageError for a name that is no picture's, MissingDependency without matplotlib.
    """
    figure, panels = new_figure(path, columns=3)
    for axes, kind in zip(panels, ("dsp", "lut", "bram36"), strict=True):
        for candidate in found.front:
            shares = candidate.fit.utilization
            share = 100 * (max(shares[kind], shares["uram"]) if kind == "bram36" else shares[kind])
            size = 6 * candidate.overlay.rows**0.8
            color = HOT if candidate.overlay.multiplier == "packed" else COLD
            axes.scatter(share, candidate.seconds * 1e3, s=size, color=color, alpha=0.5, lw=0)
        axes.set_yscale("log")
        for ticks in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
            ticks(lambda value, _: f"{value:.3g}" if f"{value:e}"[0] in "125" else "")
        axes.set_xlim(0, 105)
        names = {"dsp": "DSPs", "lut": "LUTs", "bram36": "block RAM or UltraRAM"}
        axes.set_xlabel(f"{names[kind]}, % of the part")
    panels[0].set_ylabel("ms per run")
    for color, text in ((COLD, "one product per DSP"), (HOT, "two")):
        panels[-1].scatter([], [], color=color, alpha=0.5, lw=0, label=text)
    panels[-1].legend(frameon=False, fontsize=8)
    panels[0].set_title(
        f"{found.board.name}: {', '.join(found.networks)}, batch {found.batch}; "
        "area: rows of the array",
        loc="left",
    )
    return save(figure, path)


def _label(axes: Axes, layers: Sequence[tuple[str, float, float, float]]) -> None:
    """Names beside the points; layers that lie close together share one label."""
    import math

    groups: list[tuple[float, float, list[str]]] = []
    for name, x, y, _ in sorted(layers, key=lambda layer: -layer[3]):
        for at_x, at_y, names in groups:
            if abs(math.log10(x / at_x)) < 0.35 and abs(math.log10(y / at_y)) < 0.09:
                names.append(name)
                break
        else:
            groups.append((x, y, [name]))
    for x, y, names in groups:
        more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
        text = ", ".join(names[:NAMES_SHOWN]) + more
        axes.annotate(text, (x, y), xytext=(7, -3), textcoords="offset points", fontsize=7)


def new_figure(path: Path, columns: int = 1, one_scale: bool = True) -> tuple[Figure, Any]:
    """A figure for the picture `path`, and its panels; with `one_scale` they share the y axis.

    Raises UsageError for a name that is no picture's, MissingDependency without matplotlib.
    """
    if path.suffix not in PICTURES:
        raise UsageError(f"--plot {path}: a picture's name ends in {', '.join(PICTURES)}")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingDependency("--plot needs matplotlib: pip install 'weft[plot]'") from None
    figure = Figure(figsize=(7.5 if columns == 1 else 5.0 * columns, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    made = figure.subplots(1, columns, sharey=one_scale)
    for axes in [made] if columns == 1 else made:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(which="major", lw=0.3, color="#cccccc")
        axes.tick_params(which="both", labelsize=8)
        axes.title.set_fontsize(10)
    return figure, made


def save(figure: Figure, path: Path) -> Path:
    """Writes the picture whole or not at all; its path."""
    from weft.program_file import replacing

    with replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=150)
    return path
