"""GPT-2: LayerNorm before each part, learned positions, one matrix for queries, keys and values.

Radford et al., Language Models are Unsupervised Multitask Learners, 2019; tensors as the
transformers library names them. Its matrices are [inner, outer].
"""

from __future__ import annotations

import numpy as np

from weft.frontend.decoder import Blocks, Decoder, Sizes
from weft.frontend.llama import token_id, token_ids
from weft.frontend.stored import StoredModel
from weft.frontend.transformer_blocks import Config, Floats, Weights
from weft.graph import Graph
from weft.text.tokenizer import Tokenizer

PREFIXES = ("transformer.", "")
WORDS, POSITIONS = "wte.weight", "wpe.weight"


def load(config: Config, model: StoredModel, tokenizer: Tokenizer | None = None) -> Decoder:
    """All that generation needs. Raises ModelError, ShapeError for tensors that don't fit,
    UnsupportedError for variants.
    """
    config.require("scale_attn_by_inverse_layer_idx", False, "scores scaled by the layer's number")
    config.require("add_cross_attention", False, "cross-attention from a second model")
    weights = Weights.of(model, PREFIXES, WORDS)
    width, heads = config.size("n_embd"), config.size("n_head")
    sizes = Sizes(
        config.size("n_layer"),
        width,
        heads,
        heads,
        max(width // heads, 1),
        config.size("n_inner", default=4 * width),
        config.size("vocab_size"),
        config.number("layer_norm_epsilon", default=1e-5),
        scale=1.0 if config.values.get("scale_attn_weights") is False else None,
    ).check(str(config.path))
    limit = config.size("n_positions")
    words = weights.take(WORDS, sizes.vocabulary, width)
    activation = config.activation("activation_function")
    return Decoder(
        "gpt2",
        words,
        weights.take(POSITIONS, limit, width),
        limit,
        lambda tokens, cache: _graph(weights, sizes, words, activation, tokens, cache),
        tokenizer,
        token_id(config.values.get("bos_token_id"), sizes.vocabulary),
        token_ids(config.values.get("eos_token_id"), sizes.vocabulary),
    )


def _graph(
    weights: Weights,
    sizes: Sizes,
    words: Floats,
    activation: tuple[str, dict[str, object]],
    tokens: int,
    cache: int,
) -> Graph:
    blocks = Blocks("gpt2", weights, sizes, cache)
    x = blocks.start(tokens)
    for layer in range(sizes.layers):
        x = _layer(blocks, x, f"h.{layer}", activation)
    x = _norm(blocks, x, "ln_f")
    outside = weights.outside()
    head = outside.take("lm_head.weight", *words.shape) if outside.has("lm_head.weight") else words
    return blocks.finish(x, head, "lm_head.weight")


def _layer(blocks: Blocks, x: str, at: str, activation: tuple[str, dict[str, object]]) -> str:
    width, inner = blocks.sizes.width, blocks.sizes.hidden
    h = _norm(blocks, x, f"{at}.ln_1")
    w, bias = _matrix(blocks, f"{at}.attn.c_attn", width, 3 * width)
    own = zip("qkv", np.split(w, 3), np.split(bias, 3), strict=True)
    q, k, v = (blocks.linear(h, f"{at}.attn.{name}", *each) for name, *each in own)
    mixed = blocks.attention(q, k, v, f"{at}.attn")
    out = blocks.linear(
        mixed, f"{at}.attn.c_proj", *_matrix(blocks, f"{at}.attn.c_proj", width, width)
    )
    x = blocks.add(x, out, f"{at}.attn")
    h = _norm(blocks, x, f"{at}.ln_2")
    h = blocks.linear(h, f"{at}.mlp.c_fc", *_matrix(blocks, f"{at}.mlp.c_fc", width, inner))
    op, attrs = activation
    h = blocks.b.emit(op, [h], dict(attrs), name=f"{at}.mlp.act")
    h = blocks.linear(h, f"{at}.mlp.c_proj", *_matrix(blocks, f"{at}.mlp.c_proj", inner, width))
    return blocks.add(x, h, f"{at}.mlp")


def _norm(blocks: Blocks, x: str, name: str) -> str:
    take, width = blocks.weights.take, blocks.sizes.width
    return blocks.norm(x, name, take(f"{name}.weight", width), take(f"{name}.bias", width))


def _matrix(blocks: Blocks, name: str, inner: int, outer: int) -> tuple[Floats, Floats]:
    """Weights [outer, inner] and bias of a layer."""
    w = blocks.weights.take(f"{name}.weight", inner, outer)
    return np.ascontiguousarray(w.T), blocks.weights.take(f"{name}.bias", outer)
