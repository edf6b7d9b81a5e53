"""The Llama family: RMSNorm, rotations, grouped heads, SwiGLU.

Llama, Mistral, Qwen2, Qwen3 (whose queries and keys are normalized), Gemma and Phi-3.

Touvron et al., 2023; grouped heads: Ainslie et al., GQA, 2023; SwiGLU: Shazeer, 2020. The names of
tensors are those of the transformers library; llama2.c and GGUF give theirs such names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from weft.errors import ModelError, UnsupportedError
from weft.frontend.decoder import Blocks, Decoder, Sizes, adjacent, plain_frequencies
from weft.frontend.llama_kin import weights_of
from weft.frontend.stored import StoredModel
from weft.frontend.transformer_blocks import Config, Floats, Weights
from weft.graph import Graph
from weft.text.tokenizer import Tokenizer

FAMILY = ("llama", "mistral", "qwen2", "qwen3", "gemma", "phi3")
EMBEDDING, HEAD = "embed_tokens.weight", "lm_head.weight"
PREFIXES = ("model.", "")
HEADS = {"qwen3": 128, "gemma": 256}  # channels of a head, where a config says nothing


@dataclass(frozen=True)
class Llama:
    """A model of the family: `paired` says that pairs of rotated channels lie side by side."""

    config: Config
    model: StoredModel
    sizes: Sizes
    limit: int
    paired: bool = False
    activation: tuple[str, Mapping[str, Any]] = ("Swish", {"alpha": 1.0})

    def decoder(self, tokenizer: Tokenizer | None = None) -> Decoder:
        """All that generation needs. Raises ModelError, ShapeError for tensors that don't fit."""
        s, ids = self.sizes, self.config.values
        kind = str(ids.get("model_type", "llama"))
        found = Weights.of(self.model, PREFIXES, EMBEDDING)
        weights = weights_of(kind, self.model, found, s)
        embedding = weights.take(EMBEDDING, s.vocabulary, s.width)
        scale = np.float32(math.sqrt(s.width) if kind == "gemma" else 1)
        return Decoder(
            kind,
            embedding * scale,
            None,
            self.limit,
            lambda tokens, cache: self._graph(weights, embedding, tokens, cache),
            tokenizer,
            token_id(ids.get("bos_token_id"), s.vocabulary),
            token_ids(ids.get("eos_token_id"), s.vocabulary),
        )

    def _graph(self, weights: Weights, embedding: Floats, tokens: int, cache: int) -> Graph:
        blocks = Blocks("llama", weights, self.sizes, cache)
        x = blocks.start(tokens)
        for layer in range(self.sizes.layers):
            x = self._layer(blocks, x, f"layers.{layer}")
        x = blocks.norm(x, "norm", weights.take("norm.weight", self.sizes.width))
        outside = weights.outside()
        tied = not outside.has(HEAD)
        shape = (self.sizes.vocabulary, self.sizes.width)
        return blocks.finish(x, embedding if tied else outside.take(HEAD, *shape), HEAD)

    def _layer(self, blocks: Blocks, x: str, at: str) -> str:
        s, take = self.sizes, blocks.weights.take
        h = blocks.norm(x, f"{at}.input_layernorm", take(f"{at}.input_layernorm.weight", s.width))
        own = f"{at}.self_attn"
        q = self._turned(blocks, self._projected(blocks, h, f"{own}.q_proj", s.heads), own, "q")
        k = self._turned(blocks, self._projected(blocks, h, f"{own}.k_proj", s.kv_heads), own, "k")
        v = self._projected(blocks, h, f"{own}.v_proj", s.kv_heads, turned=False)
        mixed = blocks.attention(q, k, v, own)
        out = take(f"{own}.o_proj.weight", s.width, s.heads * s.head)
        x = blocks.add(x, blocks.linear(mixed, f"{own}.o_proj", out), own)
        name = f"{at}.post_attention_layernorm"
        h = blocks.norm(x, name, take(f"{name}.weight", s.width))
        return blocks.add(x, self._feed_forward(blocks, h, f"{at}.mlp"), f"{at}.mlp")

    def _turned(self, blocks: Blocks, x: str, own: str, part: str) -> str:
        heads = self.sizes.heads if part == "q" else self.sizes.kv_heads
        name = f"{own}.{part}_norm"
        if blocks.weights.has(f"{name}.weight"):
            gamma = blocks.weights.take(f"{name}.weight", self.sizes.head)
            x = blocks.head_norm(x, name, self._paired(gamma, 1), heads)
        return blocks.rotated(x, heads, f"{own}.{part}_rope")

    def _projected(self, blocks: Blocks, x: str, name: str, heads: int, turned: bool = True) -> str:
        s, weights = self.sizes, blocks.weights
        w = weights.take(f"{name}.weight", heads * s.head, s.width)
        bias = None
        if weights.has(f"{name}.bias"):
            bias = weights.take(f"{name}.bias", heads * s.head)
        if turned:
            w = self._paired(w, heads)
            bias = None if bias is None else self._paired(bias, heads)
        return blocks.linear(x, name, w, bias)

    def _paired(self, rows: Floats, heads: int) -> Floats:
        """Rows with the channels of a pair side by side."""
        return rows if self.paired else adjacent(rows, heads, self.sizes.turned)

    def _feed_forward(self, blocks: Blocks, x: str, at: str) -> str:
        s, take = self.sizes, blocks.weights.take
        gate = blocks.linear(
            x, f"{at}.gate_proj", take(f"{at}.gate_proj.weight", s.hidden, s.width)
        )
        op, attrs = self.activation
        gate = blocks.b.emit(op, [gate], dict(attrs), name=f"{at}.act_fn")
        up = blocks.linear(x, f"{at}.up_proj", take(f"{at}.up_proj.weight", s.hidden, s.width))
        both = blocks.b.emit("Mul", [gate, up], name=f"{at}.gated")
        return blocks.linear(
            both, f"{at}.down_proj", take(f"{at}.down_proj.weight", s.width, s.hidden)
        )


def of_config(config: Config, model: StoredModel) -> Llama:
    """The model of a config.json. Raises ModelError for numbers that are none, UnsupportedError."""
    kind = str(config.values.get("model_type"))
    config.require("attention_bias", kind == "qwen2", "biases of the output projection")
    config.require("mlp_bias", False, "biases in the feed-forward part")
    heads, width = config.size("num_attention_heads"), config.size("hidden_size")
    head = config.size("head_dim", default=HEADS.get(kind, max(width // heads, 1)))
    window = (
        config.values.get("sliding_window") if config.values.get("use_sliding_window", True) else 0
    )
    sizes = Sizes(
        config.size("num_hidden_layers"),
        width,
        heads,
        config.size("num_key_value_heads", default=heads),
        head,
        config.size("intermediate_size"),
        config.size("vocab_size"),
        config.number("rms_norm_eps", default=1e-6),
        frequencies(config, head),
        int(window or 0),
        rotated(config, head),
    ).check(str(config.path))
    limit = config.size("max_position_embeddings", default=2048)
    names = ("hidden_activation", "hidden_act") if kind == "gemma" else ("hidden_act",)
    return Llama(config, model, sizes, limit, activation=config.activation(*names))


def rotated(config: Config, head: int) -> int:
    """Channels of a head that are rotated."""
    parameters = config.values.get("rope_parameters") or {}
    own = parameters.get("partial_rotary_factor") if isinstance(parameters, Mapping) else None
    factor = config.number("partial_rotary_factor", default=1.0) if own is None else float(own)
    return int(head * factor) // 2 * 2


def frequencies(config: Config, head: int) -> Floats:
    """Rotation per position of each pair, with the scaling that the config asks for."""
    scaling = config.values.get("rope_scaling") or config.values.get("rope_parameters") or {}
    if not isinstance(scaling, Mapping):
        raise ModelError(f"{config.path}: rope_scaling = {scaling!r}; an object is expected")
    theta = float(scaling.get("rope_theta") or config.number("rope_theta", default=10000.0))
    plain = plain_frequencies(theta, head, rotated(config, head))
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "default":
        return plain
    if kind == "linear":
        return (plain / float(scaling["factor"])).astype(np.float32)
    if kind == "llama3":
        return _llama3(plain, scaling)
    raise UnsupportedError(
        f"{config.path}: rope_type {kind!r}; default, linear and llama3 are known"
    )


def _llama3(plain: Floats, scaling: Mapping[str, Any]) -> Floats:
    """Long waves slower, short ones as they are, in between a mixture (Llama 3.1)."""
    factor, old = float(scaling["factor"]), float(scaling["original_max_position_embeddings"])
    low, high = float(scaling["low_freq_factor"]), float(scaling["high_freq_factor"])
    turns = old * plain.astype(np.float64) / (2 * math.pi)  # within the original length
    share = np.clip((turns - low) / (high - low), 0, 1)
    return (plain * (share + (1 - share) / factor)).astype(np.float32)


def token_id(value: Any, words: int) -> int | None:
    """A token of a config: the first of several."""
    return next(iter(token_ids(value, words)), None)


def token_ids(value: Any, words: int) -> tuple[int, ...]:
    """Tokens of a config: none, one or several; defaults of a larger vocabulary are left out."""
    many = value if isinstance(value, (list, tuple)) else (value,)
    return tuple(int(v) for v in many if v is not None and 0 <= int(v) < words)
