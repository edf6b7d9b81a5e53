"""The preflight report as one HTML page that opens offline: no script, no request, no font."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from weft import drawing
from weft.inspection import Inspection
from weft.report import amount, nbytes, seconds

STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0; background: #f6f7f9; color: #1c2430;
  font: 15px/1.5 system-ui, "Segoe UI", "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 28px 24px 60px; }
h1 { font-size: 26px; line-height: 1.2; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 36px 0 10px; }
p { margin: 4px 0 10px; max-width: 78ch; }
.lead { color: #475264; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr));
  gap: 12px; margin: 20px 0 0; }
.card { background: #fff; border: 1px solid #dfe3e9; border-radius: 10px; padding: 12px 14px; }
.card b { display: block; font-size: 19px; line-height: 1.3; }
.card span { color: #475264; font-size: 13px; }
.card small { display: block; color: #475264; font-size: 13px; }
.scroll { overflow-x: auto; background: #fff; border: 1px solid #dfe3e9; border-radius: 10px; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th, td { text-align: left; padding: 7px 12px; border-bottom: 1px solid #e9ecf1;
  vertical-align: top; }
th { color: #475264; font-weight: 600; background: #fafbfc; white-space: nowrap; }
tr:last-child td { border-bottom: 0; }
tr.chosen td { background: #eef6f4; font-weight: 600; }
tr:target td { background: #fff7d6; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums;
  white-space: nowrap; }
td.name { overflow-wrap: anywhere; min-width: 150px; max-width: 300px; }
td.words { min-width: 220px; max-width: 380px; }
.tag { display: inline-block; border-radius: 999px; padding: 0 9px; font-size: 13px;
  white-space: nowrap; border: 1px solid; }
.tag.acc { background: #d9f0ea; border-color: #7fc4b3; }
.tag.host { background: #fdeacb; border-color: #e3b467; }
.tag.free { background: #eef0f3; border-color: #c3c9d2; }
.key { display: flex; flex-wrap: wrap; gap: 10px; margin: 0 0 10px; }
.drawing { text-align: center; padding: 10px 0; max-height: 2400px; overflow: auto; }
svg { max-width: none; }
svg .edge { fill: none; stroke: #8a94a3; stroke-width: 1.6; }
svg text { text-anchor: middle; fill: #1c2430; font-family: inherit; }
svg .op { font-size: 14px; font-weight: 600; }
svg .detail { font-size: 12px; fill: #475264; }
svg rect { stroke-width: 1.3; }
svg .acc rect { fill: #d9f0ea; stroke: #4fa38f; }
svg .host rect { fill: #fdeacb; stroke: #cf9838; }
svg .free rect { fill: #eef0f3; stroke: #b3bac5; }
svg .port rect { fill: #fff; stroke: #56606f; stroke-dasharray: 4 3; }
svg a:hover rect { stroke-width: 2.6; }
ul { background: #fff; border: 1px solid #dfe3e9; border-radius: 10px; margin: 0;
  padding: 10px 14px 10px 32px; }
li { margin: 4px 0; }
@media print { body { background: #fff; } .drawing { max-height: none; } }
"""
DRAWN = 1000  # boxes of the largest graph that is drawn
KEYS = (
    ("acc", "accelerator", "runs on the array or the vector unit"),
    ("free", "relabelled", "another name for the same words; costs nothing"),
    ("host", "host", "runs in numpy, with the same result"),
)


def page(found: Inspection) -> str:
    """The page's text."""
    title = escape(f"{found.model} on overlay {found.overlay}")
    body = [
        f"<h1>{escape(found.model)}</h1>",
        f'<p class="lead">Preflight of the model on overlay <b>{escape(found.overlay)}</b>: '
        "what runs where and why, how large it is, how long it takes.</p>",
        _cards(found),
        "<h2>What you can do</h2>",
        _advice(found),
        "<h2>One sample on every overlay</h2>",
        _estimates(found),
        "<h2>The graph</h2>",
        _graph(found),
        "<h2>Layers</h2>",
        _layers(found.layers),
    ]
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body)
        + "\n</main>\n</body>\n</html>\n"
    )


def _graph(found: Inspection) -> str:
    """The key and the drawing; of very large graphs only their size."""
    made = drawing.boxes(found.layers, found.graph.inputs, found.graph.outputs)
    if len(made) > DRAWN:
        return f"<p>{len(made):,} boxes; graphs of up to {DRAWN:,} are drawn.</p>"
    return f'{_key()}<div class="scroll drawing">{drawing.svg(made)}</div>'


def _cards(found: Inspection) -> str:
    hosted = sum(layer["where"] == "host" for layer in found.layers)
    free = sum(layer["engine"] == "none" for layer in found.layers)
    macs = sum(layer["macs"] for layer in found.layers)
    on = sum(layer["macs"] for layer in found.layers if layer["where"] == "accelerator")
    share = f"{on / macs:.1%} of them on the accelerator" if macs else "no matrix work"
    memory = found.memory
    rounding = ", ".join(found.precision["rounding"])
    chosen = found.estimates[0]
    clocks = "does not fit" if chosen.cycles is None else f"{chosen.cycles:,}"
    cards = [
        ("layers", f"{len(found.layers)}", f"{hosted} on the host, {free} relabelled"),
        ("multiplications", amount(macs), share),
        ("activations", found.precision["activations"].split(" ")[0], _rest(found, rounding)),
        ("weights", nbytes(memory["weights"]), found.precision["weights"]),
        ("activations at once", nbytes(memory["activations_peak"]), "at the worst moment"),
        ("clocks a sample", clocks, f"on {chosen.overlay}, {chosen.array}"),
    ]
    ports = [*_ports("input", found.graph, found.graph.inputs)]
    ports += _ports("output", found.graph, found.graph.outputs)
    made = [
        f'<div class="card"><span>{escape(label)}</span><b>{escape(value)}</b>'
        f"<small>{escape(more)}</small></div>"
        for label, value, more in (*cards, *ports)
    ]
    return f'<div class="cards">{"".join(made)}</div>'


def _rest(found: Inspection, rounding: str) -> str:
    words = found.precision["activations"].split(" ", 1)
    more = words[1] if len(words) > 1 else "quantized when it is compiled"
    return f"{more}, {rounding}" if rounding else more


def _ports(label: str, graph: Any, names: Sequence[str]) -> Iterable[tuple[str, str, str]]:
    for name in names:
        tensor = graph[name]
        yield label, "×".join(map(str, ("n", *tensor.shape[1:]))), f"{name}, {tensor.dtype}"


def _advice(found: Inspection) -> str:
    """Each piece of advice once, with the layers that it is for."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for layer in found.layers:
        if layer["advice"]:
            groups.setdefault(layer["advice"], []).append(layer)
    if not groups:
        return "<p>Nothing: every layer runs on the accelerator.</p>"
    items = []
    for text, layers in groups.items():
        counts: dict[str, int] = {}
        for layer in layers:
            counts[layer["op"]] = counts.get(layer["op"], 0) + 1
        names = ", ".join(f"{op} ({n}×)" if n > 1 else op for op, n in counts.items())
        items.append(f"<li><b>{escape(names)}</b>: {escape(text)}</li>")
    return f"<ul>{''.join(items)}</ul>"


def _estimates(found: Inspection) -> str:
    rows = []
    for e in found.estimates:
        cycles = "–" if e.cycles is None else f"{e.cycles:,}"
        times = ", ".join(f"{n} {seconds(s)}".replace(" ", "\u00a0") for n, s in e.boards.items())
        cells = (
            _cell(e.overlay, "name")
            + _cell(e.array)
            + _cell(cycles, "number")
            + _cell(times or "–")
            + _cell(e.remark, "words")
        )
        rows.append(f"<tr{' class=chosen' if e.overlay == found.overlay else ''}>{cells}</tr>")
    head = ("overlay", "array", "#clocks", "time on its boards", "")
    more = (
        "<p>Clocks as the simulation counts them. Times are estimates from the boards' clocks and "
        "memory bandwidth; the host's part is not in them.</p>"
    )
    return more + _table(head, rows)


def _key() -> str:
    made = [f'<span><span class="tag {c}">{n}</span> {escape(t)}</span>' for c, n, t in KEYS]
    return f'<div class="key">{"".join(made)}</div>'


def _layers(layers: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for number, layer in enumerate(layers):
        kind = {"accelerator": "acc", "host": "host"}[layer["where"]]
        where = layer["where"]
        if layer["engine"] == "none":
            kind, where = "free", "relabelled"
        elif where == "accelerator":
            where = layer["engine"]
        why = layer["why"] + (f" – {layer['advice']}" if layer["advice"] else "")
        cells = (
            _cell(str(number), "number")
            + _cell(layer["op"])
            + _cell(layer["name"], "name")
            + f'<td><span class="tag {kind}">{escape(where)}</span></td>'
            + _cell("×".join(map(str, layer["shape"])))
            + _cell(layer["precision"])
            + _cell(amount(layer["macs"]) if layer["macs"] else "", "number")
            + _cell(nbytes(layer["weight_bytes"]) if layer["weight_bytes"] else "", "number")
            + _cell(why, "words")
        )
        rows.append(f'<tr id="layer-{number}">{cells}</tr>')
    head = ("#", "operator", "layer", "where", "output", "precision", "#MACs", "#weights", "why")
    return _table(head, rows)


def _cell(text: str, kind: str = "") -> str:
    return f"<td{f' class={kind}' if kind else ''}>{escape(text)}</td>"


def _table(head: Sequence[str], rows: Iterable[str]) -> str:
    cells = "".join(
        f"<th{' class=number' if len(h) > 1 and h[0] == '#' else ''}>"
        f"{escape(h[1:] if len(h) > 1 and h[0] == '#' else h)}</th>"
        for h in head
    )
    return f'<div class="scroll"><table><tr>{cells}</tr>{"".join(rows)}</table></div>'
