"""weft lint, weft export-unit."""

from __future__ import annotations

from pathlib import Path

import click

from weft.cli import terminal
from weft.config import load_overlay, overlay_names


@click.command("lint")
@click.argument(
    "overlays",
    metavar="[OVERLAY]...",
    nargs=-1,
    shell_complete=terminal.completing(overlay_names),
)
@terminal.json_option
def lint_command(overlays: tuple[str, ...], as_json: bool) -> None:
    """Check that an overlay's C++ is what synthesis tools take.

    Without OVERLAY, all of them. Leaves with exit code 1 if something is found.
    """
    from weft import lint

    found = {}
    with terminal.stages("Checking") as progress:
        for name in overlays or overlay_names():
            progress(name)
            found[name] = lint.lint(load_overlay(name))
    if as_json:
        terminal.print_json({name: [f.as_dict() for f in found[name]] for name in found})
    else:
        for name, findings in found.items():
            for finding in findings:
                click.echo(str(finding))
            click.echo(f"{name}: {len(findings) or 'no'} finding{'s' * (len(findings) != 1)}")
    if any(found.values()):
        raise click.exceptions.Exit(1)


@click.command("export-unit")
@click.argument("unit", metavar="UNIT")
@click.option(
    "--set",
    "texts",
    multiple=True,
    metavar="NAME=VALUE",
    help="A size, as rows=8 or multiplier=packed; may be repeated.",
)
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), metavar="DIR")
@terminal.json_option
def export_unit_command(unit: str, texts: tuple[str, ...], output: Path, as_json: bool) -> None:
    """Write one hardware unit, with a test bench, for any HLS tool.

    UNIT is one of multiplier, requant, activate, systolic, window, vector, matmul, transfer,
    memory, decode, fusion, shift, binary.
    """
    from weft import export

    written = export.write(unit, export.geometry(export.settings(texts), unit), output)
    if as_json:
        terminal.print_json({"unit": unit, "output": str(output), "files": written})
    else:
        click.echo(f"{output}: {', '.join(written)}")
