"""Time to the first token, tokens per second, memory and traffic of a decoder on a board."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from weft.activation import WIDE
from weft.config import Board, load_overlay
from weft.decoder_costs import dram, run
from weft.decoder_costs.config import Decoder
from weft.decoder_costs.memory_map import MemoryMap, memory_map
from weft.decoder_costs.steps import (
    CACHE,
    IMAGE,
    INSTRUCTION_BYTES,
    PROGRAM,
    Machine,
    Step,
    times,
    total,
)
from weft.errors import InputError, UsageError, unknown
from weft.formats import base_name, parse
from weft.passes.token_ranges import check_alone
from weft.state import Clocks
from weft.units.packed_cache import BITS, UNIT_NAME

OVERLAYS = ("decoder", "decoder_card")  # the first is for boards of which none says so
NEEDS = ("attention", "norm", "rotate")
PRODUCTS = ("int8", WIDE)  # what they read
COMPUTE, PORTS, MEMORY = "compute", "ports", "memory"


@dataclass(frozen=True)
class Phase:
    """One run: its clocks, seconds (also by part), bytes by kind, and what bounds it.

    `ports` and `peak`: bytes per second of the weight ports, and of the memory in theory.
    """

    tokens: int
    clocks: Clocks
    seconds: float
    by_part: dict[str, float]
    read: dict[str, int]
    written: int
    bound: str
    macs: int
    multipliers: int
    clock_hz: float
    ports: float
    peak: float
    steps: tuple[Step, ...] = field(repr=False)

    @property
    def nbytes(self) -> int:
        """Bytes from and to memory."""
        return sum(self.read.values()) + self.written

    @property
    def tokens_per_s(self) -> float:
        """Tokens per second."""
        return self.tokens / self.seconds

    @property
    def memory_share(self) -> float:
        """Share of the memory's theoretical bandwidth that is used."""
        return self.nbytes / self.seconds / self.peak

    @property
    def port_share(self) -> float:
        """Share of the weight ports' bandwidth in use, by clocks: memory never makes them wait."""
        return self.nbytes * self.clock_hz / self.clocks.total / self.ports

    @property
    def utilization(self) -> float:
        """The model's multiplications as a fraction of the array's in these seconds."""
        return self.macs / (self.seconds * self.clock_hz * self.multipliers)

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "tokens": self.tokens,
            "seconds": self.seconds,
            "tokens_per_s": self.tokens_per_s,
            "cycles": self.clocks.total,
            "counters": dict(vars(self.clocks)),
            "seconds_by_part": self.by_part,
            "bytes": {**self.read, "written": self.written},
            "memory_share": self.memory_share,
            "port_share": self.port_share,
            "array_share": self.utilization,
            "macs": self.macs,
            "bound": self.bound,
        }


@dataclass(frozen=True)
class Prediction:
    """A decoder on a board: `prefill` of a prompt, `decode` of one token behind the context."""

    decoder: Decoder
    machine: Machine
    board: Board
    context: int
    prompt: int
    prefill: Phase
    decode: Phase
    memory: MemoryMap
    bound_tokens_per_s: float
    measured_tokens_per_s: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        m = self.memory
        return {
            "model": self.decoder.name,
            "model_type": self.decoder.kind,
            "parameters": self.decoder.parameters,
            "overlay": self.machine.overlay.name,
            "board": self.board.name,
            "weights": self.machine.weights.name,
            "activations": WIDE if self.machine.wide else "int8",
            "kv": f"int{self.machine.cache_bits}",
            "context": self.context,
            "prompt": self.prompt,
            "first_token_s": self.prefill.seconds,
            "tokens_per_s": self.decode.tokens_per_s,
            "tokens_per_s_bound": self.bound_tokens_per_s,
            "tokens_per_s_measured_memory": self.measured_tokens_per_s,
            "memory": {
                "bytes": m.bytes,
                "total": m.total,
                "there": m.there,
                "fits": m.fits,
                "longest_context": m.longest,
                "longest_on_chip": m.on_chip,
                "fullest_channel": m.fullest,
                "channel": m.channel,
            },
            "prefill": self.prefill.as_dict(),
            "decode": self.decode.as_dict(),
        }


def overlay_for(board: Board) -> str:
    """The overlay of decoders that is meant for a board; `decoder` where none is."""
    meant = [name for name in OVERLAYS if board.name in load_overlay(name).boards]
    return meant[0] if meant else OVERLAYS[0]


def machine_of(
    overlay: str | Path | None = None,
    weights: str = "int4:g128",
    board: Board | None = None,
    *,
    cache_bits: int = 8,
    token_ranges: bool = False,
    activations: str = "int8",
) -> Machine:
    """An overlay (None: the board's, see `overlay_for`), and formats of weights and of what
    products read, by name; bits of keys and values, and whether they have ranges per token.

    Raises UsageError for unknown names, and for what does not go together.
    """
    check_alone(token_ranges, head_scales=False, cache_bits=cache_bits)
    if activations not in PRODUCTS:
        raise UsageError(unknown("--activations", activations, PRODUCTS))
    default = OVERLAYS[0] if board is None else overlay_for(board)
    made = Machine(
        load_overlay(overlay or default),
        parse(weights),
        cache_bits=cache_bits,
        token_ranges=token_ranges,
        wide=activations == WIDE,
    )
    if made.wide and "matvec" not in made.overlay.engines:
        raise UsageError(
            f"--activations int16: overlay {made.overlay.name!r} has no engine matvec, which "
            "multiplies them: take overlay decoder"
        )
    return made


def predict(
    decoder: Decoder, machine: Machine, board: Board, context: int = 512, prompt: int | None = None
) -> Prediction:
    """A prompt of `prompt` tokens, and one token behind `context` others.

    For an encoder-decoder the prompt is the encoder's input. Raises InputError for more tokens
    than the model knows, CapacityError where not even one fits on chip, UsageError for a format
    that the overlay does not decode.
    """
    first = context if prompt is None else prompt
    _check(decoder, machine, context, max(first, 1))
    source = first if decoder.encoder_layers else 0
    steps = run.decode(machine, decoder, context, source)
    decoding = _phase(machine, board, steps, 1)
    filling = _phase(machine, board, run.prefill(machine, decoder, max(first, 1)), max(first, 1))
    rest = decoding.seconds - _memory_seconds(board, machine, steps)
    ports = machine.overlay.weight_ports if machine.overlay.own_memories else 1
    measured = decoding.nbytes / (dram.peak(board, ports) * board.ddr_efficiency)
    return Prediction(
        decoder,
        machine,
        board,
        context,
        max(first, 1),
        filling,
        decoding,
        memory_map(machine, decoder, board, context, source, steps),
        bound_tokens_per_s=board.ddr_bytes_per_s / decoding.nbytes,
        measured_tokens_per_s=1 / (max(rest, 0.0) + measured),
    )


def _check(d: Decoder, machine: Machine, context: int, prompt: int) -> None:
    o, name = machine.overlay, base_name(machine.weights.name)
    if name not in o.formats:
        raise UsageError(
            f"--weights {machine.weights.name}: overlay {o.name!r} decodes {', '.join(o.formats)}"
        )
    if machine.wide and d.encoder_layers:
        raise UsageError(f"--activations int16: {d.name} has an encoder, whose products read int8")
    if machine.weights.operand == "int16" and o.weight_bits < 16:
        raise UsageError(
            f"--weights {machine.weights.name}: groups need operands of 16 bits; those of overlay "
            f"{o.name!r} have {o.weight_bits}"
        )
    lacks = [unit for unit in NEEDS if unit not in o.units]
    if lacks:
        raise UsageError(
            f"overlay {o.name!r} has no unit {' and no unit '.join(lacks)}; decoders need "
            f"{', '.join(NEEDS)}"
        )
    if machine.packs and (UNIT_NAME not in o.units or machine.cache_bits not in BITS):
        raise UsageError(
            f"--kv int{machine.cache_bits}: overlay {o.name!r} keeps int8"
            + (", int4 or int2" if UNIT_NAME in o.units else f"; it has no unit {UNIT_NAME}")
        )
    if machine.packs and d.encoder_layers:
        raise UsageError(f"--kv int{machine.cache_bits}: {d.name} has an encoder; take int8")
    if machine.token_ranges:
        _check_ranges(d, machine)
    for what, tokens in (("--context", context), ("--prompt", prompt)):
        if d.positions and tokens > d.positions:
            raise InputError(f"{what} {tokens:,}: {d.name} knows {d.positions:,} positions")


def _check_ranges(d: Decoder, machine: Machine) -> None:
    name = machine.overlay.name
    why = f"{d.name} has an encoder" if d.encoder_layers else f"overlay {name!r} has no such unit"
    if d.encoder_layers or "token_ranges" not in machine.overlay.units:
        raise UsageError(
            f"--token-ranges: {why}; leave it out, or take a decoder on an overlay with unit "
            "token_ranges"
        )


def step_seconds(step: Step, machine: Machine, board: Board) -> tuple[float, float]:
    """Seconds of one time by clocks, and by the memory."""
    burst = dram.BURST_BEATS * machine.overlay.bus_bytes
    # Ports take turns on one run of weights: for one memory they are one stream. Ports with
    # channels of their own are one each; keys and values lie in one of the channels all the same.
    parts = IMAGE | {CACHE} if machine.spread else IMAGE
    own = machine.overlay.own_memories and set(step.read) <= parts
    streams = machine.overlay.weight_ports if own else 1
    reads = dram.Reads(sum(step.read.values()), streams, step.run)
    piece = step.written // step.pieces if step.pieces else 0
    writes = dram.Writes(step.pieces, piece, int(step.pieces > 0))
    memory = dram.read_seconds(board, reads, burst) + dram.write_seconds(board, writes)
    return step.clocks.total / (board.clock_mhz * 1e6), memory


def _phase(machine: Machine, board: Board, steps: list[Step], tokens: int) -> Phase:
    parts: defaultdict[str, float] = defaultdict(float)
    bounds: defaultdict[str, float] = defaultdict(float)
    read: Counter[str] = Counter()
    written = macs = 0
    o = machine.overlay
    for step in steps:
        compute, memory = step_seconds(step, machine, board)
        taken = step.times * max(compute, memory)
        parts[step.part] += taken
        bounds[_bound(step, machine, compute, memory)] += taken
        for kind, count in step.read.items():
            read[kind] += count * step.times
        read[PROGRAM] += INSTRUCTION_BYTES * step.instructions * step.times
        written += step.written * step.times
        macs += step.macs * step.times
    return Phase(
        tokens,
        total([times(step.clocks, step.times) for step in steps]),
        sum(parts.values()),
        dict(parts),
        dict(read),
        written,
        max(bounds, key=lambda name: bounds[name]),
        macs,
        o.rows * o.cols,
        board.clock_mhz * 1e6,
        o.weight_ports * o.bus_bytes * board.clock_mhz * 1e6,
        board.ddr_bytes_per_s,
        tuple(steps),
    )


def _bound(step: Step, machine: Machine, compute: float, memory: float) -> str:
    """What a step waits for."""
    if memory >= compute:
        return MEMORY
    o = machine.overlay
    beats = sum(step.read.values()) / (o.bus_bytes * step.ports)
    return PORTS if beats >= 0.9 * step.clocks.total else COMPUTE


def _memory_seconds(board: Board, machine: Machine, steps: list[Step]) -> float:
    """Seconds of steps that wait for the memory."""
    found = 0.0
    for step in steps:
        compute, memory = step_seconds(step, machine, board)
        found += step.times * memory if memory >= compute else 0.0
    return found
