"""QONNX operators, as Brevitas, HAWQ and FINN export them: constants become integers, the others
quantizers of `weft.quantization`, which `passes/staircase.py` folds into the layers before them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from weft.errors import ModelError, UnsupportedError, unknown
from weft.frontend.build import Builder
from weft.frontend.onnx_nodes import Handler
from weft.graph import Array, Node, Quant
from weft.quant_ops import REFERENCES, ROUNDINGS, codes, limits

if TYPE_CHECKING:
    from weft.frontend.onnx import OnnxNode

DOMAINS = ("qonnx.custom_op.general", "finn.custom_op.general", "onnx.brevitas")
LARGEST_BITS = 32
MANY_THRESHOLDS = 1 << 16


def _parameter(b: Builder, n: OnnxNode, index: int, what: str) -> Array:
    """A constant, finite input as float32."""
    if len(n.inputs) <= index or not n.inputs[index]:
        raise ModelError(f"{n.op} {n.name!r}: input {index}, the {what}, is missing")
    value = b.value(n.inputs[index])
    if value is None:
        raise UnsupportedError(
            f"{n.op} {n.name!r}: its {what} {n.inputs[index]!r} is computed at run time; export "
            "the model with constant quantizer parameters"
        )
    if value.dtype.kind not in "fiub" or not np.isfinite(value).all() or not value.size:
        raise ModelError(f"{n.op} {n.name!r}: its {what} {n.inputs[index]!r} is not finite")
    return np.asarray(value, np.float32)


def _scalar(b: Builder, n: OnnxNode, index: int, what: str) -> float:
    value = _parameter(b, n, index, what)
    if value.size != 1:
        raise ModelError(f"{n.op} {n.name!r}: its {what} has shape {value.shape}; one is expected")
    return float(value.reshape(()))


def _scale(b: Builder, n: OnnxNode, index: int = 1) -> Array:
    value = _parameter(b, n, index, "scale")
    if not (value > 0).all():
        raise ModelError(f"{n.op} {n.name!r}: scale {n.inputs[index]!r} is not positive")
    return value


def _bits(b: Builder, n: OnnxNode, index: int) -> int:
    bits = _scalar(b, n, index, "bit width")
    if bits != int(bits) or not 1 <= bits <= LARGEST_BITS:
        raise ModelError(
            f"{n.op} {n.name!r}: a bit width of {bits:g}; whole numbers 1..{LARGEST_BITS} exist"
        )
    return int(bits)


def _flag(n: OnnxNode, name: str, default: int) -> bool:
    value = n.attrs.get(name, default)
    if value not in (0, 1):
        raise ModelError(f"{n.op} {n.name!r}: {name} = {value!r}; 0 or 1 is expected")
    return bool(value)


def _rounding(n: OnnxNode, default: str) -> str:
    mode = str(n.attrs.get("rounding_mode", default)).upper()
    if mode not in ROUNDINGS:
        raise ModelError(f"{n.op} {n.name!r}: {unknown('rounding mode', mode, ROUNDINGS)}")
    return mode


def _fits(b: Builder, n: OnnxNode, *parameters: Array) -> None:
    """Raises ModelError for parameters that don't broadcast to the input's shape."""
    shape = b.shape(n.inputs[0])
    for value in parameters:
        try:
            good = np.broadcast_shapes(shape, value.shape) == tuple(shape)
        except ValueError:
            good = False
        if not good:
            raise ModelError(
                f"{n.op} {n.name!r}: a parameter of shape {value.shape} for {tuple(shape)}"
            )


def _plain(value: Array) -> Any:
    """An attribute: a number where there is one."""
    return float(value.reshape(())) if value.size == 1 else value


def _finish(b: Builder, n: OnnxNode, attrs: dict[str, Any]) -> bool:
    """Adds the quantizer, or, of a constant, its result."""
    x = b.tensors[n.inputs[0]]
    if x.dtype != "float32":
        raise ModelError(f"{n.op} {n.name!r}: its input {x.name!r} holds {x.dtype}, not float32")
    if x.data is not None:
        node = Node(n.op, n.name, n.inputs[:1], n.outputs, attrs)
        b.constant(n.outputs[0], REFERENCES[n.op](node, [x.real()])[0])
    else:
        b.emit(n.op, n.inputs[:1], attrs, name=n.name, outputs=n.outputs[:1])
    return True


def quant(b: Builder, n: OnnxNode) -> bool:
    """Quant(x, scale, zero point, bit width): codes between limits."""
    scale, zero = _scale(b, n), _parameter(b, n, 2, "zero point")
    bits = _bits(b, n, 3)
    signed, narrow = _flag(n, "signed", 1), _flag(n, "narrow", 1)
    if bits == 1 and narrow and not signed:
        raise ModelError(f"{n.op} {n.name!r}: one narrow unsigned bit has a single value")
    low, high = limits(bits, signed, narrow)
    _fits(b, n, scale, zero)
    attrs = {
        "scale": _plain(scale),
        "zero_point": _plain(zero),
        "low": low,
        "high": high,
        "rounding": _rounding(n, "ROUND"),
        "bipolar": bits == 1 and signed,
    }
    x = b.value(n.inputs[0])
    node = Node(n.op, n.name, (), (), attrs)
    if x is not None and np.array_equal(zero, np.rint(zero)):
        return _integers(b, n, codes(x, scale, zero, node) - zero, scale) or _finish(b, n, attrs)
    return _finish(b, n, attrs)


def bipolar_quant(b: Builder, n: OnnxNode) -> bool:
    """BipolarQuant(x, scale): -1 below 0, else 1."""
    scale = _scale(b, n)
    _fits(b, n, scale)
    x = b.value(n.inputs[0])
    if x is not None and _integers(b, n, np.where(x >= 0, 1, -1), scale):
        return True
    return _finish(b, n, {"scale": _plain(scale)})


def _integers(b: Builder, n: OnnxNode, data: Array, scale: Array) -> bool:
    """Adds integers as a constant; False if they are too wide, or have scales along two axes."""
    wide = [i for i, d in enumerate(scale.shape[::-1], 1) if d > 1]
    if len(wide) > 1 or np.abs(data).max(initial=0) > np.iinfo(np.int16).max:
        return False
    narrow = data.min(initial=0) >= -128 and data.max(initial=0) <= 127
    axis = data.ndim - wide[0] if wide else None
    meaning = Quant(np.asarray(scale.reshape(-1 if wide else ()), np.float32), 0, axis)
    b.constant(n.outputs[0], data.astype(np.int8 if narrow else np.int16), meaning)
    return True


def trunc(b: Builder, n: OnnxNode) -> bool:
    """Trunc of version 1 (x, scale, zero, bits in, bits out) and 2 (an output scale before)."""
    scale, zero = float(_scalar(b, n, 1, "scale")), _scalar(b, n, 2, "zero point")
    _scale(b, n)
    attrs: dict[str, Any] = {
        "scale": scale,
        "zero_point": zero,
        "rounding": _rounding(n, "FLOOR"),
    }
    before = _bits(b, n, 3)
    if len(n.inputs) < 6:
        step = float(2.0 ** (before - _bits(b, n, 4)))
        attrs |= {"step": step, "output_scale": scale, "output_zero_point": zero}
        return _finish(b, n, attrs)
    output = float(_scale(b, n, 4).reshape(-1)[0])
    bits = _bits(b, n, 5)
    step = float(2.0 ** np.round(np.log2(np.float32(output) / np.float32(scale))))
    low, high = limits(bits, _flag(n, "signed", 1), _flag(n, "narrow", 0))
    attrs |= {"step": step, "output_scale": output, "output_zero_point": zero / step}
    return _finish(b, n, attrs | {"low": low, "high": high})


def float_quant(b: Builder, n: OnnxNode) -> bool:
    """FloatQuant(x, scale, exponent bits, mantissa bits, exponent bias, largest value)."""
    scale = _scale(b, n)
    _fits(b, n, scale)
    names = ("exponent", "mantissa", "bias", "limit")
    values = {name: _scalar(b, n, i, name) for i, name in enumerate(names, 2)}
    if not (0 <= values["exponent"] <= 8 and 0 <= values["mantissa"] <= 23):
        raise ModelError(
            f"{n.op} {n.name!r}: {values['exponent']:g} exponent and {values['mantissa']:g} "
            "mantissa bits; float32 holds 8 and 23"
        )
    if abs(values["bias"]) > 127 or values["limit"] <= 0:
        raise ModelError(f"{n.op} {n.name!r}: bias {values['bias']:g}, limit {values['limit']:g}")
    if not _flag(n, "saturation", 1):
        raise UnsupportedError(
            f"{n.op} {n.name!r} overflows to infinity or NaN; export it with saturation=1"
        )
    return _finish(b, n, {"scale": _plain(scale), **values, "rounding": _rounding(n, "ROUND")})


def multi_threshold(b: Builder, n: OnnxNode) -> bool:
    """MultiThreshold(x, thresholds [C or 1, n])."""
    thresholds, shape = _parameter(b, n, 1, "thresholds"), b.shape(n.inputs[0])
    layout = str(n.attrs.get("data_layout", ""))
    if not layout:
        layout = {2: "NC", 3: "NWC", 4: "NCHW"}.get(len(shape), "")
    axis = layout.index("C") if "C" in layout else 1
    scale, bias = float(n.attrs.get("out_scale", 1.0)), float(n.attrs.get("out_bias", 0.0))
    if thresholds.ndim != 2 or thresholds.shape[1] > MANY_THRESHOLDS or axis >= len(shape):
        raise ModelError(f"{n.op} {n.name!r}: thresholds of shape {thresholds.shape} for {shape}")
    if thresholds.shape[0] not in (1, shape[axis]):
        raise ModelError(
            f"{n.op} {n.name!r}: {thresholds.shape[0]} channels of thresholds, {shape[axis]} in "
            f"axis {axis} of {n.inputs[0]!r}"
        )
    if not np.isfinite([scale, bias]).all() or scale <= 0:
        raise ModelError(f"{n.op} {n.name!r}: out_scale {scale}, out_bias {bias}")
    axis = axis if len(thresholds) > 1 else -1  # one set for all: any axis will do
    attrs = {"thresholds": thresholds, "scale": scale, "out_bias": bias, "axis": axis}
    return _finish(b, n, attrs)


_BY_NAME: dict[str, Handler] = {
    "Quant": quant,
    "IntQuant": lambda b, n: quant(b, _named(n, "Quant")),
    "BipolarQuant": bipolar_quant,
    "Trunc": trunc,
    "FloatQuant": float_quant,
    "MultiThreshold": multi_threshold,
}


def _named(n: OnnxNode, op: str) -> OnnxNode:
    return replace(n, op=op)


HANDLERS: dict[tuple[str, str], Handler] = {
    (domain, op): handler for domain in DOMAINS for op, handler in _BY_NAME.items()
}
