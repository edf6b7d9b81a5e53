"""weft embed."""

from __future__ import annotations

import time
from pathlib import Path

import click
import numpy as np

from weft.cli import terminal
from weft.errors import UsageError


@click.command("embed")
@click.argument("source", metavar="PROGRAM|FOLDER", type=click.Path(path_type=Path))
@click.argument("lines", metavar="LINES.txt", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), metavar="E.npy")
@click.option("--truncate", is_flag=True, help="Cut lines of too many tokens.")
@terminal.device_option
@terminal.form_option
@terminal.board_options
@terminal.timeout_option
@terminal.json_option
def embed_command(
    source: Path,
    lines: Path,
    output: Path,
    truncate: bool,
    device: str,
    form: str | None,
    bitfile: Path | None,
    address: str | None,
    timeout_s: float | None,
    as_json: bool,
) -> None:
    """Embed each line of a text: one vector per line, as float32 [lines, width].

    A program of a text encoder runs on the device; a folder of the transformers library in float on
    the host.
    """
    from weft.compiler import read_lines
    from weft.program_file import replacing
    from weft.text import open_text

    if output.suffix != ".npy":
        raise UsageError(f"-o {output}: vectors are saved as *.npy")
    options = terminal.device_options(form, bitfile, address)
    if timeout_s is not None:
        options["timeout_s"] = timeout_s
    texts = read_lines(lines)
    start = time.perf_counter()
    with (
        terminal.bar(f"Embedding on {device}") as progress,
        open_text(source, device, **options) as encoder,
    ):
        vectors = encoder.embed(texts, truncate=truncate, progress=progress)
    took = time.perf_counter() - start
    with replacing(output) as temporary, temporary.open("wb") as file:
        np.save(file, vectors)
    count, width = vectors.shape
    facts = {"lines": count, "width": width, "wall_s": took}
    if as_json:
        terminal.print_json({"output": str(output), **facts})
        return
    click.echo(
        f"{len(vectors):,} lines, {vectors.shape[1]} numbers each, in {took:.2f} s: {output}"
    )
