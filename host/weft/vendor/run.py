"""Runs a build plan: the one place that writes a project and starts the vendor's tools."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from weft.config import Board
from weft.errors import BuildError
from weft.project import BuildPlan, Step
from weft.vendor import folder, logs, routed, tools
from weft.vendor.reports import Synthesis, read_synthesis, read_text

Progress = Callable[[str, str], None]  # step, newest line of its log


@dataclass(frozen=True)
class Done:
    """What became of a step: "done" now, or "kept" from an earlier run."""

    name: str
    state: str
    wall_s: float


@dataclass(frozen=True)
class Outcome:
    """What a run of a plan left: reports, messages, products; or what to run where, in `next`."""

    where: Path
    digest: str
    steps: tuple[Done, ...] = ()
    messages: tuple[str, ...] = ()
    synthesis: Synthesis | None = None
    timing: routed.Timing | None = None
    utilization: routed.Utilization | None = None
    products: tuple[Path, ...] = ()
    next: tuple[str, ...] = field(default=())


def run(
    plan: BuildPlan,
    where: str | Path,
    machine: tools.Executor | None = None,
    progress: Progress = lambda step, line: None,
) -> Outcome:
    """Writes the project to `where`; runs every step that is not done, if the tools are there.

    Can be interrupted, or killed, and called again. Raises BuildError where a folder holds another
    plan, a tool fails, the timing is not met, or the design is not for this board.
    """
    where = Path(where).absolute()
    folder.write(plan, where)
    machine = machine or tools.Local()
    outcome = Outcome(where, plan.digest())
    absent = tools.missing(plan, machine)
    if absent:
        return replace(outcome, next=_instructions(plan, where, absent, machine.name))
    try:
        with folder.locked(where) as keep:
            if not all(_kept(step, outcome) for step in plan.commands):
                machine.prepare(plan, where)
            for step in plan.commands:
                outcome = _step(step, plan, outcome, machine, progress, keep)
            return replace(outcome, products=_products(plan, where))
    except OSError as error:
        raise BuildError(
            f"{error.filename or where}: {error.strerror}; mend that and run the same command again"
        ) from None


def _instructions(plan: BuildPlan, where: Path, absent: list[str], machine: str) -> tuple[str, ...]:
    return (
        f"# {machine} has no {' and no '.join(absent)}. Where Vitis 2023.2 to 2025.2 is installed:",
        f"cd {where}",
        "make csim       # the C test bench, minutes",
        "make bitstream  # an hour or more; ends with " + " and ".join(plan.products.values()),
    )


def _kept(step: Step, outcome: Outcome) -> bool:
    return folder.is_done(outcome.where, step.name, outcome.digest, step.outputs)


def _step(
    step: Step,
    plan: BuildPlan,
    outcome: Outcome,
    machine: tools.Executor,
    progress: Progress,
    keep: int,
) -> Outcome:
    """Runs a step unless it is done; reads and checks what it left."""
    where, start = outcome.where, time.perf_counter()
    log = where / "logs" / f"{step.name}.log"
    kept = _kept(step, outcome)
    if not kept:
        for name in ("logs", "results", "work"):
            (where / name).mkdir(exist_ok=True)
        _set_aside(log)
        for output in step.outputs:  # none of an earlier, failed run is taken for a new one
            (where / output).unlink(missing_ok=True)
        command = tools.command_of(step, machine)
        told = lambda line: progress(step.name, line)  # noqa: E731
        _demand(machine.execute(command, where, log, told, keep) == 0, step, log, command)
        machine.collect(where)
        for output in step.outputs:
            if not (where / output).is_file():
                raise BuildError(f"step {step.name!r} ended without {output}; its log is {log}")
    found = _read(step, plan.board, outcome)
    if not kept:
        folder.stamp(where, step.name, outcome.digest)
    state = Done(step.name, "kept" if kept else "done", time.perf_counter() - start)
    return replace(found, steps=(*outcome.steps, state))


def _set_aside(log: Path) -> None:
    """An earlier log is kept under a number."""
    if log.exists():
        taken = [int(p.suffixes[-2][1:]) for p in log.parent.glob(f"{log.stem}.[0-9]*.log")]
        log.rename(log.with_suffix(f".{max(taken, default=0) + 1}.log"))


def _demand(succeeded: bool, step: Step, log: Path, command: tuple[str, ...]) -> None:
    """Raises BuildError with the first error of the log, or its last line."""
    if succeeded:
        return
    error = logs.first_error(read_text(log).splitlines())
    words = str(error) if error else tools.last_line(log) or "no output"
    raise BuildError(
        f"step {step.name!r} failed: {words}. Command: {' '.join(command)}; log: {log}"
    )


def _read(step: Step, board: Board, outcome: Outcome) -> Outcome:
    """The reports of a step, checked against the board."""
    where, log = outcome.where, outcome.where / "logs" / f"{step.name}.log"
    lines = read_text(log).splitlines() if log.exists() else []
    messages = [str(m) for m in logs.remarkable(lines)]
    messages += [
        f"loop {p.loop!r}: a new iteration every {p.final} clocks instead of {p.target}"
        for p in logs.missed(lines)
    ]
    found = outcome
    if step.tool == "hls":
        synthesis = read_synthesis(where / step.outputs[0])
        messages += check_estimate(synthesis, board)
        found = replace(found, synthesis=synthesis)
    elif "results/timing.rpt" in step.outputs:
        timing = routed.check_timing(where / "results" / "timing.rpt")
        used = routed.check_utilization(where / "results" / "utilization.rpt", board)
        found = replace(found, timing=timing, utilization=used)
    elif step.tool == "v++":
        for report in sorted((where / "results" / "reports").rglob("*timing_summary*.rpt")):
            found = replace(found, timing=routed.check_timing(report))
    return replace(found, messages=(*outcome.messages, *dict.fromkeys(messages)))


def check_estimate(synthesis: Synthesis, board: Board) -> list[str]:
    """Remarks on the estimates of C synthesis.

    Raises BuildError for another part, and where memories or DSPs exceed the board: they don't
    shrink. LUTs and FFs do in Vivado, so they are only remarked upon.
    """
    if not routed.same_part(synthesis.part, board.part):
        raise BuildError(
            f"C synthesis was for {synthesis.part}, but {board.name} carries {board.part}"
        )
    used = synthesis.resources
    have = {"BRAM_18K": 2 * board.bram36, "DSP": board.dsp, "URAM": board.uram}
    over = [f"{name} {used[name]} of {there}" for name, there in have.items() if used[name] > there]
    if over:
        raise BuildError(
            f"C synthesis estimates more than {board.name} has: {', '.join(over)}; take a smaller "
            f"overlay (weft list overlays)"
        )
    remarks = [
        f"C synthesis estimates {name} {used[name]} of {there}; Vivado may still fit it"
        for name, there in {"LUT": board.lut, "FF": board.ff}.items()
        if used[name] > there
    ]
    if synthesis.estimated_ns > synthesis.target_ns:
        remarks.append(
            f"C synthesis estimates a clock of {synthesis.estimated_ns} ns against "
            f"{synthesis.target_ns} ns; routing decides"
        )
    return remarks


def _products(plan: BuildPlan, where: Path) -> tuple[Path, ...]:
    """Gives the results their final names."""
    for source, name in plan.products.items():
        content = (where / source).read_bytes()
        if not (where / name).is_file() or (where / name).read_bytes() != content:
            folder.put(where / name, content)
    return tuple(where / name for name in plan.products.values())
