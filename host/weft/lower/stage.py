"""What a node becomes before it has addresses: stages of operations on named maps.

A stage writes one map (the storage of one tensor) with one or more operations. Operations speak of
maps and output positions; `emit` puts in addresses, splits what exceeds a table or the
accumulators, and cuts bands of rows where a map does not fit its buffer.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from weft import isa
from weft.lower.cache import Cache as Cache
from weft.lower.cache import Magnitudes as Magnitudes
from weft.lower.eie import EieWeights
from weft.lower.fused import FusedWeights
from weft.lower.gather import GatherWeights
from weft.lower.geometry import HERE, Target, Window, union
from weft.lower.nm import NmWeights
from weft.lower.precision import PLAIN_PRECISION, Precision
from weft.lower.snap import SnapWeights
from weft.lower.weights import Weights
from weft.program import Layer

Int8 = NDArray[np.int8]


class HostOnlyError(Exception):
    """This node can't run on the accelerator; the text says why. Never reaches a user."""


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
    normalize: int = 0  # what multiplies the sums of a row first, as in Activate


@dataclass(frozen=True)
class Residual:
    """A map of the wide buffer that is added to results, times multiplier · 2^(shift − 31); of
    `kind` FACTOR the product of both is scaled so.
    """

    source: str
    multiplier: int
    shift: int
    kind: int = isa.ADDED


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
    residual: Residual | None = None

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
        names = [p.source for p in self.passes]
        return tuple(dict.fromkeys([*names, self.residual.source] if self.residual else names))

    def output_rows(self, low: int, high: int) -> tuple[int, int]:
        """Output rows [first, last) that go to target rows low..high-1."""
        return self.target.output_rows(low, high, self.window.out_h)

    def reads(self, first: int, last: int) -> dict[str, tuple[int, int]]:
        """Input rows per source that output rows first..last-1 need."""
        needs = [(p.source, p.window.input_rows(first, last)) for p in self.passes]
        if self.residual:
            rows = (self.target.y0 + row * self.target.step_y for row in (first, last))
            needs.append((self.residual.source, (next(rows), next(rows))))
        return union(needs)


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


@dataclass(frozen=True, eq=False)
class RowOp:
    """An operation that makes each row of its target of the same row of one map."""

    source: str
    window: Window

    @property
    def sources(self) -> tuple[str, ...]:
        """Maps that are read."""
        return (self.source,)

    def output_rows(self, low: int, high: int) -> tuple[int, int]:
        """Output rows [first, last) that go to target rows low..high-1."""
        return low, high

    def reads(self, first: int, last: int) -> dict[str, tuple[int, int]]:
        """Input rows per source that output rows first..last-1 need."""
        return {self.source: (first, last)}


@dataclass(frozen=True, eq=False)
class NormOp(RowOp):
    """LayerNorm or RMSNorm of the rows of a map of the wide buffer.

    Parameter block: gamma, beta and the shift behind them, then the scale of the codes. With
    `keep` the normalized int16 take the place of the source, whose channel blocks from `block0` on
    are meant. `epsilon` is added to n²·variance. With `ranges` the codes fill int8 in each row.
    `codes` is the map of the codes where it is not the stage's.
    """

    elements: int
    epilogue: Epilogue
    method: int
    rms: bool
    epsilon: int
    keep: bool = False
    ranges: bool = False
    block0: int = 0
    target: Target = HERE
    codes: str = ""


@dataclass(frozen=True, eq=False)
class AttentionOp:
    """softmax(q·kᵀ·scale + bias)·v of `heads` heads, `group` of which share keys and values.

    `query_blocks` and `value_blocks` are the channel blocks of a head, `keys` the number of tokens
    in k and v, which lie in `key_rows` rows. A score counts where least ≤ key − query ≤ most.
    `scratch` is the map that scores lie in, a part of the queries at a time; `bias` a map of the
    wide buffer, a block of keys after the other, of one head or (`biases`) of all, one kind of
    window after the other. The tokens are equal `windows` that don't see each other; `keys` and
    `key_rows` are those of one, `kinds` the kind of each. `held` are the maps that keys and values
    of one head lie in, a tile at a time, where those of all come from memory.
    """

    query: str
    key: str
    value: str
    window: Window
    heads: int
    group: int
    query_blocks: int
    value_blocks: int
    keys: int
    key_rows: int
    least: int
    most: int
    scores: Epilogue
    epilogue: Epilogue
    scratch: str
    method: int = 0
    bias: str = ""
    biases: int = 1
    kinds: tuple[int, ...] = (0,)
    target: Target = HERE
    held: tuple[str, ...] = ()

    @property
    def sources(self) -> tuple[str, ...]:
        """Maps that are read."""
        return tuple(dict.fromkeys((self.query, self.key, self.value)))

    @property
    def recalled(self) -> tuple[str, ...]:
        """Those that are read from memory, a part at a time."""
        return (self.key, self.value) if self.held else ()

    def output_rows(self, low: int, high: int) -> tuple[int, int]:
        """Output rows [first, last) that go to target rows low..high-1."""
        return low, high

    def reads(self, first: int, last: int) -> dict[str, tuple[int, int]]:
        """Input rows per source that output rows first..last-1 need."""
        if self.held:
            return {self.query: (first, last)}
        every = (0, self.key_rows)
        if self.windows > 1:
            low, high = first // self.key_rows, -(-last // self.key_rows)
            every = (low * self.key_rows, high * self.key_rows)
        return union([(self.query, (first, last)), (self.key, every), (self.value, every)])

    @property
    def windows(self) -> int:
        """How many windows there are."""
        return len(self.kinds)


@dataclass(frozen=True)
class Rotation:
    """What Rotate makes of int16: codes, multiplier · 2^(shift − 31) times as large, turned by the
    map `table` (as they are without one) in heads of `head_blocks` channel blocks.
    """

    multiplier: int
    shift: int
    table: str = ""
    head_blocks: int = 1
    scale: float = 1.0  # what the two encode


@dataclass(frozen=True, eq=False)
class RotateOp(RowOp):
    """Rotary embedding of a map of the wide buffer, or int8 codes of it alone."""

    blocks: int
    rotation: Rotation
    target: Target = HERE


@dataclass(frozen=True, eq=False)
class FunctionOp(RowOp):
    """A function of int16 by cells (`lower.wide_function`), numbered by `cell` in the map `codes`,
    of which epilogues `copy` make those in the map `values`.
    """

    blocks: int
    cell: Rotation
    copy: tuple[Epilogue, ...]
    product: tuple[int, int]
    codes: str
    values: str
    target: Target = HERE


@dataclass(frozen=True, eq=False)
class MergeOp(RowOp):
    """Four neighbours of a map of the wide buffer side by side in the channels: `blocks` channel
    blocks each.
    """

    blocks: int
    rotation: Rotation
    target: Target = HERE

    def reads(self, first: int, last: int) -> dict[str, tuple[int, int]]:
        """Input rows per source that output rows first..last-1 need."""
        return {self.source: (2 * first, 2 * last)}


@dataclass(frozen=True, eq=False)
class CachedOp(AttentionOp):
    """Attention of new tokens to those in a cache and to themselves.

    `key` and `value` are maps of the wide buffer with the new tokens; `keys` is the capacity of the
    cache. Each head of keys has epilogues of its own (`heads_scores`, `heads_values`). `least`
    counts from the newest key that a query sees. `fresh` are the maps of the operand buffer that
    new keys and values lie in by themselves, where those of the cache come in tiles.
    """

    heads_scores: tuple[Epilogue, ...] = ()
    heads_values: tuple[Epilogue, ...] = ()
    key_cache: Cache | None = None
    value_cache: Cache | None = None
    fresh: tuple[str, ...] = ()

    @property
    def caches(self) -> tuple[Cache, Cache]:
        """Those of keys and of values."""
        assert self.key_cache is not None, "it has both"
        assert self.value_cache is not None, "it has both"
        return self.key_cache, self.value_cache


Op = MatrixOp | VectorOp | NormOp | AttentionOp | RotateOp | MergeOp | FunctionOp


@dataclass(frozen=True, eq=False)
class Stage:
    """Everything that writes one map; `nodes` are the keys of the nodes that it stands for.

    `note` is what a report should say of its numbers. `also` is a second map that it writes, and
    `over` one whose words the result (`also`, if there is one) may take, if nothing reads it later.
    `scratch` are maps that only this stage uses; the ones with `constants` are loaded before.
    """

    target: str
    ops: tuple[Op, ...]
    layer: Layer
    nodes: tuple[str, ...] = field(default=())
    note: str = ""
    also: str = ""
    over: str = ""
    scratch: tuple[str, ...] = ()

    @property
    def sources(self) -> tuple[str, ...]:
        """Maps that are read."""
        return tuple(dict.fromkeys(name for op in self.ops for name in op.sources))

    @property
    def recalled(self) -> tuple[str, ...]:
        """Those that its operations read from memory by themselves."""
        ops = (op for op in self.ops if isinstance(op, AttentionOp))
        return tuple(dict.fromkeys(name for op in ops for name in op.recalled))

    @property
    def targets(self) -> tuple[str, ...]:
        """Maps that are written."""
        return (self.target, self.also) if self.also else (self.target,)
