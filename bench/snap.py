"""The SNAP engine: how busy its multipliers are, how seldom it writes a sum, and speed.

Clocks are those of units/snap.py for a layer of a ResNet (Zhang et al., JSSC 2021, measure on
ResNet-50): random weights and activations, their densities swept. The paper's 75 % of utilization
and 22 times fewer writes are averages over networks. Where two bundles share fewer channels than a
PE has multipliers, matching and not multiplying takes the time; the average says which it is over.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from weft import isa
from weft.config import Overlay, load_overlay
from weft.device import open_device
from weft.lower.snap import SnapWeights
from weft.units import snap, snap_stream
from weft.units.snap_plan import Plan

from .row import Row, at_least, at_most, interleaved

DENSITIES = (0.1, 0.2, 0.3, 0.4, 0.5)
OUTPUTS, TAPS, CHANNELS, POSITIONS = 256, 9, 256, 196  # a 3 × 3 convolution on a 14 × 14 map
N, VECTORS, DENSITY = 1024, 256, 0.1


def engine(cores: int) -> Overlay:
    """The paper's PEs: 7 × 3 of 3 multipliers per core."""
    o = replace(load_overlay("base"), name=f"snap-{cores}", engines=("snap",), snap_cores=cores)
    return replace(o, accumulator_rows=1 << 13).verify()


def weights_of(o: Overlay, density: float) -> SnapWeights:
    """Random weights of the layer."""
    rng = np.random.default_rng(1)
    shape = (OUTPUTS, 3, TAPS // 3, CHANNELS)
    w = rng.integers(1, 128, shape) * (rng.random(shape, np.float32) < density)
    return SnapWeights(w, o)


def study(o: Overlay, w: SnapWeights, density: float) -> tuple[snap.Work, float, float]:
    """What the PEs do; utilization while they compute, and of all clocks."""
    plan = Plan.make(POSITIONS, w.blocks, w.taps, w.tiles, o)
    rows = w.packed(0, w.tiles).view(np.uint8)
    records = snap_stream.parse(rows, plan, o, w.coded)
    shape = (POSITIONS, plan.bundles, o.snap_bundle)
    x = np.random.default_rng(2).random(shape, np.float32) < density
    there = records.dense(plan, o)[1]
    work = snap.pe_work(records.stored(plan), there, x, plan, o)
    took = snap.clocks(plan, o, work.stages, records, plan.loads(w.taps * w.blocks))
    peak = o.snap_cores * o.snap_rows * o.snap_cols * o.snap_macs
    return work, work.pairs / (peak * took.matrix), work.pairs / (peak * took.total)


def sweep_rows(cores: int) -> list[Row]:
    """Utilization for all pairs of densities, and its averages."""
    o = engine(cores)
    made, busy, whole, fed = [], [], [], []
    for dw in DENSITIES:
        w = weights_of(o, dw)
        line = []
        for da in DENSITIES:
            work, computing, total = study(o, w, da)
            busy.append(computing)
            whole.append(total)
            if o.snap_bundle * dw * da >= o.snap_macs:
                fed.append(computing)
            line.append(f"{computing:.0%}")
            if dw == da:
                made += write_rows(f"{cores} cores, {dw:.0%} × {da:.0%}", work)
        title = f"SNAP, {cores} cores, weights {dw:.0%}: multipliers busy, activations 10..50 %"
        made.append(Row(title, np.mean(busy[-len(DENSITIES) :]) * 100, " ".join(line), "%"))
    title = f"SNAP, {cores} cores: multipliers busy, mean of"
    made.append(at_least(f"{title} all densities", np.mean(busy) * 100, 75, "%", 75))
    made.append(at_least(f"{title} those that match enough", np.mean(fed) * 100, 75, "%", 75))
    made.append(Row(f"{title} all densities, loading included", np.mean(whole) * 100, 75, "%"))
    return made


def write_rows(title: str, work: snap.Work) -> list[Row]:
    """Products per write, and what each level of the reduction gives; the peer is the paper's."""
    parts = (
        f"×{work.pairs / work.busy:.1f} in a clock, ×{work.busy / work.pes:.1f} over bundles, "
        f"×{work.pes / work.outputs:.1f} along a row"
    )
    name = f"SNAP, {title}: writes of partial sums avoided ({parts})"
    return [at_least(name, work.pairs / work.outputs, 10, "×", 22)]


def speed_row() -> Row:
    """Functional simulation of a whole MatMul against scipy.sparse, per non-zero product."""
    from scipy import sparse

    rng = np.random.default_rng(0)
    values = rng.integers(1, 128, (N, N)) * (rng.random((N, N)) < DENSITY)
    x = rng.integers(1, 128, (VECTORS, N)) * (rng.random((VECTORS, N)) < DENSITY)
    x = x.astype(np.int8)
    o = replace(load_overlay("edge"), name="snap-bench", engines=("systolic", "snap"))
    o = replace(o, accumulator_rows=1 << 14, buffer_words=1 << 15)
    w = SnapWeights(values[:, None, None], o)
    device = open_device("csim", form="functional")
    device.load(program(o, w))
    device.write(0, x.reshape(-1, o.lanes))
    left, right = (sparse.csr_matrix(part.astype(np.int32)) for part in (values, x.T))
    dense = x.T.astype(np.int32).copy()
    ours, *theirs = interleaved(
        lambda: device.run(0, 1), lambda: left @ right, lambda: left @ dense, least=5
    )
    device.close()
    products = int(((values != 0).astype(np.float64) @ (x.T != 0)).sum())
    peer = min(theirs) * 1e9 / products
    title = (
        f"SNAP functional simulation, {N}×{N} by {VECTORS} vectors, {DENSITY:.0%} × {DENSITY:.0%}"
    )
    return at_most(title, ours * 1e9 / products, round(peer / 2, 3), "ns/product", peer)


def program(o: Overlay, w: SnapWeights):
    """One MatMul of `VECTORS` vectors that lie in memory."""
    import kernel  # instructions by hand, as the tests of the units have them

    rows, words = w.packed(0, w.tiles), w.blocks * VECTORS
    code = kernel.Code(o)
    kernel.set_parameters(code, kernel.parameters(np.random.default_rng(1), w.tiles * o.lanes))
    code.add(isa.READ_HOST, words=words, chunks=1).feed(rows)
    f = w.precision.fields() | {"blocks": w.blocks, "pace": 1, "tiles": w.tiles, "rows": len(rows)}
    f |= {"source_block": 1, "source_col": w.blocks}
    code.add(isa.MAT_MUL, **kernel.simple_window(1, VECTORS), **f, first=1, last=1)
    where = {"target": words, "target_block": VECTORS, "target_col": 1, "parameter_step": 1}
    code.add(isa.ACTIVATE, **where, low=-128, high=127)
    return code.program(memory_rows=words)


def rows(folder, data) -> list[Row]:
    """Densities on one core and on the paper's four; speed of simulation."""
    return [*sweep_rows(1), *sweep_rows(4), speed_row()]
