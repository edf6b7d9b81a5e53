"""What a node becomes before it has addresses: stages of operations on named maps.

A stage writes one map (the storage of one tensor) with one or more operations. Operations speak of
maps and output positions; `emit` puts in addresses, splits what exceeds a table or the
accumulators, and cuts bands of rows where a map does not fit the unified buffer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from weft.graph import Quant
from weft.lower.eie import EieWeights
from weft.lower.fused import FusedWeights
from weft.lower.gather import GatherWeights
from weft.lower.nm import NmWeights
from weft.lower.precision import PLAIN_PRECISION, Precision
from weft.lower.snap import SnapWeights
from weft.lower.weights import Weights
from weft.program import Layer, Layout

Int8 = NDArray[np.int8]


class HostOnlyError(Exception):
    """This node can't run on the accelerator; the text says why. Never reaches a user."""


@dataclass(frozen=True)
class Value:
    """A quantized tensor: the map that stores it, and how its dimensions lie in that map."""

    root: str
    layout: Layout
    quant: Quant


@dataclass(frozen=True)
class Map:
    """Extent of a stored map in words: index (block·height + y)·width + x.

    With `odd`, blocks in the unified buffer lie an odd number of words apart: words of several
    blocks that a clock reads are then in different banks.
    """

    blocks: int
    height: int
    width: int
    odd: bool = False

    @property
    def rows(self) -> int:
        """Rows of memory per sample."""
        return self.blocks * self.height * self.width

    @property
    def words(self) -> int:
        """Words of the unified buffer per sample."""
        return self.blocks * block_words(self.height, self.width, self.odd)


def block_words(height: int, width: int, odd: bool) -> int:
    """Words from channel block to channel block."""
    return height * width | int(odd)


@dataclass(frozen=True)
class Window:
    """Output size, and which input positions an output position reads (docs/isa.md, Window)."""

    height: int
    width: int
    out_h: int
    out_w: int
    kernel_h: int = 1
    kernel_w: int = 1
    stride_y: int = 1
    stride_x: int = 1
    dilation_y: int = 1
    dilation_x: int = 1
    pad_y: int = 0
    pad_x: int = 0

    @property
    def taps(self) -> int:
        """Taps of the window."""
        return self.kernel_h * self.kernel_w

    def input_rows(self, first: int, last: int) -> tuple[int, int]:
        """Input rows [low, high), at least one, that output rows first..last-1 read."""
        low = first * self.stride_y - self.pad_y
        high = (last - 1) * self.stride_y + (self.kernel_h - 1) * self.dilation_y - self.pad_y + 1
        low = min(max(low, 0), self.height - 1)
        return low, max(low + 1, min(high, self.height))

    def cut(self, rect: Rect, origin: int, rows: int) -> Window:
        """The window of the output positions `rect`, over input rows origin..origin+rows-1."""
        return replace(
            self,
            height=rows,
            out_h=rect.y1 - rect.y0,
            out_w=rect.x1 - rect.x0,
            pad_y=self.pad_y + origin - rect.y0 * self.stride_y,
            pad_x=self.pad_x - rect.x0 * self.stride_x,
        )


@dataclass(frozen=True)
class Place:
    """Rows origin..origin+rows-1 of a map in the unified buffer, from word `base` on."""

    base: int
    sample: int
    rows: int
    width: int
    origin: int = 0
    odd: bool = False

    @property
    def block(self) -> int:
        """Words from channel block to channel block."""
        return block_words(self.rows, self.width, self.odd)

    def at(self, block: int, y: int = 0, x: int = 0) -> int:
        """Word of a position; y counts rows of the whole map."""
        return self.base + block * self.block + (y - self.origin) * self.width + x


@dataclass(frozen=True)
class Rect:
    """Output positions y0..y1-1, x0..x1-1 of an operation."""

    y0: int
    y1: int
    x0: int
    x1: int


def plain_window(layout: Layout) -> Window:
    """Every position of a map, one by one."""
    return Window(layout.height, layout.width, layout.height, layout.width)


@dataclass(frozen=True)
class Target:
    """Where output position (y, x), block k goes: (block0 + k, y0 + y·step_y, x0 + x·step_x)."""

    block0: int = 0
    y0: int = 0
    x0: int = 0
    step_y: int = 1
    step_x: int = 1

    def output_rows(self, low: int, high: int, count: int) -> tuple[int, int]:
        """Those of `count` output rows that go to target rows low..high-1: [first, last)."""
        first = max(0, -(-(low - self.y0) // self.step_y))
        return first, min(count, -(-(high - self.y0) // self.step_y))


HERE = Target()


@dataclass(frozen=True, eq=False)
class Epilogue:
    """Activate: requantization parameters per channel (whole blocks), clamp, lookup.

    `step` 0: every block takes the first `lanes` parameters.
    """

    rows: Int8
    mode: int
    zero_point: int
    low: int = -128
    high: int = 127
    step: int = 1
    lookup: Int8 | None = None
    pack: int = 0  # log2 of the codes that share a byte


@dataclass(frozen=True, eq=False)
class Pass:
    """One MatMul's operands: a map seen through a window, and weights.

    `flat`: the window covers the map, whose words count as channel blocks of a single position.
    """

    source: str
    window: Window
    weights: Weights | FusedWeights | NmWeights | GatherWeights | EieWeights | SnapWeights
    block0: int = 0
    pad: int = 0
    precision: Precision = PLAIN_PRECISION
    flat: bool = False


@dataclass(frozen=True, eq=False)
class MatrixOp:
    """Column tiles that accumulate over one or more passes, then leave through the epilogue.

    More than one pass needs a single tile: partial sums of only one tile can stay. With
    `byte_blocks`, byte i of the int32 sums leaves, i·byte_blocks channel blocks further on, in
    place of a code; that needs a single tile, too.
    """

    passes: tuple[Pass, ...]
    epilogue: Epilogue
    target: Target = HERE
    byte_blocks: int = 0

    @property
    def window(self) -> Window:
        """The first pass's; all have the same output size."""
        return self.passes[0].window

    @property
    def blocks(self) -> int:
        """Channel blocks of the output."""
        return self.passes[0].weights.tiles

    @property
    def sources(self) -> tuple[str, ...]:
        """Maps that are read."""
        return tuple(dict.fromkeys(p.source for p in self.passes))

    def output_rows(self, low: int, high: int) -> tuple[int, int]:
        """Output rows [first, last) that go to target rows low..high-1."""
        return self.target.output_rows(low, high, self.window.out_h)

    def reads(self, first: int, last: int) -> dict[str, tuple[int, int]]:
        """Input rows per source that output rows first..last-1 need."""
        return union((p.source, p.window.input_rows(first, last)) for p in self.passes)


@dataclass(frozen=True, eq=False)
class Second:
    """Second operand of add and mul; the strides of broadcast axes are 0."""

    source: str
    per_block: bool
    per_row: bool
    per_col: bool
    zero: int
    scale: int = 1


@dataclass(frozen=True, eq=False)
class VectorOp:
    """One lane-wise operation over `blocks` channel blocks from `block0` of the source."""

    operation: str
    source: str
    window: Window
    blocks: int
    epilogue: Epilogue
    zero: int = 0
    scale: int = 1
    block0: int = 0
    second: Second | None = None
    taps: Int8 | None = None
    target: Target = HERE

    @property
    def sources(self) -> tuple[str, ...]:
        """Maps that are read."""
        names = [self.source] + ([self.second.source] if self.second else [])
        return tuple(dict.fromkeys(names))

    def output_rows(self, low: int, high: int) -> tuple[int, int]:
        """Output rows [first, last) that go to target rows low..high-1."""
        return self.target.output_rows(low, high, self.window.out_h)

    def reads(self, first: int, last: int) -> dict[str, tuple[int, int]]:
        """Input rows per source that output rows first..last-1 need."""
        needs = [(self.source, self.window.input_rows(first, last))]
        if self.second:
            needs.append((self.second.source, (first, last) if self.second.per_row else (0, 1)))
        return union(needs)


Op = MatrixOp | VectorOp


@dataclass(frozen=True, eq=False)
class Stage:
    """Everything that writes one map; `nodes` are the keys of the nodes that it stands for.

    `note` is what a report should say of its numbers.
    """

    target: str
    ops: tuple[Op, ...]
    layer: Layer
    nodes: tuple[str, ...] = field(default=())
    note: str = ""

    @property
    def sources(self) -> tuple[str, ...]:
        """Maps that are read."""
        return tuple(dict.fromkeys(name for op in self.ops for name in op.sources))


def union(needs: Iterable[tuple[str, tuple[int, int]]]) -> dict[str, tuple[int, int]]:
    """Smallest row range per name that covers all of `needs`."""
    total: dict[str, tuple[int, int]] = {}
    for name, (low, high) in needs:
        known = total.get(name, (low, high))
        total[name] = (min(low, known[0]), max(high, known[1]))
    return total
