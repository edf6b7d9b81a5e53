"""Runs of a decoder's program: a token behind many, a prompt in chunks, an encoder's input."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from weft.decoder_costs import packed
from weft.decoder_costs.config import Decoder
from weft.decoder_costs.steps import (
    ACTIVATIONS,
    PARAMETERS,
    TABLES,
    TRANSFERS,
    Machine,
    Step,
    around_attention,
    attend,
    cached,
    gate,
    kept,
    move,
    norm,
    product,
    write,
)
from weft.decoder_costs.wide import copies, function
from weft.errors import CapacityError
from weft.state import ISSUE_CLOCKS, Clocks
from weft.units import matvec, transfer


def decode(machine: Machine, d: Decoder, past: int, source: int = 0) -> list[Step]:
    """One token behind `past` others; of an encoder-decoder also attending to `source` tokens."""
    return list(_tokens(machine, d, 1, past, source))


def prefill(machine: Machine, d: Decoder, prompt: int) -> list[Step]:
    """The tokens of a prompt, or of an encoder's input, until the first token is there."""
    if d.encoder_layers:
        return [*_encode(machine, d, prompt), *decode(machine, d, 0, prompt)]
    made: list[Step] = []
    past = 0
    for m in parts(prompt, chunk_tokens(machine, d, prompt)):
        for part, before in packed.splits(m, past) if machine.packs else [(m, past)]:
            made += _tokens(machine, d, part, before, 0)
        past += m
    return made


def causal_macs(d: Decoder, m: int, past: int) -> int:
    """Multiply-accumulates of m tokens behind others with the keys and values that each sees."""
    limit = d.window or past + m
    seen = sum(min(past + i + 1, limit) for i in range(m))
    return 2 * seen * d.heads * d.head_width


def _tokens(machine: Machine, d: Decoder, m: int, past: int, source: int) -> Iterator[Step]:
    """One run of the decoder. A window masks earlier keys, which are read all the same."""
    yield move(machine, "embeddings", m * machine.blocks(d.width), True, 1, ACTIVATIONS)
    if d.rotary:
        yield _positions(machine, d, m)
    elif not d.positions:  # biases by distance, the same for all layers
        yield _words(machine, "position biases", m * d.heads * machine.blocks(past + m), 1)
    yield from norm(machine, m, d.width, d.layers)
    yield from copies(machine, d, m, 2 * d.layers)
    around = around_attention(machine, d, m, d.layers)
    for made in around.values():
        yield from made
    yield from cached(machine, d, m, past, d.layers)
    yield from kept(machine, d, m, past, d.layers)
    yield from attend(machine, d, m, past, past + m, d.layers, causal_macs(d, m, past))
    if source:
        yield from norm(machine, m, d.width, d.layers)
        for step in (*around["q"], *around["o"]):
            yield replace(step, name=f"cross {step.name}")
        macs = 2 * m * source * d.heads * d.head_width
        for step in attend(machine, d, m, source, source, d.layers, macs):
            yield replace(step, name=f"cross {step.name}")
    yield from _feed_forward(machine, d, m, d.layers)
    yield from _last(machine, d, m)


def _feed_forward(machine: Machine, d: Decoder, m: int, layers: int) -> Iterator[Step]:
    yield from norm(machine, m, d.width, layers)
    up, down = d.feed_forward_products()
    yield from product(machine, up, m, layers, lookup=d.table and not machine.wide)
    if machine.wide:
        yield from function(machine, d, m, layers)
    elif d.gated:
        yield from gate(machine, d.inner, m, layers)
    yield from product(machine, down, m, layers)


def _positions(machine: Machine, d: Decoder, m: int) -> Step:
    """Cosines and sines of m positions."""
    return _words(machine, "positions", 2 * m * machine.head_blocks(d), 1)


def _words(machine: Machine, name: str, count: int, times: int) -> Step:
    """Words of the wide buffer out of weight memory."""
    f, o = {"target": transfer.WIDE, "count": count}, machine.overlay
    read = {PARAMETERS: transfer.table_rows(f, o.lanes) * o.lanes}
    clocks = machine.table(transfer.WIDE, count)
    return Step(name, TABLES, clocks, 2, read, ports=o.weight_ports, times=times)


def _last(machine: Machine, d: Decoder, m: int) -> Iterator[Step]:
    """Numbers for the vocabulary, of every token, and the end of the run."""
    yield from norm(machine, m, d.width, 1)
    yield from product(machine, d.output(), m, 1)
    yield write(machine, "logits", 2 * m * machine.blocks(d.vocab), 1, 1)  # of 16 bits each
    yield Step("end", TRANSFERS, Clocks(issue=ISSUE_CLOCKS))


def _encode(machine: Machine, d: Decoder, tokens: int) -> Iterator[Step]:
    """An encoder, and the keys and values that the decoder's layers make of its output.

    Where not all tokens fit on chip, a layer's input and output cross memory, part by part.
    """
    chunk, layers, blocks = chunk_tokens(machine, d, tokens), d.encoder_layers, d.kv_heads
    blocks *= machine.head_blocks(d)
    words = tokens * machine.blocks(d.width)
    crossing = 1 if tokens <= chunk else layers
    yield move(machine, "embeddings", words, True, crossing, ACTIVATIONS)
    if crossing > 1:
        yield write(machine, "outputs of layers", 2 * words, 1, layers)
    biases = tokens * d.heads * machine.blocks(tokens)  # of every layer anew
    yield _words(machine, "position biases", biases, layers)
    for m in parts(tokens, chunk):
        yield from norm(machine, m, d.width, layers)
        for made in around_attention(machine, d, m, layers).values():
            yield from made
        yield from _feed_forward(machine, d, m, layers)
        yield from norm(machine, m, d.width, 1)
        for step in around_attention(machine, d, m, d.layers)["k, v"]:
            yield replace(step, name=f"cross {step.name}")
    macs = 2 * tokens * tokens * d.heads * d.head_width
    yield from attend(machine, d, tokens, 0, tokens, layers, macs)
    for name in ("cross keys", "cross values"):
        yield write(machine, name, tokens * blocks, blocks, d.layers)
    yield Step("end", TRANSFERS, Clocks(issue=ISSUE_CLOCKS))


def parts(tokens: int, chunk: int) -> list[int]:
    """So many tokens, at most `chunk` at once."""
    return [min(chunk, tokens - first) for first in range(0, tokens, chunk)]


def chunk_tokens(machine: Machine, d: Decoder, keys: int) -> int:
    """Tokens that fit on chip at once, attending to `keys`.

    The wide buffer holds the residual stream, a head's scores and the positions; the unified one
    what is normalized, queries and what attention gives, or the inner layer.

    Raises CapacityError where not even one does.
    """
    o, width = machine.overlay, machine.blocks(d.width)
    hold = machine.head_blocks(d)
    wide = width + machine.blocks(keys) + 2 * hold
    unified = width + max(2 * d.heads * hold, machine.blocks(d.inner))
    if machine.wide:  # what is normalized; queries, keys and values, or the inner layer twice
        around = (2 * d.heads + 2 * d.kv_heads) * hold
        wide += width + max(around, 2 * machine.blocks(d.inner))
        unified += machine.blocks(d.inner)
    limits = {
        "accumulator_rows": (o.accumulator_rows, 1),
        "wide_words": (o.words_of("wide"), wide),
        "buffer_words": (o.buffer_words, unified),
    }
    for name, (there, need) in limits.items():
        if there < need:
            raise CapacityError(
                f"{d.name}: a token takes {name} = {need:,} with {keys:,} keys; overlay "
                f"{o.name!r} has {there:,}"
            )
    found = min(there // need for there, need in limits.values())
    if machine.wide:
        return min(found, matvec.ROWS)
    return found - found % o.lanes or found


def longest(machine: Machine, d: Decoder) -> int:
    """Keys that fit on chip: keys and values of a head, and the scores of a token."""
    o, hold = machine.overlay, machine.head_blocks(d)
    operands = o.words_of("operand") // (2 * hold)
    rest = o.words_of("wide") - machine.blocks(d.width) - 2 * hold
    most = min(operands, rest * o.lanes)
    if machine.token_ranges:
        most = min(most, (o.range_words - 1) // 2 * o.lanes)
    return max(0, most)
