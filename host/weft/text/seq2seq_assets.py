"""What travels with the program of an encoder-decoder beside what a decoder's has.

These are the tables of its sources, and the tokens that a target begins with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from weft.errors import InputError, ProgramError
from weft.frontend.seq2seq import Seq2Seq
from weft.graph import Array
from weft.text.decoder_assets import DecoderAssets

PREFIX = "source."


@dataclass(frozen=True)
class SourceAssets:
    """Tables [V, D] and [P, D] or none of sources of up to `longest` tokens; `target` is what
    stands around the decoder, whose texts begin with the tokens `start`.
    """

    embedding: Array
    position: Array | None
    longest: int
    start: tuple[int, ...]
    target: DecoderAssets

    @staticmethod
    def of(model: Seq2Seq, longest: int) -> SourceAssets:
        """Those of a model that has been read."""
        table, words = model.source, model.target
        target = DecoderAssets(
            words.words, words.positions, model.limits[1], model.tokenizer, None, model.eos
        )
        return SourceAssets(table.words, table.positions, longest, model.start, target)

    def rows(self, tokens: Sequence[int]) -> Array:
        """Inputs [n, D] of a source."""
        x = self.embedding[np.asarray(tokens)]
        if self.position is not None:
            x = x + self.position[: len(x)]
        return np.asarray(x, np.float32)

    def tokens_of(self, source: str | Sequence[int]) -> list[int]:
        """Tokens of a source; those of a text have the special tokens that its tokenizer adds.

        Raises InputError for a source that is empty or too long, for tokens that the model lacks,
        and for a text without a tokenizer.
        """
        if not isinstance(source, str):
            found = [int(token) for token in source]
        elif self.target.tokenizer is None:
            raise InputError("the model came without a tokenizer: give tokens in place of a text")
        else:
            found = self.target.tokenizer.encode(source, special=True) if source.strip() else []
        if not 1 <= len(found) <= self.longest:
            raise InputError(
                f"a source of {len(found)} tokens; 1 to {self.longest} are read: shorten it, or "
                "compile with a larger --source"
            )
        bad = [token for token in found if not 0 <= token < len(self.embedding)]
        if bad:
            last = len(self.embedding) - 1
            raise InputError(f"token {bad[0]}: the model has tokens 0 to {last}")
        return found

    def arrays(self) -> dict[str, Array]:
        """As a program holds them; a table that sources and targets share is there once."""
        shared = self.embedding is self.target.embedding
        facts = {"longest": self.longest, "start": list(self.start), "shared": shared}
        found = dict(self.target.arrays())
        found[PREFIX + "facts"] = np.frombuffer(json.dumps(facts).encode(), np.uint8)
        if not shared:
            found[PREFIX + "embedding"] = np.asarray(self.embedding, np.float32)
        if self.position is not None:
            found[PREFIX + "position"] = np.asarray(self.position, np.float32)
        return found

    @staticmethod
    def read(arrays: Mapping[str, Array]) -> SourceAssets:
        """From a program. Raises ProgramError where they are missing or damaged."""
        target = DecoderAssets.read(arrays)
        try:
            facts: dict[str, Any] = json.loads(np.asarray(arrays[PREFIX + "facts"]).tobytes())
            own = target.embedding if facts["shared"] else arrays[PREFIX + "embedding"]
            start = tuple(int(token) for token in facts["start"])
            longest, position = int(facts["longest"]), arrays.get(PREFIX + "position")
        except (KeyError, TypeError, ValueError) as error:
            raise ProgramError(f"an encoder-decoder's program without tables ({error!r})") from None
        fits = longest >= 1 and (position is None or len(position) >= longest)
        if not start or not all(0 <= t < len(target.embedding) for t in start) or not fits:
            raise ProgramError(f"an encoder-decoder's program that begins with {start}, {longest=}")
        return SourceAssets(own, position, longest, start, target)
