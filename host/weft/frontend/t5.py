"""T5 and mT5: RMSNorm before each part, position biases by distance, scores that nothing scales.

Raffel et al., Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer,
2020; gated feed-forward parts: Shazeer, 2020, and T5 v1.1. Tensors as the transformers library
names them. All layers of a stack share the biases of its first one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from weft.errors import UnsupportedError
from weft.frontend.decoder import Sizes
from weft.frontend.seq2seq import Pair, Seq2Seq, Table, begins, ends
from weft.frontend.stored import StoredModel
from weft.frontend.transformer_blocks import Config, Floats, Weights
from weft.graph import Array, Graph
from weft.text.tokenizer import Tokenizer

KINDS = ("t5", "mt5")
WORDS, HEAD = "shared.weight", "lm_head.weight"
BIAS = "block.0.layer.0.SelfAttention.relative_attention_bias.weight"
LONGEST = 4096  # distances have buckets however large they are; a limit against absurd tables


@dataclass(frozen=True)
class _T5:
    """A model that is being read. `layers` are those of the encoder and of the decoder."""

    config: Config
    weights: Weights
    sizes: Sizes
    layers: tuple[int, int]
    words: Floats
    gated: bool
    activation: tuple[str, dict[str, object]]

    def graph(self, source: int, tokens: int, cache: int) -> Graph:
        """The graph of both stacks."""
        pair = Pair("t5", self.weights, self.sizes, cache)
        x, y = pair.inputs(source, tokens)
        bias = self._bias(pair, "encoder", self.between(source))
        for layer in range(self.layers[0]):
            x = self._encode(pair, x, f"encoder.block.{layer}", bias)
        x = self._norm(pair, x, "encoder.final_layer_norm")
        bias = self._bias(pair, "decoder", self.behind(cache))
        for layer in range(self.layers[1]):
            y = self._decode(pair, y, x, f"decoder.block.{layer}", bias)
        y = self._norm(pair, y, "decoder.final_layer_norm")
        return pair.finish(y, self._head(), HEAD)

    def _head(self) -> Floats:
        """What logits are products with: words of their own, or the embeddings."""
        found = self.words
        if self.weights.has(HEAD):
            found = self.weights.take(HEAD, *self.words.shape)
        tied = self.config.values.get("tie_word_embeddings", True) is not False
        default = tied and self.config.values.get("model_type") == "t5"
        scaled = self.config.values.get("scale_decoder_outputs", default)
        return found * np.float32(self.sizes.width**-0.5) if scaled else found

    def between(self, source: int) -> Array:
        """Buckets [S, S] of queries and keys."""
        away = np.arange(source) - np.arange(source)[:, None]
        return self._buckets(away, both=True)

    def behind(self, cache: int) -> Array:
        """Buckets [cache] of keys that lie so many tokens behind a query."""
        return self._buckets(-np.arange(cache), both=False)

    def _buckets(self, away: Array, both: bool) -> Array:
        """The bucket of each key − query: near ones alone, far ones in logarithmic groups."""
        count = self.config.size("relative_attention_num_buckets", default=32)
        most = self.config.size("relative_attention_max_distance", default=128)
        first = np.zeros_like(away)
        if both:
            count //= 2
            first = np.where(away > 0, count, 0)
        distance = np.abs(away) if both else np.maximum(-away, 0)
        exact = max(count // 2, 1)
        # In float32, as the library has it: bounds of buckets depend on the rounding.
        far = np.log(np.maximum(distance, exact).astype(np.float32) / np.float32(exact))
        far = far / np.float32(math.log(most / exact)) * np.float32(count - exact)
        group = np.minimum(exact + far.astype(np.int64), count - 1)
        return np.asarray(first + np.where(distance < exact, distance, group))

    def _bias(self, pair: Pair, stack: str, buckets: Array) -> str:
        count = self.config.size("relative_attention_num_buckets", default=32)
        table = self.weights.take(f"{stack}.{BIAS}", count, self.sizes.heads)
        rows = np.ascontiguousarray(np.moveaxis(table[buckets], -1, 0))
        return pair.b.constant(f"{stack}.relative_attention_bias", rows)

    def _norm(self, pair: Pair, x: str, name: str) -> str:
        return pair.norm(x, name, self.weights.take(f"{name}.weight", self.sizes.width))

    def _project(self, pair: Pair, x: str, name: str) -> str:
        s = self.sizes
        w = self.weights.take(f"{name}.weight", s.heads * s.head, s.width)
        return pair.linear(x, name, w)

    def _out(self, pair: Pair, mixed: str, x: str, name: str) -> str:
        s = self.sizes
        w = self.weights.take(f"{name}.o.weight", s.width, s.heads * s.head)
        return pair.add(x, pair.linear(mixed, f"{name}.o", w), name)

    def _encode(self, pair: Pair, x: str, at: str, bias: str) -> str:
        own = f"{at}.layer.0.SelfAttention"
        h = self._norm(pair, x, f"{at}.layer.0.layer_norm")
        q, k, v = (self._project(pair, h, f"{own}.{part}") for part in "qkv")
        x = self._out(pair, pair.attend(q, k, v, own, 1.0, bias), x, own)
        return self._feed_forward(pair, x, f"{at}.layer.1")

    def _decode(self, pair: Pair, y: str, source: str, at: str, bias: str) -> str:
        own, other = f"{at}.layer.0.SelfAttention", f"{at}.layer.1.EncDecAttention"
        h = self._norm(pair, y, f"{at}.layer.0.layer_norm")
        q, k, v = (self._project(pair, h, f"{own}.{part}") for part in "qkv")
        y = self._out(pair, pair.follow(q, k, v, own, 1.0, bias), y, own)
        q = self._project(pair, self._norm(pair, y, f"{at}.layer.1.layer_norm"), f"{other}.q")
        k, v = (self._project(pair, source, f"{other}.{part}") for part in "kv")
        y = self._out(pair, pair.cross(q, k, v, other, 1.0), y, other)
        return self._feed_forward(pair, y, f"{at}.layer.2")

    def _feed_forward(self, pair: Pair, x: str, at: str) -> str:
        s, take, own = self.sizes, self.weights.take, f"{at}.DenseReluDense"
        h = self._norm(pair, x, f"{at}.layer_norm")
        names = ("wi_0", "wi_1") if self.gated else ("wi",)
        inner = [
            pair.linear(h, f"{own}.{n}", take(f"{own}.{n}.weight", s.hidden, s.width))
            for n in names
        ]
        op, attrs = self.activation
        h = pair.b.emit(op, inner[:1], dict(attrs), name=f"{own}.act")
        if self.gated:
            h = pair.b.emit("Mul", [h, inner[1]], name=f"{own}.gated")
        out = pair.linear(h, f"{own}.wo", take(f"{own}.wo.weight", s.width, s.hidden))
        return pair.add(x, out, own)


def load(config: Config, model: StoredModel, tokenizer: Tokenizer | None = None) -> Seq2Seq:
    """All that generation needs. Raises ModelError, ShapeError for tensors that don't fit,
    UnsupportedError for variants.
    """
    weights = Weights.of(model, ("",), WORDS)
    width, heads = config.size("d_model"), config.size("num_heads")
    layers = config.size("num_layers")
    both = layers, config.size("num_decoder_layers", default=layers)
    sizes = Sizes(
        layers,
        width,
        heads,
        heads,
        config.size("d_kv"),
        config.size("d_ff"),
        config.size("vocab_size"),
        config.number("layer_norm_epsilon", default=1e-6),
    )
    words = weights.take(WORDS, sizes.vocabulary, width)
    gated, activation = _feed_forward(config)
    made = _T5(config, weights, sizes, both, words, gated, activation)
    table, limits = Table(words), (LONGEST, LONGEST)
    start, end = begins(config, sizes.vocabulary), ends(config, sizes.vocabulary)
    name = str(config.values["model_type"])
    return Seq2Seq(name, table, table, limits, made.graph, start, end, tokenizer)


def _feed_forward(config: Config) -> tuple[bool, tuple[str, dict[str, object]]]:
    """Whether the feed-forward part is gated, and its function."""
    text = str(config.values.get("feed_forward_proj", "relu"))
    kind, _, name = text.rpartition("-")
    if kind not in ("", "gated"):
        raise UnsupportedError(
            f"{config.path}: feed_forward_proj = {text!r}; a function, or gated- in front of one"
        )
    name = "gelu_new" if text == "gated-gelu" else name
    own = Config(config.path, {"feed_forward_proj": name})
    return kind == "gated", own.activation("feed_forward_proj")
