"""QONNX's quantizers as host operators: what its executor computes, in float32, element by element.

Definitions: fastmachinelearning/qonnx, custom_op/general. `passes/staircase.py` folds them into the
layers before them wherever that is exact; one that stays runs on the host.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from weft.graph import Array, Node, Quant

Floats = NDArray[np.float32]
SCALES = (2.0**-60, 2.0**100)  # of codes: products of two scales are normal float32 numbers


def _half_up(x: Array) -> Array:
    return np.asarray(np.sign(x) * np.floor(np.abs(x) + np.float32(0.5)))


def _half_down(x: Array) -> Array:
    return np.asarray(np.sign(x) * np.ceil(np.abs(x) - np.float32(0.5)))


def _up(x: Array) -> Array:
    return np.asarray(np.sign(x) * np.ceil(np.abs(x)))


ROUNDINGS: dict[str, Callable[[Array], Array]] = {
    "ROUND": np.round,
    "HALF_EVEN": np.round,
    "CEIL": np.ceil,
    "FLOOR": np.floor,
    "UP": _up,
    "DOWN": np.trunc,
    "HALF_UP": _half_up,
    "HALF_DOWN": _half_down,
}


def limits(bits: int, signed: bool, narrow: bool) -> tuple[int, int]:
    """Smallest and largest code of an integer of `bits` bits."""
    if signed:
        return -(1 << (bits - 1)) + narrow, (1 << (bits - 1)) - 1
    return 0, (1 << bits) - 1 - narrow


def codes(x: Array, scale: Array, zero_point: Array, node: Node) -> Floats:
    """Codes of Quant (`attrs` low, high, rounding, bipolar), as float32."""
    a = node.attrs
    y = np.asarray(x, np.float32) / scale + zero_point
    if a["bipolar"]:
        return np.where(y >= 0, np.float32(1), np.float32(-1))
    y = np.minimum(np.maximum(y, np.float32(a["low"])), np.float32(a["high"]))
    return np.asarray(ROUNDINGS[a["rounding"]](y), np.float32)


def _quant(node: Node, inputs: list[Array]) -> list[Array]:
    x = inputs[0]
    scale, zero = (np.asarray(node.attrs[k], np.float32) for k in ("scale", "zero_point"))
    return [np.asarray((codes(x, scale, zero, node) - zero) * scale, np.float32)]


def _bipolar(node: Node, inputs: list[Array]) -> list[Array]:
    scale = np.asarray(node.attrs["scale"], np.float32)
    return [np.where(inputs[0] >= 0, scale, -scale).astype(np.float32)]


def _trunc(node: Node, inputs: list[Array]) -> list[Array]:
    a = node.attrs
    scale, zero, out, step = (
        np.float32(a[k]) for k in ("scale", "zero_point", "output_scale", "step")
    )
    y = np.round(np.asarray(inputs[0], np.float32) / scale + zero) / step
    if "low" in a:
        y = np.minimum(np.maximum(y, np.float32(a["low"])), np.float32(a["high"]))
    y = ROUNDINGS[a["rounding"]](y)
    return [np.asarray((y - np.float32(a["output_zero_point"])) * out, np.float32)]


def float_quant(
    x: Array, scale: Array, exponent: float, mantissa: float, bias: float, limit: float, mode: str
) -> Floats:
    """Nearest value of a small float format, times `scale`; saturates at `limit`."""
    x = np.asarray(x, np.float32) / np.asarray(scale, np.float32)
    tiny = np.finfo(np.float32).tiny
    with np.errstate(divide="ignore"):
        step = np.floor(np.log2(np.abs(x) + tiny)) - np.float32(mantissa)
    step = np.exp2(np.maximum(step, np.float32(1.0 - bias - mantissa)))
    y = step * ROUNDINGS[mode](x / step)
    largest = (2.0 - 2.0**-mantissa) * 2.0 ** (2.0**exponent - 1.0 - bias)
    largest = min(largest, limit)
    return np.asarray(np.clip(y, -largest, largest) * scale, np.float32)


def _float(node: Node, inputs: list[Array]) -> list[Array]:
    a = node.attrs
    keys = ("scale", "exponent", "mantissa", "bias", "limit", "rounding")
    return [float_quant(inputs[0], *(a[k] for k in keys))]


def _thresholds(node: Node, inputs: list[Array]) -> list[Array]:
    """out_scale · (thresholds [C or 1, n] that x is at or above) + out_bias, along `axis`."""
    x, a = np.asarray(inputs[0], np.float32), node.attrs
    moved = np.moveaxis(x, a["axis"], -1)
    count = np.zeros(moved.shape, np.float32)
    for column in np.asarray(a["thresholds"], np.float32).T:
        count += moved >= column
    y = np.float32(a["scale"]) * np.moveaxis(count, -1, a["axis"]) + np.float32(a["out_bias"])
    return [np.asarray(y, np.float32)]


REFERENCES = {
    "Quant": _quant,
    "BipolarQuant": _bipolar,
    "Trunc": _trunc,
    "FloatQuant": _float,
    "MultiThreshold": _thresholds,
}


def code_range(node: Node) -> tuple[float, float, float, float] | None:
    """(scale, zero point, lowest, highest code) of a quantizer's output; None if not uniform."""
    a = node.attrs
    if node.op == "Quant" and np.size(a["scale"]) == 1 and np.size(a["zero_point"]) == 1:
        low, high = (-1, 1) if a["bipolar"] else (a["low"], a["high"])
        return np.asarray(a["scale"]).item(), np.asarray(a["zero_point"]).item(), low, high
    if node.op == "BipolarQuant" and np.size(a["scale"]) == 1:
        return np.asarray(a["scale"]).item(), 0.0, -1, 1
    if node.op == "Trunc" and "low" in a:
        return a["output_scale"], a["output_zero_point"], a["low"], a["high"]
    if node.op == "MultiThreshold":
        count = np.shape(a["thresholds"])[1]
        return a["scale"], -a["out_bias"] / a["scale"], 0, count
    return None


def output_quant(node: Node) -> tuple[Quant, int, int] | None:
    """int8 codes of a quantizer's output, the lowest and the highest; None if there are none.

    Codes keep QONNX's numbers where int8 has them, and are moved by the middle elsewhere. The
    zero point must be a code, and the real values must be what the executor computes.
    """
    found = code_range(node)
    if found is None:
        return None
    scale, zero, low, high = found
    if zero != int(zero) or not (low == int(low) and high == int(high)) or high - low > 255:
        return None
    if not SCALES[0] <= scale <= SCALES[1]:
        return None
    shift = 0 if low >= -128 and high <= 127 else 128 + int(low)
    if not -128 <= int(zero) - shift <= 127:
        return None
    quant = Quant(np.asarray(scale, np.float32), int(zero) - shift)
    return quant, int(low) - shift, int(high) - shift
