"""How sparse a layer is, and in which pattern: the texts "2:4", "64:2:8", "csc:0.9", "dense"."""

from __future__ import annotations

import re
from dataclasses import dataclass

from weft.errors import UsageError, unknown

MOST = 16  # channels of an N:M group: an index of 4 bits
VENOM_COLUMNS = 4  # kept of the M columns of a block (Castro et al., VENOM, SC 2023)
UNSTRUCTURED = ("csc", "snap", "bitmask")
SYNONYMS = {"eie": "csc"}
EXAMPLES = ("dense", "2:4", "4:8", "1:4", "64:2:8", "csc:0.9", "eie:0.9", "snap:0.5", "bitmask:0.5")


@dataclass(frozen=True)
class Sparsity:
    """A pattern of zeros.

    `kind` "nm": at most `n` non-zeros of each `m` consecutive input channels of a tap and an output
    (Mishra et al., 2021). "venom": blocks of `v` outputs and `m` channels keep 4 channels, and `n`
    of these 4 in each output. "csc", "snap", "bitmask": the share `fraction` of all weights of the
    layer is zero, wherever; the kind says how the others are stored. "dense": no zeros asked for.
    """

    kind: str
    n: int = 0
    m: int = 0
    v: int = 0
    fraction: float = 0.0

    @property
    def structured(self) -> bool:
        """Whether the zeros lie in groups of input channels."""
        return self.kind in ("nm", "venom")

    @property
    def zeros(self) -> float:
        """Share of weights that is zero, where no group is short."""
        if self.kind == "nm":
            return 1 - self.n / self.m
        return 1 - self.n / self.m if self.kind == "venom" else self.fraction

    def __str__(self) -> str:
        """The canonical text: `parse` gives the same value for it."""
        if self.kind == "nm":
            return f"{self.n}:{self.m}"
        if self.kind == "venom":
            return f"{self.v}:{self.n}:{self.m}"
        return self.kind if self.kind == "dense" else f"{self.kind}:{self.fraction!r}"


DENSE = Sparsity("dense")


def parse(text: str | Sparsity) -> Sparsity:
    """A pattern from its text ("eie" is another name of "csc").

    Raises UsageError for unknown names (with the nearest), N >= M, M above 16, and fractions
    outside 0 <= f < 1.
    """
    if isinstance(text, Sparsity):
        return text
    clean = text.strip()
    if clean == "dense":
        return DENSE
    numbers = re.fullmatch(r"(?:(\d{1,6}):)?(\d{1,6}):(\d{1,6})", clean)
    if numbers:
        return _groups(clean, *(int(x) if x else 0 for x in numbers.groups()))
    kind, colon, rest = clean.partition(":")
    kind = SYNONYMS.get(kind, kind)
    if kind not in UNSTRUCTURED:
        raise UsageError(unknown("sparsity", clean, EXAMPLES))
    match = re.fullmatch(r"\d*\.?\d+(?:[eE]-?\d+)?", rest)
    if not colon or not match or not 0 <= float(rest) < 1:
        raise UsageError(
            f"sparsity {clean!r}: the share of weights that are pruned is needed, 0 <= f < 1, "
            f"as in {kind}:0.5"
        )
    return Sparsity(kind, fraction=float(rest))


def _groups(text: str, v: int, n: int, m: int) -> Sparsity:
    """N:M, or V:N:M where `v` is not 0."""
    if not 0 < n < m <= MOST:
        raise UsageError(f"sparsity {text!r}: N:M needs 0 < N < M <= {MOST}, for example 2:4")
    if text.count(":") == 1:
        return Sparsity("nm", n, m)
    if v < 1 or n >= VENOM_COLUMNS or m <= VENOM_COLUMNS:
        raise UsageError(
            f"sparsity {text!r}: V:N:M keeps {VENOM_COLUMNS} of M columns and N of these, so "
            f"V >= 1, N < {VENOM_COLUMNS} < M, for example 64:2:8"
        )
    return Sparsity("venom", n, m, v)
