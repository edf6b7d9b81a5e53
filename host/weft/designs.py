"""Many overlays at once: sizes as numpy arrays, so that one formula judges all of them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from weft.config import Board, Overlay


@dataclass(frozen=True)
class Designs:
    """Overlays as arrays, one entry per design, with the properties that formulas use."""

    rows: Any
    bus_bytes: Any
    buffer_words: Any
    accumulator_rows: Any
    parameter_blocks: Any
    tap_words: Any
    weight_tiles: Any
    products_per_dsp: Any

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def cols(self) -> Any:
        """As many as rows."""
        return self.rows

    @property
    def beats(self) -> Any:
        """Clocks that one memory row takes on a port."""
        return self.rows // self.bus_bytes

    @property
    def column_groups(self) -> Any:
        """Columns that share a DSP count once."""
        return self.rows // self.products_per_dsp

    def take(self, index: Any) -> Designs:
        """The designs with these numbers."""
        return Designs(*(getattr(self, f.name)[index] for f in fields(self)))

    def overlay(self, index: int, name: str = "explored") -> Overlay:
        """One design as an overlay."""
        facts: dict[str, Any] = {f.name: int(getattr(self, f.name)[index]) for f in fields(self)}
        packed = facts.pop("products_per_dsp") > 1
        return Overlay(
            name=name,
            cols=facts["rows"],
            multiplier="packed" if packed else "single",
            **facts,
        ).verify()


Geometry = Overlay | Designs


def space(board: Board) -> Designs:
    """Every design worth a look on a board, a few ten thousand.

    Two products share a DSP only on DSP48E2: the 25 bits of a Zynq-7000's hold no packed pair.
    """
    buses = [b for b in (4, 8, 16, 32, 64) if 8 * b <= board.axi_bits]
    axes = (
        [4 << i for i in range(7)],
        buses,
        sorted([1 << i for i in range(9, 19)] + [3 << i for i in range(8, 18)]),
        sorted([64 << i for i in range(8)] + [96 << i for i in range(4)]),
        [16, 64, 256, 512, 1024],
        [256, 1024, 4096],
        [4],  # only the latency of memory asks for more, and no formula knows it
        [1] if board.family == "zynq7000" else [1, 2],
    )
    grid = [axis.reshape(-1) for axis in np.meshgrid(*axes, indexing="ij")]
    every = Designs(*grid)
    return every.take(np.flatnonzero(every.rows % every.bus_bytes == 0))
