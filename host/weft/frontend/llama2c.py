"""Checkpoints of llama2.c, version 0: seven int32 and float32 tensors one behind another.

Format: karpathy/llama2.c, model.py and run.c (`read_checkpoint`, `memory_map_weights`). A negative
vocabulary says that the classifier is not the embedding. Rotated channels lie in adjacent pairs.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from weft.errors import ModelError
from weft.frontend.decoder import Decoder, Sizes, plain_frequencies
from weft.frontend.llama import Llama
from weft.frontend.stored import StoredModel, StoredTensor
from weft.frontend.transformer_blocks import Config, Floats
from weft.text import tokenizer as tokenizers

HEADER = struct.Struct("<7i")
_NAMES = ("dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "seq_len")
MOST = 1 << 20  # of each number of the header, against hostile files
BOS, EOS = 1, 2
EPSILON, THETA = 1e-5, 10000.0


def is_checkpoint(path: str | Path) -> bool:
    """Whether a file is a checkpoint: by its name, and the size that its header asks for."""
    path = Path(path)
    if path.suffix != ".bin" or not path.is_file():
        return False
    try:
        header = _header(path)
    except ModelError:
        return False
    return _floats(header) * 4 + HEADER.size == path.stat().st_size


def load(path: str | Path, vocabulary: str | Path | None = None) -> Decoder:
    """The decoder of a checkpoint, with the tokenizer in `vocabulary` or beside it (tok*.bin).

    Raises ModelError for files that are truncated or have absurd counts.
    """
    path = Path(path)
    header = _header(path)
    expected = _floats(header) * 4 + HEADER.size
    size = path.stat().st_size
    if size != expected:
        raise ModelError(
            f"{path}: {size} bytes, but its header {header} asks for {expected}: truncated, or no "
            "checkpoint of llama2.c, version 0"
        )
    dim, hidden, layers, heads, kv_heads, words, limit = header.values()
    words = abs(words)
    head = dim // heads
    frequencies = plain_frequencies(THETA, head)
    sizes = Sizes(layers, dim, heads, kv_heads, head, hidden, words, EPSILON, frequencies)
    facts = {"model_type": "llama2c", "bos_token_id": BOS, "eos_token_id": [BOS, EOS]}
    model = _model(path, header)
    found = Path(vocabulary) if vocabulary else _vocabulary(path)
    tokenizer = tokenizers.read_llama2c(found, words) if found else None
    llama = Llama(Config(path, facts), model, sizes.check(str(path)), limit, paired=True)
    return llama.decoder(tokenizer)


def _vocabulary(path: Path) -> Path | None:
    """The only tok*.bin beside a checkpoint."""
    found = sorted(p for p in path.parent.glob("tok*.bin") if p != path)
    return found[0] if len(found) == 1 else None


def _header(path: Path) -> dict[str, int]:
    try:
        with path.open("rb") as file:
            raw = file.read(HEADER.size)
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror or error}") from None
    if len(raw) < HEADER.size:
        raise ModelError(f"{path}: {len(raw)} bytes; a checkpoint begins with {HEADER.size}")
    header = dict(zip(_NAMES, HEADER.unpack(raw), strict=True))
    good = all(
        1 <= abs(v) <= MOST if k == "vocab_size" else 1 <= v <= MOST for k, v in header.items()
    )
    if not good or header["dim"] % header["n_heads"]:
        raise ModelError(f"{path}: no checkpoint of llama2.c, or a damaged one: {header}")
    return header


def _parts(header: dict[str, int]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Tensors in the order of the file, those of all layers together; "" for what nobody reads."""
    dim, hidden, layers, heads, kv_heads, words, limit = header.values()
    keys = dim // heads * kv_heads
    yield "model.embed_tokens", (abs(words), dim)
    yield "input_layernorm", (layers, dim)
    yield "self_attn.q_proj", (layers, dim, dim)
    yield "self_attn.k_proj", (layers, keys, dim)
    yield "self_attn.v_proj", (layers, keys, dim)
    yield "self_attn.o_proj", (layers, dim, dim)
    yield "post_attention_layernorm", (layers, dim)
    yield "mlp.gate_proj", (layers, hidden, dim)
    yield "mlp.down_proj", (layers, dim, hidden)
    yield "mlp.up_proj", (layers, hidden, dim)
    yield "model.norm", (dim,)
    yield "", (2, limit, dim // heads // 2)  # cos and sin, which the program computes
    if words < 0:
        yield "lm_head", (abs(words), dim)


def _floats(header: dict[str, int]) -> int:
    return sum(int(np.prod(shape, dtype=object)) for _, shape in _parts(header))


def _model(path: Path, header: dict[str, int]) -> StoredModel:
    data = np.memmap(path, "<f4", "r", offset=HEADER.size)
    tensors: dict[str, StoredTensor] = {}
    at = 0
    for name, shape in _parts(header):
        size = int(np.prod(shape))
        part = data[at : at + size].reshape(shape)
        at += size
        if name.startswith(("model.", "lm_head")):
            tensors[f"{name}.weight"] = _tensor(f"{name}.weight", part)
        elif name:
            for layer, own in enumerate(part):
                full = f"model.layers.{layer}.{name}.weight"
                tensors[full] = _tensor(full, own)
    return StoredModel(path, "llama2.c", "llama", {**header, "is_decoder": True}, tensors)


def _tensor(name: str, data: Any) -> StoredTensor:
    def rows(first: int, last: int) -> Floats:
        return np.array(data[first:last], np.float32)

    return StoredTensor(name, data.shape, "F32", data.nbytes, rows)
