"""The picture of what sparsity saves: bytes and clocks of each form against dense."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from weft.roofline import COLD, HOT, new_figure, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from weft.eie_load import Load
    from weft.sparse_study import Form


def draw(found: Sequence[Form], path: Path, title: str) -> Path:
    """Writes the picture: bars of the whole network, clocks of each layer, queues of engine eie.

    Raises UsageError for a name that is no picture's, MissingDependency without matplotlib.
    """
    queues = [(form.sparsity, load) for form in found for load in form.eie]
    figure, panels = new_figure(path, columns=3 if queues else 2, one_scale=False)
    left, right = panels[:2]
    dense, at = found[0], np.arange(len(found))
    nbytes = [form.weight_bytes / dense.weight_bytes for form in found]
    clocks = [form.cycles / dense.cycles for form in found]
    left.bar(at - 0.2, nbytes, 0.38, color=COLD, label="weight bytes")
    left.bar(at + 0.2, clocks, 0.38, color=HOT, label="clocks")
    left.set_xticks(at, [form.sparsity for form in found], rotation=20, fontsize=8)
    left.axhline(1, lw=0.6, color="0.6")
    left.set_ylabel("of the dense network")
    left.set_title(f"{title}: what zeros save", loc="left")
    left.legend(frameon=False, fontsize=8)
    names = [layer["name"] for layer in dense.layers]
    for form in found[1:]:
        ratio = [a["cycles"] / b["cycles"] for a, b in zip(form.layers, dense.layers, strict=True)]
        right.plot(ratio, "o-", lw=1, ms=4, label=form.sparsity)
    right.axhline(1, lw=0.6, color="0.6")
    right.set_xticks(range(len(names)), names, rotation=60, fontsize=6)
    right.set_ylabel("clocks of a layer, of dense")
    right.set_ylim(bottom=0)
    right.legend(frameon=False, fontsize=8)
    if queues:
        _queues(panels[2], queues)
    return save(figure, path)


def _queues(axes: Axes, queues: Sequence[tuple[str, Load]]) -> None:
    """How often queues are how full, layer by layer."""
    for form, load in queues:
        share = load.occupancy / load.occupancy.sum()
        label = f"{form} {load.layer}: balance {load.balance:.2f}"
        axes.plot(np.arange(len(share)), share, "o-", lw=1, ms=4, label=label)
    axes.set_xlabel("columns that wait in the queue of a PE (eie)")
    axes.set_ylabel("share of its clocks")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=7)
