"""What travels with the program of a text encoder: tokenizer, embedding tables, pooling."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from weft.errors import InputError, ModelError, ProgramError
from weft.graph import Array
from weft.text.pooling import Pooling, pooling_of
from weft.text.tokenizer import pretrained

PREFIX = "text."
TOKENIZER_LIMIT = 1 << 26  # bytes of a tokenizer.json
_TABLES = ("word", "position", "kind")


@dataclass(frozen=True)
class TextAssets:
    """Tokenizer (the text of tokenizer.json), tables, pooling; `limit` tokens at most.

    The sum for token t at place i is word[t] + position[i] + kind.
    """

    tokenizer: str
    word: Array
    position: Array
    kind: Array
    pooling: Pooling
    limit: int

    @cached_property
    def _tokenizer(self) -> Any:
        return pretrained(self.tokenizer)

    def tokens(self, lines: Sequence[str], limit: int, truncate: bool = False) -> list[list[int]]:
        """Token ids of each line, special ones included.

        Raises InputError for a line of more than `limit` tokens, unless asked to `truncate`.
        """
        tokenizer = self._tokenizer
        if truncate:
            tokenizer.enable_truncation(limit)
        try:
            found = [each.ids for each in tokenizer.encode_batch(list(lines))]
        finally:
            tokenizer.no_truncation()
        for number, ids in enumerate(found, start=1):
            if len(ids) > limit:
                raise InputError(
                    f"line {number} has {len(ids)} tokens, at most {limit} are possible here: "
                    "shorten it, ask to truncate (--truncate), or compile for more (--tokens)"
                )
        return found

    def rows(self, ids: Array) -> Array:
        """Sums of the embeddings [..., S, D] of token ids [..., S].

        Raises InputError for ids that the table lacks, and for more tokens than positions.
        """
        ids = np.asarray(ids)
        if ids.dtype.kind not in "iu":
            raise InputError(f"token ids of type {ids.dtype}; integers are expected")
        wrong = (ids < 0) | (ids >= len(self.word))
        if wrong.any():
            place = tuple(int(i) for i in np.argwhere(wrong)[0])
            raise InputError(
                f"token id {ids[place]} at {place}; the vocabulary is 0..{len(self.word) - 1}"
            )
        count = ids.shape[-1]
        if count > len(self.position):
            raise InputError(
                f"{count} tokens, but the model has positions for {len(self.position)}"
            )
        return np.asarray(self.word[ids] + self.position[:count] + self.kind, np.float32)

    def padded(self, sentences: Sequence[Sequence[int]], tokens: int) -> tuple[Array, Array]:
        """(embeddings [n, tokens, D], how many are there [n]).

        Padding repeats the sentence's own rows: nothing of it is used, and ranges that are
        calibrated on it see nothing that no sentence has. A sentence of no tokens is zeros.
        """
        counts = np.asarray([len(ids) for ids in sentences], np.int64)
        x = np.zeros((len(sentences), tokens, self.word.shape[1]), np.float32)
        for sample, ids in zip(x, sentences, strict=True):
            if len(ids):
                rows = self.rows(np.asarray(ids, np.int64))
                sample[:] = rows[np.arange(tokens) % len(ids)]
        return x, counts

    def arrays(self) -> dict[str, Array]:
        """As arrays by name, for a program file."""
        facts = {"pooling": asdict(self.pooling), "limit": self.limit}
        texts = {"tokenizer": self.tokenizer, "facts": json.dumps(facts)}
        made = {name: np.frombuffer(text.encode(), np.uint8) for name, text in texts.items()}
        made |= {name: np.ascontiguousarray(getattr(self, name)) for name in _TABLES}
        return {PREFIX + name: array for name, array in made.items()}


def is_text(assets: Mapping[str, Array]) -> bool:
    """Whether a program's assets are those of a text encoder."""
    return PREFIX + "facts" in assets


def assets_from(arrays: Mapping[str, Array]) -> TextAssets:
    """What `TextAssets.arrays` made. Raises ProgramError for anything else."""
    try:
        tables = {name: arrays[PREFIX + name] for name in _TABLES}
        facts = json.loads(arrays[PREFIX + "facts"].tobytes())
        made = TextAssets(
            arrays[PREFIX + "tokenizer"].tobytes().decode(),
            **tables,
            pooling=Pooling(**facts["pooling"]),
            limit=int(facts["limit"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, ModelError) as error:
        raise ProgramError(f"damaged text assets ({type(error).__name__}: {error})") from None
    shapes = [made.word.shape, made.position.shape, made.kind.shape]
    fits = [len(s) for s in shapes] == [2, 2, 1] and len({s[-1] for s in shapes}) == 1
    if not fits or any(t.dtype != np.float32 for t in tables.values()):
        raise ProgramError(f"damaged text assets: embedding tables of shapes {shapes}")
    return made


def assets_of(folder: str | Path) -> TextAssets:
    """The assets of a folder of the transformers or sentence-transformers library.

    Raises ModelError for what is missing or broken, UnsupportedError.
    """
    from weft.frontend import transformers_folder
    from weft.frontend.safetensors_folder import read_json

    folder = Path(folder)
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ModelError(
            f"{folder}: no tokenizer.json; save it with the transformers library: "
            "AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
        )
    if path.stat().st_size > TOKENIZER_LIMIT:
        raise ModelError(f"{path} has {path.stat().st_size} bytes; at most {TOKENIZER_LIMIT}")
    limit = transformers_folder.positions(folder)
    settings = folder / "sentence_bert_config.json"
    said = read_json(settings).get("max_seq_length") if settings.is_file() else None
    if isinstance(said, int) and said > 0:
        limit = min(limit, said)
    tables = transformers_folder.tables(folder)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: {error}") from None
    pooling = pooling_of(folder)
    return TextAssets(text, tables.word, tables.position, tables.kind, pooling, limit)
