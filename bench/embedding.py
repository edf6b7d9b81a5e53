"""Sentence embedding with MiniLM-L6: rank correlation on STS benchmark, time of a sentence."""

from __future__ import annotations

import time

import weft
from weft.text import embed, open_text

from .row import Row, absent, at_least, at_most

PUBLISHED = 0.8203  # in float, all 1,379 pairs
PAIRS = 200  # of the simulated rows
TOKENS = 64
CALIBRATION = 128  # lines that ranges are taken from
WAYS = {"static ranges": {}, "ranges per row (--dynamic)": {"dynamic": True}}
SENTENCE = " ".join(["weft"] * 126)  # 128 tokens with [CLS] and [SEP]


def rows(folder, data) -> list[Row]:
    """Float on the host, W8A8 on csim with the layers on the array, and seconds per sentence."""
    import sts

    model = sts.minilm()
    title = "MiniLM-L6, STS benchmark: Spearman"
    if model is None or data is None:
        reason = sts.MISSING if model is None else "the data sets are not here"
        return [absent(title, reason, target=f"≥ {PUBLISHED - 0.0005:g}")]
    every, part = sts.pairs(data), sts.pairs(data, PAIRS)
    exact = embed(model, every.lines)
    found = every.spearman(exact)
    made = [at_least(f"{title}, float", found, PUBLISHED - 0.0005, "", PUBLISHED)]
    reference = exact[[*range(PAIRS), *range(len(every), len(every) + PAIRS)]]
    calibration = every.lines[-CALIBRATION:]
    for name, options in WAYS.items():
        program = weft.compile(model, "lab", calibration=calibration, tokens=TOKENS, **options)
        vectors = embed(program, part.lines)
        about = f"W8A8 on csim, {name}, the first {PAIRS} pairs"
        ours, peer = part.spearman(vectors), part.spearman(reference)
        made.append(Row(f"{title}, {about} (peer: float)", ours, peer, "", "", None))
        cosine = sts.mean_cosine(vectors, reference)
        made.append(at_least(f"MiniLM-L6: mean cosine to float, {about}", cosine, 0.99, ""))
    program = weft.compile(model, "lab", calibration=calibration, tokens=128)
    with open_text(program) as encoder:
        encoder.embed(["weft"])
        start = time.perf_counter()
        encoder.embed([SENTENCE], truncate=True)
        took = time.perf_counter() - start
    made.append(at_most("MiniLM-L6: one sentence of 128 tokens on csim", took, 2.0, "s"))
    return made
