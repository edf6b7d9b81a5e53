"""weft bench."""

from __future__ import annotations

from pathlib import Path

import click

from weft.cli import terminal


@click.command("bench")
@terminal.program_argument
@terminal.device_option
@terminal.form_option
@click.option("--runs", type=click.IntRange(min=1), default=100, show_default=True, metavar="N")
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True, metavar="N")
@terminal.board_options
@terminal.json_option
def bench_command(
    program: Path,
    device: str,
    form: str | None,
    runs: int,
    batch: int,
    bitfile: Path | None,
    address: str | None,
    as_json: bool,
) -> None:
    """Measure a device: latency percentiles, throughput, and energy where it has power rails."""
    from weft import report
    from weft.measure import measure

    options = terminal.device_options(form, bitfile, address)
    found = measure(program, device, runs=runs, batch=batch, **options)
    if as_json:
        terminal.print_json(found.as_dict())
        return
    rows = [(f"latency, {name}", report.seconds(s)) for name, s in found.latency_s.items()]
    rows += [
        ("on the device, median", report.seconds(found.device_s)),
        ("clocks", f"{found.cycles:,}"),
        ("throughput", f"{found.samples_per_s:,.1f} samples/s"),
    ]
    if found.power_w is not None and found.joules is not None:
        rows.append(("power", f"{found.power_w:.2f} W"))
        rows.append(("energy per sample", f"{found.joules * 1e3:.3f} mJ"))
    title = f"{found.program} on {device}, {runs} runs of {batch}"
    terminal.stdout().print(report.table(title, ("", "#measured"), rows))
