"""Perplexity: how surprised a decoder is by a text, e to the mean of −log p per token."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from weft.errors import InputError, UsageError
from weft.text.generation import DecoderSession

SEPARATOR = "<|endoftext|>"  # between the texts of a file


@dataclass(frozen=True)
class Perplexity:
    """Of a file: over `tokens` tokens of `texts` texts."""

    perplexity: float
    tokens: int
    texts: int


def perplexity(
    session: DecoderSession, text: str, progress: Callable[[int, int], None] | None = None
) -> Perplexity:
    """Perplexity of texts, which `<|endoftext|>` separates; each begins with BOS of its own.

    A text longer than the cache goes on in a new one. Raises InputError for a file without tokens,
    UsageError for an encoder-decoder.
    """
    if session.behind_source:
        raise UsageError("perplexity is of texts, and an encoder-decoder says targets of sources")
    parts = [p.strip() for p in text.split(SEPARATOR) if p.strip()]
    total, count = 0.0, 0
    for number, part in enumerate(parts):
        tokens = session.assets.tokens_of(part)
        room = session.forward.capacity
        for start in range(0, max(len(tokens) - 1, 0), room):
            piece = tokens[start : start + room + 1]
            logits = np.asarray(session.logits(piece[:-1]), np.float64)
            logits -= logits.max(-1, keepdims=True)
            chances = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
            total -= float(chances[np.arange(len(piece) - 1), piece[1:]].sum())
            count += len(piece) - 1
        if progress:
            progress(number + 1, len(parts))
    if not count:
        raise InputError("a text without a token to predict: it is empty")
    return Perplexity(math.exp(total / count), count, len(parts))
