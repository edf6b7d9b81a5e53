"""Tokenizers of decoders: text to tokens and back.

`SentencePieces` is the one of Llama: pairs with the best score merge, as in sentencepiece's BPE and
llama2.c's `encode` (Kudo, Richardson, 2018); `Pretrained` is a tokenizer.json, by the tokenizers
library. Both are stored in programs as bytes.
"""

from __future__ import annotations

import heapq
import struct
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from weft.errors import MissingDependency, ModelError, unknown
from weft.graph import Array

_ENTRY = struct.Struct("<fi")
LARGEST = 1 << 26  # bytes of a tokenizer.json
LONGEST = 1 << 10  # bytes of a piece, against hostile files
FIRST_BYTE = 3  # llama2.c: token of byte 0, where no piece has it


class Tokenizer(Protocol):
    """Text → tokens → bytes of text."""

    kind: str

    def encode(self, text: str, special: bool = False) -> list[int]:
        """Tokens of a text, with `special` ones in front or behind as the model wants them."""

    def piece(self, token: int, before: int | None) -> bytes:
        """The bytes that a token adds behind token `before`."""

    def data(self) -> Array:
        """What `restored` makes it from: bytes."""


@dataclass(frozen=True)
class SentencePieces:
    """Pieces and their scores, by token."""

    pieces: tuple[bytes, ...]
    scores: tuple[float, ...]
    kind = "sentencepiece"

    @cached_property
    def _tokens(self) -> dict[bytes, int]:
        return {piece: token for token, piece in reversed(list(enumerate(self.pieces)))}

    def encode(self, text: str, special: bool = False) -> list[int]:
        """Tokens of a text; a space is put in front, as Llama's tokenizer does. It knows no
        special ones.
        """
        if not text:
            return []
        tokens: list[int] = []
        for letter in " " + text:
            raw = letter.encode()
            known = self._tokens.get(raw)
            tokens += [known] if known is not None else [byte + FIRST_BYTE for byte in raw]
        return self._merged(tokens)

    def _merged(self, tokens: list[int]) -> list[int]:
        """Neighbours joined, the best score first, of equal ones the first."""
        after = [*range(1, len(tokens)), -1]
        before = [-1, *range(len(tokens) - 1)]
        alive = [True] * len(tokens)
        heap: list[tuple[float, int, int, int, int]] = []

        def offer(left: int) -> None:
            right = after[left]
            if right < 0:
                return
            joined = self._tokens.get(self.pieces[tokens[left]] + self.pieces[tokens[right]])
            if joined is not None:
                entry = (-self.scores[joined], left, tokens[left], tokens[right], joined)
                heapq.heappush(heap, entry)

        for left in range(len(tokens)):
            offer(left)
        while heap:
            _, left, first, second, joined = heapq.heappop(heap)
            right = after[left]
            if not alive[left] or right < 0 or (tokens[left], tokens[right]) != (first, second):
                continue
            tokens[left], alive[right], after[left] = joined, False, after[right]
            if after[right] >= 0:
                before[after[right]] = left
            if before[left] >= 0:
                offer(before[left])
            offer(left)
        return [token for token, there in zip(tokens, alive, strict=True) if there]

    def piece(self, token: int, before: int | None) -> bytes:
        """The bytes of a token; a space at the start of a text, and special tokens, give none."""
        raw = self.pieces[token]
        if raw[:3] == b"<0x" and raw[5:] == b">" and len(raw) == 6:
            return bytes([int(raw[3:5], 16)])
        if raw in (b"<s>", b"</s>", b"<unk>", b"\n<s>\n", b"\n</s>\n"):
            return b""
        return raw[1:] if before in (None, 1) and raw[:1] == b" " else raw

    def data(self) -> Array:
        """As llama2.c's tokenizer.bin."""
        parts = [struct.pack("<i", max(map(len, self.pieces), default=0))]
        for piece, score in zip(self.pieces, self.scores, strict=True):
            parts.append(_ENTRY.pack(score, len(piece)) + piece)
        return np.frombuffer(b"".join(parts), np.uint8)


@dataclass(frozen=True)
class Pretrained:
    """A tokenizer.json of the transformers library."""

    text: str
    kind = "tokenizer.json"

    @cached_property
    def _made(self) -> Any:
        return pretrained(self.text)

    def encode(self, text: str, special: bool = False) -> list[int]:
        """Tokens of a text."""
        return list(self._made.encode(text, add_special_tokens=special).ids)

    def piece(self, token: int, before: int | None) -> bytes:
        """What the token adds to the text of the two."""
        tokens = [token] if before is None else [before, token]
        whole = self._made.decode(tokens, skip_special_tokens=True)
        first = "" if before is None else self._made.decode([before], skip_special_tokens=True)
        return str(whole[len(first) :]).encode()

    def data(self) -> Array:
        """The text, as UTF-8."""
        return np.frombuffer(self.text.encode(), np.uint8)


def pretrained(text: str) -> Any:
    """The tokenizers library's object for a tokenizer.json, which neither pads nor cuts.

    Raises MissingDependency without the library, ModelError for a text that is none.
    """
    try:
        from tokenizers import Tokenizer as Made
    except ImportError:
        raise MissingDependency(
            "text needs the package tokenizers: pip install 'weft[text]'"
        ) from None
    try:
        made = Made.from_str(text)
    except Exception as error:  # the library raises nothing narrower
        raise ModelError(f"tokenizer.json can't be read: {error}") from None
    made.no_padding()
    made.no_truncation()
    return made


def read_llama2c(path: Path, count: int) -> SentencePieces:
    """`count` pieces of a tokenizer.bin of llama2.c. Raises ModelError for a damaged one."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror or error}") from None
    return _pieces(raw, count, str(path))


def _pieces(raw: bytes, count: int | None, name: str) -> SentencePieces:
    pieces: list[bytes] = []
    scores: list[float] = []
    at = 4
    while at < len(raw) and (count is None or len(pieces) < count):
        head = raw[at : at + _ENTRY.size]
        score, size = _ENTRY.unpack(head) if len(head) == _ENTRY.size else (0.0, -1)
        at += _ENTRY.size + size
        if not 0 <= size <= LONGEST or at > len(raw):
            raise ModelError(f"{name}: piece {len(pieces)} is damaged, or the file is truncated")
        pieces.append(raw[at - size : at])
        scores.append(score)
    if not pieces or (count is not None and len(pieces) < count):
        raise ModelError(f"{name}: {len(pieces)} pieces; the model has {count} tokens")
    return SentencePieces(tuple(pieces), tuple(scores))


def restored(kind: str, data: Array) -> Tokenizer:
    """The tokenizer that a program holds. Raises ModelError for bytes that are none."""
    raw = np.asarray(data, np.uint8).tobytes()
    if kind == SentencePieces.kind:
        return _pieces(raw, None, "the program's tokenizer")
    if kind == Pretrained.kind:
        return Pretrained(raw.decode("utf-8", "replace"))
    raise ModelError(unknown("kind of tokenizer", kind, [SentencePieces.kind, Pretrained.kind]))
