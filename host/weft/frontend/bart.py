"""BART: learned positions, LayerNorm behind each part, one table of embeddings for all.

Lewis et al., BART: Denoising Sequence-to-Sequence Pre-training, 2020; tensors as the transformers
library names them. The norm of the embeddings is the graph's first node.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from weft.errors import ShapeError
from weft.frontend.decoder import Sizes
from weft.frontend.seq2seq import Pair, Seq2Seq, Table, begins, ends
from weft.frontend.stored import StoredModel
from weft.frontend.transformer_blocks import Config, Floats, Weights
from weft.graph import Graph
from weft.text.tokenizer import Tokenizer

PREFIXES = ("model.", "")
WORDS, LOGITS_BIAS, HEAD = "shared.weight", "final_logits_bias", "lm_head.weight"
OFFSET = 2  # rows of a position table that no position uses
EPSILON = 1e-5


@dataclass(frozen=True)
class _Stack:
    """Sizes of the encoder or the decoder."""

    name: str
    layers: int
    heads: int
    hidden: int

    @staticmethod
    def of(config: Config, name: str) -> _Stack:
        """Those that a config says."""
        parts = (f"{name}_layers", f"{name}_attention_heads", f"{name}_ffn_dim")
        return _Stack(name, *(config.size(part) for part in parts))


@dataclass(frozen=True)
class _Bart:
    """A model that is being read."""

    weights: Weights
    sizes: Sizes
    encoder: _Stack
    decoder: _Stack
    words: Floats
    activation: tuple[str, dict[str, object]]

    def graph(self, source: int, tokens: int, cache: int) -> Graph:
        """The graph of both stacks."""
        pair = Pair("bart", self.weights, self.sizes, cache)
        pair.heads = {"encoder": self.encoder.heads, "decoder": self.decoder.heads}
        x, y = pair.inputs(source, tokens)
        x = self._norm(pair, x, "encoder.layernorm_embedding")
        for layer in range(self.encoder.layers):
            x = self._encode(pair, x, f"encoder.layers.{layer}")
        y = self._norm(pair, y, "decoder.layernorm_embedding")
        for layer in range(self.decoder.layers):
            y = self._decode(pair, y, x, f"decoder.layers.{layer}")
        outside, shape = self.weights.outside(), self.words.shape
        head = outside.take(HEAD, *shape) if outside.has(HEAD) else self.words
        bias = outside.take(LOGITS_BIAS, 1, shape[0])[0] if outside.has(LOGITS_BIAS) else None
        return pair.finish(y, head, HEAD, bias)

    def _norm(self, pair: Pair, x: str, name: str) -> str:
        take, width = self.weights.take, self.sizes.width
        return pair.norm(x, name, take(f"{name}.weight", width), take(f"{name}.bias", width))

    def _linear(self, pair: Pair, x: str, name: str, inner: int, outer: int) -> str:
        take = self.weights.take
        return pair.linear(
            x, name, take(f"{name}.weight", outer, inner), take(f"{name}.bias", outer)
        )

    def _project(self, pair: Pair, x: str, name: str) -> str:
        return self._linear(pair, x, name, self.sizes.width, self.sizes.width)

    def _behind(self, pair: Pair, x: str, y: str, name: str) -> str:
        """The norm of x and what a part has made of it."""
        return self._norm(pair, pair.add(x, y, name), name)

    def _encode(self, pair: Pair, x: str, at: str) -> str:
        own, scale = f"{at}.self_attn", self._scale(self.encoder)
        q, k, v = (self._project(pair, x, f"{own}.{part}_proj") for part in "qkv")
        mixed = pair.attend(q, k, v, own, scale)
        y = self._project(pair, mixed, f"{own}.out_proj")
        x = self._behind(pair, x, y, f"{at}.self_attn_layer_norm")
        return self._feed_forward(pair, x, at, self.encoder.hidden)

    def _decode(self, pair: Pair, y: str, source: str, at: str) -> str:
        own, other, scale = f"{at}.self_attn", f"{at}.encoder_attn", self._scale(self.decoder)
        q, k, v = (self._project(pair, y, f"{own}.{part}_proj") for part in "qkv")
        mixed = self._project(pair, pair.follow(q, k, v, own, scale), f"{own}.out_proj")
        y = self._behind(pair, y, mixed, f"{at}.self_attn_layer_norm")
        q = self._project(pair, y, f"{other}.q_proj")
        k, v = (self._project(pair, source, f"{other}.{part}_proj") for part in "kv")
        mixed = self._project(pair, pair.cross(q, k, v, other, scale), f"{other}.out_proj")
        y = self._behind(pair, y, mixed, f"{at}.encoder_attn_layer_norm")
        return self._feed_forward(pair, y, at, self.decoder.hidden)

    def _scale(self, stack: _Stack) -> float:
        return 1 / math.sqrt(self.sizes.width // stack.heads)

    def _feed_forward(self, pair: Pair, x: str, at: str, hidden: int) -> str:
        width, (op, attrs) = self.sizes.width, self.activation
        h = self._linear(pair, x, f"{at}.fc1", width, hidden)
        h = pair.b.emit(op, [h], dict(attrs), name=f"{at}.activation_fn")
        h = self._linear(pair, h, f"{at}.fc2", hidden, width)
        return self._behind(pair, x, h, f"{at}.final_layer_norm")


def load(config: Config, model: StoredModel, tokenizer: Tokenizer | None = None) -> Seq2Seq:
    """All that generation needs. Raises ModelError, ShapeError for tensors that don't fit,
    UnsupportedError for variants.
    """
    config.require("normalize_before", False, "norms in front of BART's parts")
    config.require("add_final_layer_norm", False, "a norm behind BART's stacks")
    weights = Weights.of(model, PREFIXES, WORDS)
    width, limit = config.size("d_model"), config.size("max_position_embeddings")
    encoder, decoder = (_Stack.of(config, name) for name in ("encoder", "decoder"))
    for stack in (encoder, decoder):
        if width % stack.heads:
            raise ShapeError(
                f"{config.path}: a width of {width} for {stack.heads} heads of the {stack.name}; "
                "it must be a multiple"
            )
    count = config.size("vocab_size")
    heads = decoder.heads
    sizes = Sizes(
        decoder.layers, width, heads, heads, width // heads, decoder.hidden, count, EPSILON
    )
    words = weights.take(WORDS, count, width)
    scale = math.sqrt(width) if config.values.get("scale_embedding") else 1.0
    scaled = words * np.float32(scale)
    source, target = (
        Table(
            scaled, weights.take(f"{stack}.embed_positions.weight", limit + OFFSET, width)[OFFSET:]
        )
        for stack in ("encoder", "decoder")
    )
    made = _Bart(weights, sizes, encoder, decoder, words, config.activation("activation_function"))
    start, end = begins(config, count), ends(config, count)
    return Seq2Seq("bart", source, target, (limit, limit), made.graph, start, end, tokenizer)
