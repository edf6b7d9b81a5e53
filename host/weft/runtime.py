"""Session: a program loaded on a device once, then run as often as wanted.

A run takes any number of samples; the program's `batch` is what one device run holds, so a
session goes through the samples in chunks. All that does not depend on the samples is worked out
when the session opens.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from weft.device.base import Device, RunResult
from weft.errors import DeviceError, InputError, UsageError
from weft.graph import Array, Shape
from weft.host import HostRunner
from weft.pack import Packer
from weft.program import HostSegment, Program, TensorInfo

if TYPE_CHECKING:
    from weft.estimate import Estimate

Arrays = Array | Mapping[str, Array]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Run:
    """What one `Session.run` took.

    `cycles` are the device's clocks, `device_s` the seconds it took for them, `wall_s` all of the
    run's seconds, `counters` the cycles by cause. `macs`, `bytes` and `layers` follow from the
    program and the number of samples.
    """

    program: Program
    samples: int
    cycles: int
    wall_s: float
    device_s: float
    counters: Mapping[str, int]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the model itself, without padding."""
        return self.samples * sum(layer.macs for layer in self.program.layers)

    @cached_property
    def _chunks(self) -> list[tuple[int, Estimate]]:
        """(how many, estimate of one) for the full chunks and for the rest."""
        from weft.estimate import estimate

        full, rest = divmod(self.samples, self.program.batch)
        sizes = [(full, self.program.batch)] * bool(full) + [(1, rest)] * bool(rest)
        return [(count, estimate(self.program, batch=size)) for count, size in sizes]

    @property
    def bytes(self) -> int:
        """Bytes between memory and the accelerator."""
        return sum(count * chunk.bytes for count, chunk in self._chunks)

    @property
    def layers(self) -> list[dict[str, Any]]:
        """One row per layer: name, op, engine, macs, cycles, bytes, utilization of the array."""
        from weft.report import layer_rows

        return layer_rows(self._chunks)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        keys = ("samples", "cycles", "wall_s", "device_s", "macs", "bytes", "layers")
        return {key: getattr(self, key) for key in keys} | {"counters": dict(self.counters)}


@dataclass
class _OnDevice:
    """Runs an accelerator segment: values in, values out."""

    device: Device
    segment: int
    inputs: list[tuple[str, int, Packer]]
    outputs: list[tuple[str, int, Packer, Shape, Array]]

    def run(
        self, values: dict[str, Array], samples: int, timeout_s: float | None, took: list[RunResult]
    ) -> None:
        device = self.device
        for name, row, packer in self.inputs:
            device.write(row, packer.pack(values[name]))
        took.append(device.run(self.segment, samples, timeout_s))
        for name, row, packer, shape, reals in self.outputs:
            codes = packer.unpack(device.read(row, samples * packer.words), samples, shape)
            values[name] = reals.take(codes.view(np.uint8))


@dataclass
class _OnHost:
    """Evaluates a host segment with numpy."""

    runner: HostRunner

    def run(
        self, values: dict[str, Array], samples: int, timeout_s: float | None, took: list[RunResult]
    ) -> None:
        self.runner.run(values, samples)


def _steps(program: Program, device: Device) -> list[_OnDevice | _OnHost]:
    """The segments with all that is known of them before the first sample.

    A tensor is written where a segment first reads it, and read back where the host or the caller
    needs it; between accelerator segments it stays in activation memory.
    """
    lanes = program.overlay.lanes
    shapes = {info.name: info.shape for info in program.outputs}
    wanted = set(shapes)
    for segment in program.segments:
        if isinstance(segment, HostSegment):
            wanted.update(segment.graph.inputs)
            shapes |= {name: segment.graph[name].shape for name in segment.graph.inputs}
    resident: set[str] = set()
    steps: list[_OnDevice | _OnHost] = []
    for number, segment in enumerate(program.segments):
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
                reals = region.quant.dequantize(codes)
                step.outputs.append((name, region.row, packer, shapes[name], reals))
        resident.update(segment.inputs, segment.outputs)
        steps.append(step)
    return steps


class Session:
    """A program on an open device. Several threads may call `run`; the device takes one at a time.

    `last` is the `Run` of the most recent call.
    """

    def __init__(self, program: Program, device: Device, timeout_s: float | None = None) -> None:
        self.program = program
        self.device = device
        self.timeout_s = _checked_limit(timeout_s)
        self.last: Run | None = None
        self._lock = threading.Lock()
        self._open = True
        self._stale = False
        self._inputs = {info.name: info for info in program.inputs}
        self._outputs = tuple(info.name for info in program.outputs)
        device.load(program)
        self._steps = _steps(program, device)

    def run(
        self,
        inputs: Arrays,
        *,
        timeout_s: float | None = None,
        detail: bool = False,
        progress: Progress | None = None,
    ) -> Any:
        """Outputs for `inputs`: an array for an array, a dict by name for a dict.

        An array [n, ...] will do where the program has one input; the answer is an array if it
        has one output, too. With `detail`, (outputs, Run). `timeout_s` limits each device run
        (the session's own if None). `progress` hears (samples done, samples in all).

        Raises InputError for wrong names, shapes, dtypes or values that are not finite,
        UsageError for a limit that is not positive, DeviceTimeout and DeviceError.
        """
        start = time.perf_counter()
        values = self.checked(inputs)
        samples = len(next(iter(values.values())))
        limit = self.timeout_s if timeout_s is None else _checked_limit(timeout_s)
        with self._lock:
            if not self._open:
                raise DeviceError("the session is closed; open another one: weft.open(program)")
            if self._stale:
                self.device.load(self.program)
            self._stale = True  # until the run is through: an aborted one leaves a device half-way
            if samples <= self.program.batch:
                results, parts = self._chunk(values, samples, limit)
            else:
                results, parts = self._chunks(values, samples, limit, progress)
            self._stale = False
            took = Run(
                self.program,
                samples,
                sum(p.cycles for p in parts),
                time.perf_counter() - start,
                sum(p.wall_s for p in parts),
                _total(parts),
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

    def checked(self, inputs: Arrays) -> dict[str, Array]:
        """The inputs by name, checked and of the program's dtypes; raises InputError."""
        # The type first: asking an abstract class takes longer than the rest of this check.
        if type(inputs) is np.ndarray or not isinstance(inputs, Mapping):
            if len(self._inputs) != 1:
                raise InputError(
                    f"one array given, but the program has {len(self._inputs)} inputs: pass a "
                    f"dict with {', '.join(map(repr, self._inputs))}"
                )
            (info,) = self._inputs.values()
            return {info.name: check_input(info, inputs)}
        if inputs.keys() != self._inputs.keys():
            raise InputError(f"inputs {sorted(inputs)} given, {sorted(self._inputs)} expected")
        values = {name: check_input(info, inputs[name]) for name, info in self._inputs.items()}
        counts = {name: len(x) for name, x in values.items()}
        if len(set(counts.values())) > 1:
            raise InputError(f"inputs with different numbers of samples: {counts}")
        return values


def _checked_limit(timeout_s: float | None) -> float | None:
    if timeout_s is not None and not timeout_s > 0:
        raise UsageError(f"timeout_s = {timeout_s}: more than 0 seconds, or None for no limit")
    return timeout_s


def check_input(info: TensorInfo, x: Any) -> Array:
    """`x` as an array [n, ...] of the input's dtype; InputError says what is wrong with it."""
    fits = type(x) is np.ndarray and x.dtype == info.dtype
    array: Array = x if fits else _as_dtype(info, x)
    if array.shape[1:] != info.shape[1:] or array.ndim != len(info.shape) or not len(array):
        expected = ", ".join(["n", *map(str, info.shape[1:])])
        raise InputError(
            f"input {info.name!r}: shape {array.shape} given, ({expected}) expected, n at least 1: "
            "the first dimension counts the samples"
        )
    if array.dtype.kind == "f":
        finite = np.isfinite(array)
        if not finite.all():
            place = tuple(int(i) for i in np.argwhere(~finite)[0])
            value = array[place]
            raise InputError(f"input {info.name!r}: {value} at {place}; values must be finite")
    return array


def _as_dtype(info: TensorInfo, x: Any) -> Array:
    """`x` converted where that loses nothing but precision."""
    try:
        given = np.asarray(x)
    except ValueError as error:
        raise InputError(f"input {info.name!r}: not an array: {error}") from None
    wanted = np.dtype(info.dtype)
    if given.dtype.kind not in ("fiu" if wanted.kind == "f" else "iu"):
        raise InputError(
            f"input {info.name!r}: dtype {given.dtype} given, {wanted} expected; convert it first"
        )
    if wanted.kind in "iu" and given.size:
        limits = np.iinfo(wanted)
        if given.min() < limits.min or given.max() > limits.max:
            raise InputError(
                f"input {info.name!r}: values {given.min()}..{given.max()} don't fit {wanted} "
                f"({limits.min}..{limits.max})"
            )
    with np.errstate(over="ignore"):  # a float64 past float32 becomes inf, which is told below
        return given.astype(wanted)


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
