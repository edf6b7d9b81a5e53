"""HG-PIPE's network as instructions: tables behind products, and rows by tables.

Where things lie (words; T tokens, K blocks of `lanes` channels): a map is block after block, each
of T words. The residual stream and one head's scores are in the wide buffer, keys and values in the
operand buffer, with token counts rounded up to whole words, everything else in the unified one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from weft import isa
from weft.config import TABLE_METHOD, Overlay
from weft.errors import CapacityError
from weft.formats import parse
from weft.frontend.hgpipe import Block, LayerNorm, Linear, Network, Residual
from weft.lower.weights import PLAIN, Weights, plain
from weft.program import Layer
from weft.units import exponential, requant, root, systolic
from weft.units.table import Lut
from weft.units.table_ops import TableSoftmax

PARAMETERS, _, LOOKUP, SOFTMAX, NORM, _, _ = range(len(isa.TABLES))
OPERAND, WIDE = isa.OPERAND, isa.WIDE
ONE = 1 << 30  # multiplier of 2^(shift − 1)
ENTRIES = 64  # of a table: four fit the lookup
_ONES = (
    *("height", "kernel_h", "kernel_w", "out_h", "stride_y", "stride_x"),
    *("dilation_y", "dilation_x", "first", "last", "overlap"),
)  # fields of a product without a window
OPEN = {"left": -(1 << 15), "right": (1 << 15) - 1}  # no mask but the number of keys


@dataclass(frozen=True)
class Places:
    """First words of what a block needs, for T tokens on an overlay."""

    tokens: int
    lanes: int
    channels: int
    hidden: int

    @property
    def padded(self) -> int:
        """Tokens of keys and values."""
        return -(-self.tokens // self.lanes) * self.lanes

    @property
    def map(self) -> int:
        """Words of a map of all channels; the norm's output, q and the heads' outputs are three."""
        return self.tokens * (self.channels // self.lanes)

    @property
    def values(self) -> int:
        """First value, in the operand buffer."""
        return self.padded * (self.channels // self.lanes)

    def needs(self) -> dict[str, int]:
        """Sizes that an overlay must have, by name."""
        return {
            "buffer_words": 3 * self.map + self.tokens * (self.hidden // self.lanes),
            "wide_words": self.map + self.tokens * (self.padded // self.lanes),
            "operand_words": 2 * self.values,
            "accumulator_rows": self.tokens,
            "parameter_blocks": self.hidden // self.lanes,
        }


@dataclass
class Assembler:
    """Instructions, the layer of each, and weight memory, as they grow."""

    overlay: Overlay
    at: Places
    heads: int
    words: list[isa.Words] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)
    layers: list[Layer] = field(default_factory=list)
    weights: list[NDArray[np.int8]] = field(default_factory=list)
    rows: int = 0

    @property
    def lanes(self) -> int:
        """Channels of a word."""
        return self.overlay.lanes

    def add(self, instruction: isa.Instruction, **fields: int) -> None:
        """An instruction of the present layer."""
        self.words.append(instruction.encode(**fields))
        self.owners.append(len(self.layers) - 1)

    def layer(self, name: str, op: str, engine: str, macs: int = 0, weight_bytes: int = 0) -> None:
        """What follows belongs to another layer."""
        self.layers.append(Layer(name, op, engine, macs, weight_bytes))

    def feed(self, stored: NDArray[np.int8], **fields: int) -> None:
        """ReadWeights of rows that memory then holds."""
        counts = {"rows": len(stored), "memory_rows": len(stored)} | fields
        self.add(isa.READ_WEIGHTS, memory=self.rows, **counts)
        self.weights.append(stored)
        self.rows += len(stored)

    def table_words(self, target: int, words: Sequence[int]) -> None:
        """32-bit words of a row unit's tables."""
        per_row = self.lanes // 4
        padded = np.zeros(-(-len(words) // per_row) * per_row, "<i4")
        padded[: len(words)] = words
        self.feed(padded.view(np.int8).reshape(-1, self.lanes))
        self.add(isa.SET_TABLE, target=target, count=len(words))

    def lookup(self, tables: Sequence[Lut]) -> None:
        """Up to four tables, ENTRIES entries each, one behind the other."""
        entries = np.concatenate([np.resize(t.value, ENTRIES) for t in tables]).astype(np.int8)
        self.feed(np.repeat(entries[:, None], self.lanes, axis=1))
        self.add(isa.SET_TABLE, target=LOOKUP, count=len(entries))

    def parameters(self, bias: ArrayLike, shift: int = 1) -> None:
        """Requantization by 2^(shift − 1), of as many blocks as `bias` has."""
        scale = (ONE, shift, ONE, shift)
        rows = requant.pack_parameters(np.atleast_1d(bias), *scale, self.lanes)
        self.feed(rows)
        self.add(isa.SET_TABLE, target=PARAMETERS, count=len(rows) // isa.PARAMETER_ROWS)

    def norm(self, name: str, norm: LayerNorm, rows: int) -> None:
        """LayerNorm of `rows` rows of the residual stream, to word 0 on."""
        at, n = self.at, self.at.channels
        self.layer(name, "LayerNorm", "norm")
        self.table_words(NORM, norm.norm.words())
        low = (norm.bias & 0xFFFFFFFF).astype(np.uint32).view(np.int32)
        high = norm.bias >> 32
        packed = requant.pack_parameters(low, norm.weight, 0, high, 0, self.lanes)
        self.feed(packed)
        self.add(isa.SET_TABLE, target=PARAMETERS, count=n // self.lanes)
        most = (1 << (norm.norm.bits - 1)) - 1
        self.add(
            isa.NORM, source_col=1, source_block=at.tokens, rows=rows, blocks=n // self.lanes,
            elements=n, method=self.overlay.norm.index(TABLE_METHOD), target_col=1,
            target_block=at.tokens, low=-most - 1, high=most,
        )  # fmt: skip

    def stored(self, w: NDArray[np.int64]) -> Weights:
        """Weights [out, in] as memory keeps them: 3 bits each where they and the overlay allow."""
        codes = w.astype(np.int8)[:, :, None, None]
        if "int3" not in self.overlay.formats or w.min() < -4 or w.max() > 3:
            return plain(codes, self.lanes)
        three = codes.transpose(0, 2, 3, 1).view(np.uint8) & 7
        return Weights(three, replace(PLAIN, format="int3"), parse("int3"), self.lanes)

    def product(self, w: NDArray[np.int64], source: int, rows: int) -> None:
        """MatMul of a map with w [out, in]; its Activate follows."""
        packed = self.stored(w)
        blocks, last = packed.blocks, packed.tiles
        self.feed(packed.packed(0, last), **packed.fields(0, last))
        self.add(
            isa.MAT_MUL, source=source, source_block=self.at.tokens, source_col=1, width=rows,
            out_w=rows, blocks=blocks, tiles=last, **dict.fromkeys(_ONES, 1),
            **{**systolic.plain(self.overlay), "pace": packed.pace(self.overlay)},
        )  # fmt: skip

    def by_table(self, table: Lut, number: int, **where: int) -> None:
        """Activate: y = table[clamp((x + bias) >> shift)], the table being that of a number.

        Its bias and shift are in the parameters: `floor_bias`.
        """
        base = number * ENTRIES - 128
        ends = {"zero_point": base, "low": base, "high": base + table.index.bound}
        self.add(isa.ACTIVATE, target_col=1, lookup=1, **ends, **where)

    def table_parameters(self, table: Lut, bias: ArrayLike) -> None:
        """(x + bias + table's bias) >> shift: halves up, of what is half a step less."""
        index = table.index
        half = (1 << index.shift) >> 1
        self.parameters(np.asarray(bias) + index.bias - half, 1 - index.shift)

    def linear_layer(self, name: str, layer: Linear, rows: int) -> None:
        """What follows is this product."""
        stored = self.stored(layer.w).packed(0, -(-len(layer.bias) // self.lanes)).nbytes
        self.layer(name, "Linear", "systolic", rows * layer.w.size, stored)

    def linear(self, name: str, layer: Linear, source: int, by: tuple[Lut, int], **to: int) -> None:
        """A product whose sums a table requantizes."""
        self.linear_layer(name, layer, self.at.tokens)
        self.table_parameters(by[0], layer.bias)
        self.product(layer.w, source, self.at.tokens)
        self.by_table(by[0], by[1], parameter_step=1, **to)

    def onto_stream(self, name: str, layer: Linear, source: int, by: Residual) -> None:
        """A product that is added to the residual stream, which takes its scale."""
        at = self.at
        self.linear_layer(name, layer, at.tokens)
        self.parameters(layer.bias)
        self.product(layer.w, source, at.tokens)
        self.add(
            isa.ACTIVATE, space=WIDE, target_block=at.tokens, target_col=1, parameter_step=1,
            residual=1, residual_block=at.tokens, residual_col=1,
            residual_multiplier=by.multiplier, residual_shift=31 - by.shift,
        )  # fmt: skip

    def attention(self, name: str, softmax: TableSoftmax, table: Lut, source: int, to: int) -> None:
        """Scores, probabilities and their sums of values, head by head."""
        at = self.at
        width = at.channels // self.heads // self.lanes  # blocks of a head
        tiles, tokens = at.padded // self.lanes, at.tokens
        self.layer(name, "Attention", "systolic", 2 * tokens * tokens * at.channels)
        self.table_words(SOFTMAX, softmax.words())
        common = {"rows": tokens, "source_block": tokens, "source_col": 1, "overlap": 1}
        common |= {"operand_block": at.padded}
        by = {"method": self.overlay.softmax.index(TABLE_METHOD), "most": (1 << softmax.bits) - 1}
        for head in range(self.heads):
            first = head * width
            self.parameters(np.zeros(self.lanes, np.int64))
            self.add(
                isa.ATTEND, source=source + first * tokens, blocks=width, tiles=tiles,
                operand=first * at.padded, transposed=1, **common,
            )  # fmt: skip
            self.add(
                isa.ACTIVATE, space=WIDE, maximum=1, keys=tokens, **OPEN, target=at.map,
                target_block=tokens, target_col=1,
            )  # fmt: skip
            self.table_parameters(table, np.zeros(self.lanes, np.int64))
            self.add(
                isa.ATTEND, source=at.map, blocks=tiles, tiles=width, scores=1, normalized=1,
                operand=at.values + first * at.padded, **common, **by,
            )  # fmt: skip
            self.by_table(table, 3, target=to + first * tokens, target_block=tokens)

    def block(self, name: str, block: Block) -> None:
        """A layer of the encoder, on the residual stream."""
        at = self.at
        query, heads, hidden = at.map, 2 * at.map, 3 * at.map
        self.norm(f"{name}.norm1", block.before, at.tokens)
        self.lookup(block.tables)
        q, k, v, a = block.tables
        unified = {"target_block": at.tokens}
        kept = {"space": OPERAND, "target_block": at.padded}
        self.linear(f"{name}.q", block.q, 0, (q, 0), target=query, **unified)
        self.linear(f"{name}.k", block.k, 0, (k, 1), **kept)
        self.linear(f"{name}.v", block.v, 0, (v, 2), target=at.values, **kept)
        self.attention(f"{name}.attention", block.softmax, a, query, heads)
        self.onto_stream(f"{name}.o", block.o, heads, block.first)
        self.norm(f"{name}.norm2", block.between, at.tokens)
        self.lookup([block.gelu])
        self.linear(f"{name}.up", block.up, 0, (block.gelu, 0), target=hidden, **unified)
        self.onto_stream(f"{name}.down", block.down, hidden, block.second)

    def logits(self, head: Linear, norm: LayerNorm, to: int) -> None:
        """Norm and product of token 0; the sums leave as planes of bytes, from word `to` on."""
        self.norm("head.norm", norm, 1)
        tiles = -(-len(head.bias) // self.lanes)
        self.linear_layer("head", head, 1)
        for tile in range(tiles):
            part = slice(tile * self.lanes, (tile + 1) * self.lanes)
            self.parameters(head.bias[part])
            self.product(head.w[part], 0, 1)
            for byte in range(4):
                mode = isa.RAW_BYTE + byte
                self.add(isa.ACTIVATE, target=to + byte * tiles + tile, target_col=1, mode=mode)


def check_overlay(network: Network, overlay: Overlay, at: Places) -> None:
    """Raises CapacityError where an overlay has not what the network needs."""
    for unit, methods in (("attention", overlay.softmax), ("norm", overlay.norm)):
        if unit not in overlay.units or TABLE_METHOD not in methods:
            raise CapacityError(
                f"overlay {overlay.name!r}: HG-PIPE's network needs unit {unit} with method "
                f"{TABLE_METHOD}; it has {', '.join(overlay.units)} with {', '.join(methods)}"
            )
    width = at.channels // network.heads
    if width % overlay.lanes or at.hidden % overlay.lanes:
        raise CapacityError(
            f"overlay {overlay.name!r}: heads of {width} channels and {at.hidden} hidden ones are "
            f"no whole words of {overlay.lanes} lanes"
        )
    for name, least in at.needs().items():
        if getattr(overlay, name) < least:
            raise CapacityError(
                f"overlay {overlay.name!r}: {name} = {getattr(overlay, name)}, HG-PIPE's network "
                f"needs {least} for {at.tokens} tokens"
            )
    _check_tables(network)


def _check_tables(network: Network) -> None:
    """Raises CapacityError for tables that are not of the hardware's sizes."""
    rows = [("head.norm", network.norm.norm.rsqrt, root.TABLE_ENTRIES)]
    maps: list[tuple[str, Lut]] = []
    for i, block in enumerate(network.blocks):
        s = block.softmax
        rows += [(f"{i}.exp", s.exp, exponential.TABLE_ENTRIES)]
        rows += [(f"{i}.reciprocal", t, exponential.TABLE_RECIPROCALS) for t in (s.small, s.large)]
        norms = (block.before.norm, block.between.norm)
        rows += [(f"{i}.norm", n.rsqrt, root.TABLE_ENTRIES) for n in norms]
        maps += [(f"{i}.table", t) for t in (*block.tables, block.gelu)]
    for name, table, entries in rows:
        if len(table.value) != entries:
            raise CapacityError(f"{name}: {len(table.value)} entries; the unit takes {entries}")
    for name, table in maps:
        if len(table.value) > ENTRIES:
            raise CapacityError(f"{name}: {len(table.value)} entries; at most {ENTRIES}")
