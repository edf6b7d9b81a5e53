"""Which engine runs a pruned layer: the one that its sparsity asks for, unless dense is faster.

`Node.attrs["sparsity"]` (weft.pruning.spec) names the pattern of a layer's zeros. What each engine
would take is predicted from the weights, for one sample; of activations a share counts as zero
where a ReLU is in front. Why a layer stays dense goes to its note.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weft.config import Overlay
from weft.graph import Array, Node, Quant
from weft.lower import dense, nm, snap
from weft.lower.codebook import book_of, codes_of
from weft.lower.context import Context
from weft.lower.eie import EieWeights
from weft.lower.gather import GatherWeights
from weft.lower.geometry import Value, Window
from weft.lower.precision import Precision
from weft.lower.stage import MatrixOp, Stage
from weft.lower.weights import elementwise
from weft.pruning.spec import Sparsity, parse
from weft.units import gather, systolic
from weft.units.nm import ENGINE as NM

Own = GatherWeights | EieWeights | snap.SnapWeights  # weights with rows of their own
SNAP_IMBALANCE = 1.2  # of PEs that wait for the slowest, as bench/snap.py finds it
AFTER_RELU = 0.5  # share of activations that count as zero behind a ReLU, until something runs


@dataclass(frozen=True, eq=False)
class Choice:
    """A layer's weights on a sparse engine.

    `nbytes` is what memory keeps; `flat`: its input counts as one vector, word by word; `skips`:
    the engine multiplies codes less the zero point. `clocks` are predicted for one sample,
    `counted` those of them that instructions do not tell.
    """

    weights: Any
    precision: Precision
    clocks: int
    nbytes: int
    counted: int = 0
    flat: bool = False
    skips: bool = False
    detail: str = ""  # more for the report

    @property
    def apart(self) -> bool:
        """Whether channel blocks must lie in different banks: a clock reads several of them."""
        return self.precision.words > 1 and not self.flat


@dataclass(frozen=True, eq=False)
class _Layer:
    """What a choice is made from: weights [O, I, kernel_h, kernel_w] and the rest of the layer."""

    ctx: Context
    node: Node
    x: Value
    weights: Array
    window: Window
    quant: Quant

    @property
    def positions(self) -> int:
        """Output positions of a sample."""
        return self.window.out_h * self.window.out_w

    @property
    def whole_map(self) -> bool:
        """Whether the window covers the map, whose words then count as one vector."""
        w = self.window
        covers = (w.kernel_h, w.kernel_w) == (w.height, w.width) and not (w.pad_y or w.pad_x)
        return self.positions == 1 and covers and self.ctx.sole_reader(self.node.inputs[0])

    def vector(self) -> tuple[NDArray[np.int64], bool] | str:
        """Weights [N, words · lanes] and whether the map is taken as one vector; or why not."""
        n, channels, height, width = self.weights.shape
        lanes = self.ctx.lanes
        blocks = -(-channels // lanes)
        if height * width > 1 and not self.whole_map:
            return f"a window of {height} × {width} taps: this engine takes products of vectors"
        if height * width > 1 and self.ctx.maps[self.x.root].odd:
            return "another layer wants the blocks of its input apart"
        whole = np.zeros((n, blocks * lanes, height, width), np.int64)
        whole[:, :channels] = self.weights
        ordered = whole.reshape(n, blocks, lanes, height, width).transpose(0, 1, 3, 4, 2)
        return ordered.reshape(n, -1), height * width > 1


def choose(
    ctx: Context, node: Node, x: Value, weights: Array, window: Window, quant: Quant
) -> tuple[Choice | None, str]:
    """The sparse engine of a layer and what the report says of it; None: dense is right.

    `weights` are operands [O, I, kernel_h, kernel_w] as the array would take them.
    """
    text = node.attrs.get("sparsity")
    pattern = parse(text) if text else None
    if pattern is None or pattern.kind == "dense":
        return None, ""
    layer = _Layer(ctx, node, x, weights, window, quant)
    found = _candidate(layer, pattern)
    if isinstance(found, str):
        return None, f"{pattern}: dense, as {found}"
    made = dense.clocks(ctx, x, weights, quant, layer.positions)
    instead = "no dense engine takes it"
    if made is not None:
        most = f"{made[0]:,} clocks" + (f" of {made[1]}" if made[1] != "systolic" else "")
        if found.clocks >= made[0]:
            return None, f"{pattern}: dense, whose {most} are not beaten ({found.clocks:,})"
        instead = f"instead of {most.replace(' clocks', '', 1)}"
    if found.apart:
        ctx.maps[x.root] = replace(ctx.maps[x.root], odd=True)
    return found, f"{pattern}: {found.clocks:,} clocks {instead}{found.detail}"


def told(stage: Stage, found: Choice | None, note: str) -> Stage:
    """A stage whose layer says what its zeros save."""
    if not note:
        return stage
    clocks = found.counted if found is not None else 0
    layer = replace(stage.layer, data_clocks=clocks, sparsity=note)
    return replace(stage, layer=layer, note="; ".join(filter(None, (stage.note, note))))


def _candidate(layer: _Layer, pattern: Sparsity) -> Choice | str:
    makers: dict[str, Callable[[_Layer, Sparsity], Choice | str]] = {
        "nm": _nm,
        "venom": _nm,
        "csc": _eie,
        "bitmask": _gather,
        "snap": _snap,
    }
    if layer.x.layout.bits != 8:
        return "its activations share bytes" if layer.x.layout.bits < 8 else "it reads int16"
    if layer.weights.dtype.kind == "f" or not elementwise(layer.quant):
        return f"weights in {layer.quant.format} don't stand for themselves"
    return makers[pattern.kind](layer, pattern)


def _nm(layer: _Layer, pattern: Sparsity) -> Choice | str:
    overlay, w = layer.ctx.overlay, np.ascontiguousarray(layer.weights.transpose(0, 2, 3, 1))
    # A map that is one vector has a word per pixel, of which a clock takes several.
    vector = layer.vector() if layer.whole_map else ""
    flat = False
    if not isinstance(vector, str) and vector[1]:
        w, flat = vector[0][:, None, None], True
    runs = nm.runs_as(w, pattern.n, pattern.m, overlay)
    if isinstance(runs, str):
        return runs
    quant = layer.quant if layer.quant.format != "ternary" else replace(layer.quant, format="int8")
    made = nm.NmWeights(w, quant, *runs, overlay.lanes)
    folds = made.tiles * made.folds * made.taps
    taken = systolic.array_clocks(
        layer.positions, folds, overlay, pace=made.pace(overlay), engine=NM, index=made.index_rows
    )
    nbytes = made.packed(0, made.tiles).size
    own = f"{made.kept}:{made.group}"
    detail = f"; as {own}" if own != str(pattern) else ""
    return Choice(made, made.precision, taken.total, nbytes, flat=flat, detail=detail)


def _gather(layer: _Layer, pattern: Sparsity) -> Choice | str:
    overlay = layer.ctx.overlay
    if "gather" not in overlay.engines:
        return f"overlay {overlay.name!r} has no engine gather"
    if layer.positions > gather.ROWS:
        return f"{layer.positions} output positions: engine gather takes {gather.ROWS}"
    found = layer.vector()
    if isinstance(found, str):
        return found
    operands, flat = found
    if operands.min() < -128 or operands.max() > 127:
        return "weights beyond int8"
    made = GatherWeights(operands, overlay.lanes)
    clocks = made.clocks(overlay, layer.positions)
    total = clocks + made.tiles * layer.positions
    nbytes = made.packed(0, made.tiles).size
    return Choice(made, made.precision, total, nbytes, clocks, flat)


def _eie(layer: _Layer, pattern: Sparsity) -> Choice | str:
    overlay = layer.ctx.overlay
    if "eie" not in overlay.engines:
        return f"overlay {overlay.name!r} has no engine eie"
    found = layer.vector()
    if isinstance(found, str):
        return found
    operands, flat = found
    book = book_of(operands)
    if book is None and (operands.min() < -128 or operands.max() > 127):
        return "weights beyond int8"
    values = operands.astype(np.int8) if book is None else codes_of(operands, book)
    made = EieWeights(values, overlay.lanes, overlay.eie_pes, book)
    why = made.fits(overlay, 0, 1)
    if why:
        return why
    parts = _parts(made, overlay, layer.positions)
    nbytes = sum(made.rows(*part) for part in parts) * overlay.lanes
    counted = _eie_clocks(layer, made, overlay)
    total = counted + made.tiles * layer.positions
    precision = Precision("eie", codes=made.codes)
    return Choice(made, precision, total, nbytes, counted, flat, True, _load(made, parts))


def _snap(layer: _Layer, pattern: Sparsity) -> Choice | str:
    overlay, w = layer.ctx.overlay, np.ascontiguousarray(layer.weights.transpose(0, 2, 3, 1))
    why = snap.fits(w, overlay)
    if why:
        return why
    made = snap.SnapWeights(w, overlay)
    counted = _snap_clocks(layer, made, overlay)
    total = counted + made.tiles * layer.positions
    nbytes = made.packed(0, made.tiles).size
    return Choice(made, made.precision, total, nbytes, counted, skips=True)


def _snap_clocks(layer: _Layer, made: snap.SnapWeights, overlay: Overlay) -> int:
    """Rows of the stream, and per output and position a clock per bundle or as many as its pairs
    ask for, in the columns of PEs that share them; rows of PEs take outputs by turns.
    """
    n, _, _, channels = made.operands.shape
    there = np.zeros(
        (n, made.taps, -(-channels // overlay.snap_bundle) * overlay.snap_bundle), bool
    )
    there[..., :channels] = (made.operands != 0).reshape(n, made.taps, channels)
    weights = there.reshape(n, -1, overlay.snap_bundle).sum(axis=-1)
    bundles = np.ceil((weights > 0).sum(axis=1) / overlay.snap_cols)
    pairs = weights.sum(axis=1) * _active(layer) / (overlay.snap_cols * overlay.snap_macs)
    per_position = np.maximum(np.maximum(bundles, pairs), 1).sum()
    turns = overlay.snap_cores * overlay.snap_rows
    rows = made.rows(0, made.tiles) * overlay.beats
    return int(rows + layer.positions * per_position / turns * SNAP_IMBALANCE)


def _eie_clocks(layer: _Layer, made: EieWeights, overlay: Overlay) -> int:
    """Rows into the PEs, then per position the PE with most entries (units/eie.py is exact)."""
    share = _active(layer)
    loads = work = 0
    for part in _parts(made, overlay, layer.positions):
        per_column = np.maximum(made.entries(*part).counts, 1)
        loads += made.rows(*part) * overlay.beats
        work += int(per_column.sum(axis=0).max() * share)
    return loads + work * layer.positions


def _load(made: EieWeights, parts: list[tuple[int, int]]) -> str:
    """What the report says of entries: pads, and how evenly they lie over the PEs."""
    found = [made.entries(*part) for part in parts]
    entries = sum(len(part.value) for part in found)
    work = [part.counts.sum(axis=0) for part in found]
    mean, fullest = sum(w.mean() for w in work), sum(w.max() for w in work)
    pads = entries / max(1, sum(part.nonzeros for part in found))
    return f"; {pads:.2f} entries per weight, balance over PEs {mean / max(1, fullest):.2f}"


def _parts(made: EieWeights, overlay: Overlay, rows: int) -> list[tuple[int, int]]:
    """Column tiles first..last-1 of each instruction."""
    step = tile_step(made, overlay, rows)
    return [(t, min(t + step, made.tiles)) for t in range(0, made.tiles, step)]


def _active(layer: _Layer) -> float:
    """Share of activations that count as other than zero."""
    return 1 - AFTER_RELU if _behind_relu(layer) else 1.0


def _behind_relu(layer: _Layer) -> bool:
    """Whether the input is what a ReLU leaves."""
    quant = layer.ctx.quant(layer.node.inputs[0])
    producer = layer.ctx.graph.producers().get(layer.node.inputs[0])
    while producer is not None and producer.op in ("Reshape", "MaxPool", "Transpose", "Identity"):
        producer = layer.ctx.graph.producers().get(producer.inputs[0])
    kind = producer.attrs.get("activation", ("",))[0] if producer is not None else ""
    return kind in ("Relu", "Clip") or quant.zero_point == -128


def compressed(op: MatrixOp) -> Own | None:
    """Weights with rows of their own instead of tiles; None of others."""
    weights = op.passes[0].weights
    return weights if isinstance(weights, (GatherWeights, EieWeights, snap.SnapWeights)) else None


def row_limit(op: Any, overlay: Overlay) -> int:
    """Rows of one instruction, at most."""
    if not isinstance(op, MatrixOp) or op.passes[0].precision.engine != "gather":
        return overlay.accumulator_rows
    return gather.ROWS


def tile_step(
    weights: GatherWeights | EieWeights | snap.SnapWeights, overlay: Overlay, rows: int
) -> int:
    """Column tiles of one instruction: as many as the accumulators and the engine hold."""
    step = max(1, min(weights.tiles, overlay.accumulator_rows // rows))
    starts = range(0, weights.tiles, step)
    while step > 1 and any(weights.fits(overlay, t, min(t + step, weights.tiles)) for t in starts):
        step = -(-step // 2)
        starts = range(0, weights.tiles, step)
    return step
