"""Decoders: perplexity, and tokens per second simulated and predicted, of stories260K."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import weft
from weft.config import load_board
from weft.decoder_costs import config
from weft.decoder_costs.prediction import machine_of, overlay_for, predict
from weft.demo import MODELS
from weft.device import open_device
from weft.estimate import instructions
from weft.isa import WORDS
from weft.memory_trace import CACHE, LOADS, WEIGHTS, traced
from weft.text.perplexity import perplexity
from weft.text.rate import step_rate

from .cache_formats import perplexities
from .divergence import chances, divergence
from .row import Row, absent, at_least, at_most

FLOAT = 3.548  # published with the data
# What of the weights, further options, and the largest perplexity that is wanted.
WAYS = (
    ("W8A8KV8", {}, 3.62),
    ("W8A8KV8, a scale per head", {"head_scales": True}, 3.62),
    ("W8A8KV8, a range per token and head", {"token_ranges": True}, 3.62),
    ("uint4:g32 by GPTQ, A8KV8", {"weights": "uint4:g32", "weight_method": "gptq"}, 4.0),
    ("W8A16KV8", {"activations": "int16"}, 3.58),
    (
        "uint4:g32 by GPTQ, A16KV8",
        {"weights": "uint4:g32", "weight_method": "gptq", "activations": "int16"},
        4.0,
    ),
)
GROUPED = ("int4:g32", "e2m1:g32", "flint4:g32")  # all by GPTQ
PACKED = (("W8A8KV4", 4, 3.62), ("W8A8KV2", 2, 4.8))  # a packed cache, as in KIVI
OVERLAY = "decoder"
BOARDS = ("KV260", "ZCU104", "Alveo-U55C")
CONTEXT = 256


def rows(folder, data) -> list[Row]:
    """Float on the host, integers on csim."""
    title = "stories260K, perplexity of 1,804 tokens"
    path = data and data / "stories260k" / "stories260K.bin"
    if not path or not path.is_file():
        return [absent(title, "the data sets are not here", target=f"≤ {WAYS[0][2]}")]
    text = (path.parent / "tinystories_sample.txt").read_text()
    with weft.open_decoder(path) as session:
        exact = perplexity(session, text).perplexity
        real = chances(session, text)
        story = [piece.token for piece in session.generate("", 50)]
    made = [at_most(f"{title}, float on the host", exact, FLOAT + 0.001, "", FLOAT)]
    for name, options, limit in WAYS:
        program = weft.compile(path, "lab", **options)
        with weft.open_decoder(program) as session:
            found = perplexity(session, text).perplexity
            made.append(at_most(f"{title}, {name}, csim", found, limit, "", exact))
            far = divergence(real, chances(session, text))
            made.append(
                Row(f"stories260K, {name}: divergence from float", 1000 * far, None, "mnat")
            )
            written = [piece.token for piece in session.generate("", 200)]
            rate = session.last.rate
        alike = next((i for i, (a, b) in enumerate(zip(story, written)) if a != b), len(story))  # noqa: B905
        made.append(Row(f"stories260K, {name}: first words as in float", alike, 50, "tokens"))
        made.append(at_least(f"stories260K, {name}: generating on csim", rate, 200, "tokens/s"))
        if "token_ranges" in options:
            continue  # OVERLAY has no such unit
        program = weft.compile(path, OVERLAY, **options)
        made += [*_predicted(name, path, options, program), *_traced(name, program)]
    for name, bits, limit in PACKED:
        with weft.open_decoder(weft.compile(path, "lab", cache_bits=bits)) as session:
            found = perplexity(session, text).perplexity
        made.append(at_most(f"{title}, {name}, csim", found, limit, "", exact))
    for name in GROUPED:
        made.append(
            Row(f"{title}, {name} by GPTQ, A8KV8, csim", _grouped(path, name, text), exact, "")
        )
    made += _memory()
    for name, found in perplexities(path, text).items():
        about = f"{title}, all else float, keys and values: {name}"
        made.append(Row(about, found, exact, ""))
    return made


def _grouped(path: Path, weights: str, text: str) -> float:
    """Perplexity with weights of 4 bits."""
    program = weft.compile(path, "lab", weights=weights, weight_method="gptq")
    with weft.open_decoder(program) as session:
        return perplexity(session, text).perplexity


def _memory() -> list[Row]:
    """The longest context of Llama-2-7B in the memory of a KV260, by bits of keys and values."""
    decoder, board = config.load(MODELS / "llama2-7b.json"), load_board("KV260")
    decoder = replace(decoder, positions=1 << 20)  # what memory alone allows
    found = {
        bits: predict(
            decoder, machine_of("lab", "int4:g128", cache_bits=bits), board
        ).memory.longest
        for bits in (8, 4, 2)
    }
    about = "Llama-2-7B, int4:g128, on lab and KV260: tokens that memory has room for, keys of"
    return [Row(f"{about} {bits} bits", n, found[8], "tokens") for bits, n in found.items()]


def _traced(name: str, program: weft.Program) -> list[Row]:
    """What the simulated hardware reads and writes for a token, and how long its bursts are."""
    registers = (1, CONTEXT, 0)
    device = open_device("csim", form="cycle")
    device.load(program)
    trace = traced(device, registers=registers)
    items = instructions(program, 1, registers)
    foreseen = sum(item.bytes - 4 * WORDS for item in items)
    about = f"stories260K, {name}, behind {CONTEXT} tokens on {OVERLAY}: traced"
    made = [Row(f"{about} bytes (peer: foreseen)", trace.bytes, foreseen, "B", f"= {foreseen}",
                trace.bytes == foreseen)]  # fmt: skip
    for kind, what in ((WEIGHTS, "weights"), (CACHE, "cache"), (LOADS, "loads")):
        bursts = trace.bursts(kind)
        mean = float((bursts**2).sum() / bursts.sum())  # of the burst that a byte comes in
        made.append(Row(f"{about} bursts of {what}, mean by bytes", mean, None, "beats"))
    return made


def _predicted(name: str, path: Path, options: dict, program: weft.Program) -> list[Row]:
    """Tokens per second on boards, and what share of the memory's bandwidth they take.

    On a card of its own overlay; `program` is that of the others.
    """
    made = []
    for board in BOARDS:
        overlay = overlay_for(load_board(board))
        own = program if overlay == OVERLAY else weft.compile(path, overlay, **options)
        step = step_rate(own, board, CONTEXT)
        about = f"stories260K, {name}: predicted behind {CONTEXT} tokens, {overlay} on {board}"
        made.append(Row(about, step.tokens_per_s, None, "tokens/s"))
        made.append(Row(f"{about}, share of bandwidth", 100 * step.bandwidth, None, "%"))
    return made
