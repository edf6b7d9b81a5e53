"""Weights on their way to the stream: the codes of a MatMul, in the format that memory keeps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from weft import tiles
from weft.config import Overlay, load_overlay, overlay_names
from weft.errors import UsageError
from weft.format import Format
from weft.formats import NUMBERS, base_name, parse
from weft.graph import Array, Node, Quant

if TYPE_CHECKING:
    from weft.lower.context import Context

Int8 = NDArray[np.int8]
PLAIN = Quant(np.asarray(1, np.float32))


@dataclass(frozen=True, eq=False)
class Weights:
    """Codes [N, kernel_h, kernel_w, I] of one MatMul: N outputs, I input channels."""

    codes: Array
    quant: Quant
    format: Format
    lanes: int

    @property
    def tiles(self) -> int:
        """Column tiles."""
        return -(-len(self.codes) // self.lanes)

    @property
    def blocks(self) -> int:
        """Channel blocks of the input."""
        return -(-int(self.codes.shape[3]) // self.lanes)

    @property
    def taps(self) -> int:
        """Taps of the window."""
        return int(self.codes.shape[1] * self.codes.shape[2])

    def fields(self, first: int, last: int) -> dict[str, int]:
        """ReadWeights of column tiles first..last-1, without its place in memory."""
        runs = (last - first) * self.taps
        return {
            "rows": runs * self.blocks * self.lanes,
            "format": NUMBERS[base_name(self.format.name)],
            **({"blocks": self.blocks, "runs": runs} if self.format.name != "int8" else {}),
            "group": self.group.bit_length() - 1 if self.group else 0,
            "zeros": int(self.quant.zeros is not None),
        }

    @property
    def group(self) -> int:
        """Input channels that share a record; 0: none."""
        return tiles.group_of(self.format, self.quant, int(self.codes.shape[3]))

    def pace(self, overlay: Overlay) -> int:
        """Clocks per tile row: of memory, and of the decoder."""
        last = min(self.lanes, len(self.codes))
        packed = len(self._packed(0, last))
        rows = self.taps * self.blocks * self.lanes
        return max(1, -(-packed * overlay.beats // (rows * overlay.weight_ports)))

    def packed(self, first: int, last: int) -> Int8:
        """Memory rows of column tiles first..last-1."""
        return self._packed(first * self.lanes, min(last * self.lanes, len(self.codes)))

    def _packed(self, low: int, high: int) -> Int8:
        codes = self.codes[low:high].reshape(high - low, self.taps, -1)
        q = self.quant
        part = replace(q, groups=_part(q.groups, low, high), zeros=_part(q.zeros, low, high))
        rows: Int8 = tiles.pack(codes, part, self.format, self.lanes)
        return rows


def _part(record: Array | None, low: int, high: int) -> Array | None:
    """Records [n, taps, groups] of some outputs."""
    if record is None:
        return None
    return record[low:high].reshape(high - low, -1, record.shape[-1])


def plain(w: Int8, lanes: int) -> Weights:
    """int8 weights [O, I, kernel_h, kernel_w], a byte each."""
    codes = np.ascontiguousarray(w.transpose(0, 2, 3, 1)).view(np.uint8)
    return Weights(codes, PLAIN, parse("int8"), lanes)


def stored_as(ctx: Context, node: Node, w: Array, *, in_order: bool) -> Quant:
    """How the weights `w` of a node are stored: as they were quantized, if that can be.

    Without `in_order` their input channels don't lie as they did then: what groups or pairs them
    is stored as plain integers. Raises UsageError for a format that the overlay does not decode.
    """
    quant = ctx.graph[node.inputs[1]].quant
    assert quant is not None, "the caller has taken integers"
    name = base_name(quant.format)
    if name == "int8":
        return PLAIN
    check_format(name, ctx.overlay, node)
    if name == "binary" and w.shape[1] % ctx.lanes:
        return replace(quant, format="ternary2")  # binary has no 0 for lanes without a channel
    if in_order or elementwise(quant):
        return quant
    if is_float(quant):
        return replace(PLAIN, format="bf16")
    fits = int(w.min()) >= -128 and int(w.max()) <= 127
    return PLAIN if fits or "int16" not in ctx.overlay.formats else replace(PLAIN, format="int16")


def stored_bytes(w: Array, quant: Quant) -> int:
    """Bytes of weights and of what their groups carry."""
    fmt = parse(quant.format)
    codes = -(-w.size // fmt.per_byte) if fmt.per_byte else -(-w.size * fmt.bits // 8)
    extra = (quant.groups, quant.zeros, quant.codebook)
    return codes + sum(part.nbytes for part in extra if part is not None)


def coded(w: Array, quant: Quant, overlay: Overlay) -> Weights:
    """Operands [O, I, kernel_h, kernel_w] in the format of `quant`."""
    fmt = parse(quant.format)
    operands = np.ascontiguousarray(w.transpose(0, 2, 3, 1))
    n = len(operands)
    flat = operands.reshape(n, -1, operands.shape[3])
    groups, zeros = (_part(record, 0, n) for record in (quant.groups, quant.zeros))
    codes = fmt.encode(flat, replace(quant, groups=groups, zeros=zeros)).reshape(operands.shape)
    return Weights(codes, quant, fmt, overlay.lanes)


def check_format(name: str, overlay: Overlay, node: Node) -> None:
    """Raises UsageError if the overlay does not decode format `name`; says which ones do."""
    if name in overlay.formats:
        return
    having = [o for o in overlay_names() if name in load_overlay(o).formats]
    raise UsageError(
        f"{node.op} {node.name!r}: overlay {overlay.name!r} does not decode weights in {name} "
        f"(it has {', '.join(overlay.formats)}); overlays that do: {', '.join(having) or 'none'}"
    )


def is_float(quant: Quant) -> bool:
    """Whether the array multiplies with bf16 numbers."""
    return parse(quant.format).operand == "bf16"


def elementwise(quant: Quant) -> bool:
    """Whether every code stands for itself, so that weights may be moved about."""
    return quant.groups is None and not parse(quant.format).pairs


def int8_parts(w: NDArray[np.int64]) -> list[Int8]:
    """int8 arrays that add up to `w`; one if it fits."""
    parts: list[Int8] = []
    rest = w
    while not parts or rest.any():
        part = np.clip(rest, -128, 127)
        parts.append(part.astype(np.int8))
        rest = rest - part
    return parts
