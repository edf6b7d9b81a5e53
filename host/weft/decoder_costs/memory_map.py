"""What a decoder keeps in a board's memory, and the longest sequence that leaves room for."""

from __future__ import annotations

from dataclasses import dataclass

from weft import isa
from weft.config import Board
from weft.decoder_costs import packed, run
from weft.decoder_costs.config import Decoder
from weft.decoder_costs.steps import (
    ACTIVATIONS,
    CACHE,
    IMAGE,
    INSTRUCTION_BYTES,
    PARAMETERS,
    PROGRAM,
    SCALES,
    WEIGHTS,
    Machine,
    Step,
    stored,
)
from weft.vendor.targets import channels_of

EMBEDDINGS = "embeddings"


@dataclass(frozen=True)
class MemoryMap:
    """Bytes by kind at one context, the memory there is, and the longest context.

    `longest` counts memory only; `on_chip` what the overlay's buffers hold of keys and scores.
    Where weight ports have channels of their own, `fullest` is what the fullest channel holds, of
    `channel` bytes; else both are 0.
    """

    bytes: dict[str, int]
    there: int
    longest: int
    on_chip: int
    fullest: int = 0
    channel: int = 0

    @property
    def total(self) -> int:
        """All bytes."""
        return sum(self.bytes.values())

    @property
    def fits(self) -> bool:
        """Whether they are no more than the memory has, and each of its channels."""
        return self.total <= self.there and self.fullest <= self.channel


def cache_bytes(machine: Machine, d: Decoder, tokens: int) -> int:
    """Keys and values of `tokens` tokens in all layers, int8 in whole words per head, or packed."""
    if machine.packs:
        return packed.nbytes(machine, d, tokens)
    words = 2 * d.layers * d.kv_heads * machine.head_blocks(d)
    return words * tokens * machine.overlay.lanes


def range_bytes(machine: Machine, d: Decoder, tokens: int) -> int:
    """Magnitudes of keys and values of `tokens` tokens in all layers: int16, in whole words and a
    spare one per head. 0 without ranges per token.
    """
    words = machine.blocks(tokens) + 1
    heads = 2 * d.layers * d.kv_heads if machine.token_ranges else 0
    return heads * words * 2 * machine.overlay.lanes


def memory_map(
    machine: Machine, d: Decoder, board: Board, context: int, source: int, steps: list[Step]
) -> MemoryMap:
    """Of a decoder at `context` tokens, behind `source` of an encoder; `steps`: its program."""
    o = machine.overlay
    codes = scales = parameters = 0
    for p, count in machine.whole_heads(d).products():
        own, shared = stored(machine, p)
        codes += own * p.copies * count
        scales += shared * p.copies * count
        outputs = machine.blocks(p.outputs) * p.copies * count
        parameters += outputs * isa.PARAMETER_ROWS * o.lanes
    norms = 2 * d.layers + 2 * d.encoder_layers + 1
    parameters += norms * machine.blocks(d.width) * isa.PARAMETER_ROWS * o.lanes
    if d.rotary:  # cosines and sines of every position that the model knows or is asked for
        positions = min(d.positions, max(context, 1)) * 2 * machine.head_blocks(d)
        parameters += positions * 2 * o.lanes
    chunk = run.chunk_tokens(machine, d, max(context, source))
    step = packed.GROUP if machine.packs else 1  # tokens that memory is taken for at once
    per_step = cache_bytes(machine, d, step) - cache_bytes(machine, d, 0)
    found = {
        WEIGHTS: codes,
        SCALES: scales,
        PARAMETERS: parameters,
        EMBEDDINGS: d.embedding,  # a byte each; their scales are a number per row
        CACHE: cache_bytes(machine, d, context + source) + range_bytes(machine, d, context),
        ACTIVATIONS: 2 * o.lanes * (chunk * machine.blocks(d.width) + machine.blocks(d.vocab)),
        PROGRAM: sum(step.instructions * step.times for step in steps) * INSTRUCTION_BYTES,
    }
    rest = sum(found.values()) - -(-context // step) * per_step
    if machine.token_ranges:  # of the longest: the spare word, and one that is not full
        word = range_bytes(machine, d, 0)
        rest += 2 * word - range_bytes(machine, d, context)
        per_step += word // o.lanes
    longest = max(0, (board.ddr_bytes - rest) // per_step * step)
    fullest, channel = _fullest(machine, board, found)
    if channel:  # keys and values lie in one
        others = cache_bytes(machine, d, source) + found[ACTIVATIONS]
        longest = min(longest, max(0, channel - others) // per_step * step)
    return MemoryMap(
        found, board.ddr_bytes, min(longest, d.positions or longest), run.longest(machine, d),
        fullest, channel,
    )  # fmt: skip


def _fullest(machine: Machine, board: Board, found: dict[str, int]) -> tuple[int, int]:
    """Bytes in the fullest channel and in any, where weight ports have their own (else 0, 0).

    The embeddings are the host's, which on a card has memory of its own.
    """
    if not machine.overlay.own_memories or board.ddr_channels == 1:
        return 0, 0
    places = channels_of(machine.overlay.weight_ports, board.ddr_channels)
    share = sum(found[kind] for kind in IMAGE) / len(places.weights)
    most = max(places.weights.count(channel) for channel in places.weights)
    activations = found[CACHE] + found[ACTIVATIONS]
    weights = int(most * share) + found[PROGRAM]
    return max(weights, activations), board.ddr_bytes // board.ddr_channels
