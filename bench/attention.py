"""How busy the array is in a BERT-base layer: its attention, and all of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

import weft
from weft.lower import lower
from weft.passes.quantize import quantize

from .row import Row, at_least

TOKENS, HIDDEN, HEADS, INNER = 128, 768, 12, 3072
ROOM = 8192  # words of the wide and of the operand buffer: 512 and 256 KiB


def bert_graph():
    """An encoder layer of BERT-base (Devlin et al., NAACL 2019) with random weights, in float."""
    from encoders import encoder

    return encoder(TOKENS, HIDDEN, HEADS, HIDDEN // HEADS, INNER, post=True)


def overlay(name: str):
    """An overlay that comes with weft, with attention and norms."""
    known = weft.load_overlay(name)
    units = tuple(dict.fromkeys((*known.units, "attention", "norm")))
    room = {"wide_words": max(known.wide_words, ROOM), "operand_words": ROOM}
    return replace(known, name=f"{name}-encoder", units=units, **room).verify()


def busy(name: str) -> list[Row]:
    """Utilization of attention and of the layer by csim's clocks, which the estimate equals."""
    graph = bert_graph()
    x = np.random.default_rng(4).normal(size=(2, TOKENS, HIDDEN)).astype(np.float32)
    program = lower(quantize(graph, {"x": x}), overlay(name))
    with weft.open(program, "csim") as session:
        run = session.run({"x": x[:1]}, detail=True)[1]
    layers = weft.estimate(program).layers
    attention = next(layer for layer in layers if layer.op == "Attention")
    peak = program.overlay.rows * program.overlay.cols
    what = f"BERT-base layer, S={TOKENS}, {program.overlay.rows}×{program.overlay.cols} ({name})"
    same = run.cycles == weft.estimate(program).cycles
    whole = 100.0 * run.macs / (run.cycles * peak)
    return [
        at_least(f"{what}: attention, utilization", 100.0 * attention.utilization, 80, "%"),
        at_least(f"{what}: all of it, utilization", whole, 85, "%"),
        Row(f"{what}: estimated cycles equal csim's", int(same), None, "", "1", same),
    ]


def rows(folder, data) -> list[Row]:
    """With a multiplier per DSP, and with two."""
    return [*busy("base"), *busy("edge")]
