"""How far a decoder's chances of words are from those of the same model in float."""

from __future__ import annotations

import numpy as np

from weft.text.generation import DecoderSession
from weft.text.perplexity import SEPARATOR

Chances = list[np.ndarray]  # log p of each text [tokens, vocabulary]


def chances(session: DecoderSession, text: str) -> Chances:
    """Natural logarithms of the chances behind each token of texts, up to the cache's end."""
    found = []
    for part in (p.strip() for p in text.split(SEPARATOR) if p.strip()):
        tokens = session.assets.tokens_of(part)[: session.forward.capacity]
        logits = np.asarray(session.logits(tokens), np.float64)
        logits -= logits.max(-1, keepdims=True)
        found.append(logits - np.log(np.exp(logits).sum(-1, keepdims=True)))
    return found


def divergence(exact: Chances, found: Chances) -> float:
    """Kullback-Leibler divergence per token, in nats, of `found` from `exact`."""
    pairs = [(a[: len(b)], b[: len(a)]) for a, b in zip(exact, found, strict=True)]
    total = sum(float((np.exp(a) * (a - b)).sum()) for a, b in pairs)
    return total / sum(len(a) for a, _ in pairs)
