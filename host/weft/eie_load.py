"""Where the clocks of EIE layers go: queues, stalls, load balance over PEs, padding.

The program runs on the golden device, which is watched: so the activations are those that reach
the PEs. `weft.units.eie.simulate` then follows each vector (Han et al., ISCA 2016, section VI).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weft import isa
from weft.device.golden import Golden
from weft.graph import Array
from weft.lower.sparse import AFTER_RELU
from weft.program import Program
from weft.runtime import Arrays, Session
from weft.state import Fields, State
from weft.units import eie

Counts = NDArray[np.int64]
OF_WEIGHTS, OF_VECTORS = ("entries", "weights"), ("vectors",)  # what runs, and what parts share
RELU_ZERO = -128  # the zero point of codes that are never below 0


@dataclass(frozen=True, eq=False)
class Load:
    """One layer on the EIE engine: sums over all its `vectors`, and over parts of its outputs.

    `clocks` in all; of these an activation waited `stalled` for a full queue, `unread` for its
    word; `broadcasts` non-zero activations; `work` [P] clocks that each PE needs, one per entry and
    per empty column; `occupancy` [queue + 1] PE clocks by columns that wait in the queue.
    `entries` [P] are stored, of which `weights` in all are no pads. `predicted`: activations are
    random, with the density that the compiler assumes.
    """

    layer: str
    predicted: bool
    vectors: int
    clocks: int
    broadcasts: int
    stalled: int
    unread: int
    work: Counts
    occupancy: Counts
    entries: Counts
    weights: int

    @property
    def balance(self) -> float:
        """Mean work of a PE per clock, 0..1: what the paper calls load balance."""
        return float(self.work.mean()) / max(1, self.clocks)

    @property
    def spread(self) -> float:
        """Mean entries of a PE as a share of those of the fullest: balance without any queue."""
        return float(self.entries.mean()) / max(1, int(self.entries.max()))

    @property
    def padding(self) -> float:
        """Entries per weight."""
        return int(self.entries.sum()) / max(1, self.weights)

    @property
    def waiting(self) -> float:
        """Mean columns in a queue."""
        return float(self.occupancy @ np.arange(len(self.occupancy))) / max(1, self._slots)

    @property
    def full(self) -> float:
        """Share of clocks in which a PE's queue is full, 0..1."""
        return int(self.occupancy[-1]) / max(1, self._slots)

    @property
    def _slots(self) -> int:
        return int(self.occupancy.sum())

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        plain = {name: v.tolist() if hasattr(v, "tolist") else v for name, v in vars(self).items()}
        names = ("balance", "spread", "padding", "waiting", "full")
        return plain | {name: getattr(self, name) for name in names}


def loads(program: Program, inputs: Arrays | None = None, seed: int = 0) -> tuple[Load, ...]:
    """The load of every layer on the EIE engine for `inputs` [n, ...], in the program's order.

    Without inputs activations are random: half of them zero behind a ReLU, as `weft.estimate` has
    it, and none elsewhere. Raises as `Session.run`.
    """
    found: dict[tuple[int, int], Load] = {}
    rng = np.random.default_rng(seed) if inputs is None else None

    def watch(state: State, layer: int, number: int, f: Fields, batch: int) -> None:
        if isa.ENGINES[f["engine"]] == eie.ENGINE.name:
            part = _load(program.layers[layer].name, state, f, batch, rng)
            before = found.get((layer, number))
            found[layer, number] = part if before is None else _sum(before, part, OF_WEIGHTS)

    with Session(program, Golden(watch)) as session:
        session.run(_zeros(program) if inputs is None else inputs)
    layers: dict[int, Load] = {}
    for (layer, _), part in sorted(found.items(), key=lambda item: item[0]):
        layers[layer] = _sum(layers[layer], part, OF_VECTORS) if layer in layers else part
    return tuple(layers.values())


def _zeros(program: Program) -> dict[str, Array]:
    """One sample that only makes the program run."""
    return {i.name: np.zeros((1, *i.shape[1:]), i.dtype) for i in program.inputs}


def _load(name: str, state: State, f: Fields, batch: int, rng: np.random.Generator | None) -> Load:
    """The load of one MatMul before it runs."""
    o = state.overlay
    layer, active = eie.watched(state, f, batch)
    if rng is not None:
        density = 1 - AFTER_RELU if f["pad"] == RELU_ZERO else 1.0
        active = rng.random(active.shape) < density
    reports = [eie.simulate(layer.counts, row, o.lanes, o.eie_queue) for row in active]
    return Load(
        name,
        rng is not None,
        len(reports),
        sum(r.clocks for r in reports),
        sum(r.broadcasts for r in reports),
        sum(r.stalled for r in reports),
        sum(r.unread for r in reports),
        np.sum([r.work for r in reports], axis=0),
        np.sum([r.occupancy for r in reports], axis=0),
        layer.counts.sum(axis=0),
        int(np.count_nonzero(layer.value)),
    )


def _sum(one: Load, other: Load, same: tuple[str, ...]) -> Load:
    """Loads of two MatMuls of a layer that have the fields `same` in common."""
    mine, more = vars(one), vars(other)
    apart = ("layer", "predicted", *same)
    return Load(**{name: v if name in apart else v + more[name] for name, v in mine.items()})
