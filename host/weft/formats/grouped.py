"""Groups of other formats: two-level scales, as integers have (VS-Quant: Dai et al., MLSys 2021).

Each group of input channels is fitted by itself, as a channel is; its scale becomes the channel's
times a multiplier of 8 bits, and an operand is a value of the format times that.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from weft import group
from weft.errors import InputError
from weft.format import Format, aligned, check_operands, finite, scales, searched
from weft.formats.integer import MULTIPLIER
from weft.graph import Array, Quant
from weft.nearest import blocks

SIZES = (32, 64, 128)
LARGEST = (1 << 15) - 1  # of an operand
ONE = Quant(np.asarray(1, np.float32))


def may_group(fmt: Format) -> bool:
    """Whether values of a format are integers that times a multiplier are operands of 16 bits."""
    own = fmt.pairs or fmt.codebook or fmt.per_byte or fmt.record != "none" or fmt.bits > 7
    if own or fmt.grid is None or fmt.operand != "int8":
        return False
    known = fmt.grid[~np.isnan(fmt.grid)]
    whole = bool(np.all(known == np.rint(known)))
    return whole and float(np.abs(known).max()) * MULTIPLIER <= LARGEST


def make(fmt: Format, size: int) -> Format:
    """A format with groups of `size` input channels. Raises InputError for other sizes."""
    if size not in SIZES:
        raise InputError(f"groups of {size} input channels: they are of 32, 64 or 128")
    made = _Grouped(fmt, size)
    return replace(
        fmt,
        name=made.name,
        operand="int16",
        fit=made.fit,
        quantize=made.quantize,
        encode=made.encode,
        decode=made.decode,
        doc=f"{fmt.doc}; groups: VS-Quant",
        group=size,
        activations=False,
    )


class _Grouped:
    """The functions of a format with groups."""

    def __init__(self, fmt: Format, size: int) -> None:
        self.base, self.size, self.name = fmt, size, f"{fmt.name}:g{size}"

    def fit(self, x: Array, axis: int | None = 0, method: str = "max") -> Quant:
        """A scale per channel, a multiplier per group."""
        real = finite(x)
        parts = group.split(real, self.size)
        own = self.base.fit(parts.reshape(-1, self.size), 0).scale.reshape(parts.shape[:-1])
        step = np.where(parts.any(axis=-1), own, np.float32(0))
        most = step.reshape(len(step), -1).max(axis=1) if axis == 0 else np.asarray(step.max())
        scale = scales(most, MULTIPLIER)
        relative = np.ceil(step / aligned(scale, step.ndim) - 1e-3)
        multiplier = np.clip(relative, 1, MULTIPLIER).astype(np.uint8)
        found = Quant(scale, axis=axis, format=self.name, groups=multiplier)
        return found if method == "max" else searched(real, axis, found, self.quantize)

    def quantize(self, x: Array, quant: Quant) -> Array:
        """Operands: the nearest values in each group's own step, times its multiplier."""
        real, multiplier = finite(x), self._multiplier(quant)
        unit = aligned(quant.scale, real.ndim + 1) * multiplier.astype(np.float32)
        found = np.empty(real.shape, np.int16)
        with np.errstate(over="ignore"):
            for part in blocks(real.shape):
                q = self._nearest(group.split(real[part], self.size) / unit[part])
                found[part] = group.joined(q * multiplier[part], real.shape[-1])
        return found

    def _nearest(self, units: Array) -> Array:
        bounded = np.clip(np.asarray(units, np.float32), -LARGEST, LARGEST)
        return self.base.quantize(bounded, ONE).astype(np.int16)

    def encode(self, operands: Array, quant: Quant) -> Array:
        """Codes [N, ..., I]. Raises InputError for operands that are none of their group."""
        whole, multiplier = np.asarray(operands), self._multiplier(quant)
        parts = group.split(whole, self.size).astype(np.int16)
        values = np.clip(parts // multiplier, -128, 127).astype(np.int16)
        check_operands(self.name, parts, values * multiplier)
        codes = self.base.encode(values.astype(np.int8), ONE)
        return group.joined(codes, whole.shape[-1])

    def decode(self, codes: Array, quant: Quant) -> Array:
        """Operands of codes."""
        values = self.base.decode(np.asarray(codes), ONE).astype(np.int16)
        parts = group.split(values, self.size) * self._multiplier(quant)
        return group.joined(parts, values.shape[-1])

    def _multiplier(self, quant: Quant) -> Array:
        """The multiplier of each group [N, ..., groups, 1]."""
        assert quant.groups is not None, "a format with groups has their bytes in the quant"
        return quant.groups[..., None].astype(np.int16)
