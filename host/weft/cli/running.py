"""weft run, weft check, weft eval, weft estimate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from weft.cli import terminal
from weft.config import board_names
from weft.errors import InputError, UsageError


@click.command("run")
@terminal.program_argument
@click.argument("data", metavar="IN.npz", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), metavar="OUT.npz")
@terminal.device_option
@terminal.form_option
@terminal.board_options
@terminal.timeout_option
@terminal.json_option
def run_command(
    program: Path,
    data: Path,
    output: Path,
    device: str,
    form: str | None,
    bitfile: Path | None,
    address: str | None,
    timeout_s: float | None,
    as_json: bool,
) -> None:
    """Run a program on the arrays of a file."""
    import weft
    from weft import report
    from weft.compiler import named_arrays, read_arrays

    if output.suffix != ".npz":
        raise UsageError(f"-o {output}: results are saved as *.npz")
    options = terminal.device_options(form, bitfile, address)
    with (
        terminal.bar(f"Running on {device}") as progress,
        weft.open(program, device, timeout_s=timeout_s, **options) as session,
    ):
        names = tuple(info.name for info in session.program.inputs)
        inputs = named_arrays(read_arrays(data), names, str(data))
        outputs, took = session.run(inputs, detail=True, progress=progress)
        terminal.save_arrays(output, outputs)
    if as_json:
        terminal.print_json(took.as_dict())
        return
    console = terminal.stdout()
    console.print(report.layer_table(took.layers, f"{took.samples} samples on {device}"))
    console.print(
        f"{took.cycles:,} cycles, {report.amount(took.macs)} MACs, {took.bytes:,} bytes; "
        f"{report.seconds(took.wall_s)} here. Results in {output}"
    )


@click.command("check")
@terminal.program_argument
@click.argument("data", metavar="IN.npz", type=click.Path(path_type=Path))
@terminal.device_option
@terminal.form_option
@terminal.board_options
@terminal.json_option
def check_command(
    program: Path,
    data: Path,
    device: str,
    form: str | None,
    bitfile: Path | None,
    address: str | None,
    as_json: bool,
) -> None:
    """Compare a device with golden after every layer.

    Leaves with exit code 1 if a bit differs, and names the first value that does.
    """
    import weft
    from weft.compiler import named_arrays, read_arrays

    loaded = weft.load(program)
    names = tuple(info.name for info in loaded.inputs)
    inputs = named_arrays(read_arrays(data), names, str(data))
    options = terminal.device_options(form, bitfile, address)
    with terminal.bar(f"Checking {device}") as progress:
        result = weft.check(loaded, inputs, device, progress=progress, **options)
    if as_json:
        terminal.print_json(result.as_dict())
    elif result.first_difference is None:
        click.echo(f"Equal: {result.samples} samples, {result.layers} layers, {device} and golden.")
    else:
        d = result.first_difference
        click.echo(
            f"Different, first in layer {d.layer!r} ({d.op}, segment {d.segment}): sample "
            f"{d.sample}, channel {d.channel}, y {d.y}, x {d.x} is {d.device:g} on {device}, "
            f"{d.golden:g} on golden. {d.count} values of the layer differ."
        )
    if not result.equal:
        raise click.exceptions.Exit(1)


@click.command("eval")
@terminal.program_argument
@click.argument("data", metavar="DATA.npz", type=click.Path(path_type=Path))
@terminal.device_option
@terminal.form_option
@terminal.json_option
def eval_command(program: Path, data: Path, device: str, form: str | None, as_json: bool) -> None:
    """Measure top-1 accuracy on labelled samples.

    DATA.npz holds the inputs by name (x will do for the only one) and class numbers in y.
    """
    import weft
    from weft.compiler import named_arrays, read_arrays

    loaded = weft.load(program)
    arrays = read_arrays(data)
    if "y" not in arrays:
        raise InputError(f"{data}: arrays {sorted(arrays)} given; labels are expected in 'y'")
    labels = arrays.pop("y")
    inputs = named_arrays(arrays, tuple(info.name for info in loaded.inputs), str(data))
    options = terminal.device_options(form)
    with terminal.bar(f"Evaluating on {device}") as progress:
        found = weft.evaluate(loaded, inputs, labels, device, progress=progress, **options)
    if as_json:
        terminal.print_json({"top1": found.top1, "n": found.n})
    else:
        click.echo(f"top-1 {found.top1:.2%} of {found.n} samples")


@click.command("estimate")
@click.argument("program", metavar="P.weft|CONFIG", type=click.Path(path_type=Path))
@click.option(
    "--board",
    metavar="BOARD",
    shell_complete=terminal.completing(board_names),
    help="A name of `weft list boards`; gives seconds.",
)
@click.option("--batch", type=click.IntRange(min=1), metavar="N", help="Samples of a program; 1.")
@click.option("--overlay", metavar="NAME", help="Of a CONFIG; decoder.")
@click.option("--weights", metavar="FORMAT", help="Of a CONFIG; int4:g128.")
@click.option("--activations", metavar="FORMAT", help="Of a CONFIG's products: int8 or int16.")
@click.option(
    "--kv", type=click.Choice(["int8", "int4", "int2"]), help="Keys and values of a CONFIG."
)
@click.option(
    "--token-ranges", is_flag=True, default=None, help="Of a CONFIG: ranges per token of the cache."
)
@click.option("--context", type=click.IntRange(min=0), metavar="N", help="Tokens before; 512.")
@click.option("--prompt", type=click.IntRange(min=1), metavar="N", help="Tokens; the context's.")
@terminal.plot_option
@terminal.json_option
def estimate_command(
    program: Path,
    board: str | None,
    batch: int | None,
    plot: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Estimate cycles, traffic, time and resources without running.

    Cycles are those that csim counts; the rest needs a board. CONFIG is the config.json of a
    decoder, or its folder: no weights are needed.
    """
    from weft.cli.predicting import estimate_config
    from weft.decoder_costs.config import is_config

    if is_config(program):
        if batch is not None:
            raise UsageError(f"--batch {batch}: decoders are estimated one sequence at a time")
        estimate_config(program, board, plot, as_json, options)
        return
    for name, value in options.items():
        if value is not None:
            option = f"--{name.replace('_', '-')} {value}".removesuffix(" True")
            raise UsageError(f"{option}: {program} is a program; it is for a config.json")
    _estimate_program(program, board, batch or 1, plot, as_json)


def _estimate_program(
    program: Path, board: str | None, batch: int, plot: Path | None, as_json: bool
) -> None:
    """Shows what a compiled program takes."""
    import weft
    from weft import report, roofline
    from weft.cli.exploring import show_fit

    made = weft.estimate(weft.load(program), batch, board)
    if plot:
        roofline.draw(made, plot)
    facts = report.estimate_facts(made)
    if as_json:
        terminal.print_json(facts)
        return
    where = f" on {board}" if board else ""
    console = terminal.stdout()
    console.print(report.layer_table(facts["layers"], f"{program.name}, batch {batch}{where}"))
    time = "" if facts["wall_s"] is None else f"; {report.seconds(facts['wall_s'])} estimated"
    console.print(
        f"{facts['cycles']:,} cycles, {report.amount(facts['macs'])} MACs, "
        f"{facts['bytes']:,} bytes{time}"
    )
    if made.fit:
        show_fit(console, made)
    if plot:
        console.print(f"roofline: {plot}")
