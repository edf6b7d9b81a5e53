"""The criteria by name: what each does, and whether it needs data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from weft.errors import UsageError, unknown
from weft.graph import Array
from weft.pruning import magnitude, sparsegpt, wanda
from weft.pruning.spec import Sparsity
from weft.quantization.statistics import Statistics


@dataclass(frozen=True)
class Criterion:
    """`prune(weights [N, T, I], sparsity, statistics)` gives the weights with their zeros."""

    doc: str
    prune: Callable[[Array, Sparsity, Statistics | None], Array]


CRITERIA = {
    "magnitude": Criterion("the weights nearest to 0 go", magnitude.prune),
    "wanda": Criterion("those with the least |w| times the norm of their input go", wanda.prune),
    "sparsegpt": Criterion(
        "those that cost the least output error go; the others make up for it", sparsegpt.prune
    ),
}
NEED_DATA = ("wanda", "sparsegpt")


def criterion(name: str) -> Criterion:
    """The criterion of that name. Raises UsageError, with the nearest names, for another."""
    if name not in CRITERIA:
        raise UsageError(unknown("pruning criterion", name, CRITERIA))
    return CRITERIA[name]
