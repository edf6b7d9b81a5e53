"""What an engine of compressed weights says of itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weft.config import Overlay
from weft.state import Clocks, Fields, State


@dataclass(frozen=True)
class Compressed:
    """One such engine.

    `run(state, fields, batch)` takes MatMul.rows rows of the stream; sums [tiles, M, lanes] and
    clocks without issue and drain. Raises FaultError 10 where the rows contradict themselves, with
    the number of the row. `point`: it takes windows of one tap only; `legal(fields, overlay,
    batch)` says what else it wants.
    """

    name: str
    run: Callable[[State, Fields, int], tuple[NDArray[np.int32], Clocks]]
    doc: str
    point: bool = True
    legal: Callable[[Fields, Overlay, int], bool] = lambda f, overlay, batch: True
