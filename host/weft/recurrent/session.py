"""StepSession: a network one step at a time, its states on the device between the steps.

A device holds as many samples as the program has slots. A step takes the first of them, as many as
it gets inputs for: sequences of different lengths run with the longest first, and those that end
drop out at the back.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from weft.closing import Closing
from weft.device.base import Device, RunResult
from weft.errors import DeviceError, InputError, UsageError, unknown
from weft.graph import Array
from weft.inputs import check_input
from weft.pack import Packer
from weft.program import Program, TensorInfo
from weft.recurrent.states import entries_of, names_of
from weft.runtime import Steps, checked_limit, steps_of


@dataclass
class Took:
    """What the steps since `start` took, summed: steps, samples of all steps, the device's clocks
    (also by cause) and seconds.
    """

    steps: int = 0
    samples: int = 0
    cycles: int = 0
    device_s: float = 0.0
    counters: dict[str, int] = field(default_factory=dict)

    def add(self, samples: int, results: Sequence[RunResult]) -> None:
        """One more step."""
        parts = [Took(0, 0, r.cycles, r.wall_s, dict(r.counters)) for r in results]
        for part in (Took(1, samples), *parts):
            self.join(part)

    def join(self, other: Took) -> None:
        """All of another one, too."""
        self.steps, self.samples = self.steps + other.steps, self.samples + other.samples
        self.cycles, self.device_s = self.cycles + other.cycles, self.device_s + other.device_s
        for name, value in other.counters.items():
            self.counters[name] = self.counters.get(name, 0) + value


@dataclass(frozen=True)
class _State:
    """Where a state lies, and how."""

    info: TensorInfo
    row: int
    packer: Packer


@dataclass(frozen=True)
class _Entry:
    steps: Steps
    inputs: dict[str, TensorInfo]
    outputs: tuple[str, ...]


class StepSession(Closing):
    """A program of steps on an open device.

    `slots` is how many samples it holds; `took` what they took since `start`. Threads may share a
    session; whose steps belong together is theirs to know.
    """

    def __init__(self, program: Program, device: Device, timeout_s: float | None = None) -> None:
        if not program.states:
            raise UsageError(
                f"program {program.name!r} keeps no state: compile one step of the network with "
                "states={output: input}"
            )
        self.program = program
        self.device = device
        self.timeout_s = checked_limit(timeout_s)
        self.slots = program.batch
        self.samples = 0
        self.took = Took()
        self._lock = threading.Lock()
        self._open = True
        device.load(program)
        infos = {info.name: info for info in (*program.inputs, *program.outputs)}
        self._states: dict[str, _State] = {}
        for name in (name for name in infos if name in program.states):
            region, state = program.regions[name], program.states[name]
            packer = Packer(region, program.overlay.lanes)
            self._states.setdefault(state, _State(infos[name], region.row, packer))
        self._entries = {
            name: self._entry(numbers, infos) for name, numbers in entries_of(program).items()
        }

    def _entry(self, numbers: tuple[int, ...], infos: Mapping[str, TensorInfo]) -> _Entry:
        inputs, outputs = names_of(self.program, numbers)
        steps = steps_of(self.program, self.device, numbers, self.program.states)
        return _Entry(steps, {name: infos[name] for name in inputs}, tuple(outputs))

    def start(self, samples: int, states: Mapping[str, Array] | None = None) -> None:
        """Begins sequences of `samples` samples, with states [samples, ...], zeros if not given.

        Raises InputError for more samples than there are slots, and for states that the program
        does not have or that have another shape.
        """
        if not 1 <= samples <= self.slots:
            raise InputError(f"{samples} samples; the program holds 1 to {self.slots} at a time")
        given = dict(states or {})
        for name in given:
            if name not in self._states:
                raise InputError(unknown("state", name, self._states))
        checked: dict[str, Array] = {}
        for name, state in self._states.items():
            value = given.get(name)
            shape = (samples, *state.info.shape[1:])
            if value is None:
                value = np.zeros(shape, np.float32)
            checked[name] = check_input(state.info, value)
            if len(checked[name]) != samples:
                raise InputError(f"state {name!r}: {len(checked[name])} samples of {samples}")
        with self._lock:
            self._check_open()
            for name, state in self._states.items():
                self.device.write(state.row, state.packer.pack(checked[name]))
            self.samples, self.took = samples, Took()

    def step(self, inputs: Mapping[str, Array] | Array, entry: str = "") -> dict[str, Array]:
        """Outputs of one step for the first samples, by name; the states of the others stay.

        `inputs` are arrays [k, ...] by name, or the array of the only input. Raises InputError for
        wrong ones and for more samples than were started, UsageError for an unknown entry.
        """
        found = self._entries.get(entry)
        if found is None:
            raise UsageError(unknown("entry", entry, self._entries))
        if not isinstance(inputs, Mapping):
            if len(found.inputs) != 1:
                raise InputError(f"one array given, {sorted(found.inputs)} expected by name")
            inputs = {next(iter(found.inputs)): inputs}
        if set(inputs) != set(found.inputs):
            raise InputError(f"inputs {sorted(inputs)} given, {sorted(found.inputs)} expected")
        values = {name: check_input(found.inputs[name], x) for name, x in inputs.items()}
        counts = {name: len(x) for name, x in values.items()}
        samples = next(iter(counts.values()))
        if len(set(counts.values())) > 1 or samples > self.samples:
            raise InputError(f"{counts} samples, of {self.samples} that were started")
        results: list[RunResult] = []
        with self._lock:
            self._check_open()
            for step in found.steps:
                step.run(values, samples, self.timeout_s, results)
            self.took.add(samples, results)
        return {name: values[name] for name in found.outputs}

    def state(self, name: str) -> Array:
        """The real values [samples, ...] of a state."""
        state = self._state(name)
        with self._lock:
            self._check_open()
            rows = self.device.read(state.row, self.samples * state.packer.words)
        shape = state.info.shape
        codes = state.packer.unpack(rows, self.samples, shape)
        return np.asarray(state.packer.region.quant.dequantize(codes))

    def keep(self, samples: Sequence[int] | Array) -> None:
        """Goes on with some of the samples only, which move to the front in the order given.

        Raises InputError for numbers that there are not, or twice.
        """
        chosen = np.asarray(samples, np.int64).reshape(-1)
        bad = chosen[(chosen < 0) | (chosen >= self.samples)]
        if len(bad) or len(np.unique(chosen)) < len(chosen) or not len(chosen):
            raise InputError(
                f"samples {chosen.tolist()[:8]}: different numbers below {self.samples}, at least "
                "one"
            )
        with self._lock:
            self._check_open()
            for state in self._states.values():
                words = state.packer.words
                rows = self.device.read(state.row, self.samples * words)
                parts = rows.reshape(self.samples, words, -1)[chosen]
                self.device.write(state.row, parts.reshape(-1, rows.shape[1]))
            self.samples = len(chosen)

    def close(self) -> None:
        """Gives the device back; safe to call twice."""
        with self._lock:
            if self._open:
                self._open = False
                self.device.close()

    def _state(self, name: str) -> _State:
        if name not in self._states:
            raise InputError(unknown("state", name, self._states))
        return self._states[name]

    def _check_open(self) -> None:
        if not self._open:
            raise DeviceError("the session is closed; open another one")


def open_steps(
    program: Program | str | Path,
    device: str = "csim",
    *,
    timeout_s: float | None = None,
    **options: Any,
) -> StepSession:
    """A session of a program of steps (or of its file) on the device of that name.

    `options` go to the device. Raises UsageError for a program without states, an unknown device
    or option.
    """
    from weft.device import open_device
    from weft.runtime import load

    if not isinstance(program, Program):
        program = load(program)
    return StepSession(program, open_device(device, **options), timeout_s)
