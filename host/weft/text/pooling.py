"""From the vectors of tokens to that of a sentence, as sentence-transformers describes it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from weft.errors import ModelError, UnsupportedError, unknown
from weft.graph import Array

MODES = ("mean", "cls")
_KEYS = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}


@dataclass(frozen=True)
class Pooling:
    """`mean` of the tokens that are there, or `cls`, the first one; `normalize` to length 1."""

    mode: str = "mean"
    normalize: bool = False

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ModelError(unknown("pooling", self.mode, MODES))

    def pool(self, hidden: Array, counts: Array) -> Array:
        """[n, S, D] with `counts` [n] tokens in each sample → [n, D]; zeros where none is."""
        there = np.arange(hidden.shape[1]) < np.asarray(counts)[:, None]
        if self.mode == "cls":
            there = there & (np.arange(hidden.shape[1]) == 0)
        total = (hidden * there[..., None]).sum(1, dtype=np.float64)
        pooled = total / np.maximum(there.sum(1), 1)[:, None]
        if self.normalize:
            length = np.sqrt(np.square(pooled).sum(1, keepdims=True))
            pooled = pooled / np.where(length > 0, length, 1)
        return np.asarray(pooled, np.float32)


def pooling_of(folder: Path) -> Pooling:
    """What modules.json and 1_Pooling/config.json say; without them the mean.

    Raises UnsupportedError for other kinds of pooling, ModelError for broken files.
    """
    from weft.frontend.safetensors_folder import read_json

    path = folder / "1_Pooling" / "config.json"
    if not path.is_file():
        return Pooling()
    said = read_json(path)
    asked = [name for name, value in said.items() if name.startswith("pooling_mode") and value]
    if len(asked) != 1 or asked[0] not in _KEYS:
        raise UnsupportedError(
            f"{path}: {', '.join(asked) or 'no pooling mode'}; weft pools by one of "
            f"{', '.join(_KEYS)}"
        )
    return Pooling(_KEYS[asked[0]], _normalizes(folder / "modules.json"))


def _normalizes(path: Path) -> bool:
    """Whether modules.json, a list, has a Normalize module. Raises ModelError."""
    import json

    try:
        modules = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
        return any(str(entry["type"]).endswith(".Normalize") for entry in modules)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(f"{path}: not a list of modules ({error})") from None
