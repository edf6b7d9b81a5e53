"""Which engine of an overlay runs a layer, and in what form its weights and activations lie.

The engine that takes the fewest folds for the formats and channels of a layer is taken; of equals,
the one that reads the fewest bytes, then the one that the overlay names first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from weft import isa
from weft.activation import WIDE
from weft.config import Overlay
from weft.formats import parse
from weft.graph import Array, Quant
from weft.lower.fused import FusedWeights
from weft.lower.precision import Precision
from weft.lower.weights import elementwise
from weft.units import binary, fusion, shift

# Two's complement or plain codes: format → (bits of a code on the bricks, whether it is signed).
FUSION = {
    **{f"int{n}": (2 if n == 2 else 4 if n <= 4 else 8, True) for n in range(2, 9)},
    **{f"uint{n}": (2 if n == 2 else 4, False) for n in range(2, 5)},
    **dict.fromkeys(("ternary", "ternary2"), (2, True)),
}
SHIFT = {
    "int4": "int",
    "int3": "int",
    "uint4": "uint",
    "flint4": "flint",
    "uflint4": "uflint",
    "pot4": "pot",
    "e2m1": "e2m1",
    "olive4": "olive",
}
BINARY = {"binary": 1, "ternary": 2, "ternary2": 2}
FEW_ROWS = "matvec"  # takes what the array would, once the rows of a MatMul are known
SPARSE = ("nm", *isa.COMPRESSED)  # weft.lower.sparse chooses among these
BITS = {"binary": binary.SIGNED_BITS, "binary01": 0}  # activations of one bit


def packed_bits(name: str, overlay: Overlay) -> int:
    """Bits of a code of activations in format `name`, where words hold several in a byte; or 8."""
    if name in BITS and "binary" in overlay.engines:
        return 1
    if name in FUSION and "fusion" in overlay.engines:
        return FUSION[name][0]
    return 4 if name in SHIFT and "shift" in overlay.engines else 8


def packed_pad(zero_point: int, bits: int) -> int:
    """The byte, as int8, of codes outside the map."""
    if bits >= 8:
        return zero_point
    code = zero_point & ((1 << bits) - 1)
    byte = sum(code << shift for shift in range(0, 8, bits))
    return (byte ^ 128) - 128


def precisions(
    overlay: Overlay, x_format: str, x_bits: int, w: Quant, channels: int
) -> Iterator[Precision]:
    """What the engines of an overlay can do with such a layer: fewest folds first, then bytes.

    Words of int16 are for engine matvec alone.
    """
    if x_format == WIDE:
        if FEW_ROWS in overlay.engines and parse(w.format).operand != "bf16":
            yield Precision(FEW_ROWS, activation_bits=16)
        return
    dense = (engine for engine in overlay.engines if engine not in (*SPARSE, FEW_ROWS))
    found = [_precision(engine, x_format, x_bits, w) for engine in dense]
    able = [_with_zeros(p, channels, overlay.lanes) for p in found if p is not None]
    yield from sorted(able, key=lambda p: _cost(p, w, channels, overlay.lanes))


def _cost(p: Precision, w: Quant, channels: int, lanes: int) -> tuple[int, float]:
    """Folds per tap, and bits per weight position of all of them."""
    per_word = lanes * 8 // p.activation_bits if p.activation_bits < 16 else lanes
    folds = -(-channels // (per_word * (1 if p.is_float else p.words)))
    stored = (
        parse(w.format).weight_bits if p.engine in ("systolic", "bf16") else 8.0 * p.weight_rows
    )
    return folds, folds * stored


def _with_zeros(p: Precision, channels: int, lanes: int) -> Precision:
    """`p` for a layer whose channels may leave lanes empty.

    A weight of one bit has no 0 for them. Activations that are bits then meet planes of ternary
    weights, others codes of two bits.
    """
    if p.engine != "binary" or p.weight_bits != 1:
        return p
    unit = lanes * (p.per_byte * p.words if p.activation_bits == 1 else 1)
    if channels % unit == 0:
        return p
    return replace(p, weight_bits=2, words=2 if p.activation_bits == 1 else p.words)


def _precision(engine: str, x_format: str, x_bits: int, w: Quant) -> Precision | None:
    """The precision of one engine; None where it does not take these formats."""
    fmt = parse(w.format)
    if engine == "bf16":
        wide = (x_bits == 16 and 2) or 1
        return Precision("bf16", wide, 8 * wide, 16) if fmt.operand == "bf16" else None
    if fmt.operand == "bf16" or x_bits == 16:
        return None
    if engine == "systolic":
        return Precision() if x_bits == 8 else None
    if not elementwise(w) and not (fmt.name == "olive4" and x_bits == 4):
        return None
    return {"fusion": _fusion, "shift": _shift, "binary": _binary}[engine](
        x_format, x_bits, fmt.name
    )


def _fusion(x_format: str, x_bits: int, name: str) -> Precision | None:
    if name not in FUSION or (x_bits < 8 and x_format not in FUSION):
        return None
    bits, signed = FUSION[name]
    signs = fusion.SIGNED_ACTIVATION * (x_bits == 8 or FUSION[x_format][1])
    return Precision("fusion", 8 // bits, x_bits, bits, signs | fusion.SIGNED_WEIGHT * signed)


def _shift(x_format: str, x_bits: int, name: str) -> Precision | None:
    plain = name == "int8"
    if not (plain or name in SHIFT) or (x_bits == 4 and x_format not in SHIFT) or x_bits < 4:
        return None
    bits = 8 if plain else 4
    kinds = shift.kinds(SHIFT[x_format] if x_bits == 4 else "int", SHIFT.get(name, "int"))
    return Precision("shift", 8 // bits, x_bits, bits, kinds)


def _binary(x_format: str, x_bits: int, name: str) -> Precision | None:
    if name not in BINARY or (x_bits == 1 and x_format not in BITS) or x_bits not in (1, 8):
        return None
    bits = BINARY[name]
    words = 2 if (x_bits, bits) == (1, 2) else 4
    return Precision("binary", words, x_bits, bits, BITS[x_format] if x_bits == 1 else 0)


def fused(w: Array, quant: Quant, precision: Precision, lanes: int) -> FusedWeights:
    """Operands [O, I, kernel_h, kernel_w] as codes for an engine of several products."""
    operands = np.ascontiguousarray(w.transpose(0, 2, 3, 1))
    if precision.engine == "shift" and SHIFT.get(quant.format, "int") != "int":
        flat = operands.reshape(len(operands), -1, operands.shape[3])
        codes = parse(quant.format).encode(flat, quant).reshape(operands.shape)
    elif precision.engine == "binary" and precision.weight_bits == 1:
        codes = (operands > 0).astype(np.uint8)
    else:
        codes = operands.astype(np.int8).view(np.uint8) & np.uint8((1 << precision.weight_bits) - 1)
    return FusedWeights(codes, precision, lanes)
