"""weft plan."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from weft.cli import terminal
from weft.config import overlay_names
from weft.errors import InputError, UsageError

if TYPE_CHECKING:
    from weft.graph import Array, Graph
    from weft.quantization.planner import Planned, Point


@click.command("plan")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--budget", required=True, metavar="0.3x|NUMBER",
              help="Of int8's bytes (with --overlay: clocks), or how many.")  # fmt: skip
@click.option("--calibrate", "calibration", required=True, type=click.Path(path_type=Path),
              metavar="DATA.npz", help="Typical inputs.")  # fmt: skip
@click.option("--eval", "evaluation", type=click.Path(path_type=Path), metavar="DATA.npz",
              help="Labelled inputs (classes in y): the table shows top-1 accuracy.")  # fmt: skip
@click.option("--formats", metavar="A,B,...", help="Weight formats to choose from.")
@click.option("--activations", default="int8", show_default=True, metavar="FORMAT")
@click.option("--method", default="mse", show_default=True, metavar="NAME")
@click.option("--overlay", metavar="NAME", shell_complete=terminal.completing(overlay_names),
              help="Count clocks on this overlay, not bytes.")  # fmt: skip
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), metavar="P.toml")
@terminal.plot_option
@terminal.json_option
def plan_command(
    model: Path,
    budget: str,
    calibration: Path,
    evaluation: Path | None,
    formats: str | None,
    overlay: str | None,
    output: Path,
    plot: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Choose a weight format for each layer within a budget.

    Measures how much each layer suffers from each format, solves for the least error, and writes
    the plan that `weft compile --plan` takes.
    """
    from weft.compiler import calibration_arrays, is_quantized, load_model
    from weft.config import load_overlay
    from weft.program_file import replacing
    from weft.quantization import planner

    if output.suffix != ".toml":
        raise UsageError(f"-o {output}: plans are named *.toml")
    graph = load_model(model)
    if is_quantized(graph):
        raise UsageError(f"{model} is quantized already; a plan is for a float model")
    if formats:
        options["formats"] = tuple(name.strip() for name in formats.split(","))
    task = planner.Task(
        graph,
        calibration_arrays(graph, calibration),
        overlay=None if overlay is None else load_overlay(overlay),
        evaluation=None if evaluation is None else labelled(graph, evaluation),
        **options,
    )
    with terminal.bar(f"Planning {model.name}") as progress:
        found = planner.plan(task, budget, lambda stage, done, total: progress(done, total))
    with replacing(output) as temporary:
        temporary.write_text(found.chosen.plan.toml(), encoding="utf-8")
    if plot:
        from weft.quantization.picture import draw

        draw(found, plot, model.name)
    if as_json:
        terminal.print_json({"output": str(output), **_facts(found)})
        return
    _show(found, model.name)
    for what, path in (("plan", output), ("picture", plot)):
        if path:
            terminal.stdout().print(f"{what}: {path}")


def labelled(graph: Graph, path: Path) -> tuple[dict[str, Array], Array]:
    """Inputs and classes of a file. Raises InputError where they don't match."""
    from weft.compiler import named_arrays, read_arrays
    from weft.evaluate import class_numbers

    arrays = read_arrays(path)
    if "y" not in arrays:
        raise InputError(f"{path}: arrays {sorted(arrays)} given; labels are expected in 'y'")
    labels = class_numbers(arrays.pop("y"))
    inputs = named_arrays(arrays, graph.inputs, str(path))
    for name, array in inputs.items():
        if len(array) != len(labels):
            raise InputError(f"{len(array)} samples in {name!r}, but {len(labels)} labels")
    return inputs, labels


def _facts(found: Planned) -> dict[str, Any]:
    return {
        "unit": found.unit,
        "int8": found.base,
        "float_top1": found.float_top1,
        "chosen": _point(found.chosen),
        "front": [_point(point) for point in found.front],
        "errors": found.errors,
    }


def _point(point: Point) -> dict[str, Any]:
    return {
        "budget": point.budget,
        "cost": point.cost,
        "predicted_error": point.predicted,
        "error": point.error,
        "top1": point.top1,
        "layers": {name: layer.weights for name, layer in point.plan.layers.items()},
    }


def _show(found: Planned, name: str) -> None:
    from weft import report

    names = list(found.errors)
    layers = [
        (layer, found.chosen.plan.layers[layer].weights, *_numbers(found, layer)) for layer in names
    ]
    console = terminal.stdout()
    columns = ("layer", "weights", f"#{found.unit}", "#int8", "#error")
    console.print(report.table(f"{name}: the plan", columns, layers))
    rows = [
        (
            "→" if point is found.chosen else "",
            f"{point.cost:,.0f}",
            f"{point.cost / found.base:.2f}x",
            f"{point.error:.2e}",
            "" if point.top1 is None else f"{point.top1:.2%}",
            ", ".join(str(point.plan.layers[layer].weights) for layer in names),
        )
        for point in found.front
    ]
    heads = ("", f"#{found.unit}", "#of int8", "#output error", "#top-1", "weights")
    console.print(report.table("accuracy against cost", heads, rows))
    if found.float_top1 is not None:
        console.print(f"float: top-1 {found.float_top1:.2%}")


def _numbers(found: Planned, layer: str) -> tuple[str, str, str]:
    own = str(found.chosen.plan.layers[layer].weights)
    price = found.costs[layer]
    return f"{price[own]:,.0f}", f"{price['int8']:,.0f}", f"{found.errors[layer][own]:.2e}"
