"""Sparse formats: how the non-zeros of a weight matrix are stored, and where they belong.

One file per family here; a line below adds it. `weft.sparsity_format` says what a format is made
of, and how number formats (`weft.formats`) go with it.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial

from weft.errors import UsageError, unknown
from weft.sparse import bitmask, coo, csc, csr, eie, nm, two_four, venom
from weft.sparsity_format import Packed, SparseFormat

SPARSE: dict[str, SparseFormat] = {
    f.name: f
    for f in (
        coo.COO,
        csr.CSR,
        csc.CSC,
        bitmask.BITMASK,
        *eie.EIES,
        nm.NM,
        two_four.TWO_FOUR,
        venom.VENOM,
    )
}


@cache
def parse(name: str) -> SparseFormat:
    """The format of that name; "1:4" is N:M, "64:2:8" is V:2:M, "eie:16" has 16 PEs.

    Raises UsageError for an unknown name (with the nearest ones).
    """
    if name in SPARSE:
        return SPARSE[name]
    base, *sizes = name.split(":")
    if base in ("eie", "eie8") and len(sizes) == 1 and sizes[0].isdecimal():
        return _with(SPARSE[base], pes=int(sizes[0]))
    if all(size.isdecimal() for size in (base, *sizes)):
        if len(sizes) == 1:
            return _with(nm.NM, n=int(base), m=int(sizes[0]))
        if len(sizes) == 2 and sizes[0] == "2":
            return _with(venom.VENOM, v=int(base), m=int(sizes[1]))
    raise UsageError(unknown("sparse format", name, (*SPARSE, "N:M", "V:2:M", "eie:P")))


def _with(fmt: SparseFormat, **options: int) -> SparseFormat:
    return replace(fmt, pack=partial(fmt.pack, **options))


__all__ = ["SPARSE", "Packed", "SparseFormat", "parse"]
