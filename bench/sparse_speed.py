"""How fast the simulation multiplies with sparse weights, against scipy.sparse, per product.

A MatMul of random weights as a program of its own, run again and again: what is unpacked of the
weights stays from run to run, as scipy's matrix does.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from weft import isa
from weft.config import Overlay, load_overlay
from weft.device import open_device
from weft.lower.eie import EieWeights
from weft.lower.gather import GatherWeights

from .row import Row, at_most, interleaved

N, DENSITY, PES = 4096, 0.1, 64
BOOK = np.arange(16, dtype=np.int16) * 3


def overlay(engine: str) -> Overlay:
    """Overlay edge with the engine, and memories that hold the product."""
    o = replace(load_overlay("edge"), name=f"{engine}-bench", engines=("systolic", engine))
    o = replace(o, accumulator_rows=1 << 16, buffer_words=1 << 17)
    return replace(o, eie_entries=65_534) if engine == "eie" else o


def row(engine: str, vectors: int) -> Row:
    """Functional simulation of a whole MatMul of `vectors` vectors on engine eie or gather."""
    from scipy import sparse

    rng = np.random.default_rng(0)
    codes = rng.integers(1, 16, (N, N), np.uint8) * (rng.random((N, N), np.float32) < DENSITY)
    o = overlay(engine)
    if engine == "eie":
        w = EieWeights(codes.astype(np.uint8), o.lanes, PES, BOOK)
        fields, real = {"codes": w.codes, "pace": 1}, BOOK[codes].astype(np.int32)
    else:
        w = GatherWeights(codes.astype(np.int8), o.lanes)
        fields, real = w.precision.fields(), codes.astype(np.int32)
    x = rng.integers(-127, 128, (vectors, N)).astype(np.int8)
    device = open_device("csim", form="functional")
    device.load(program(o, w, vectors, fields | {"engine": isa.ENGINES.index(engine)}))
    device.write(0, x.reshape(-1, o.lanes))
    matrix, right = sparse.csr_matrix(real), x.T.astype(np.int32).squeeze().copy()
    by_column = matrix.tocsc()
    ours, *theirs = interleaved(
        lambda: device.run(0, 1), lambda: matrix @ right, lambda: by_column @ right, least=5
    )
    device.close()
    scale = 1e9 / (matrix.nnz * vectors)
    peer, many = min(theirs) * scale, f"{vectors} vectors" if vectors > 1 else "one vector"
    title = f"{engine}, functional simulation, {N}×{N}, {DENSITY:.0%} of weights, {many}"
    return at_most(
        f"{title} (peer: scipy.sparse)", ours * scale, round(peer / 2, 3), "ns/product", peer
    )


def program(o: Overlay, w, vectors: int, fields: dict[str, int]):
    """One MatMul of vectors that lie in memory."""
    import kernel  # instructions by hand, as the tests of the units have them

    rows, words = w.packed(0, w.tiles), w.blocks * vectors
    code = kernel.Code(o)
    kernel.set_parameters(code, kernel.parameters(np.random.default_rng(1), w.tiles * o.lanes))
    code.add(isa.READ_HOST, words=words, chunks=1).feed(rows)
    f = {"blocks": w.blocks, "tiles": w.tiles, "rows": len(rows)} | fields
    f |= {"source_block": 1, "source_col": w.blocks}
    code.add(isa.MAT_MUL, **kernel.simple_window(1, vectors), **f, first=1, last=1)
    where = {"target": words, "target_block": vectors, "target_col": 1, "parameter_step": 1}
    code.add(isa.ACTIVATE, **where, low=-128, high=127)
    return code.program(memory_rows=words)


def rows(folder, data) -> list[Row]:
    """One vector, and as many as an engine is best with; bench/snap.py has SNAP's."""
    return [
        row(engine, n) for engine, n in (("eie", 1), ("eie", 256), ("gather", 1), ("gather", 8))
    ]
