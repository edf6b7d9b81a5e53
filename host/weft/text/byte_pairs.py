"""Byte-level BPE tokenizers from their tokens and merges, as GGUF holds them.

Radford et al., 2019 (bytes as letters); how a text is cut before merges is named by
tokenizer.ggml.pre, in llama.cpp's words (src/llama-vocab.cpp).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from weft.errors import MissingDependency, ModelError, UnsupportedError, unknown
from weft.text.tokenizer import Pretrained

_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CONTROL, USER_DEFINED = 3, 4  # llama.cpp's types of tokens


@dataclass(frozen=True)
class Cut:
    """How a text falls into pieces: `pattern` (GPT-2's own if empty), Unicode's NFC first, and
    whether a piece that is a token is one, whatever the merges.
    """

    pattern: str = ""
    composed: bool = False
    whole: bool = False


CUTS = {
    "gpt-2": Cut(),
    "llama-bpe": Cut(_WORDS % r"\p{N}{1,3}", whole=True),
    "qwen2": Cut(_WORDS % r"\p{N}", composed=True),
}


def byte_pairs(
    pieces: Sequence[str], merges: Sequence[str], types: Sequence[int], pre: str
) -> Pretrained:
    """The tokenizer of tokens (bytes as GPT-2's letters), merges ("left right"), types and cut.

    Raises UnsupportedError for another cut, ModelError for merges that make no token,
    MissingDependency without the tokenizers library.
    """
    if pre not in CUTS:
        raise UnsupportedError(unknown("tokenizer.ggml.pre", pre, CUTS))
    try:
        import tokenizers as t
    except ImportError:
        raise MissingDependency(
            "text needs the package tokenizers: pip install 'weft[text]'"
        ) from None
    cut, vocabulary = CUTS[pre], {piece: token for token, piece in enumerate(pieces)}
    pairs = [tuple(merge.split(" ")) for merge in merges]
    for merge, pair in zip(merges, pairs, strict=True):
        if len(pair) != 2 or not vocabulary.keys() >= {*pair, "".join(pair)}:
            raise ModelError(f"merge {merge!r} is no pair of tokens that make a token")
    made: Any = t.Tokenizer(t.models.BPE(vocabulary, pairs, ignore_merges=cut.whole))
    made.decoder = t.decoders.ByteLevel()
    if cut.composed:
        made.normalizer = t.normalizers.NFC()
    letters = t.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not cut.pattern)
    split = [t.pre_tokenizers.Split(t.Regex(cut.pattern), "isolated")] if cut.pattern else []
    made.pre_tokenizer = t.pre_tokenizers.Sequence([*split, letters])
    kinds = list(zip(pieces, types, strict=True))
    special = [t.AddedToken(p, special=True, normalized=False) for p, k in kinds if k == CONTROL]
    made.add_special_tokens(special)
    own = [t.AddedToken(p, normalized=False) for p, k in kinds if k == USER_DEFINED]
    made.add_tokens(own)
    return Pretrained(made.to_str())
