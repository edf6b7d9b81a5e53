"""What travels with the program of a decoder: embedding tables and the tokenizer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from weft.errors import InputError, ProgramError
from weft.frontend.decoder import Decoder
from weft.graph import Array
from weft.text.tokenizer import Tokenizer, restored

PREFIX = "decoder."


@dataclass(frozen=True)
class DecoderAssets:
    """Tables [V, D] and [P, D] or none, the tokens that begin and end a text, a tokenizer."""

    embedding: Array
    position: Array | None
    limit: int
    tokenizer: Tokenizer | None = None
    bos: int | None = None
    eos: tuple[int, ...] = ()

    @staticmethod
    def of(decoder: Decoder) -> DecoderAssets:
        """Those of a decoder that has been read."""
        d = decoder
        return DecoderAssets(d.embedding, d.position, d.limit, d.tokenizer, d.bos, d.eos)

    def rows(self, tokens: Sequence[int], position: int) -> Array:
        """Inputs [n, D] of tokens that stand behind `position` others."""
        x = self.embedding[np.asarray(tokens)]
        if self.position is not None:
            x = x + self.position[position : position + len(x)]
        return np.asarray(x, np.float32)

    def tokens_of(self, prompt: str | Sequence[int]) -> list[int]:
        """Tokens of a prompt: those of a text begin with BOS, if the model has it.

        Raises InputError for tokens that the model lacks, and a text without a tokenizer.
        """
        if not isinstance(prompt, str):
            found = [int(token) for token in prompt]
        elif self.tokenizer is None:
            raise InputError("the model came without a tokenizer: give tokens in place of a text")
        else:
            begin = [] if self.bos is None else [self.bos]
            found = begin + self.tokenizer.encode(prompt)
        if not found:
            raise InputError(
                "no tokens: a prompt has at least one, and an empty one begins with BOS"
            )
        bad = [token for token in found if not 0 <= token < len(self.embedding)]
        if bad:
            last = len(self.embedding) - 1
            raise InputError(f"token {bad[0]}: the model has tokens 0 to {last}")
        return found

    def arrays(self) -> dict[str, Array]:
        """As a program holds them."""
        facts = {
            "limit": self.limit,
            "bos": self.bos,
            "eos": list(self.eos),
            "tokenizer": self.tokenizer.kind if self.tokenizer else "",
        }
        found: dict[str, Array] = {
            PREFIX + "embedding": np.asarray(self.embedding, np.float32),
            PREFIX + "facts": np.frombuffer(json.dumps(facts).encode(), np.uint8),
        }
        if self.position is not None:
            found[PREFIX + "position"] = np.asarray(self.position, np.float32)
        if self.tokenizer is not None:
            found[PREFIX + "tokenizer"] = self.tokenizer.data()
        return found

    @staticmethod
    def read(arrays: Mapping[str, Array]) -> DecoderAssets:
        """From a program. Raises ProgramError where they are missing or damaged."""
        try:
            facts: dict[str, Any] = json.loads(np.asarray(arrays[PREFIX + "facts"]).tobytes())
            kind = str(facts["tokenizer"])
            bos = facts["bos"]
            return DecoderAssets(
                arrays[PREFIX + "embedding"],
                arrays.get(PREFIX + "position"),
                int(facts["limit"]),
                restored(kind, arrays[PREFIX + "tokenizer"]) if kind else None,
                None if bos is None else int(bos),
                tuple(int(token) for token in facts["eos"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ProgramError(f"a decoder's program without its tables ({error!r})") from None
