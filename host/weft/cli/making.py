"""weft inspect, weft compile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from weft.cli import terminal
from weft.config import overlay_names
from weft.errors import UsageError

overlay_option = click.option(
    "--overlay",
    default="lab",
    show_default=True,
    metavar="NAME",
    shell_complete=terminal.completing(overlay_names),
    help="A name of `weft list overlays`, or a .toml file.",
)
shape_option = click.option(
    "--shape",
    "shapes",
    multiple=True,
    metavar="INPUT=1,3,32,32",
    help="Shape of an input that the model leaves open; may be repeated.",
)


def format_names() -> list[str]:
    """Names of the number formats."""
    from weft.formats import FORMATS

    return list(FORMATS)


def parse_shapes(texts: tuple[str, ...]) -> dict[str, tuple[int, ...]] | None:
    """{"x": (1, 3, 32, 32)} from ["x=1,3,32,32"]."""
    shapes = {}
    for text in texts:
        name, _, numbers = text.rpartition("=")
        try:
            shapes[name] = tuple(int(number) for number in numbers.split(","))
        except ValueError:
            name = ""
        if not name:
            raise UsageError(f"--shape {text!r}: INPUT=1,3,32,32 expected")
    return shapes or None


@click.command("inspect")
@click.argument("path", metavar="MODEL|PROGRAM", type=click.Path(path_type=Path))
@overlay_option
@shape_option
@click.option("--disassemble", is_flag=True, help="Print a program's instructions.")
@click.option(
    "--html",
    type=click.Path(path_type=Path),
    metavar="FILE.html",
    help="Also write a model's report as one page, with its graph drawn.",
)
@terminal.json_option
def inspect_command(
    path: Path,
    overlay: str,
    shapes: tuple[str, ...],
    disassemble: bool,
    html: Path | None,
    as_json: bool,
) -> None:
    """Show which part of a model or program runs where."""
    if path.suffix == ".weft":
        if html is not None:
            raise UsageError(f"--html {html}: {path} is a program; the page is of a model")
        _inspect_program(path, disassemble, as_json)
        return
    from weft.frontend.stored import is_stored
    from weft.frontend.transformers_folder import is_known

    if is_stored(path) and not is_known(path):
        _inspect_stored(path, as_json)
        return
    if disassemble:
        raise UsageError(f"{path}: only a compiled program has instructions; `weft compile` it")
    from weft import report
    from weft.inspection import inspect

    known = parse_shapes(shapes)
    with terminal.stages("Inspecting"):
        found = inspect(path, overlay, known)
    if html is not None:
        terminal.save_text(html, found.html())
    if as_json:
        terminal.print_json(found.as_dict())
        return
    console = terminal.stdout()
    for made in report.inspection_tables(found):
        console.print(made)
    if html is not None:
        console.print(f"page: {html}", soft_wrap=True)


def _inspect_program(path: Path, disassemble: bool, as_json: bool) -> None:
    from weft import report
    from weft.runtime import load

    program = load(path)
    if disassemble:
        click.echo(program.disassemble())
        return
    facts = report.program_facts(program)
    if as_json:
        terminal.print_json({**facts, "segments": report.program_rows(program)})
        return
    console = terminal.stdout()
    console.print(report.fact_table(path.name, facts))
    console.print(report.program_table(program))


def _inspect_stored(path: Path, as_json: bool) -> None:
    """Weights without a graph."""
    from weft import report
    from weft.frontend import stored

    with terminal.stages("Reading"):
        model = stored.load(path)
        rows = stored.rows(model)
    facts = {
        "source": model.source,
        "architecture": model.architecture,
        "tensors": len(rows),
        "elements": sum(t.size for t in model),
        "bytes": sum(t.nbytes for t in model),
        "weft": model.verdict,
    }
    if as_json:
        terminal.print_json({"file": path.name, **facts, "layers": rows})
        return
    terminal.stdout().print(report.fact_table(path.name, facts))
    terminal.stdout().print(report.stored_table(rows))


@click.command("compile")
@click.argument("model", metavar="MODEL|FOLDER", type=click.Path(path_type=Path))
@overlay_option
@click.option(
    "--calibrate",
    "calibration",
    type=click.Path(path_type=Path),
    metavar="DATA.npz|LINES.txt",
    help="Typical inputs, arrays named as the model's inputs (x will do for the only one); of a "
    "text encoder lines of text.",
)
@click.option(
    "--calibrator", metavar="NAME", help="How ranges are found: minmax; of a decoder mse."
)
@click.option(
    "--requant",
    metavar="MODE",
    help="Rounding: single_round for float models, else what the model's runtime does.",
)
@click.option(
    "--weights",
    default="int8",
    show_default=True,
    metavar="FORMAT",
    shell_complete=terminal.completing(format_names),
    help="A name of `weft list formats`, int4:g32 with groups of 32, or ant4: the best of four.",
)
@click.option(
    "--activations",
    default="int8",
    show_default=True,
    metavar="FORMAT",
    help="Of the inputs of layers; int16 for a decoder's.",
)
@click.option(
    "--method",
    "weight_method",
    default="nearest",
    show_default=True,
    metavar="NAME",
    help="How weights are rounded: nearest, mse, gptq, awq, adaround.",
)
@click.option(
    "--plan",
    type=click.Path(path_type=Path),
    metavar="P.toml",
    help="Formats layer by layer; `weft plan` writes one.",
)
@click.option("--keep-first-last", is_flag=True, help="First and last layer int8.")
@click.option("--equalize", is_flag=True, help="Equalize the ranges of channels across layers.")
@click.option("--smooth", type=click.FloatRange(0, 1), metavar="A", help="SmoothQuant's strength.")
@click.option("--correct-bias", is_flag=True, help="Biases make up for the expected error.")
@click.option(
    "--sparsity",
    metavar="S",
    help="Prune first: 2:4 or another N:M, 64:2:8, csc:0.9, snap:0.5, bitmask:0.5.",
)
@click.option(
    "--criterion",
    default="magnitude",
    show_default=True,
    metavar="NAME",
    help="What is pruned: magnitude, wanda, sparsegpt.",
)
@click.option("--permute", is_flag=True, help="Order channels so that N:M loses less.")
@click.option("--batch", type=click.IntRange(min=1), metavar="N", help="Samples of a device run.")
@click.option("--symmetric", is_flag=True, help="Zero points of 0.")
@click.option("--row-ranges", is_flag=True, help="Ranges per row behind norms, found on chip.")
@click.option("--dynamic", is_flag=True, help="Take ranges without calibration data.")
@shape_option
@click.option(
    "--tokens",
    type=click.IntRange(min=1),
    metavar="S",
    help="Of a text encoder's longest sentence; of a decoder's run at most.",
)
@click.option(
    "--cache", type=click.IntRange(min=1), metavar="T", help="Tokens that a decoder remembers."
)
@click.option(
    "--slots",
    type=click.IntRange(min=1),
    metavar="N",
    help="Texts that a decoder keeps apart.",
)
@click.option(
    "--cache-bits",
    type=click.Choice(["8", "4", "2"]),
    default="8",
    callback=lambda _, __, text: int(text),
    help="Of a decoder's keys and values in board memory.",
)
@click.option("--head-scales", is_flag=True, help="A scale per head of a decoder's cache.")
@click.option(
    "--token-ranges",
    is_flag=True,
    help="Ranges per token and head of a decoder's cache, found on chip.",
)
@click.option(
    "--source",
    type=click.IntRange(min=1),
    metavar="S",
    help="Tokens of an encoder-decoder's longest source.",
)
@click.option(
    "--export-qdq",
    type=click.Path(path_type=Path),
    metavar="M.onnx",
    help="Also write the quantized network as ONNX, for onnxruntime and others.",
)
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), metavar="P.weft")
@terminal.json_option
def compile_command(
    model: Path, output: Path, shapes: tuple[str, ...], as_json: bool, **options: Any
) -> None:
    """Quantize a model and compile it for an overlay."""
    from weft import report
    from weft.compiler import compile

    if output.suffix != ".weft":
        raise UsageError(f"-o {output}: programs are named *.weft")
    with terminal.stages(f"Compiling {model.name}") as progress:
        program = compile(model, shapes=parse_shapes(shapes), progress=progress, **options)
        program.save(output)
    facts = report.program_facts(program)
    if as_json:
        terminal.print_json({"output": str(output), **facts})
        return
    console = terminal.stdout()
    console.print(report.fact_table(output.name, facts))
    console.print(report.program_table(program))
