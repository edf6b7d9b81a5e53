"""Samples of which not all tokens are there: what is there is computed, and nothing else.

Which tokens count is known by a mask, or by the program's input that holds the number of them.
The ones that do are moved together, in their order, and run as a shorter sequence; results go back
to their places. A sample without any has outputs of 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weft.errors import InputError
from weft.graph import Array
from weft.program import Program
from weft.transformer_ops import count_first

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Padded:
    """`there` [n, tokens] says which tokens of the input `root` count."""

    program: Program
    root: str
    there: NDArray[np.bool_]

    def groups(self) -> Iterator[Rows]:
        """Samples with equally many tokens, the shortest first; none without tokens."""
        counts = self.there.sum(1)
        for count in np.unique(counts[counts > 0]).tolist():
            yield np.flatnonzero(counts == count)

    def taken(self, values: Mapping[str, Array], rows: Rows) -> dict[str, Array]:
        """Inputs of some samples, which have equally many tokens."""
        picked = self._places(rows)
        found = {}
        for name, x in values.items():
            if self.program.tokens.get(name) == self.root:
                found[name] = x[rows[:, None], picked]
            else:
                found[name] = x[rows]
        return found

    def outputs(self) -> dict[str, Array]:
        """Outputs of 0 for all samples."""
        n, tokens = self.there.shape
        found = {}
        for info in self.program.outputs:
            shape = list(info.shape[1:])
            if self.program.tokens.get(info.name) == self.root:
                shape[0] = tokens
            found[info.name] = np.zeros((n, *shape), info.dtype)
        return found

    def put(self, outputs: Mapping[str, Array], results: Mapping[str, Array], rows: Rows) -> None:
        """Results of some samples to their places."""
        picked = self._places(rows)
        for name, y in results.items():
            if self.program.tokens.get(name) == self.root:
                outputs[name][rows[:, None], picked] = y
            else:
                outputs[name][rows] = y

    def _places(self, rows: Rows) -> Rows:
        """Where the tokens of some samples are [samples, tokens], which have equally many."""
        return np.nonzero(self.there[rows])[1].reshape(len(rows), -1)


def of(program: Program, values: Mapping[str, Array], mask: Array | None) -> Padded | None:
    """What a mask, or the input with numbers of tokens, says; None where all tokens are there.

    Raises InputError for a mask that does not fit, or numbers of tokens that there can't be.
    """
    if mask is None and not program.lengths:
        return None
    roots = sorted({program.tokens[n] for n in program.tokens})
    if len(roots) != 1:
        raise InputError(
            f"program {program.name!r} has {len(roots)} inputs with numbers of tokens of their "
            "own: a mask is for programs with one"
        )
    (root,) = roots
    n, tokens = values[root].shape[:2]
    if mask is None:
        return Padded(program, root, _by_length(program, values, n, tokens))
    there = np.asarray(mask)
    if there.shape != (n, tokens):
        raise InputError(
            f"mask: shape {there.shape} given, ({n}, {tokens}) expected, as the tokens of {root!r}"
        )
    if there.dtype.kind not in "biu":
        raise InputError(f"mask: dtype {there.dtype} given; true and false, or 1 and 0, expected")
    there = there != 0
    if program.notes.get("window") and not _together(there):
        raise InputError(
            "mask: tokens with gaps between them, where attention is limited to a window of "
            "neighbours: leave out tokens at the ends only"
        )
    return Padded(program, root, there)


def is_mask(program: Program, name: str) -> bool:
    """Whether an input says with ones and zeros which tokens are there, not how many."""
    shapes = [info.shape for info in program.inputs if info.name == program.lengths == name]
    return any(len(shape) == 2 and shape[1] > 1 for shape in shapes)


def _by_length(
    program: Program, values: Mapping[str, Array], n: int, tokens: int
) -> NDArray[np.bool_]:
    given, what = values[program.lengths], f"input {program.lengths!r}"
    if is_mask(program, program.lengths):
        if given.shape != (n, tokens):
            raise InputError(f"{what}: shape {given.shape} given, ({n}, {tokens}) expected")
        counts = count_first(given, what)
    else:
        counts = given.reshape(n)
    if counts.min() < 0 or counts.max() > tokens:
        raise InputError(
            f"{what}: {counts.min()}..{counts.max()} tokens, but there are 0 to {tokens}"
        )
    return np.asarray(np.arange(tokens) < counts[:, None])


def _together(there: NDArray[np.bool_]) -> bool:
    """Whether the tokens of each sample are neighbours."""
    changes = np.diff(there.astype(np.int8), axis=1, prepend=0)
    return bool(((changes == 1).sum(1) <= 1).all())
