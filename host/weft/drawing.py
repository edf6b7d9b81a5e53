"""A graph as SVG: layers from top to bottom, edges as curves, no library and no script.

The layering is Sugiyama's (Sugiyama, Tagawa, Toda 1981): a node lies one row below the lowest of
its sources, edges over several rows pass through invisible nodes, rows are sorted by the mean
place of their neighbours, and columns are moved toward them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise
from typing import Any

WIDTH, HEIGHT = 196, 46  # of a node
GAP_X, GAP_Y = 22, 26
SWEEPS = 6
CLASSES = {"accelerator": "acc", "host": "host", "free": "free", "port": "port"}


@dataclass
class Box:
    """A node to draw: two lines of text, a class, a text to show on hovering, and a link."""

    title: str
    detail: str
    kind: str
    hint: str = ""
    link: str = ""
    sources: list[int] = field(default_factory=list)
    row: int = 0
    x: float = 0.0
    width: float = WIDTH


def boxes(
    layers: Sequence[Mapping[str, Any]], inputs: Sequence[str], outputs: Sequence[str]
) -> list[Box]:
    """Boxes of a report's layers, between those of the model's inputs and outputs."""
    made = [Box("input", name, "port") for name in inputs]
    writer = {name: i for i, name in enumerate(inputs)}
    for number, layer in enumerate(layers):
        kind = layer["where"]
        engine = layer["engine"]
        if engine == "none":
            kind, engine = "free", "relabelled"
        shape = "×".join(map(str, layer["shape"][1:])) or "1"
        hint = "\n".join(filter(None, (layer["name"], layer["why"], layer["advice"])))
        box = Box(layer["op"], f"{shape} · {engine}", kind, hint, f"#layer-{number}")
        box.sources = sorted({writer[n] for n in layer["inputs"] if n in writer})
        writer.update((name, len(made)) for name in layer["outputs"])
        made.append(box)
    written = [name for name in outputs if name in writer]
    return [*made, *(Box("output", n, "port", sources=[writer[n]]) for n in written)]


def svg(made: list[Box]) -> str:
    """The drawing, to stand in a page of HTML, whose style sheet has the colours."""
    if not made:
        return ""
    paths = _placed(made)
    left = min(box.x for box in made) - GAP_X
    right = max(box.x + WIDTH for box in made) + GAP_X
    height = (max(box.row for box in made) + 1) * (HEIGHT + GAP_Y) + GAP_Y
    size = f"{left:.0f} {-GAP_Y} {right - left:.0f} {height:.0f}"
    parts = [
        f'<svg viewBox="{size}" width="{right - left:.0f}" '
        f'height="{height:.0f}" role="img" aria-label="The graph of the model">'
    ]
    parts += [f'<path class="edge" d="{path}"/>' for path in paths]
    parts += [_drawn(box) for box in made if box.kind]
    return "\n".join([*parts, "</svg>"])


def _drawn(box: Box) -> str:
    y = box.row * (HEIGHT + GAP_Y)
    middle = box.x + WIDTH / 2
    shape = (
        f'<rect x="{box.x:.1f}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="7"/>'
        f'<text class="op" x="{middle:.1f}" y="{y + 19}">{escape(_short(box.title, 24))}</text>'
        f'<text class="detail" x="{middle:.1f}" y="{y + 35}">'
        f"{escape(_short(box.detail, 30))}</text>"
    )
    hint = f"<title>{escape(box.hint or box.detail)}</title>"
    inside = f'<g class="node {CLASSES[box.kind]}">{hint}{shape}</g>'
    return f'<a href="{escape(box.link)}">{inside}</a>' if box.link else inside


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _placed(made: list[Box]) -> list[str]:
    """Gives every box its place; the curves between them."""
    for box in made:
        box.row = max((made[s].row + 1 for s in box.sources), default=0)
    every = list(made)
    chains = [_chain(every, source, box) for box in made for source in box.sources]
    rows: dict[int, list[Box]] = {}
    for box in every:
        rows.setdefault(box.row, []).append(box)
    above: dict[int, list[Box]] = {}
    below: dict[int, list[Box]] = {}
    for chain in chains:
        for a, b in pairwise(chain):
            above.setdefault(id(b), []).append(a)
            below.setdefault(id(a), []).append(b)
    for row in rows.values():
        _spread(row, {})
    for sweep in range(SWEEPS):
        order = sorted(rows, reverse=bool(sweep % 2))
        neighbours = below if sweep % 2 else above
        for number in order:
            _spread(rows[number], neighbours, sort=sweep < SWEEPS - 2)
    return [_curve(chain) for chain in chains]


def _chain(every: list[Box], source: int, box: Box) -> list[Box]:
    """Boxes on the way of an edge, with an invisible narrow one in each row between."""
    start = every[source]
    between = [Box("", "", "", row=r, width=GAP_X) for r in range(start.row + 1, box.row)]
    every += between
    return [start, *between, box]


def _spread(row: list[Box], neighbours: Mapping[int, list[Box]], sort: bool = True) -> None:
    """Places a row's boxes near their neighbours, side by side."""
    wish = {}
    for box in row:
        near = neighbours.get(id(box), [])
        middle = box.x + box.width / 2
        wish[id(box)] = sum(n.x + n.width / 2 for n in near) / len(near) if near else middle
    if sort and neighbours:
        row.sort(key=lambda box: wish[id(box)])
    x = float("-inf")
    for box in row:
        box.x = max(wish[id(box)] - box.width / 2, x)
        x = box.x + box.width + GAP_X
    drift = sum(b.x + b.width / 2 - wish[id(b)] for b in row) / len(row)
    for box in row:
        box.x -= drift


def _curve(chain: Sequence[Box]) -> str:
    """From the lower edge of the first box to the upper edge of the last."""
    points = []
    for box in chain:
        y = box.row * (HEIGHT + GAP_Y)
        x = box.x + box.width / 2
        points += [(x, y), (x, y + HEIGHT)]
    points = points[1:-1]
    path = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
    for (x0, y0), (x1, y1) in pairwise(points):
        if x0 == x1:
            path += f" V{y1:.1f}"
            continue
        half = (y0 + y1) / 2
        path += f" C{x0:.1f} {half:.1f} {x1:.1f} {half:.1f} {x1:.1f} {y1:.1f}"
    return path
