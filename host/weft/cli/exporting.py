"""weft export."""

from __future__ import annotations

from pathlib import Path

import click

from weft.cli import terminal
from weft.errors import UsageError


@click.command("export")
@click.argument("program", metavar="PROGRAM", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), metavar="M.onnx")
@terminal.json_option
def export_command(program: Path, output: Path, as_json: bool) -> None:
    """Write a program's quantized network as standard ONNX (QDQ), for onnxruntime and others."""
    from weft.export_qdq import export_qdq

    if output.suffix != ".onnx":
        raise UsageError(f"-o {output}: ONNX files are named *.onnx")
    with terminal.stages(f"Exporting {program.name}"):
        export_qdq(program, output)
    facts = {"output": str(output), "bytes": output.stat().st_size}
    if as_json:
        terminal.print_json(facts)
        return
    terminal.stdout().print(f"{output}: {facts['bytes']:,} bytes", soft_wrap=True)
