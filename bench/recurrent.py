"""Recurrent networks on the simulation: words to sounds by two GRUs, MNIST by an LSTM."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

import weft
from weft.recurrent import Generator, entry_program

from .row import Row, absent, at_least, at_most

WORDS = 4000
# Formats of weights, and what is wanted of the words that are right: of int8 a point below float.
WAYS = (({}, 1.0), ({"weights": "int4:g32", "weight_method": "gptq"}, None))
BOARDS = (("edge", "KV260"), ("encoder", "ZCU104"))
BATCH = 64
TITLE = f"g2p, GRU encoder-decoder, {WORDS:,} words"


def rows(folder, data) -> list[Row]:
    """Words and phonemes right, steps per second here and on boards; the LSTM's accuracy."""
    if data is None:
        return [absent(f"{TITLE}: words right", "the data sets are not here", "%")]
    import g2p

    chosen = g2p.example.shuffled(g2p.example.dictionary(data / "g2p_seq2seq"))[:WORDS]
    start = time.perf_counter()
    said = g2p.float_sounds(g2p.weights(data), chosen)
    took = time.perf_counter() - start
    exact = _judged(said, chosen, data)
    steps = sum(len(word) + 1 for word in chosen) + sum(min(len(s) + 1, 20) for s in said)
    made = []
    for options, margin in WAYS:
        made += _words(options, margin, chosen, data, exact, steps / took)
    return made + _boards(data) + _lstm(data)


def _judged(said, chosen, data):
    from g2p import example

    words = example.dictionary(data / "g2p_seq2seq")
    return example.score(said, [words[word] for word in chosen])


def _words(options, margin, chosen, data: Path, exact, peer_rate: float) -> list[Row]:
    """How well and how fast a program of some format says the words."""
    from g2p import example

    program = example.compiled(data / "g2p_seq2seq", "lab", **options)
    with Generator(program) as generator:
        generator.run([example.letters("warm")])
        start = time.perf_counter()
        tokens = generator.run([example.letters(word) for word in chosen])
        rate = generator.took.samples / (time.perf_counter() - start)
        clocks = generator.took.cycles / generator.took.samples
    found = _judged([example.phonemes(row) for row in tokens], chosen, data)
    about = f"{TITLE}, weights {options.get('weights', 'int8')} on csim, overlay lab"
    right, wrong = f"{about}: words right", f"{about}: phonemes wrong"
    if margin is None:
        return [
            Row(right, found.words, exact.words, "%"),
            Row(wrong, found.errors, exact.errors, "%"),
        ]
    return [
        at_least(right, found.words, exact.words - margin, "%", exact.words),
        at_most(wrong, found.errors, exact.errors + 0.5, "%", exact.errors),
        Row(f"{about}, 64 words at once (peer: numpy, float)", rate, peer_rate, "steps/s"),
        Row(f"{about}: clocks a step", clocks, None, "clocks"),
    ]


def _boards(data: Path) -> list[Row]:
    """Predicted times of a decoder's step."""
    from g2p import example

    made = []
    for overlay, board in BOARDS:
        program = example.compiled(data / "g2p_seq2seq", overlay, batch=BATCH)
        part = entry_program(program, "decoder")
        one, many = (weft.estimate(part, n, board).wall_s for n in (1, BATCH))
        about = f"g2p: a decoder's step predicted, overlay {overlay} on {board}"
        made.append(Row(f"{about}, one word", one * 1e6, None, "µs"))
        made.append(Row(f"{about}, {BATCH} words at once", BATCH / many, None, "steps/s"))
    return made


def _lstm(data: Path) -> list[Row]:
    """MNIST by TFLite's float LSTM, its steps on the accelerator."""
    import models
    from weft.ops import evaluate

    net = models.tflite_network("mnist_lstm", data)
    x, graph = net.real(), weft.load_model(net.float_path)
    parts = [evaluate(graph, {graph.inputs[0]: part}) for part in np.array_split(x, 20)]
    real = models.top1(np.concatenate([p[graph.outputs[0]] for p in parts]), net.labels)
    program = weft.compile(graph, net.overlay, calibration=x[:1000:5])
    with weft.open(program) as session:
        found, run = session.run(x, detail=True)
    title = f"MNIST LSTM, float TFLite, steps in int8 on csim, overlay {net.overlay}, 10,000 images"
    return [
        at_least(f"{title}: top-1", models.top1(found, net.labels), real - 0.5, "%", real),
        Row(f"{title}: clocks an image, 64 at once", run.cycles / len(x), None, "clocks"),
    ]
