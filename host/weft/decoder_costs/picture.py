"""Tokens per second of a decoder over the length of its context, and what the memory allows."""

from __future__ import annotations

from pathlib import Path

from weft.decoder_costs.prediction import Prediction, predict
from weft.roofline import COLD, HOT, new_figure, save

POINTS = 9


def draw(found: Prediction, path: Path) -> Path:
    """Writes the picture: contexts from 1 token to the longest that fits memory and chip.

    Raises UsageError for a name that is no picture's, MissingDependency without matplotlib.
    """
    import numpy as np

    figure, axes = new_figure(path)
    last = max(2, found.context, min(found.memory.longest, found.memory.on_chip))
    contexts = sorted({int(n) for n in np.geomspace(1, last, POINTS)})
    same = (found.decoder, found.machine, found.board)
    made = [predict(*same, context=n, prompt=1) for n in contexts]
    bounds = [p.bound_tokens_per_s for p in made]
    rates = [p.decode.tokens_per_s for p in made]
    axes.plot(contexts, bounds, color=COLD, lw=1)
    axes.plot(contexts, rates, color=HOT, marker="o", ms=3)
    texts = ((bounds, COLD, "all of the memory's peak\n"), (rates, HOT, "\npredicted"))
    for points, color, text in texts:
        side = "top" if text.startswith("\n") else "bottom"
        axes.text(contexts[0], points[0], text, color=color, fontsize=8, va=side)
    axes.set_xscale("log", base=2)
    axes.set_ylim(bottom=0, top=1.25 * made[0].bound_tokens_per_s)
    axes.set_xlabel("tokens before the one that is made")
    axes.set_ylabel("tokens per second")
    name = f"{found.decoder.name}, {found.machine.weights.name}"
    axes.set_title(f"{name}, on {found.board.name}", loc="left")
    return save(figure, path)
