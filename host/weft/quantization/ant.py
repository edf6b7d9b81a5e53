"""ANT's choice of a type: each tensor gets the 4-bit format with the least squared error.

Guo et al., "ANT: Exploiting Adaptive Numerical Data Type" (MICRO 2022), section 4: the scale of
every candidate is searched first, then the sums of the channels' errors are compared.
"""

from __future__ import annotations

from weft.format import Format
from weft.formats import parse
from weft.graph import Array
from weft.quantization import codec

NAME = "ant4"
TYPES = ("int4", "flint4", "pot4", "e2m1")


def choose(weights: Array) -> Format:
    """The best of TYPES for canonical weights [N, T, I]; the first of equals."""
    return min((parse(name) for name in TYPES), key=lambda fmt: squared_error(weights, fmt))


def squared_error(weights: Array, fmt: Format) -> float:
    """Sum of squared errors with the scales that `mse` finds."""
    quant = fmt.fit(weights, 0, "mse")
    kept = codec.real(fmt.quantize(weights, quant), quant)
    return float(((weights - kept) ** 2).sum())
