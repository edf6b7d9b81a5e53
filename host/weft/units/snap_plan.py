"""How a MatMul is cut to the memories of the SNAP engine (hls/weft/units/snap_plan.hpp)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weft.config import Overlay
from weft.state import Fields
from weft.units import window

STAGES = 8  # at least, of a block: the first one's activations load alone


@dataclass(frozen=True)
class Plan:
    """Blocks of outputs, `slots` per row of PEs, and groups of positions; the last of each is less.

    `per_tap` bundles of a tap make `bundles` of an output and at most `column` per column of PEs;
    `units`: rows of PEs in all cores.
    """

    positions: int
    per_tap: int
    bundles: int
    column: int
    outputs: int
    units: int
    slots: int
    blocks: int
    group: int
    groups: int

    @staticmethod
    def of(f: Fields, overlay: Overlay, batch: int) -> Plan:
        """The plan of a MatMul."""
        sizes = window.positions(f, batch), f["blocks"], window.taps(f), f["tiles"]
        return Plan.make(*sizes, overlay)

    @staticmethod
    def make(positions: int, blocks: int, taps: int, tiles: int, overlay: Overlay) -> Plan:
        """The plan for M positions, channel blocks, taps and column tiles."""
        per_tap = -(-blocks // (overlay.snap_bundle // overlay.rows))
        column = -(-taps * per_tap // overlay.snap_cols)
        units = overlay.snap_cores * overlay.snap_rows
        slots_of_all = -(-tiles * overlay.lanes // units)
        fit = overlay.snap_depth // column
        slots = -(-slots_of_all // -(-slots_of_all // fit))
        most = min(-(-positions // STAGES), fit, overlay.snap_depth // slots)
        group = -(-positions // -(-positions // most))
        return Plan(
            positions=positions,
            per_tap=per_tap,
            bundles=taps * per_tap,
            column=column,
            outputs=tiles * overlay.lanes,
            units=units,
            slots=slots,
            blocks=-(-slots_of_all // slots),
            group=group,
            groups=-(-positions // group),
        )

    def outputs_of(self, block: int) -> int:
        """Outputs of a block."""
        size = self.slots * self.units
        return min(size, self.outputs - block * size)

    def slots_of(self, block: int) -> int:
        """Outputs that the first row of PEs has of a block."""
        return -(-self.outputs_of(block) // self.units)

    def positions_of(self, stage: int) -> int:
        """Positions of a stage."""
        return min(self.group, self.positions - stage * self.group)

    def loads(self, words: int) -> NDArray[np.int64]:
        """Clocks [groups] to load the activations of a stage, of which a position has `words`."""
        return np.array([words * self.positions_of(s) for s in range(self.groups)], np.int64)
