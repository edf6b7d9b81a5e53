"""HG-PIPE's W3A3 DeiT-tiny: integer weights and tables from one npz, as typed values.

Guo et al., ICCAD 2024 (hguq/HG-PIPE, MIT): a Vision Transformer of 3-bit weights and activations
whose requantization, GELU, LayerNorm and softmax are tables. Arrays are flat, weights [out][in].
The formulas are those of weft.units.table_ops.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from weft.errors import ModelError
from weft.units.table import Lut
from weft.units.table_ops import TableNorm, TableSoftmax, table

Integers = NDArray[np.int64]
HEADS = 3


@dataclass(frozen=True)
class Linear:
    """y = x wᵀ + bias; w [out, in] of 8 bits at most, bias int32 [out]."""

    w: Integers
    bias: Integers


@dataclass(frozen=True)
class LayerNorm:
    """A norm by table, with its weights and biases per channel; codes of `norm.bits`."""

    norm: TableNorm
    weight: Integers
    bias: Integers


@dataclass(frozen=True)
class Residual:
    """(x * multiplier + half) >> shift, added to what a layer gives."""

    multiplier: int
    shift: int


@dataclass(frozen=True)
class Block:
    """A layer of the encoder; `tables` are those behind q, k, v and the heads' outputs."""

    before: LayerNorm
    q: Linear
    k: Linear
    v: Linear
    tables: tuple[Lut, Lut, Lut, Lut]
    softmax: TableSoftmax
    o: Linear
    first: Residual
    between: LayerNorm
    up: Linear
    gelu: Lut
    down: Linear
    second: Residual


@dataclass(frozen=True)
class Network:
    """The blocks, and the norm and product that make logits of token 0."""

    blocks: tuple[Block, ...]
    norm: LayerNorm
    head: Linear
    heads: int = HEADS

    @property
    def channels(self) -> int:
        """Of a token."""
        return len(self.norm.weight)


def read(path: str | Path) -> tuple[Network, Mapping[str, Integers]]:
    """The network in an npz of the data set, and all of its arrays (published outputs among them).

    Raises ModelError for a file that is none, or arrays that are missing, or of a size that does
    not belong there.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: np.asarray(file[name], np.int64) for name in file.files}
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"{path}: no npz of integers ({error})") from None
    found = _Arrays(str(path), arrays)
    norm = found.norm("head_lnq")
    count = next(i for i in range(1000) if f"attn_{i}_lnq_lnw_m" not in arrays)
    channels = len(norm.weight)
    if not count or channels % HEADS:
        raise ModelError(f"{path}: {count} blocks of {channels} channels in {HEADS} heads")
    blocks = tuple(found.block(i, channels) for i in range(count))
    return Network(blocks, norm, found.linear("head_matmul", channels)), arrays


@dataclass(frozen=True)
class _Arrays:
    path: str
    arrays: Mapping[str, Integers]

    def get(self, name: str, size: int | None = None) -> Integers:
        value = self.arrays.get(name)
        if value is None:
            raise ModelError(f"{self.path}: array {name!r} is missing")
        if value.ndim != 1 or (size is not None and len(value) != size):
            raise ModelError(f"{self.path}: array {name!r} of shape {value.shape}, not ({size},)")
        return value

    def linear(self, name: str, inputs: int) -> Linear:
        bias = self.get(f"{name}_bias")
        w = self.get(f"{name}_weight", len(bias) * inputs)
        if np.abs(w + 0.5).max() > 128:
            raise ModelError(f"{self.path}: weights of {name!r} beyond 8 bits")
        return Linear(w.reshape(len(bias), inputs), bias)

    def lut(self, name: str, bias: int, shift: int, bound: int) -> Lut:
        value = self.get(name)
        if not (0 < bound < len(value) and 0 <= shift <= 23 and abs(bias) < 1 << 29):
            raise ModelError(
                f"{self.path}: {name!r} has {len(value)} entries for indices 0 to {bound}, "
                f"(x + {bias}) >> {shift}"
            )
        return table(value, bias, shift, bound)

    def table(self, name: str) -> Lut:
        bias, shift, bound = map(int, self.get(f"{name}_scalars", 3))
        return self.lut(f"{name}_table_m", bias, shift, bound)

    def norm(self, name: str) -> LayerNorm:
        cm, cs, bias, shift, bound, out, bits = map(int, self.get(f"{name}_scalars", 7))
        unit = TableNorm(self.lut(f"{name}_rsqrt_table_m", bias, shift, bound), cm, cs, out, bits)
        weight = self.get(f"{name}_lnw_m")
        return LayerNorm(unit, weight, self.get(f"{name}_lnb_m", len(weight)))

    def softmax(self, name: str) -> TableSoftmax:
        b1, s1, m1, b2, s2, m2, b3, s3, b4, s4, m4, b5, s5, bits = map(
            int, self.get(f"{name}_scalars", 14)
        )
        exp = self.lut(f"{name}_exp_opp_table_m", b1, s1, m1)
        small = self.lut(f"{name}_recip_scaled_table_m_one", b2, s2, m2)
        large = self.lut(f"{name}_recip_scaled_table_m_two", b4, s4, m4)
        return TableSoftmax(exp, small, large, (b3, s3), (b5, s5), bits)

    def residual(self, name: str) -> Residual:
        multiplier, shift = self.get(f"{name}_scalars", 2)
        return Residual(int(multiplier), int(shift))

    def block(self, i: int, channels: int) -> Block:
        a, m = f"attn_{i}", f"mlp_{i}"
        q, k, v, o = (self.linear(f"{a}_gen_{x}_matmul", channels) for x in "qkvo")
        tables = tuple(self.table(f"{a}_{x}_q") for x in "qkva")
        up = self.linear(f"{m}_matmul1", channels)
        down = self.linear(f"{m}_matmul2", len(up.bias))
        return Block(
            self.norm(f"{a}_lnq"), q, k, v, (tables[0], tables[1], tables[2], tables[3]),
            self.softmax(f"{a}_softmaxq"), o, self.residual(a),
            self.norm(f"{m}_lnq"), up, self.table(f"{m}_geluq"), down, self.residual(m),
        )  # fmt: skip
