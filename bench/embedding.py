"""MiniLM-L6 on the overlay: rank correlation on STS benchmark, and times."""

from __future__ import annotations

import time

import weft
from weft.text import embed, open_text

from .row import Row, absent, at_least, at_most

PUBLISHED = 0.8203  # in float, all 1,379 pairs
TOKENS = 64
# What of the overlay's weights, and the least correlation that is wanted.
WAYS = (
    ("W8A8", "encoder", {}, 0.815),
    ("W8A8, ranges per row behind norms", "lab", {"row_ranges": True}, 0.815),
    ("int4:g32 weights", "lab", {"weights": "int4:g32"}, 0.80),
)
BOARDS = (("encoder", "ZCU104"), ("encoder16", "KV260"))
SENTENCE = " ".join(["weft"] * 126)  # 128 tokens with [CLS] and [SEP]


def rows(folder, data) -> list[Row]:
    """Float on the host, integers on csim, seconds per sentence here and on boards."""
    import sts

    model = sts.minilm()
    title = "MiniLM-L6, STS benchmark, 1,379 pairs: Spearman"
    if model is None or data is None:
        reason = sts.MISSING if model is None else "the data sets are not here"
        return [absent(title, reason, target=f"≥ {PUBLISHED - 0.0005:g}")]
    every, calibration = sts.pairs(data), sts.stories(data)
    exact = embed(model, every.lines)
    found = every.spearman(exact)
    made = [at_least(f"{title}, float", found, PUBLISHED - 0.0005, "", PUBLISHED)]
    for name, overlay, options, target in WAYS:
        program = weft.compile(model, overlay, calibration=calibration, tokens=TOKENS, **options)
        vectors = embed(program, every.lines)
        about = f"{name}, all on csim, overlay {overlay}"
        made.append(at_least(f"{title}, {about}", every.spearman(vectors), target, "", found))
        cosine = sts.mean_cosine(vectors, exact)
        wanted = 0.95 if "weights" in options else 0.99
        made.append(at_least(f"MiniLM-L6: mean cosine to float, {about}", cosine, wanted, ""))
    return made + _times(model, calibration)


def _times(model, calibration) -> list[Row]:
    """One sentence of 128 tokens: simulated, and predicted."""
    made: list[Row] = []
    for overlay, board in BOARDS:
        program = weft.compile(model, overlay, calibration=calibration, tokens=128)
        if not made:
            with open_text(program) as encoder:
                encoder.embed(["weft"])
                start = time.perf_counter()
                encoder.embed([SENTENCE], truncate=True)
                took = time.perf_counter() - start
            made.append(at_most("MiniLM-L6: one sentence of 128 tokens on csim", took, 2.0, "s"))
        predicted = weft.estimate(program, board=board).wall_s * 1e3
        text = f"MiniLM-L6: the same predicted, overlay {overlay} on {board}"
        made.append(Row(text, predicted, None, "ms", "", None))
    return made
