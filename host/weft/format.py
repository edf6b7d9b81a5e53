"""Format: what every number format is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weft.graph import Array, Quant, Shape

Codes = NDArray[np.int8]
Tiles = NDArray[np.int8]


@dataclass(frozen=True)
class Format:
    """A number format for weights.

    `choose(x, axis)` finds the scales of a real tensor, one per index of `axis` (None: one for
    all); `quantize(x, quant)` and `dequantize(codes, quant)` convert; `pack(codes, lanes)` brings
    codes [K, *taps, N] into the order of the weight stream, and `unpack(tiles, shape)` back.
    `bits` is the size of a value there, `block` how many values are stored together. `cpp_type`
    decodes it in hardware, in hls/weft/formats/<name>.hpp.
    """

    name: str
    bits: int
    block: int
    choose: Callable[[Array, int | None], Quant]
    quantize: Callable[[Array, Quant], Codes]
    dequantize: Callable[[Codes, Quant], NDArray[np.float32]]
    pack: Callable[[Codes, int], Tiles]
    unpack: Callable[[Tiles, Shape], Codes]
    cpp_type: str
    operand: str = 'int8'
    record: str = 'none'
    pairs: bool = False
    codebook: bool = False
    per_byte: int = 0
    group: int = 0
    hpp: str = 'formats/int8.hpp'
    decoder: str = 'Int8'
