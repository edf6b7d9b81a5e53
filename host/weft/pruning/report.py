"""How sparse a graph's layers are, and the bytes that each storage format would need."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from weft.formats import parse as format_of
from weft.graph import Array, Graph
from weft.passes.choices import layer_name
from weft.passes.prune import detect, weighted
from weft.pruning import masks
from weft.pruning.pixels import grouped
from weft.pruning.spec import Sparsity, parse

INDEX_BITS = 4  # of EIE's relative row index
GROUP = 4  # of the histogram, where the layer has no N:M of its own


@dataclass(frozen=True)
class LayerReport:
    """A layer: its pattern (as attrs say, or as found), density in 0..1, and bytes by format.

    `histogram[z]` counts groups of M consecutive input channels with z zeros (M = 4 where the
    pattern has none; short last groups are left out). `nbytes` are of the formulas of the formats,
    `dense` among them, for codes of `bits` bits.
    """

    layer: str
    sparsity: str
    density: float
    bits: float
    histogram: tuple[int, ...]
    nbytes: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def rows(graph: Graph, bits: float | None = None) -> list[LayerReport]:
    """A report of each layer with weights; `bits` per code where weights are float (8 if None)."""
    made = []
    for node in weighted(graph):
        tensor = graph[node.inputs[1]]
        weights = grouped(graph, node)
        own = node.attrs.get("sparsity")
        found = parse(own) if own else detect(weights)
        width = bits or 8
        if tensor.quant is not None:
            width = format_of(tensor.quant.format).weight_bits
        mask = weights != 0
        made.append(
            LayerReport(
                layer_name(node),
                "dense" if found is None else str(found),
                float(mask.mean()),
                float(width),
                histogram(mask, found.m if found is not None and found.structured else GROUP),
                nbytes(mask, width, found),
            )
        )
    return made


def histogram(mask: Array, m: int) -> tuple[int, ...]:
    """Groups of `m` input channels of a mask [N, T, I] by their number of zeros, 0..m."""
    whole = mask.shape[2] - mask.shape[2] % m
    zeros = m - mask[:, :, :whole].reshape(-1, m).sum(axis=1) if whole else np.zeros(0, int)
    return tuple(int(count) for count in np.bincount(zeros, minlength=m + 1))


def nbytes(mask: Array, bits: float, sparsity: Sparsity | None = None) -> dict[str, int]:
    """Bytes of a mask [N, T, I] in each format, as a matrix of N rows and T * I columns.

    N:M needs a pattern: it is left out where `sparsity` is none, or the weights don't follow it.
    EIE counts its pads, with all rows in one processing element.
    """
    n, count = len(mask), int(np.count_nonzero(mask))
    matrix = mask.reshape(n, -1)
    depth = matrix.shape[1]
    row, column, pointer = (_log2(x) for x in (n, depth, count + 1))
    sizes = {
        "dense": matrix.size * bits,
        "COO": count * (bits + row + column),
        "CSR": count * (bits + column) + (n + 1) * pointer,
        "CSC": count * (bits + row) + (depth + 1) * pointer,
        "bitmask": matrix.size + count * bits,
        "EIE": eie_entries(matrix) * (bits + INDEX_BITS) + (depth + 1) * 16,
    }
    if sparsity is not None and sparsity.kind == "nm" and masks.follows(mask, sparsity):
        share = sparsity.n / sparsity.m
        sizes[str(sparsity)] = matrix.size * share * (bits + _log2(sparsity.m))
    return {name: math.ceil(size / 8) for name, size in sizes.items()}


def eie_entries(matrix: Array) -> int:
    """Non-zeros of [R, C] and the pads that gaps of more than 15 rows need (Han et al., 2016)."""
    limit = 1 << INDEX_BITS
    columns, places = np.nonzero(np.asarray(matrix).T)
    first = np.diff(columns, prepend=-1) != 0
    before = np.where(first, -1, np.concatenate([[-1], places[:-1]])[: len(places)])
    return int((1 + (places - before - 1) // limit).sum())


def _log2(count: int) -> int:
    return max(1, math.ceil(math.log2(count)))
