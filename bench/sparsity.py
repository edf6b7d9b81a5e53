"""Sparse engines: clocks and bytes of N:M weights, LeNet-300-100 in every form against dense."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np

from weft.config import load_overlay
from weft.graph import Quant
from weft.lower.gather import GatherWeights
from weft.lower.nm import NmWeights
from weft.units import systolic
from weft.units.nm import ENGINE

from .row import Row, absent, at_least, at_most

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "prune_lenet.py"
K, N, M = 1024, 512, 256  # of the matrix product
LOSS = 2.0


def rows(folder, data) -> list[Row]:
    """N:M on a matrix product, windows of the gather engine, then the trained network."""
    return [*_patterns(), *_windows(), *_lenet(data)]


def _patterns() -> list[Row]:
    """2:4 and 1:4 of a product in int8: clocks by the formula that csim counts to, too."""
    overlay = load_overlay("lab")
    folds = systolic.gemm_folds(N, K, overlay)
    dense = systolic.array_clocks(M, folds, overlay).total
    made = []
    for kept, limit in ((2, 52.0), (1, 27.0)):
        w = np.zeros((N, 1, 1, K // 4, 4), np.int64)
        w[..., :kept] = 1
        sparse = NmWeights(w.reshape(N, 1, 1, K), Quant(np.float32(1)), kept, 4, overlay.lanes)
        taken = systolic.array_clocks(
            M, sparse.tiles * sparse.folds, overlay, engine=ENGINE, index=sparse.index_rows
        )
        name = f"{kept}:4 int8 product {M}×{K}×{N}, overlay lab"
        made.append(at_most(f"{name}: clocks of dense", 100 * taken.total / dense, limit, "%"))
        nbytes = 100 * sparse.packed(0, sparse.tiles).size / (K * N)
        made.append(at_most(f"{name}: bytes of dense", nbytes, 31.25 * kept, "%"))
    return made


def _windows() -> list[Row]:
    """One vector through the gather engine: all clocks against those of all weights."""
    overlay, made = load_overlay("lab"), []
    rng = np.random.default_rng(0)
    w = rng.integers(1, 128, (N, K))
    dense = GatherWeights(w, overlay.lanes, dense=True).clocks(overlay, 1)
    name = f"gather, one vector, {K}×{N}"
    rate = 100 * N * K / overlay.lanes / dense
    made.append(at_least(f"{name}: dense, share of the port", rate, 99, "%"))
    for density in (0.5, 0.25, 0.1):
        sparse = GatherWeights(w * (rng.random(w.shape) < density), overlay.lanes)
        share = 100 * sparse.clocks(overlay, 1) / dense
        made.append(Row(f"{name}: clocks at {density:.0%} of dense", share, 100.0, "%"))
    return made


def _lenet(data) -> list[Row]:
    title = "LeNet-300-100 {}: int8 top-1 on csim (peer: dense float)"
    try:
        import torch
    except ImportError:
        return [
            absent(title.format("forms"), "PyTorch is not installed: pip install 'weft[torch]'")
        ]
    if data is None:
        return [absent(title.format("forms"), "the data sets are not here")]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        example = runpy.run_path(str(EXAMPLE))
        found = example["measure"](example["load"](data / "mnist"), 8)
    finally:
        torch.set_num_threads(threads)
    dense, made = found[0], []
    for form in found:
        times = ", ".join(
            f"{name} {seconds * 1e6:.1f} µs"
            for name, seconds in zip(example["BOARDS"], form.board_s, strict=True)
        )
        metric = (
            f"{title.format(form.form)}; {form.weight_bytes:,} bytes, {form.clocks:,.0f} clocks "
            f"({form.clocks / dense.clocks:.0%}), {times}, {'/'.join(form.engines)}"
        )
        target = dense.float_top1 - LOSS
        made.append(
            Row(metric, form.top1, dense.float_top1, "%", f"≥ {target:.2f}", form.top1 >= target)
        )
    return made
