"""weft units: the nonlinear functions, their methods, and pictures of them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from weft.cli import terminal


def _functions() -> Iterable[str]:
    from weft.nonlinear import FUNCTIONS

    return FUNCTIONS


def _methods() -> Iterable[str]:
    from weft.nonlinear import METHOD_NAMES

    return METHOD_NAMES


@click.group("units")
def units_command() -> None:
    """Nonlinear functions as hardware units: how each can be computed, and how well."""


@units_command.command("list")
@click.argument(
    "function", required=False, metavar="[FUNCTION]", shell_complete=terminal.completing(_functions)
)
@terminal.json_option
def list_command(function: str | None, as_json: bool) -> None:
    """Methods of one function or of all: formats, largest error, cost, source."""
    from weft import report
    from weft.nonlinear import METHODS, methods_of

    chosen = methods_of(function) if function else list(METHODS.values())
    rows: list[dict[str, Any]] = [
        {
            "function": m.function,
            "method": m.name,
            "in": str(m.input),
            "out": str(m.output),
            "domain": list(m.domain),
            "error": m.error,
            "DSP": m.dsps,
            "LUT": m.luts,
            "source": m.source,
            "note": m.note,
        }
        for m in chosen
    ]
    if as_json:
        terminal.print_json({"methods": rows})
        return
    columns = ("function", "method", "in", "out", "domain", "#error ≤", "#DSP", "#LUT", "source")
    table = [
        (
            *(row[k] for k in ("function", "method", "in", "out")),
            "{:g} .. {:g}".format(*row["domain"]),
            f"{row['error']:.2g}",
            *(row[k] for k in ("DSP", "LUT", "source")),
        )
        for row in rows
    ]
    terminal.stdout().print(report.table("nonlinear units, cost per lane", columns, table))


@units_command.command("plot")
@click.argument("function", metavar="FUNCTION", shell_complete=terminal.completing(_functions))
@click.option(
    "--method",
    "names",
    multiple=True,
    metavar="M",
    shell_complete=terminal.completing(_methods),
    help="Which; may be repeated. All of the function's, without it.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="The picture: .png, .svg or .pdf.",
)
def plot_command(function: str, names: tuple[str, ...], output: Path) -> None:
    """Draw methods against the function, with their errors."""
    from weft.nonlinear import method, methods_of
    from weft.nonlinear.plot import plot

    chosen = [method(function, name) for name in names]
    chosen = chosen or [m for m in methods_of(function) if m.cpp]
    plot(chosen, output)
    click.echo(f"picture: {output}")
