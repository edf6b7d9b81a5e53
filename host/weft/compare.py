"""A device against the golden one, layer by layer: `weft check`.

Behind every Activate the program gets WriteHosts that copy what it wrote to fresh rows of
activation memory. One run on each device then holds the results of every layer, and the first
word that differs names the layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weft import isa, padding
from weft.graph import Array
from weft.pack import joined
from weft.program import AcceleratorSegment, Program, Segment
from weft.runtime import Arrays, Progress, Session, load, open
from weft.tokens import most_tokens

OPERAND, WIDE = isa.OPERAND, isa.WIDE


@dataclass(frozen=True)
class Difference:
    """The first value on which two devices disagree, and how many values of the layer do."""

    layer: str
    op: str
    segment: int
    sample: int
    channel: int
    y: int
    x: int
    golden: float
    device: float
    count: int


@dataclass(frozen=True)
class Report:
    """What `check` found: whether all is equal, what was compared, the first difference."""

    equal: bool
    samples: int
    layers: int
    first_difference: Difference | None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Probe:
    """A layer's output in the added memory: first row, and words [samples, tiles, out_h, out_w].

    Wide words, of int16, take two rows each.
    """

    row: int
    segment: int
    layer: int
    tiles: int
    out_h: int
    out_w: int
    wide: bool = False

    @property
    def words(self) -> int:
        """Rows of memory per sample."""
        return self.tiles * self.out_h * self.out_w * (2 if self.wide else 1)


def check(
    program: Program | str | Path,
    inputs: Arrays,
    device: str = "csim",
    *,
    progress: Progress | None = None,
    **options: Any,
) -> Report:
    """Compares a device with golden on `inputs`, bit for bit, after every layer; parts that run
    alone one after another.

    Raises what `Session.run` raises; a difference is a result, not an error.
    """
    whole = program if isinstance(program, Program) else load(program)
    with open(replace(whole, entries={}), device, **options) as plain:
        values = plain.checked(inputs)
        samples = len(next(iter(values.values())))
        done = layers = 0
        for program, rows, part in _alike(plain.program, values):
            with open(program, device, **options) as same:
                for count, layers, found in _compared(program, part, same, device, options):
                    done += count
                    if progress:
                        progress(done, samples)
                    if found:
                        found = replace(found, sample=int(rows[found.sample]))
                        return Report(False, done, layers, found)
    return Report(True, samples, layers, None)


def _alike(
    program: Program, values: Mapping[str, Array]
) -> Iterator[tuple[Program, NDArray[np.int64], Mapping[str, Array]]]:
    """Programs for the numbers of tokens that samples have, which samples those are, and they."""
    every = np.arange(len(next(iter(values.values()))))
    if not program.tokens:
        yield program, every, values
        return
    padded = padding.of(program, values, None)
    for rows in padded.groups() if padded else [every]:
        part = padded.taken(values, rows) if padded else values
        counts = {name: part[name].shape[1] for name in most_tokens(program)}
        own = program.at_tokens(counts)
        inputs = tuple(info for info in own.inputs if info.name != own.lengths)
        own = replace(own, inputs=inputs, lengths="", tokens={}, rules=())
        yield own, rows, {info.name: part[info.name] for info in inputs}


def _compared(
    program: Program,
    values: Mapping[str, Array],
    plain: Session,
    device: str,
    options: Mapping[str, Any],
) -> Iterator[tuple[int, int, Difference | None]]:
    """(samples, layers, the first difference) for one device run after the other."""
    probed, probes = instrument(program)
    layers = len({probe.layer for probe in probes})
    samples = len(next(iter(values.values())))
    with open(probed, "golden") as golden, open(probed, device, **options) as other:
        for start in range(0, samples, program.batch):
            part = {n: x[start : start + program.batch] for n, x in values.items()}
            count = min(program.batch, samples - start)
            expected = golden.run(part)
            actual = other.run(part)
            found = _probed_difference(golden, other, probes, count, start)
            found = found or _output_difference(program, expected, actual, start)
            found = found or _output_difference(program, expected, plain.run(part), start)
            yield count, layers, found


def instrument(program: Program) -> tuple[Program, list[Probe]]:
    """The program with a copy of every layer's output in memory, and where the copies are."""
    probes: list[Probe] = []
    segments: list[Segment] = []
    for number, segment in enumerate(program.segments):
        if isinstance(segment, AcceleratorSegment):
            last = probes[-1] if probes else None
            row = last.row + last.words * program.batch if last else program.memory_rows
            segment, added = _with_copies(segment, number, row, program.batch)
            probes += added
        segments.append(segment)
    end = max((p.row + p.words * program.batch for p in probes), default=program.memory_rows)
    return replace(program, segments=tuple(segments), memory_rows=end), probes


def _with_copies(
    segment: AcceleratorSegment, number: int, row: int, batch: int
) -> tuple[AcceleratorSegment, list[Probe]]:
    """The segment with WriteHosts behind each Activate, and its probes from `row` on."""
    probes: list[Probe] = []
    code: list[tuple[isa.Words, int]] = []
    waiting: list[tuple[isa.Words, int]] = []
    window: dict[str, int] = {}
    for words, layer in zip(segment.words, segment.layers.tolist(), strict=True):
        kind, fields = isa.decode(words)
        if kind is not isa.ACTIVATE:  # a second Activate right behind drains the same sums
            code += waiting
            waiting = []
        code.append((words, layer))
        if kind in (isa.MAT_MUL, isa.VECTOR, isa.ATTEND):
            window = fields
        elif kind is isa.NORM or (kind is isa.ACTIVATE and _writes(fields)):
            own = fields if kind is isa.NORM else window
            tiles = own.get("tiles", own["blocks"])
            wide = fields.get("space") == WIDE
            height, width = own.get("out_h", 1), own.get("out_w", own.get("rows", 1))
            probe = Probe(row, number, layer, tiles, height, width, wide)
            probes.append(probe)
            waiting += [(copy, layer) for copy in _copies(fields, probe)]
            row += probe.words * batch
    words = np.stack([words for words, _ in code])
    layers = np.asarray([layer for _, layer in code], np.int32)
    return replace(segment, words=words, layers=layers), probes


def _writes(activate: dict[str, int]) -> bool:
    """Whether an Activate leaves words that can be copied to memory."""
    return activate["space"] != OPERAND and not activate["discard"]


def _copies(activate: dict[str, int], probe: Probe) -> Iterator[isa.Words]:
    """WriteHosts from where an Activate (or a Norm) wrote to the probe's rows."""
    a, each = {"target_sample": 0, "target_row": 0, "space": 0} | activate, 2 if probe.wide else 1
    plane = probe.out_h * probe.out_w
    samples = {"memory_sample": probe.words, "buffer_sample": a["target_sample"]}
    samples["space"] = a["space"]
    if plane == 1:
        yield isa.WRITE_HOST.encode(
            memory=probe.row,
            buffer=a["target"],
            words=1,
            chunks=probe.tiles,
            memory_step=each,
            buffer_step=a["target_block"],
            **samples,
        )
        return
    for tile in range(probe.tiles):
        memory = probe.row + tile * plane * each
        buffer = a["target"] + tile * a["target_block"]
        if a["target_col"] == 1:
            yield isa.WRITE_HOST.encode(
                memory=memory,
                buffer=buffer,
                words=probe.out_w,
                chunks=probe.out_h,
                memory_step=probe.out_w * each,
                buffer_step=a["target_row"],
                **samples,
            )
            continue
        for y in range(probe.out_h):
            yield isa.WRITE_HOST.encode(
                memory=memory + y * probe.out_w * each,
                buffer=buffer + y * a["target_row"],
                words=1,
                chunks=probe.out_w,
                memory_step=each,
                buffer_step=a["target_col"],
                **samples,
            )


def _probed_difference(
    golden: Session, other: Session, probes: list[Probe], samples: int, start: int
) -> Difference | None:
    """The first probe on which the devices' memories differ."""
    program = golden.program
    for probe in probes:
        rows = probe.words * samples
        expected = golden.device.read(probe.row, rows)
        actual = other.device.read(probe.row, rows)
        if np.array_equal(expected, actual):
            continue
        layer = program.layers[probe.layer]
        return _locate(probe, layer.name, layer.op, expected, actual, start)
    return None


def _locate(
    probe: Probe, layer: str, op: str, expected: Array, actual: Array, start: int
) -> Difference:
    lanes = expected.shape[1]
    shape = (-1, probe.tiles, probe.out_h, probe.out_w, lanes)
    if probe.wide:
        expected, actual = joined(expected), joined(actual)
    expected, actual = expected.reshape(shape), actual.reshape(shape)
    places = np.argwhere(expected != actual)
    sample, tile, y, x, lane = (int(i) for i in places[0])
    where = (sample, tile, y, x, lane)
    return Difference(
        layer=layer,
        op=op,
        segment=probe.segment,
        sample=start + sample,
        channel=tile * lanes + lane,
        y=y,
        x=x,
        golden=int(expected[where]),
        device=int(actual[where]),
        count=len(places),
    )


def _output_difference(
    program: Program, expected: dict[str, Any], actual: dict[str, Any], start: int
) -> Difference | None:
    """A difference in the outputs only: the copies have hidden it, or a host segment has it."""
    for name, want in expected.items():
        have = actual[name]
        if np.array_equal(want, have, equal_nan=want.dtype.kind == "f"):
            continue
        want, have = (a.reshape(len(a), -1) for a in (want, have))
        places = np.argwhere(want != have)
        sample, index = (int(i) for i in places[0])
        values = float(want[sample, index]), float(have[sample, index])
        last = len(program.segments) - 1
        return Difference(name, "output", last, start + sample, index, 0, 0, *values, len(places))
    return None
