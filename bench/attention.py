"""How busy the array is in a BERT-base layer, its attention and all of it, and where sequences are
long; a ViT on the overlay.
"""

from __future__ import annotations

import numpy as np

import weft
from weft import ops
from weft.lower import lower
from weft.passes.quantize import quantize

from .row import Row, at_least

TOKENS, HIDDEN, HEADS, INNER = 128, 768, 12, 3072
LONG = 512
BOARDS = {"encoder": "ZCU104", "encoder16": "KV260"}


def bert_graph(tokens: int = TOKENS):
    """An encoder layer of BERT-base (Devlin et al., NAACL 2019) with random weights, in float."""
    from encoders import encoder

    return encoder(tokens, HIDDEN, HEADS, HIDDEN // HEADS, INNER, post=True)


def busy(name: str) -> list[Row]:
    """Utilization of attention and of the layer by csim's clocks, which the estimate equals."""
    graph = bert_graph()
    x = np.random.default_rng(4).normal(size=(2, TOKENS, HIDDEN)).astype(np.float32)
    program = lower(quantize(graph, {"x": x}), weft.load_overlay(name))
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


def long_sequences() -> list[Row]:
    """Keys that come from memory, a head or a tile of it at a time, by the estimate of cycles."""
    from encoders import attention_net

    overlay, width = weft.load_overlay("encoder"), HIDDEN // HEADS
    made: list[Row] = []
    for tokens in (LONG, 4 * LONG, 8 * LONG):
        graph = attention_net(tokens, width, 2, width)
        x = np.random.default_rng(4).normal(size=(1, tokens, width)).astype(np.float32)
        program = lower(quantize(graph, {"x": x}), overlay)
        layers = weft.estimate(program).layers
        found = next(layer for layer in layers if layer.op == "Attention")
        what = f"two heads of {width}, S={tokens}, overlay {overlay.name}: attention, utilization"
        made.append(Row(what, 100.0 * found.utilization, None, "%", "", None))
    graph = bert_graph(LONG)
    x = np.random.default_rng(4).normal(size=(1, LONG, HIDDEN)).astype(np.float32)
    estimate = weft.estimate(lower(quantize(graph, {"x": x}), overlay))
    found = next(layer for layer in estimate.layers if layer.op == "Attention")
    whole = 100.0 * sum(layer.macs for layer in estimate.layers)
    whole /= estimate.cycles * overlay.rows * overlay.cols
    what = f"BERT-base layer, S={LONG}, overlay {overlay.name}"
    made.append(
        Row(f"{what}: attention, utilization", 100.0 * found.utilization, None, "%", "", None)
    )
    return [*made, Row(f"{what}: all of it, utilization", whole, None, "%", "", None)]


def vision() -> list[Row]:
    """The digits ViT in int8, all of it on the overlay, and an image's time on boards."""
    from weft.demo import MODELS, load_data

    data, model = load_data(), MODELS / "vit_digits.onnx"
    graph = weft.load_model(model)
    exact = ops.evaluate(graph, {graph.inputs[0]: data.images})[graph.outputs[0]]
    wanted = 100.0 * (exact.argmax(-1) == data.labels).mean()
    made: list[Row] = []
    for name, board in BOARDS.items():
        program = weft.compile(model, name, calibration=data.calibration)
        found = weft.evaluate(program, data.images, data.labels).top1 * 100
        what = f"digits ViT, {len(data.images)} images held out, int8 on csim, overlay {name}"
        made.append(at_least(f"{what} (peer: float)", found, wanted - 1, "%", wanted))
        image = weft.estimate(program, board=board).wall_s * 1e6
        made.append(Row(f"digits ViT: an image on {board}, predicted", image, None, "µs", "", None))
    return made


def rows(folder, data) -> list[Row]:
    """32 × 32, two products per DSP, and the ViT."""
    return [*busy("encoder"), *long_sequences(), *vision()]
