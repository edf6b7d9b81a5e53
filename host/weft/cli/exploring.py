"""weft explore, and how a fit is shown."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from weft.cli import terminal
from weft.config import board_names
from weft.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from weft.estimate import Estimate
    from weft.explore import Exploration
    from weft.graph import Graph
    from weft.workload import Layers

SHOWN = 20  # designs of the table; --json and --plot have them all


@click.command("explore")
@click.option(
    "--board",
    required=True,
    metavar="BOARD",
    shell_complete=terminal.completing(board_names),
    help="A name of `weft list boards`, or a .toml file.",
)
@click.option("--model", type=click.Path(path_type=Path), metavar="M.onnx", help="What to run.")
@click.option(
    "--calibrate",
    "calibration",
    type=click.Path(path_type=Path),
    metavar="X.npz",
    help="Typical inputs of the model; without them its scales are made up.",
)
@click.option("--program", type=click.Path(path_type=Path), metavar="P.weft", help="Or this.")
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True, metavar="N")
@click.option("--comfortable", is_flag=True, help="Keep to the shares of the part UG1393 advises.")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="O.toml",
              help="Write the fastest as an overlay.")  # fmt: skip
@click.option("--jobs", type=click.IntRange(min=1), metavar="N", help="Processes; all cores.")
@click.option("--dask", metavar="ADDRESS", help="Share the work on this Dask cluster.")
@terminal.plot_option
@terminal.json_option
def explore_command(
    board: str,
    model: Path | None,
    calibration: Path | None,
    program: Path | None,
    output: Path | None,
    plot: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Find the fastest overlay that fits a board.

    Judges some ten thousand designs for a model, a program, or (without either) a mix of ResNet8
    and BERT-base, and shows those that no other betters in time, DSPs, LUTs and memory at once.
    """
    import os

    from weft import roofline
    from weft.config import load_board
    from weft.explore import explore

    if model and program:
        raise UsageError("--model and --program: give one of them")
    if calibration and not model:
        raise UsageError("--calibrate belongs to --model")
    if output and output.suffix != ".toml":
        raise UsageError(f"-o {output}: overlays are written as *.toml")
    place = load_board(board)
    networks, graph = _networks(model, calibration, program)
    jobs = options.pop("jobs") or os.cpu_count() or 1
    with terminal.bar(f"Exploring {place.name}") as progress:
        found = explore(place, networks, graph=graph, workers=jobs, progress=progress, **options)
    if plot:
        roofline.draw_front(found, plot)
    if output:
        _write(found, output)
    if as_json:
        terminal.print_json(found.as_dict())
    else:
        _show(found, plot, output)


def _networks(
    model: Path | None, calibration: Path | None, program: Path | None
) -> tuple[dict[str, Layers] | None, Graph | None]:
    """Layers by name, and the graph to compile where there is one."""
    from weft import workload

    if program:
        from weft.runtime import load

        return {program.stem: workload.of_program(load(program))}, None
    if not model:
        return None, None
    from weft.compiler import calibration_arrays, is_quantized, load_model
    from weft.lower.provisional import provisional

    graph = load_model(model)
    if calibration and not is_quantized(graph):
        from weft.passes.quantize import quantize

        graph = quantize(graph, calibration_arrays(graph, calibration))
    layers = workload.of_graph(graph)
    if not layers:
        raise UsageError(f"{model}: no layer would run on an overlay; `weft inspect` says why")
    return {model.stem: layers}, provisional(graph)


def _write(found: Exploration, output: Path) -> None:
    from weft.explore import toml
    from weft.program_file import replacing

    text = toml(found.best, found.board, list(found.networks), output.stem)
    with replacing(output) as temporary:
        temporary.write_text(text)


def _show(found: Exploration, plot: Path | None, output: Path | None) -> None:
    from weft import report

    rows = []
    for c in found.front[:SHOWN]:
        o, used, share = c.overlay, c.fit.total, c.fit.utilization
        sizes = (o.bus_bytes, o.buffer_words * o.lanes // 1024, o.accumulator_rows)
        rows.append(
            (
                f"{o.rows}×{o.cols} {o.multiplier}",
                *sizes,
                report.seconds(c.seconds),
                f"{found.batch / c.seconds:,.0f}",
                *(
                    f"{float(getattr(used, kind)):,.0f} ({share[kind]:.0%})"
                    for kind in ("dsp", "lut", "bram36", "uram")
                ),
            )
        )
    columns = ("array", "#bus bytes", "#buffer KiB", "#accumulator rows", "#time", "#per second")
    kinds = ("#DSP", "#LUT", "#BRAM36", "#URAM")
    title = f"{', '.join(found.networks)} on {found.board.name}, batch {found.batch}"
    console = terminal.stdout()
    console.print(report.table(title, (*columns, *kinds), rows))
    exact = "compiled" if found.best.exact else "by formula"
    more = f", {len(found.front) - SHOWN} more with --json" if len(found.front) > SHOWN else ""
    console.print(
        f"{found.designs:,} designs in {found.wall_s:.1f} s, {found.fitting:,} fit; "
        f"{len(found.front)} that no other betters ({exact}){more}"
    )
    for text in found.best.fit.tight:
        console.print(f"the fastest is tight: {text}")
    for what, path in (("picture", plot), ("overlay", output)):
        if path:
            console.print(f"{what}: {path}")


def show_fit(console: Console, made: Estimate) -> None:
    """What an estimate's overlay takes of the board, by unit, and whether it fits."""
    from weft import report
    from weft.resources import KINDS, NAMES

    fit = made.fit
    assert fit is not None
    rows = [(name, *map(_amount, used.as_dict().values())) for name, used in fit.units.items()]
    rows.append(("total", *map(_amount, fit.total.as_dict().values())))
    rows.append(("of the part", *(f"{share:.0%}" for share in fit.utilization.values())))
    columns = ("unit", *(f"#{NAMES[kind]}" for kind in KINDS))
    console.print(report.table(f"overlay {fit.overlay} on {fit.board}", columns, rows))
    verdict = "fits" if fit.fits else "does not fit: " + "; ".join(fit.over)
    tight = "; tight: " + "; ".join(fit.tight) if fit.tight else ""
    energy = "none (no power was measured)" if made.energy_j is None else f"{made.energy_j:.3g} J"
    fps = "–" if made.fps is None else f"{made.fps:,.0f}"
    console.print(f"{verdict}{tight}")
    console.print(f"{fps} samples per second; energy: {energy}")


def _amount(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.1f}"
