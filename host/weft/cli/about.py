"""weft list, weft doctor, weft demo."""

from __future__ import annotations

from pathlib import Path

import click

from weft.cli import terminal
from weft.listing import KINDS, listing


@click.command("list")
@click.argument("kind", metavar="KIND", shell_complete=terminal.completing(lambda: KINDS))
@terminal.json_option
def list_command(kind: str, as_json: bool) -> None:
    """List what there is: overlays, ops, boards, ...

    KIND is one of overlays, ops, formats, units, boards, calibrators, methods, isa.
    """
    from weft import report

    rows = listing(kind)
    if as_json:
        terminal.print_json({kind: rows})
        return
    columns = KINDS[kind].columns
    table = report.table(kind, columns, [[row[c.lstrip("#")] for c in columns] for row in rows])
    terminal.stdout().print(table)


@click.command("doctor")
@terminal.json_option
def doctor_command(as_json: bool) -> None:
    """Show what weft finds on this machine.

    Leaves with exit code 1 if something is missing.
    """
    from weft import report
    from weft.doctor import examine

    findings = examine()
    if as_json:
        terminal.print_json({f.name: {"ok": f.ok, "found": f.found} for f in findings})
    else:
        rows = [("ok" if f.ok else "MISSING", f.name, f.found) for f in findings]
        terminal.stdout().print(report.table("weft doctor", ("", "what", "found"), rows))
    if not all(f.ok for f in findings):
        raise click.exceptions.Exit(1)


@click.command("demo")
@click.option(
    "--output-dir",
    default="demo",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Where the figure goes.",
)
@terminal.json_option
def demo_command(output_dir: Path, as_json: bool) -> None:
    """Quantize, compile, run and check a small trained network."""
    from weft.demo import main

    main(terminal.stdout(), output_dir=output_dir, json=as_json)
