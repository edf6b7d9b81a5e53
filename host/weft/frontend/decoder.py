"""Decoders of the Llama family and GPT-2: the graph of a part of a text, and what stands around it.

The graph's input `embeddings` [1, n, D] holds n tokens in a row; looking rows up is the host's work
(`weft.text.decoder`). Its attention is causal and has the attribute `cache`: the number of
tokens that keys and values are kept of, so that tokens may follow those of an earlier run.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from weft.errors import ModelError
from weft.frontend.build import Builder
from weft.frontend.transformer_blocks import Floats, Weights
from weft.graph import Graph
from weft.text.tokenizer import Tokenizer

INPUT, OUTPUT = "embeddings", "logits"


@dataclass(frozen=True)
class Decoder:
    """A decoder that has been read.

    `embedding` [V, D] and `position` [P, D] (None where positions are rotations) make the graph's
    input; `build(tokens, cache)` makes the graph. `limit` is the longest text, in tokens.
    """

    name: str
    embedding: Floats
    position: Floats | None
    limit: int
    build: Callable[[int, int], Graph]
    tokenizer: Tokenizer | None = None
    bos: int | None = None
    eos: tuple[int, ...] = ()

    def graph(self, tokens: int, cache: int) -> Graph:
        """The graph of `tokens` tokens. Raises ModelError for more than the model has positions."""
        if not 1 <= tokens <= cache <= self.limit:
            raise ModelError(
                f"{self.name}: {tokens} tokens at a time of {cache} in all; the model takes 1 to "
                f"{self.limit}"
            )
        return self.build(tokens, cache)


@dataclass(frozen=True)
class Sizes:
    """Numbers of a decoder: heads of `head` channels, `hidden` channels of the feed-forward part.

    `frequencies` [head / 2] are those of the rotations, 0 for channels that stay.
    """

    layers: int
    width: int
    heads: int
    kv_heads: int
    head: int
    hidden: int
    vocabulary: int
    epsilon: float
    frequencies: Floats = field(default_factory=lambda: np.zeros(0, np.float32))
    window: int = 0  # tokens that a query sees, itself included; 0: all
    turned: int | None = None  # channels of a head that are rotated; None: all
    scale: float | None = None

    def check(self, name: str) -> Sizes:
        """Itself. Raises ModelError for heads that are none."""
        if self.heads % self.kv_heads or self.head % 2:
            raise ModelError(
                f"{name}: {self.heads} heads of {self.head} channels over {self.kv_heads} of keys; "
                "the first is a multiple of the last, and channels come in pairs"
            )
        return self


def plain_frequencies(theta: float, head: int, rotated: int | None = None) -> Floats:
    """theta^(−2i / rotated) of the first `rotated` channels' pairs, 0 of the others."""
    count = head if rotated is None else rotated
    found = np.zeros(head // 2, np.float32)
    found[: count // 2] = theta ** (-np.arange(0, count, 2, dtype=np.float64) / count)
    return found


def adjacent(rows: Floats, heads: int, turned: int | None = None) -> Floats:
    """Rows [heads · w, ...] whose channels i and i + turned/2 are pairs, with pairs side by side.

    `turned` is how many channels of a head are (all if None). Scores of queries and keys that both
    lie so are the same.
    """
    parts = rows.reshape(heads, -1, *rows.shape[1:])
    count = parts.shape[1] if turned is None else turned
    halves = parts[:, :count].reshape(heads, 2, -1, *rows.shape[1:]).swapaxes(1, 2)
    pairs = halves.reshape(heads, count, *rows.shape[1:])
    return np.concatenate([pairs, parts[:, count:]], axis=1).reshape(rows.shape)


class Blocks:
    """Layers of a graph under construction."""

    def __init__(self, name: str, weights: Weights, sizes: Sizes, cache: int) -> None:
        self.b = Builder(name)
        self.weights, self.sizes, self.cache = weights, sizes, cache
        self._frequencies = ""

    def start(self, tokens: int) -> str:
        """The graph's input."""
        self.b.input(INPUT, (1, tokens, self.sizes.width), "float32")
        return INPUT

    def finish(self, x: str, head: Floats, name: str, bias: Floats | None = None) -> Graph:
        """The graph whose outputs are the products of x with `head` [V, D], and a bias [V]."""
        names = [x, self.b.constant(self._free(name), np.ascontiguousarray(head.T))]
        if bias is not None:
            names.append(self.b.constant(self._free("logits.bias"), bias))
        self.b.emit("Linear", names, name=OUTPUT, outputs=(OUTPUT,))
        return self.b.graph([OUTPUT])

    def linear(self, x: str, name: str, w: Floats, bias: Floats | None = None) -> str:
        """x · wᵀ + bias, w [outer, inner]."""
        names = [x, self.b.constant(self._free(f"{name}.weight"), np.ascontiguousarray(w.T))]
        if bias is not None:
            names.append(self.b.constant(self._free(f"{name}.bias"), bias))
        return self.b.emit("Linear", names, name=name)

    def head_norm(self, x: str, name: str, gamma: Floats, heads: int) -> str:
        """RMSNorm of each head."""
        names = [x, self.b.constant(self._free(f"{name}.weight"), gamma)]
        attrs = {"epsilon": self.sizes.epsilon, "heads": heads}
        return self.b.emit("RMSNorm", names, attrs, name=name)

    def norm(self, x: str, name: str, gamma: Floats, beta: Floats | None = None) -> str:
        """LayerNorm, or RMSNorm without beta."""
        names = [x, self.b.constant(self._free(f"{name}.weight"), gamma)]
        if beta is not None:
            names.append(self.b.constant(self._free(f"{name}.bias"), beta))
        op = "RMSNorm" if beta is None else "LayerNorm"
        return self.b.emit(op, names, {"epsilon": self.sizes.epsilon}, name=name)

    def rotated(self, x: str, heads: int, name: str) -> str:
        """Rotary embedding of adjacent channels."""
        if not self._frequencies:
            self._frequencies = self.b.constant("rope.frequencies", self.sizes.frequencies)
        return self.b.emit("Rope", [x, self._frequencies], {"heads": heads}, name=name)

    def attention(self, q: str, k: str, v: str, name: str) -> str:
        """Causal attention with a cache."""
        s = self.sizes
        attrs = {
            "heads": s.heads,
            "kv_heads": s.kv_heads,
            "scale": 1 / math.sqrt(s.head) if s.scale is None else s.scale,
            "causal": 1,
            "cache": self.cache,
        }
        if s.window:
            attrs["left"] = 1 - s.window
        return self.b.emit("Attention", [q, k, v], attrs, name=f"{name}.attention")

    def add(self, x: str, y: str, name: str) -> str:
        """A residual connection."""
        return self.b.emit("Add", [y, x], name=f"{name}.residual")

    def _free(self, name: str) -> str:
        return self.b.fresh(name) if name in self.b.tensors else name
