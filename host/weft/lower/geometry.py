"""Where maps lie and which of their positions are meant: maps, windows, places, rectangles."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from weft import isa
from weft.graph import Quant
from weft.program import Layout

UNIFIED, OPERAND, WIDE = isa.UNIFIED, isa.OPERAND, isa.WIDE  # the on-chip buffers


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
    blocks that a clock reads are then in different banks. `space` is the on-chip buffer; in the
    operand buffer a block takes whole tiles of `unit` words, and `slack` words more, as the last
    tile of the last window reads beyond it. `tokens` names what the height counts where a run may
    have fewer rows (`weft.tokens`).
    """

    blocks: int
    height: int
    width: int
    odd: bool = False
    space: int = UNIFIED
    unit: int = 1
    tokens: str = ""
    slack: int = 0

    @property
    def per_word(self) -> int:
        """Rows of memory per word."""
        return 2 if self.space == WIDE else 1

    @property
    def rows(self) -> int:
        """Rows of memory per sample."""
        return self.blocks * self.height * self.width * self.per_word

    @property
    def words(self) -> int:
        """On-chip words per sample."""
        return self.blocks * self.block

    @property
    def block(self) -> int:
        """Words from channel block to channel block."""
        return self.place(0, self.height).block

    def place(self, base: int, rows: int, origin: int = 0) -> Place:
        """`rows` rows of the map from `origin` on, at word `base`."""
        return Place(
            base, rows, self.width, origin, self.odd, self.space, self.unit, self.blocks, self.slack
        )


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
    """Rows origin..origin+rows-1 of a map in an on-chip buffer, from word `base` on."""

    base: int
    rows: int
    width: int
    origin: int = 0
    odd: bool = False
    space: int = UNIFIED
    unit: int = 1
    blocks: int = 1
    slack: int = 0

    @property
    def block(self) -> int:
        """Words from channel block to channel block."""
        words = self.rows * self.width + self.slack
        return -(-words // self.unit) * self.unit | int(self.odd)

    @property
    def sample(self) -> int:
        """Words from sample to sample."""
        return self.blocks * self.block

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
    """Where output position (y, x), block k goes: (block0 + k, y0 + y·step_y, x0 + x·step_x).

    `flat`: the target has a width of 1, and `step_y` is the width of a row of the output.
    """

    block0: int = 0
    y0: int = 0
    x0: int = 0
    step_y: int = 1
    step_x: int = 1
    flat: bool = False

    def output_rows(self, low: int, high: int, count: int) -> tuple[int, int]:
        """Those of `count` output rows that go to target rows low..high-1: [first, last)."""
        first = max(0, -(-(low - self.y0) // self.step_y))
        return first, min(count, -(-(high - self.y0) // self.step_y))


HERE = Target()


def union(needs: Iterable[tuple[str, tuple[int, int]]]) -> dict[str, tuple[int, int]]:
    """Smallest row range per name that covers all of `needs`."""
    total: dict[str, tuple[int, int]] = {}
    for name, (low, high) in needs:
        known = total.get(name, (low, high))
        total[name] = (min(low, known[0]), max(high, known[1]))
    return total
