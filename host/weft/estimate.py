"""What a program will take, before anything runs: cycles, bytes, utilization, time on a board.

Cycles are those of the units' own clock formulas (weft.units), summed in program order: the C
simulation counts the same number. Time on a board adds the memory: a layer takes as long as its
clocks or as long as its bytes at the board's bandwidth, whichever is more (roofline: Williams et
al., CACM 2009). Host segments are not in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from weft import isa
from weft.adjust import Registers, resolved, whole
from weft.config import Board, load_board
from weft.errors import InputError
from weft.program import AcceleratorSegment, Layer, Program
from weft.state import COUNTERS, ISSUE_CLOCKS, Clocks, Fields
from weft.units import BY_OPCODE, transfer

if TYPE_CHECKING:
    from weft.resources import Fit


@dataclass(frozen=True)
class InstructionEstimate:
    """One instruction: its segment and number there, name, layer, clocks by cause, bytes moved."""

    segment: int
    number: int
    name: str
    layer: int
    clocks: Clocks
    bytes: int


@dataclass
class LayerEstimate:
    """One layer for `batch` samples: true MACs, clocks (also by cause), bytes from and to memory.

    `wall_s` and `bound` need a board; without one they are None and "compute".
    """

    name: str
    op: str
    engine: str
    macs: int
    multipliers: int
    cycles: int = 0
    bytes: int = 0
    counters: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTERS, 0))
    wall_s: float | None = None
    bound: str = "compute"

    @property
    def utilization(self) -> float:
        """True MACs as a fraction of what the array could do in these clocks."""
        return self.macs / (self.cycles * self.multipliers) if self.cycles else 0.0


@dataclass(frozen=True)
class Estimate:
    """A whole run of `batch` samples."""

    program: str
    batch: int
    cycles: int
    bytes: int
    counters: dict[str, int]
    layers: tuple[LayerEstimate, ...]
    board: Board | None = None
    fit: Fit | None = None
    port_bytes: int = 0  # that the kernel's ports move in a clock, of weights and activations

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the model, without padding."""
        return sum(layer.macs for layer in self.layers)

    @property
    def wall_s(self) -> float | None:
        """Seconds on the board; None without one."""
        if self.board is None:
            return None
        return sum(layer.wall_s or 0.0 for layer in self.layers)

    @property
    def fps(self) -> float | None:
        """Samples per second on the board; None without one."""
        return self.batch / self.wall_s if self.wall_s else None

    @property
    def energy_j(self) -> float | None:
        """Joules of the run; None without a board, or where its power has not been measured."""
        if self.board is None or self.board.power_w is None or self.wall_s is None:
            return None
        return self.board.power_w * self.wall_s

    @property
    def utilization(self) -> float:
        """True MACs as a fraction of what the array could do in all clocks."""
        multipliers = max((layer.multipliers for layer in self.layers), default=1)
        return self.macs / (self.cycles * multipliers) if self.cycles else 0.0


def registers_of(program: Program, segment: int = -1) -> Registers:
    """Those of the longest run: as many tokens as a decoder takes, at the end of its cache, behind
    the longest source; of a segment of an encoder that source.
    """
    cache = program.cache
    if cache is None:
        return 0, 0, 0
    if segment in _encoder(program):
        return cache.source, 0, 0, cache.source
    return cache.tokens, cache.capacity - cache.tokens, 0, cache.source


def _encoder(program: Program) -> tuple[int, ...]:
    """The segments of an encoder in front of a decoder, which steps of that one do not run."""
    return program.entries.get("encoder", ()) if program.cache is not None else ()


def instructions(
    program: Program, batch: int = 1, registers: Registers | None = None
) -> Iterator[InstructionEstimate]:
    """Every instruction of the accelerator segments that has an effect, in order."""
    overlay = program.overlay
    for index, segment in enumerate(program.segments):
        skipped = registers is not None and index in _encoder(program)
        if skipped or not isinstance(segment, AcceleratorSegment):
            continue
        before: Fields = {}
        given = registers_of(program, index) if registers is None else registers
        for number, words in resolved(segment.words, given):
            if words is None:
                continue
            kind, fields = isa.decode(words)
            clocks, moved = Clocks(issue=ISSUE_CLOCKS), 4 * isa.WORDS
            if kind is not isa.BARRIER:
                clocks = BY_OPCODE[kind.opcode].clocks(fields, overlay, batch, before)
                moved += overlay.lanes * _rows(kind, fields, batch)
            layer = int(segment.layers[number])
            yield InstructionEstimate(index, number, kind.name, layer, clocks, moved)
            if kind is isa.ACTIVATE:
                before = {**before, **fields}
            elif kind in (isa.MAT_MUL, isa.VECTOR, isa.ATTEND):
                before = fields


def estimate(
    program: Program,
    batch: int = 1,
    board: Board | str | None = None,
    registers: Registers | None = None,
) -> Estimate:
    """Cycles, bytes and, with a board, seconds of one run of `batch` samples.

    `registers` are the tokens of a decoder's run and those before them (`registers_of` if None).

    Raises InputError for a batch outside 1..program.batch, UsageError for an unknown board.
    """
    if not 1 <= batch <= program.batch:
        raise InputError(
            f"batch {batch} is outside 1..{program.batch}, what {program.name!r} was compiled for"
        )
    if isinstance(board, str):
        board = load_board(board)
    overlay, layers = program.overlay, _layers(program, batch, registers)
    for layer, known in zip(layers, program.layers, strict=True):
        layer.cycles += known.data_clocks * batch
        layer.counters["matrix"] += known.data_clocks * batch
    for item in instructions(program, batch, registers):
        layer = layers[item.layer]
        layer.cycles += item.clocks.total
        layer.bytes += item.bytes
        for name in COUNTERS:
            layer.counters[name] += getattr(item.clocks, name)
    fit = None
    if board is not None:
        from weft import resources

        fit = resources.fit(overlay, board)
        for layer in layers:
            _place(layer, board)
    return Estimate(
        program=program.name,
        batch=batch,
        cycles=sum(layer.cycles for layer in layers),
        bytes=sum(layer.bytes for layer in layers),
        counters={name: sum(layer.counters[name] for layer in layers) for name in COUNTERS},
        layers=tuple(layers),
        board=board,
        fit=fit,
        port_bytes=(overlay.weight_ports + 2) * overlay.bus_bytes,
    )


def _layers(program: Program, batch: int, registers: Registers | None) -> list[LayerEstimate]:
    """The layers, with nothing but their multiplications; matvec has multipliers of its own."""
    overlay = program.overlay
    array, few = overlay.rows * overlay.cols, overlay.cols * overlay.stream_rows
    parts = [] if registers is None else [program.segments[i] for i in _encoder(program)]
    layers = [part.layers for part in parts if isinstance(part, AcceleratorSegment)]
    skipped = {int(number) for each in layers for number in each}
    return [
        LayerEstimate(
            layer.name,
            layer.op,
            layer.engine,
            0 if number in skipped else _macs(program, layer, registers) * batch,
            few if layer.engine == "matvec" else array,
        )
        for number, layer in enumerate(program.layers)
    ]


def _macs(program: Program, layer: Layer, registers: Registers | None) -> int:
    """Multiplications of a layer; attention with a cache has those of the tokens that are there."""
    cache = program.cache
    if cache is None or registers is None:
        return layer.macs
    tokens, position, _, source = whole(registers)
    seen = (tokens + position, cache.capacity) if layer.op == "Attention" else (1, 1)
    if len(set(layer.tokens)) > 1:  # across to a source
        seen = source, cache.source
    return layer.macs * tokens * seen[0] // (cache.tokens * seen[1])


def _rows(kind: isa.Instruction, fields: Fields, batch: int) -> int:
    """Memory rows that an instruction moves."""
    if kind in (isa.READ_HOST, isa.WRITE_HOST):
        return transfer.rows_moved(fields, batch)
    if kind is not isa.READ_WEIGHTS:
        return 0
    return fields["memory_rows"] * (fields["runs"] if fields["cached"] else 1)


def _place(layer: LayerEstimate, board: Board) -> None:
    """A layer's time on a board, and which roof it meets."""
    compute = layer.cycles / (board.clock_mhz * 1e6)
    memory = layer.bytes / board.memory_bytes_per_s
    layer.wall_s = max(compute, memory)
    layer.bound = "memory" if memory > compute else "compute"
