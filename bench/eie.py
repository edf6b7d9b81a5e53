"""The EIE engine: clocks against the paper's figures and its published simulator.

Clocks are those of units/eie.py for one vector, weights resident, 64 PEs at 800 MHz, as in table IV
of the paper (Han et al., ISCA 2016); matrices are random with its sizes and densities. Its queue of
8 holds 7: the published simulator (RalphMao/EIE-simulator) keeps a place of its ring free.
"""

from __future__ import annotations

import numpy as np

from weft.lower.eie import Entries, entries
from weft.units import eie

from .row import Row, absent, at_least, at_most

PES, MHZ, QUEUE = 64, 800, 7
LAYERS = {  # inputs, outputs, % of weights, % of activations, theoretical µs, measured µs
    "Alex-6": (9216, 4096, 9, 35.1, 28.1, 30.3),
    "Alex-7": (4096, 4096, 9, 35.3, 11.7, 12.2),
    "Alex-8": (4096, 1000, 25, 37.5, 8.9, 9.9),
    "VGG-6": (25088, 4096, 4, 18.3, 28.1, 34.4),
    "VGG-7": (4096, 4096, 4, 37.5, 7.9, 8.7),
    "VGG-8": (4096, 1000, 23, 41.1, 7.3, 8.4),
    "NT-We": (4096, 600, 10, 100, 5.2, 8.0),
    "NT-Wd": (600, 8791, 11, 100, 13.0, 13.9),
    "NT-LSTM": (1201, 2400, 10, 100, 6.5, 7.5),
}
WITH_BIAS = ("NT-LSTM",)  # 1,201 inputs: 600, 600 of the state, and the bias, which nobody prunes
PUBLISHED = {1: 0.695, 2: 0.803, 4: 0.869, 7: 0.895, 8: 0.898, 15: 0.910, 31: 0.910, 255: 0.910}
STORED = (25.7, 42.9)  # % of weights and activations in the published sample of Alex-8


def layer(k: int, n: int, weights: float, active: float, *, bias: bool = False):
    """Entries of random weights [n, k], and random activations [k]; densities in %."""
    rng = np.random.default_rng(1)
    w = (rng.random((n, k), np.float32) < weights / 100).view(np.int8)
    if bias:
        w[:, -1] = 1
    return entries(w, PES, 16), rng.random(k) < active / 100


def clock_rows() -> list[Row]:
    """The nine layers of the paper, and Alex-8 with the densities of its published sample."""
    made, near = [], 0
    for name, (k, n, weights, active, _, measured) in LAYERS.items():
        found, x = layer(k, n, weights, active, bias=name in WITH_BIAS)
        made.append(clock_row(f"{name}, {k}×{n}, {weights} % × {active:g} %", found, x, measured))
        near += bool(made[-1].met)
    _, n, _, _, _, measured = LAYERS["Alex-8"]
    k = LAYERS["Alex-8"][0]
    title = "Alex-8 with the densities of its published sample, {} % × {} %".format(*STORED)
    made.append(clock_row(title, *layer(k, n, *STORED), measured))
    made.append(at_least("layers within 10 % of the paper's measured time", near, 7, "of 9"))
    return made


def clock_row(title: str, found: Entries, x: np.ndarray, measured: float) -> Row:
    """Time of one layer against the paper's, and where it goes."""
    report = eie.simulate(found.counts, x, PES, QUEUE)
    time, work = report.clocks / MHZ, float(found.counts[x].sum()) / PES / MHZ
    parts = (
        f"{work:.1f} µs of entries with {found.pad_ratio:.2f} per weight, "
        f"{float(report.empty.mean()) / MHZ:.1f} of empty columns, load balance "
        f"{report.efficiency:.2f}"
    )
    near = bool(abs(time / measured - 1) <= 0.1)
    return Row(f"{title} ({parts})", time, measured, "µs", "within 10 %", near)


def queue_rows() -> list[Row]:
    """Load balance of Alex-8 by queue depth; the peer is the published simulator on its sample."""
    k, n = LAYERS["Alex-8"][:2]
    found, x = layer(k, n, *STORED)
    made, before = [], 0.0
    for depth, theirs in PUBLISHED.items():
        ours = eie.simulate(found.counts, x, PES, depth).efficiency
        near = bool(abs(ours / theirs - 1) <= 0.1 and ours >= before)
        before = ours
        title = f"Alex-8, random, load balance with room for {depth} columns"
        made.append(Row(title, ours, theirs, "", "within 10 %, rising", near))
    return made


def jet_rows(data) -> list[Row]:
    """Pruned networks for jets: clocks of all layers for one vector, on 16 PEs."""
    try:
        import h5py
    except ImportError:
        return [absent("jet networks on EIE", "h5py is not installed", "clocks")]
    if data is None:
        return [absent("jet networks on EIE", "no data folder", "clocks")]
    made = []
    for share in (70, 95):
        path = data / "jet_mlp" / f"KERAS_3layer_{share}pruned_retrained_weights.h5"
        with h5py.File(path) as file:
            names = ("fc1_relu", "fc2_relu", "fc3_relu", "output_softmax")
            parts = [(file[f"{n}/{n}/kernel:0"][()].T, file[f"{n}/{n}/bias:0"][()]) for n in names]
        made.append(jet_row(f"jet network, {share} % pruned", parts))
    return made


def jet_row(title: str, parts: list[tuple[np.ndarray, np.ndarray]]) -> Row:
    """Mean clocks over random inputs; the peer is every multiplication, 16 at a time."""
    x = np.random.default_rng(3).normal(size=(64, parts[0][0].shape[1])).astype(np.float32)
    clocks = dense = nonzero = stored = 0
    for w, bias in parts:
        codes = np.rint(w / np.abs(w).max() * 127).astype(np.int8)
        found = entries(codes, 16, 16)
        clocks += sum(eie.simulate(found.counts, row, 16, 8).clocks for row in x) / len(x)
        dense += w.shape[1] * -(-len(w) // 16)
        nonzero, stored = nonzero + found.nonzeros, stored + len(found.value)
        x = np.maximum(x @ w.T + bias, 0)
    title = f"{title}: clocks of a vector on 16 PEs ({stored} entries of {nonzero} weights)"
    return at_most(title, clocks, dense, "clocks", dense)


def rows(folder, data) -> list[Row]:
    """The paper's layers, queues, real weights."""
    return [*clock_rows(), *queue_rows(), *jet_rows(data)]
