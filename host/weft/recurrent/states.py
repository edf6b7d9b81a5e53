"""What a program of steps must be: states at one place in memory, entries with segments."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from weft.errors import ProgramError, UsageError, unknown
from weft.graph import Graph
from weft.pack import sequence
from weft.program import AcceleratorSegment, HostSegment, Program, Segment


def check_states(program: Program) -> None:
    """Raises ProgramError for states that don't lie at one place in one form, that nothing reads
    or writes, and for entries whose segments aren't there, or are those of another.
    """
    inputs = {info.name for info in program.inputs}
    outputs = {info.name for info in program.outputs}
    facts: dict[str, tuple[object, ...]] = {}
    kinds: dict[str, set[bool]] = {}
    for name, state in program.states.items():
        region = program.regions.get(name)
        if region is None or name not in inputs | outputs:
            raise ProgramError(f"state {state!r}: {name!r} is no input or output in memory")
        layout, quant = region.layout, region.quant
        form = (layout.channels, layout.height, layout.width, layout.bits, sequence(layout))
        own = (region.row, form, float(quant.scale), quant.zero_point, quant.format, region.unfold)
        if facts.setdefault(state, own) != own:
            raise ProgramError(f"state {state!r}: {name!r} lies elsewhere, or has other codes")
        kinds.setdefault(state, set()).add(name in inputs)
    for state, found in kinds.items():
        if found != {True, False}:
            what = "written" if True in found else "read"
            raise ProgramError(f"state {state!r} is never {what}")
    _check_entries(program)


def _check_entries(program: Program) -> None:
    owner: dict[int, str] = {}
    for entry, numbers in program.entries.items():
        for number in numbers:
            if not 0 <= number < len(program.segments) or number in owner:
                raise ProgramError(f"entry {entry!r}: segment {number} is not there, or another's")
            owner[number] = entry


def entries_of(program: Program) -> dict[str, tuple[int, ...]]:
    """The segments of each entry; without entries all of them, under the name ""."""
    return dict(program.entries) or {"": tuple(range(len(program.segments)))}


def names_of(program: Program, numbers: tuple[int, ...]) -> tuple[list[str], list[str]]:
    """Inputs and outputs of the program that some of its segments have, but for states."""
    read: set[str] = set()
    written: set[str] = set()
    for number in numbers:
        part = _part(program.segments[number])
        read.update(part.inputs)
        written.update(part.outputs)
    own = (
        [info.name for info in infos if info.name in names and info.name not in program.states]
        for infos, names in ((program.inputs, read), (program.outputs, written))
    )
    inputs, outputs = own
    return inputs, outputs


def entry_program(program: Program, entry: str) -> Program:
    """The program of one entry alone, for estimates and reports.

    Raises UsageError for an entry that there is not.
    """
    if entry not in program.entries:
        raise UsageError(unknown("entry", entry, program.entries))
    numbers = program.entries[entry]
    segments = [program.segments[n] for n in numbers]
    codes = [s.layers for s in segments if isinstance(s, AcceleratorSegment)]
    used = np.unique(np.concatenate(codes)) if codes else np.zeros(0, np.int32)
    parts = [
        replace(s, layers=np.searchsorted(used, s.layers).astype(np.int32))
        if isinstance(s, AcceleratorSegment)
        else s
        for s in segments
    ]
    names = {n for s in segments for n in (*_part(s).inputs, *_part(s).outputs)}
    return replace(
        program,
        name=f"{program.name}/{entry}",
        segments=tuple(parts),
        layers=tuple(program.layers[i] for i in used),
        inputs=tuple(info for info in program.inputs if info.name in names),
        outputs=tuple(info for info in program.outputs if info.name in names),
        states={name: state for name, state in program.states.items() if name in names},
        entries={},
        model=None,
    ).verify()


def _part(segment: Segment) -> AcceleratorSegment | Graph:
    return segment.graph if isinstance(segment, HostSegment) else segment
