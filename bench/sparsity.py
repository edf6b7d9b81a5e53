"""Sparse engines: clocks and bytes of N:M weights, trained networks against dense."""

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

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
K, N, M = 1024, 512, 256  # of the matrix product
LOSS = 2.0


def rows(folder, data) -> list[Row]:
    """N:M on a matrix product, windows of the gather engine, then the trained networks."""
    return [*_patterns(), *_windows(), *_trained(data)]


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


def _trained(data) -> list[Row]:
    """LeNet in every form, and ResNet8 at 2:4, as the examples make them."""
    lenet = "LeNet-300-100 {}: int8 top-1 on csim (peer: dense float)"
    resnet = "ResNet8 {}: int8 top-1 on csim (peer: dense float)"
    try:
        import torch
    except ImportError:
        reason = "PyTorch is not installed: pip install 'weft[torch]'"
        return [absent(title.format("forms"), reason) for title in (lenet, resnet)]
    if data is None:
        reason = "the data sets are not here"
        return [absent(title.format("forms"), reason) for title in (lenet, resnet)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        example = runpy.run_path(str(EXAMPLES / "prune_lenet.py"))
        found = example["measure"](example["load"](data / "mnist"), 8)
        made = _forms(lenet, found, example["BOARDS"])
        example = runpy.run_path(str(EXAMPLES / "prune_resnet8.py"))
        found = example["measure"](data / "resnet8_cifar10")
        made += _forms(resnet, found, example["BOARDS"])
    finally:
        torch.set_num_threads(threads)
    return made


def _forms(title: str, found, boards) -> list[Row]:
    """A row per form; the first one is dense. What was not retrained has no target."""
    dense, made = found[0], []
    for form in found:
        times = ", ".join(
            f"{name} {seconds * 1e6:.1f} µs"
            for name, seconds in zip(boards, form.board_s, strict=True)
        )
        metric = (
            f"{title.format(form.form)}; {form.weight_bytes:,} bytes, {form.clocks:,.0f} clocks "
            f"({form.clocks / dense.clocks:.0%}), {times}, {'/'.join(form.engines)}"
        )
        if "not retrained" in form.form:
            made.append(Row(metric, form.top1, dense.float_top1, "%"))
        else:
            target = dense.float_top1 - LOSS
            words, met = f"≥ {target:.2f}", form.top1 >= target
            made.append(Row(metric, form.top1, dense.float_top1, "%", words, met))
    return made
