"""Session: a program loaded on a device once, then run as often as wanted.

A run takes any number of samples; the program's `batch` is what one device run holds, so a
session goes through the samples in chunks. All that does not depend on the samples is worked out
when the session opens.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from weft import padding
from weft.device.base import Device, RunResult
from weft.errors import DeviceError, InputError, UsageError
from weft.graph import Array, Shape
from weft.host import HostRunner
from weft.inputs import check_input
from weft.pack import Packer
from weft.program import HostSegment, Program
from weft.run import Run as Run
from weft.tokens import most_tokens

if TYPE_CHECKING:
    pass

Arrays = Array | Mapping[str, Array]
Progress = Callable[[int, int], None]


@dataclass
class _OnDevice:
    """Runs an accelerator segment: values in, values out."""

    device: Device
    segment: int
    inputs: list[tuple[str, int, Packer]]
    outputs: list[tuple[str, int, Packer, Shape, Array | None]]

    def run(
        self, values: dict[str, Array], samples: int, timeout_s: float | None, took: list[RunResult]
    ) -> None:
        device = self.device
        for name, row, packer in self.inputs:
            device.write(row, packer.pack(values[name]))
        took.append(device.run(self.segment, samples, timeout_s))
        for name, row, packer, shape, reals in self.outputs:
            codes = packer.unpack(device.read(row, samples * packer.words), samples, shape)
            if reals is None:
                values[name] = packer.region.quant.dequantize(codes)
            else:
                values[name] = reals.take(codes.view(np.uint8))


@dataclass
class _OnHost:
    """Evaluates a host segment with numpy."""

    runner: HostRunner

    def run(
        self, values: dict[str, Array], samples: int, timeout_s: float | None, took: list[RunResult]
    ) -> None:
        self.runner.run(values, samples)


Steps = list[_OnDevice | _OnHost]
Ran = tuple[dict[str, Array], list[RunResult], tuple[tuple[Program, int], ...]]


def steps_of(
    program: Program,
    device: Device,
    numbers: Collection[int] | None = None,
    states: Collection[str] = (),
) -> Steps:
    """The segments (or those with `numbers`) with all that is known before the first sample.

    A tensor is written where a segment first reads it, and read back where the host or the caller
    needs it; between accelerator segments it stays in activation memory, as `states` always do.
    """
    lanes = program.overlay.lanes
    shapes = {info.name: info.shape for info in program.outputs}
    wanted = set(shapes)
    for segment in program.segments:
        if isinstance(segment, HostSegment):
            wanted.update(segment.graph.inputs)
            shapes |= {name: segment.graph[name].shape for name in segment.graph.inputs}
    wanted -= set(states)
    resident = set(states)
    steps: Steps = []
    for number, segment in enumerate(program.segments):
        if numbers is not None and number not in numbers:
            continue
        if isinstance(segment, HostSegment):
            steps.append(_OnHost(HostRunner(segment.graph)))
            continue
        step = _OnDevice(device, number, [], [])
        for name in segment.inputs:
            if name not in resident:
                region = program.regions[name]
                step.inputs.append((name, region.row, Packer(region, lanes)))
        for name in segment.outputs:
            if name in wanted:
                region = program.regions[name]
                packer = Packer(region, lanes)
                codes = np.arange(256, dtype=np.uint8).view(np.int8)
                wide = region.layout.bits > 8
                reals = None if wide else region.quant.dequantize(codes)
                step.outputs.append((name, region.row, packer, shapes[name], reals))
        resident.update(segment.inputs, segment.outputs)
        steps.append(step)
    return steps


class Session:
    """A program on an open device. Several threads may call `run`; the device takes one at a time.

    `last` is the `Run` of the most recent call.
    """

    def __init__(self, program: Program, device: Device, timeout_s: float | None = None) -> None:
        if program.cache is not None:
            raise UsageError(
                f"program {program.name!r} is a decoder: weft.open_decoder(program) generates text"
            )
        self.program = program
        self.device = device
        self.timeout_s = checked_limit(timeout_s)
        self.last: Run | None = None
        self._lock = threading.Lock()
        self._open = True
        self._stale = False
        self._inputs = {info.name: info for info in program.inputs}
        self._outputs = tuple(info.name for info in program.outputs)
        self._most = most_tokens(program)
        self._known: dict[tuple[int, ...], tuple[Program, Steps]] = {}
        device.load(program)
        self._loaded = program
        self._steps = steps_of(program, device)

    def run(
        self,
        inputs: Arrays,
        *,
        mask: Array | None = None,
        timeout_s: float | None = None,
        detail: bool = False,
        progress: Progress | None = None,
    ) -> Any:
        """Outputs for `inputs`: an array for an array, a dict by name for a dict.

        An array [n, ...] will do where the program has one input; the answer is an array if it
        has one output, too. Inputs [n, tokens, ...] of transformers may have fewer tokens than the
        program was compiled for, and outputs then do (`Program.at_tokens`). `mask` [n, tokens],
        true for those of a sample that are there, leaves out the others: they are not computed, and
        what outputs say of them is 0. With `detail`, (outputs, Run). `timeout_s` limits each device
        run (the session's own if None). `progress` hears (samples done, samples in all).

        Raises InputError for wrong names, shapes, dtypes or values that are not finite,
        UsageError for a limit that is not positive, DeviceTimeout and DeviceError.
        """
        start = time.perf_counter()
        if self.program.entries:
            entries = ", ".join(map(repr, self.program.entries))
            raise UsageError(
                f"program {self.program.name!r} has parts that run alone ({entries}): open it with "
                "weft.recurrent.open_steps"
            )
        values = self.checked(inputs, mask is not None)
        samples = len(next(iter(values.values())))
        limit = self.timeout_s if timeout_s is None else checked_limit(timeout_s)
        padded = padding.of(self.program, values, mask)
        with self._lock:
            if not self._open:
                raise DeviceError("the session is closed; open another one: weft.open(program)")
            if padded is None:
                results, parts, groups = self._alike(values, samples, limit, progress)
            else:
                results, parts, groups = self._padded(padded, values, limit, progress)
            took = Run(
                groups[0][0] if groups else self.program,
                samples,
                sum(p.cycles for p in parts),
                time.perf_counter() - start,
                sum(p.wall_s for p in parts),
                _total(parts),
                groups,
            )
            self.last = took
        answer: Any = results
        named = type(inputs) is not np.ndarray and isinstance(inputs, Mapping)
        if not named and len(self._outputs) == 1:
            answer = results[self._outputs[0]]
        return (answer, took) if detail else answer

    def close(self) -> None:
        """Gives the device back; safe to call twice."""
        with self._lock:
            if self._open:
                self._open = False
                self.device.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _alike(
        self,
        values: dict[str, Array],
        samples: int,
        timeout_s: float | None,
        progress: Progress | None,
    ) -> Ran:
        """Samples with equally many tokens."""
        program, self._steps = self._of(values)
        if self._stale or program is not self._loaded:
            self.device.load(program)
            self._loaded = program
        self._stale = True  # until the run is through: an aborted one leaves a device half-way
        if samples <= program.batch:
            results, parts = self._chunk(values, samples, timeout_s)
        else:
            results, parts = self._chunks(values, samples, timeout_s, progress)
        self._stale = False
        return results, parts, ((program, samples),)

    def _padded(
        self,
        padded: padding.Padded,
        values: dict[str, Array],
        timeout_s: float | None,
        progress: Progress | None,
    ) -> Ran:
        """Samples of which not all tokens are there: those with equally many together."""
        outputs = padded.outputs()
        parts: list[RunResult] = []
        groups: list[tuple[Program, int]] = []
        for rows in padded.groups():
            part = padded.taken(values, rows)
            results, took, program = self._alike(part, len(rows), timeout_s, None)
            padded.put(outputs, results, rows)
            parts += took
            groups += program
            if progress:
                progress(sum(n for _, n in groups), len(padded.there))
        return outputs, parts, tuple(groups)

    def _of(self, values: Mapping[str, Array]) -> tuple[Program, Steps]:
        """The program for the number of tokens that the inputs have, and its segments."""
        counts = tuple(values[name].shape[1] for name in self._most)
        if counts not in self._known:
            program = self.program
            if counts != tuple(self._most.values()):
                program = program.at_tokens(dict(zip(self._most, counts, strict=True)))
            self._known[counts] = program, steps_of(program, self.device)
        return self._known[counts]

    def _chunk(
        self, values: dict[str, Array], samples: int, timeout_s: float | None
    ) -> tuple[dict[str, Array], list[RunResult]]:
        parts: list[RunResult] = []
        for step in self._steps:
            step.run(values, samples, timeout_s, parts)
        return {name: values[name] for name in self._outputs}, parts

    def _chunks(
        self,
        values: dict[str, Array],
        samples: int,
        timeout_s: float | None,
        progress: Progress | None,
    ) -> tuple[dict[str, Array], list[RunResult]]:
        pieces: dict[str, list[Array]] = {name: [] for name in self._outputs}
        every: list[RunResult] = []
        for start in range(0, samples, self.program.batch):
            end = min(start + self.program.batch, samples)
            part = {name: x[start:end] for name, x in values.items()}
            results, parts = self._chunk(part, end - start, timeout_s)
            every += parts
            for name, result in results.items():
                pieces[name].append(result)
            if progress:
                progress(end, samples)
        return {name: np.concatenate(piece) for name, piece in pieces.items()}, every

    def checked(self, inputs: Arrays, masked: bool = False) -> dict[str, Array]:
        """The inputs by name, checked and of the program's dtypes; raises InputError.

        With a mask there is no need for the input that numbers of tokens come from.
        """
        # The type first: asking an abstract class takes longer than the rest of this check.
        if type(inputs) is np.ndarray or not isinstance(inputs, Mapping):
            names = [n for n in self._inputs if not (masked and n == self.program.lengths)]
            if len(names) != 1:
                raise InputError(
                    f"one array given, but the program has {len(self._inputs)} inputs: pass a "
                    f"dict with {', '.join(map(repr, self._inputs))}"
                )
            info = self._inputs[names[0]]
            return {info.name: check_input(info, inputs, info.name in self._most)}
        wanted = self._inputs.keys() - ({self.program.lengths} if masked else set())
        if inputs.keys() - {self.program.lengths} != wanted - {self.program.lengths} or (
            not wanted <= inputs.keys()
        ):
            raise InputError(f"inputs {sorted(inputs)} given, {sorted(self._inputs)} expected")
        tokens, infos = self.program.tokens, self._inputs
        fewer = {*tokens, *(n for n in infos if padding.is_mask(self.program, n))}
        values = {n: check_input(infos[n], x, n in fewer) for n, x in inputs.items()}
        for name, root in tokens.items():
            if name in values and values[name].shape[1] != values[root].shape[1]:
                raise InputError(
                    f"inputs {name!r} and {root!r} have {values[name].shape[1]} and "
                    f"{values[root].shape[1]} tokens, where the program takes equally many"
                )
        counts = {name: len(x) for name, x in values.items()}
        if len(set(counts.values())) > 1:
            raise InputError(f"inputs with different numbers of samples: {counts}")
        return values


def checked_limit(timeout_s: float | None) -> float | None:
    """A limit of time as it is. Raises UsageError for one that is not positive."""
    if timeout_s is not None and not timeout_s > 0:
        raise UsageError(f"timeout_s = {timeout_s}: more than 0 seconds, or None for no limit")
    return timeout_s


def _total(parts: list[RunResult]) -> Mapping[str, int]:
    if len(parts) == 1:
        return parts[0].counters
    total: dict[str, int] = {}
    for part in parts:
        for name, value in part.counters.items():
            total[name] = total.get(name, 0) + value
    return total


def load(path: str | Path) -> Program:
    """The program in a .weft file. Raises ProgramError if it is none, or a corrupt one."""
    return Program.load(path)


def open(
    program: Program | str | Path,
    device: str = "csim",
    *,
    timeout_s: float | None = None,
    **options: Any,
) -> Session:
    """A session of a program (or of a .weft file) on the device of that name.

    `options` go to the device: csim takes form="functional" or "cycle", build="fast" or "exact".
    Raises UsageError for an unknown device or option, DeviceError if it can't be built.
    """
    from weft.device import open_device

    if not isinstance(program, Program):
        program = load(program)
    return Session(program, open_device(device, **options), timeout_s)
