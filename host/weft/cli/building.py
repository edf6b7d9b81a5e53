"""weft build."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from weft.cli import terminal
from weft.config import board_names, overlay_names
from weft.errors import BuildError, UsageError

if TYPE_CHECKING:
    from weft.project import BuildPlan
    from weft.vendor.run import Outcome


@click.command("build")
@click.argument("overlay", required=False, shell_complete=terminal.completing(overlay_names))
@click.option(
    "--board",
    "boards",
    multiple=True,
    metavar="NAME",
    shell_complete=terminal.completing(board_names),
    help="A name of `weft list boards`; with --all, may be repeated.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="DIR", required=True)
@click.option("--dry-run", is_flag=True, help="Show files and commands; write and run nothing.")
@click.option("--remote", metavar="USER@HOST", help="Run the tools there, over ssh.")
@click.option("--jobs", default=2, show_default=True, type=click.IntRange(min=1), metavar="N")
@click.option("--all", "everything", is_flag=True, help="Every overlay on every board it fits.")
@click.option("--dask", metavar="ADDRESS", help="With --all: on the workers of a Dask scheduler.")
@click.option("--force", is_flag=True, help="Also what does not fit the board by estimate.")
@terminal.json_option
def build_command(
    overlay: str | None,
    boards: tuple[str, ...],
    output: Path,
    everything: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Write the Vitis and Vivado project of an overlay for a board; build it if tools are there.

    Can be interrupted and called again: finished steps are kept.
    """
    if everything:
        if options["remote"] or options["dry_run"] or options["force"]:
            raise UsageError("--all goes with --board, --jobs and --dask only")
        names = (overlay,) if overlay else ()
        _build_all(names, boards, output, options["jobs"], options["dask"], as_json)
        return
    if options["dask"]:
        raise UsageError("--dask builds a matrix: give --all, too")
    if overlay is None or len(boards) != 1:
        raise UsageError("weft build OVERLAY --board NAME -o DIR, or weft build --all -o DIR")
    from weft import project

    plan = project.plan(overlay, boards[0], force=options["force"])
    if options["dry_run"]:
        _show_plan(plan, as_json)
    else:
        _build(plan, output, options["remote"], options["jobs"], as_json)


def _show_plan(plan: BuildPlan, as_json: bool) -> None:
    facts: dict[str, Any] = {
        "plan": plan.name,
        "digest": plan.digest(),
        "design": plan.overlay.digest(),
        "files": {name: len(content) for name, content in plan.files.items()},
        "steps": [
            {"name": s.name, "tool": s.tool, "arguments": s.arguments} for s in plan.commands
        ],
        "products": list(plan.products.values()),
    }
    if as_json:
        terminal.print_json(facts)
        return
    for name, nbytes in facts["files"].items():
        click.echo(f"{nbytes:>9,}  {name}")
    for step in plan.commands:
        click.echo(f"{step.name}: {step.tool} {' '.join(step.arguments)}")
    click.echo(f"→ {' '.join(facts['products'])}")


def _build(plan: BuildPlan, output: Path, remote: str | None, jobs: int, as_json: bool) -> None:
    from weft.vendor import run, tools

    machine = tools.Remote(remote, jobs) if remote else tools.Local(jobs)
    with terminal.stages(f"Building {plan.name}") as told:
        outcome = run.run(
            plan,
            output,
            machine,
            lambda step, line: told(f"{step}: {line[:100]}" if line else step),
        )
    if as_json:
        terminal.print_json(_facts(plan, outcome))
        return
    click.echo(f"{output}: {plan.name}, {len(plan.files)} files")
    for message in outcome.messages:
        click.echo(f"  {message}", err=True)
    for step in outcome.steps:
        click.echo(f"  {step.name:<12} {step.state} {step.wall_s:8.1f} s")
    if outcome.timing:
        click.echo(f"  timing met, worst slack {outcome.timing.wns_ns} ns")
    if outcome.utilization:
        used = outcome.utilization.used
        shares = (f"{n} {used[n]:g} ({used[n] / (getattr(plan.board, n) or 1):.0%})" for n in used)
        click.echo("  " + ", ".join(shares))
    for line in (*outcome.next, *map(str, outcome.products)):
        click.echo(line)


def _facts(plan: BuildPlan, outcome: Outcome) -> dict[str, Any]:
    """What a build left, as plain values."""
    return {
        "plan": plan.name,
        "digest": plan.digest(),
        "design": plan.overlay.digest(),
        "output": str(outcome.where),
        "files": sorted(plan.files),
        "steps": [asdict(step) for step in outcome.steps],
        "messages": outcome.messages,
        "synthesis": asdict(outcome.synthesis) if outcome.synthesis else None,
        "timing": asdict(outcome.timing) if outcome.timing else None,
        "utilization": dict(outcome.utilization.used) if outcome.utilization else None,
        "products": [str(path) for path in outcome.products],
        "next": outcome.next,
    }


def _build_all(
    names: tuple[str, ...],
    boards: tuple[str, ...],
    output: Path,
    jobs: int,
    dask: str | None,
    as_json: bool,
) -> None:
    from weft import report
    from weft.vendor import matrix

    fitting, rows = matrix.pairs(names, boards)
    with terminal.bar("Building") as told:
        done = matrix.build_all(fitting, output, jobs=jobs, dask=dask, progress=told)
    rows = [*done, *rows]
    if as_json:
        terminal.print_json({"output": str(output), "builds": [asdict(row) for row in rows]})
    else:
        cells = [(row.overlay, row.board, row.state, row.detail) for row in rows]
        columns = ("overlay", "board", "", "detail")
        terminal.stdout().print(report.table(str(output), columns, cells))
    failed = [f"{row.overlay}-{row.board}" for row in rows if row.state == "failed"]
    if failed:
        raise BuildError(f"{len(failed)} of {len(rows)} failed: {', '.join(failed)}; see above")
