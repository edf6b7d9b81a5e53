"""weft sparsity."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from weft.cli import terminal
from weft.config import overlay_names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from weft.eie_load import Load
    from weft.sparse_study import Form


@click.command("sparsity")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--calibrate", "calibration", required=True, type=click.Path(path_type=Path),
              metavar="DATA.npz", help="Typical inputs.")  # fmt: skip
@click.option("--eval", "evaluation", type=click.Path(path_type=Path), metavar="DATA.npz",
              help="Labelled inputs (classes in y): the table shows top-1 accuracy.")  # fmt: skip
@click.option("--forms", metavar="A,B,...", help="Patterns of zeros. [2:4,csc:0.9,...]")
@click.option("--criterion", default="magnitude", show_default=True, metavar="NAME",
              help="Which weights are pruned: magnitude, wanda or sparsegpt.")  # fmt: skip
@click.option("--overlay", default="lab", show_default=True, metavar="NAME",
              shell_complete=terminal.completing(overlay_names))  # fmt: skip
@click.option("--layers", is_flag=True, help="Show every layer of every form.")
@terminal.plot_option
@terminal.json_option
def sparsity_command(
    model: Path,
    calibration: Path,
    evaluation: Path | None,
    forms: str | None,
    criterion: str,
    overlay: str,
    layers: bool,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Show what sparsity saves: prune, compile and run a float model in several forms.

    Clocks are those that the simulation counts for one sample; times on boards are predicted.
    """
    from weft.cli.planning import labelled
    from weft.compiler import calibration_arrays, is_quantized, load_model
    from weft.config import load_overlay
    from weft.errors import UsageError
    from weft.sparse_study import FORMS, Task, study

    graph = load_model(model)
    if is_quantized(graph):
        raise UsageError(f"{model} is quantized already; `weft sparsity` prunes float models")
    typical = calibration_arrays(graph, calibration)
    inputs, labels = (typical, None) if evaluation is None else labelled(graph, evaluation)
    task = Task(graph, load_overlay(overlay), typical, inputs, labels, criterion)
    chosen = [name.strip() for name in forms.split(",")] if forms else list(FORMS)
    with terminal.bar(f"Pruning {model.name}") as progress:
        found = study(task, chosen, progress)
    if plot:
        from weft.sparse_picture import draw

        draw(found, plot, model.name)
    if as_json:
        terminal.print_json({"model": str(model), "forms": [form.as_dict() for form in found]})
        return
    _show(found, f"{model.name} on {overlay}, pruned by {criterion}")
    for form in found if layers else ():
        _show_layers(form)
        if form.eie:
            _show_loads(form)
    if plot:
        terminal.stdout().print(f"picture: {plot}")


def _show(found: Sequence[Form], title: str) -> None:
    from weft import report

    dense = found[0]
    boards = list(dense.board_s)
    columns = ("form", "#density", "#sparse layers", "#weight bytes", "#clocks", "#of dense",
               *(f"#{board}" for board in boards),
               "#same class" if dense.top1 is None else "#top-1")  # fmt: skip
    rows = [
        (
            form.sparsity,
            f"{form.density:.1%}",
            f"{form.sparse_layers} of {len(form.layers)}",
            form.weight_bytes,
            f"{form.cycles:,.0f}",
            f"{form.cycles / dense.cycles:.1%}",
            *(report.seconds(form.board_s[board]) for board in boards),
            f"{form.agreement if form.top1 is None else form.top1:.2%}",
        )
        for form in found
    ]
    terminal.stdout().print(report.table(title, columns, rows))


def _show_layers(form: Form) -> None:
    from weft import report

    keys = ("name", "engine", "weight_bytes", "cycles", "sparsity")
    rows = [tuple(layer[key] for key in keys) for layer in form.layers]
    columns = ("layer", "engine", "#weight bytes", "#clocks", "what its zeros save")
    terminal.stdout().print(report.table(form.sparsity, columns, rows))


def _show_loads(form: Form) -> None:
    """Where the clocks of the layers on engine eie go."""
    from weft import report

    columns = ("layer", "#vectors", "#clocks", "#non-zeros", "#queue full", "#no word",
               "#load balance", "#columns waiting", "#entries per weight",
               "#even over PEs")  # fmt: skip
    rows = [_load_row(load) for load in form.eie]
    title = f"{form.sparsity} on engine eie, of a vector: waits in clocks, balance as Han et al."
    terminal.stdout().print(report.table(title, columns, rows))


def _load_row(load: Load) -> tuple[str | int, ...]:
    sums = (load.clocks, load.broadcasts, load.stalled, load.unread)
    return (
        load.layer,
        load.vectors,
        *(f"{total / load.vectors:,.1f}" for total in sums),
        f"{load.balance:.2f}",
        f"{load.waiting:.2f} of {len(load.occupancy) - 1}",
        f"{load.padding:.2f}",
        f"{load.spread:.2f}",
    )
