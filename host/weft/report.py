"""Results as tables for people; the same values as plain dicts for scripts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from weft.program import AcceleratorSegment, HostSegment, Program

if TYPE_CHECKING:
    from rich.table import Table

    from weft.estimate import Estimate
    from weft.inspection import Inspection, OverlayEstimate

UNITS = ("", "k", "M", "G", "T")


def amount(value: float) -> str:
    """A count with three significant digits and a decimal prefix: 12.5 M."""
    for unit in UNITS:
        if abs(value) < 999.5 or unit == UNITS[-1]:
            break
        value /= 1000
    text = f"{value:.3g}" if not float(value).is_integer() else f"{value:.0f}"
    return f"{text} {unit}".rstrip()


def nbytes(value: float) -> str:
    """A size with three significant digits: 12.5 kB."""
    text = amount(value)
    return f"{text}B" if " " in text else f"{text} B"


def seconds(value: float) -> str:
    """A duration in the unit that suits it."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value * 1e9:.3g} ns"


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    """A table; columns whose name starts with # are numbers, right-aligned."""
    from rich.table import Table
    from rich.text import Text

    made = Table(title=title, title_justify="left", header_style="bold", show_header=any(columns))
    for column in columns:
        justify: Any = "right" if column.startswith("#") else "left"
        made.add_column(column.lstrip("#"), justify=justify, overflow="fold")
    for row in rows:
        made.add_row(*(Text(cell if isinstance(cell, str) else f"{cell:,}") for cell in row))
    return made


def layer_table(layers: Sequence[Mapping[str, Any]], title: str) -> Table:
    """Cycles, work and traffic per layer, from `layer_rows`; time where a board is known."""
    total = sum(layer["cycles"] for layer in layers) or 1
    timed = all("wall_s" in layer for layer in layers)
    columns = ("layer", "operator", "engine", "#MACs", "#cycles", "#share", "#array busy", "#bytes")
    rows = []
    for layer in layers:
        row = [
            layer["name"],
            layer["op"],
            layer["engine"],
            amount(layer["macs"]),
            layer["cycles"],
            f"{layer['cycles'] / total:.1%}",
            f"{layer['utilization']:.1%}" if layer["macs"] else "",
            layer["bytes"],
        ]
        rows.append([*row, seconds(layer["wall_s"]), layer["bound"]] if timed else row)
    return table(title, (*columns, "#time", "bound by") if timed else columns, rows)


def program_rows(program: Program) -> list[dict[str, Any]]:
    """One row per segment: where it runs, its layers, instructions, and why on the host."""
    rows = []
    for number, segment in enumerate(program.segments):
        if isinstance(segment, HostSegment):
            names = [node.name for node in segment.graph]
            where, count, reason = "host", 0, segment.reason
        else:
            names = segment_layers(program, segment)
            where, count, reason = "accelerator", len(segment.words), ""
        rows.append(
            {
                "segment": number,
                "where": where,
                "layers": names,
                "instructions": count,
                "reason": reason,
            }
        )
    return rows


def segment_layers(program: Program, segment: AcceleratorSegment) -> list[str]:
    """Names of the layers of a segment, in order."""
    indices = dict.fromkeys(segment.layers.tolist())
    return [program.layers[i].name for i in indices] if program.layers else []


def program_table(program: Program) -> Table:
    """Where each part of a program runs."""
    return table(
        "where it runs",
        ("#segment", "where", "layers", "#instructions", "why"),
        [
            (r["segment"], r["where"], ", ".join(r["layers"]), r["instructions"], r["reason"])
            for r in program_rows(program)
        ],
    )


def program_facts(program: Program) -> dict[str, Any]:
    """Sizes of a program and what goes in and out of it."""
    return {
        "name": program.name,
        "overlay": program.overlay.name,
        "overlay_digest": program.overlay_digest,
        "batch": program.batch,
        "macs": sum(layer.macs for layer in program.layers),
        "weight_bytes": int(program.weights.nbytes),
        "memory_bytes": program.memory_rows * program.overlay.lanes,
        "instructions": sum(
            len(s.words) for s in program.segments if isinstance(s, AcceleratorSegment)
        ),
        "inputs": [_described(info.name, info.shape, info.dtype) for info in program.inputs],
        "outputs": [_described(info.name, info.shape, info.dtype) for info in program.outputs],
    }


def _described(name: str, shape: Sequence[int], dtype: str) -> dict[str, Any]:
    return {"name": name, "shape": ["n", *shape[1:]], "dtype": dtype}


def preflight_table(rows: Sequence[Mapping[str, Any]], title: str) -> Table:
    """Where each node would run."""
    return table(
        title,
        ("layer", "operator", "where", "engine", "why"),
        [[row[key] for key in ("name", "op", "where", "engine", "why")] for row in rows],
    )


def inspection_tables(found: Inspection) -> list[Table]:
    """The preflight report: facts, every overlay, every layer, what to do about the host's."""
    memory, precision = found.memory, found.precision
    facts = [
        ("activations", precision["activations"]),
        ("weights", f"{precision['weights']}, {nbytes(memory['weights'])}"),
        ("rounding", ", ".join(precision["rounding"]) or "chosen when it is compiled"),
        ("activations at once", nbytes(memory["activations_peak"])),
        ("multiplications", amount(sum(layer["macs"] for layer in found.layers))),
    ]
    tables = [table(found.model, ("", ""), facts), estimate_table(found.estimates)]
    title = f"{found.model} on overlay {found.overlay}"
    tables.append(preflight_table(found.layers, title))
    advice = dict.fromkeys((la["op"], la["advice"]) for la in found.layers if la["advice"])
    if advice:
        tables.append(table("what you can do", ("operator", ""), advice))
    return tables


def estimate_table(estimates: Iterable[OverlayEstimate]) -> Table:
    """Clocks of one sample on every overlay, and seconds on its boards."""
    rows = []
    for e in estimates:
        times = ", ".join(f"{name} {seconds(s)}" for name, s in e.boards.items())
        cycles = "–" if e.cycles is None else f"{e.cycles:,}"
        rows.append((e.overlay, e.array, cycles, times, e.remark))
    return table("one sample", ("overlay", "array", "#clocks", "time on its boards", ""), rows)


def stored_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Tensors of a file without a graph, and how well weft's formats hold them."""
    return table(
        "",
        ("tensor", "shape", "type", "#bytes", "nearest format", "#error"),
        [
            [
                row["name"],
                "×".join(map(str, row["shape"])),
                row["type"],
                row["bytes"],
                row["format"],
                f"{100 * row['error']:.2f} %" if row["error"] else "–",
            ]
            for row in rows
        ],
    )


def fact_table(title: str, facts: Mapping[str, Any]) -> Table:
    """Names and values; shapes of inputs and outputs on one line each."""
    rows: list[tuple[str, str]] = []
    for name, value in facts.items():
        if isinstance(value, list):
            for entry in value:
                shape = ", ".join(map(str, entry["shape"]))
                rows.append((name.removesuffix("s"), f"{entry['name']} [{shape}] {entry['dtype']}"))
        else:
            text = f"{value:,}" if isinstance(value, int) else str(value)
            rows.append((name.replace("_", " "), text))
    return table(title, ("", ""), rows)


def layer_rows(chunks: Iterable[tuple[int, Estimate]]) -> list[dict[str, Any]]:
    """One row per layer, summed over (how many, estimate) of the device runs.

    `utilization` is the model's multiplications as a fraction of what the array could do in the
    layer's clocks. With a board there are `wall_s` and `bound` ("compute" or "memory"), too.
    """
    rows: dict[int, dict[str, Any]] = {}
    for count, made in chunks:
        for index, layer in enumerate(made.layers):
            named = {"name": layer.name, "op": layer.op, "engine": layer.engine}
            row = rows.setdefault(index, {**named, "macs": 0, "cycles": 0, "bytes": 0})
            row["macs"] += count * layer.macs
            row["cycles"] += count * layer.cycles
            row["bytes"] += count * layer.bytes
            possible = row["cycles"] * layer.multipliers
            row["utilization"] = row["macs"] / possible if possible else 0.0
            if made.board:
                row["wall_s"] = row.get("wall_s", 0.0) + count * (layer.wall_s or 0.0)
                row["bound"] = layer.bound
    return list(rows.values())


def estimate_facts(made: Estimate) -> dict[str, Any]:
    """An estimate as plain values; what needs a board is None without one."""
    return {
        "batch": made.batch,
        "board": made.board.name if made.board else None,
        "cycles": made.cycles,
        "wall_s": made.wall_s,
        "fps": made.fps,
        "energy_j": made.energy_j,
        "macs": made.macs,
        "bytes": made.bytes,
        "utilization": made.utilization,
        "fit": made.fit.as_dict() if made.fit else None,
        "layers": layer_rows([(1, made)]),
    }
