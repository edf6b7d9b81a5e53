"""Decoders of the Llama family in GGUF: llama.cpp's names, weights in any of its types.

Metadata: ggml-org/ggml, docs/gguf.md; names of tensors: llama.cpp, gguf-py/gguf/constants.py. For
llama, llama.cpp stores rotated channels in adjacent pairs; for qwen2 and qwen3, half a head apart.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from weft.errors import ModelError, UnsupportedError
from weft.frontend.decoder import Decoder, Sizes, plain_frequencies
from weft.frontend.llama import Llama
from weft.frontend.stored import StoredModel
from weft.frontend.transformer_blocks import Config
from weft.text.byte_pairs import byte_pairs
from weft.text.tokenizer import SentencePieces, Tokenizer

PAIRED = {
    "llama": True,
    "qwen2": False,
    "qwen3": False,
}  # architecture → whether pairs lie side by side
SPACE = "▁".encode()
_OUTER = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_INNER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def is_decoder(path: Path) -> bool:
    """Whether a file is a GGUF of an architecture that `load` knows."""
    if path.suffix != ".gguf" or not path.is_file():
        return False
    from weft.errors import WeftError
    from weft.frontend.gguf import load_tensors

    try:
        return load_tensors(path).architecture in PAIRED
    except WeftError:
        return True  # `load` tells what is wrong with it


def load(path: Path) -> Decoder:
    """The decoder in a GGUF file. Raises ModelError for one that is damaged or incomplete,
    UnsupportedError for other architectures.
    """
    from weft.frontend.gguf import load_tensors

    model = load_tensors(path)
    kind = model.architecture
    if kind not in PAIRED:
        raise UnsupportedError(
            f"{path}: architecture {kind!r}; decoders in GGUF are {', '.join(PAIRED)}"
        )
    numbers, sizes = _sizes(model)
    meta = model.metadata
    facts = {
        "model_type": kind,
        "bos_token_id": _bos(meta),
        "eos_token_id": meta.get("tokenizer.ggml.eos_token_id"),
    }
    limit = numbers.size("context_length")
    renamed = _renamed(model)
    llama = Llama(Config(path, facts), renamed, sizes, limit, PAIRED[kind])
    return llama.decoder(_tokenizer(path, meta, sizes.vocabulary))


def _sizes(model: StoredModel) -> tuple[Config, Sizes]:
    """The metadata of the architecture, and the numbers in it."""
    kind, path = model.architecture, model.path
    values = {
        key.removeprefix(f"{kind}."): value
        for key, value in model.metadata.items()
        if key.startswith(f"{kind}.")
    }
    numbers = Config(path, values)
    heads, width = numbers.size("attention.head_count"), numbers.size("embedding_length")
    head = numbers.size("attention.key_length", default=max(width // heads, 1))
    if "token_embd.weight" not in model.tensors:
        raise ModelError(f"{path}: tensor 'token_embd.weight' is missing")
    words = model.tensors["token_embd.weight"].shape[0]
    sizes = Sizes(
        numbers.size("block_count"),
        width,
        heads,
        numbers.size("attention.head_count_kv", default=heads),
        head,
        numbers.size("feed_forward_length"),
        words,
        numbers.number("attention.layer_norm_rms_epsilon", default=1e-5),
        plain_frequencies(
            numbers.number("rope.freq_base", default=10000.0),
            head,
            numbers.size("rope.dimension_count", default=head),
        ),
    ).check(str(path))
    return numbers, sizes


def _renamed(model: StoredModel) -> StoredModel:
    """The tensors under the names of the transformers library."""
    found = {}
    for name, tensor in model.tensors.items():
        match = re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name)
        new = _OUTER.get(name, name)
        if match and match[2] in _INNER:
            new = f"model.layers.{match[1]}.{_INNER[match[2]]}.{match[3]}"
        found[new] = replace(tensor, name=new)
    return replace(model, tensors=found)


def _tokenizer(path: Path, meta: Mapping[str, Any], words: int) -> Tokenizer | None:
    """Llama's pieces with their scores, or byte-level BPE; None for other kinds, and where there
    are not as many tokens as words. Raises ModelError for lists that don't fit each other.
    """
    pieces: Sequence[str] = meta.get("tokenizer.ggml.tokens", ())
    kind = meta.get("tokenizer.ggml.model")
    if kind not in ("llama", "gpt2") or len(pieces) != words:
        return None
    if kind == "llama":
        scores = np.asarray(meta.get("tokenizer.ggml.scores", np.zeros(words)), np.float64)
        raw = tuple(str(piece).encode().replace(SPACE, b" ") for piece in pieces)
        return SentencePieces(raw, tuple(map(float, scores)))
    types = np.asarray(meta.get("tokenizer.ggml.token_type", np.ones(words)), np.int64)
    merges: Sequence[str] = meta.get("tokenizer.ggml.merges", ())
    if types.shape != (words,) or len(set(pieces)) != words:
        raise ModelError(
            f"{path}: tokenizer of {len(set(pieces))} different tokens with {types.size} types; "
            f"the model has {words} tokens"
        )
    pre = str(meta.get("tokenizer.ggml.pre", "gpt-2"))
    try:
        return byte_pairs(list(pieces), list(merges), types.tolist(), pre)
    except (ModelError, UnsupportedError) as error:
        raise type(error)(f"{path}: {error}") from None


def _bos(meta: Mapping[str, Any]) -> Any:
    """The token that texts begin with; Qwen's vocabularies name one that none begins with."""
    byte_level = meta.get("tokenizer.ggml.model") == "gpt2"
    default = not byte_level or meta.get("tokenizer.ggml.pre") == "llama-bpe"
    begins = meta.get("tokenizer.ggml.add_bos_token", default)
    return meta.get("tokenizer.ggml.bos_token_id") if begins else None
