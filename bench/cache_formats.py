"""What formats of keys and values cost a decoder, in float on the host but for the cache.

Static scales are those of texts that the model writes itself, as a program's; dynamic ones are of
the token. KIVI (Liu et al., ICML 2024): keys per channel in groups of tokens, the newest ones as
they are until their group is full; values per token, the newest ones as they are.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from weft.frontend import decoders
from weft.text.decoder_assets import DecoderAssets
from weft.text.forward import FloatForward
from weft.text.generation import DecoderSession
from weft.text.perplexity import perplexity

GROUP = 32  # tokens, as in the paper
TEXTS, LENGTH = 4, 256  # that the ranges are from
Heads = np.ndarray  # [tokens, heads, width]


class RoundedCache(FloatForward):
    """A decoder in float, one token at a time, whose keys and values are rounded by `rounding`
    (layer, 0 keys or 1 values, [tokens, heads, width]) before anything attends to them.
    """

    def __init__(self, decoder, rounding: Callable[[str, int, Heads], Heads]) -> None:
        super().__init__(decoder)
        self.tokens, self.rounding = 1, rounding

    def attended(self, node, kept):
        """Keys and values, rounded."""
        heads = int(node.attrs["kv_heads"])
        found = []
        for which, x in enumerate(kept):
            parts = x.reshape(x.shape[1], heads, -1)
            found.append(self.rounding(node.outputs[0], which, parts).reshape(x.shape))
        return found


def symmetric(x: Heads, largest, bits: int) -> Heads:
    """Rounded to codes of so many bits whose range is ± `largest`."""
    most = (1 << bits - 1) - 1
    scale = np.maximum(largest, 1e-9) / most
    return (np.clip(np.rint(x / scale), -most, most) * scale).astype(x.dtype)


def affine(x: Heads, axis: int, bits: int) -> Heads:
    """Rounded between the least and the largest along an axis."""
    low, high = x.min(axis, keepdims=True), x.max(axis, keepdims=True)
    scale = np.maximum(high - low, 1e-9) / ((1 << bits) - 1)
    return (np.rint((x - low) / scale) * scale + low).astype(x.dtype)


def kivi(bits: int):
    """KIVI's rounding."""

    def rounding(layer: str, which: int, x: Heads) -> Heads:
        old = len(x) // GROUP * GROUP if which == 0 else max(len(x) - GROUP, 0)
        if not old:
            return x
        if which == 0:
            groups = x[:old].reshape(-1, GROUP, *x.shape[1:])
            rounded = affine(groups, 1, bits).reshape(old, *x.shape[1:])
        else:
            rounded = affine(x[:old], 2, bits)
        return np.concatenate([rounded, x[old:]])

    return rounding


def largest(decoder) -> dict[tuple[str, int], np.ndarray]:
    """The largest magnitude of each head of keys and values, by layer, of the model's own texts."""
    found: dict[tuple[str, int], np.ndarray] = {}

    def watch(layer: str, which: int, x: Heads) -> Heads:
        most = np.abs(x[-1]).max(1)
        found[layer, which] = np.maximum(found.get((layer, which), most), most)
        return x

    assets = DecoderAssets.of(decoder)
    with DecoderSession(RoundedCache(decoder, watch), assets) as session:
        for seed in range(TEXTS):
            list(session.generate([decoder.bos], LENGTH, temperature=1.0, seed=seed, stop=False))
    return found


def perplexities(path, text: str) -> dict[str, float]:
    """Of a text, by the format of keys and values."""
    decoder = decoders.load(path)
    ranges = largest(decoder)
    ways = {
        "float": lambda layer, which, x: x,
        "int8, a scale per tensor": lambda n, i, x: symmetric(x, ranges[n, i].max(), 8),
        "int8, a scale per head": lambda n, i, x: symmetric(x, ranges[n, i][:, None], 8),
        "int4, a scale per head": lambda n, i, x: symmetric(x, ranges[n, i][:, None], 4),
        "int8 per token and head": lambda n, i, x: symmetric(x, np.abs(x).max(2, keepdims=True), 8),
        "int4 per token and head": lambda n, i, x: symmetric(x, np.abs(x).max(2, keepdims=True), 4),
        "KIVI, 4 bits": kivi(4),
        "KIVI, 2 bits": kivi(2),
    }
    found = {}
    for name, way in ways.items():
        with DecoderSession(RoundedCache(decoder, way), DecoderAssets.of(decoder)) as session:
            found[name] = perplexity(session, text).perplexity
    return found
