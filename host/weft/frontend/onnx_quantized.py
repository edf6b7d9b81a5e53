"""Quantized ONNX operators as real ones between DequantizeLinear and QuantizeLinear.

So QOperator models take the form of QDQ models, and `onnx_absorb` serves both. Constants that are
dequantized keep their integers: Tensor.data minus the zero point, and Tensor.quant.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from weft.errors import ModelError, UnsupportedError
from weft.frontend import onnx_nodes, onnx_reduce, onnx_shapes
from weft.frontend.build import Builder
from weft.frontend.onnx_nodes import Handler, given
from weft.graph import Array, Quant

if TYPE_CHECKING:
    from weft.frontend.onnx import OnnxNode

CODES = ("int8", "uint8", "int16", "uint16", "int32")
ORT = "com.microsoft"
INNER = {**onnx_nodes.HANDLERS, **onnx_reduce.HANDLERS, **onnx_shapes.HANDLERS}


def _parameters(
    b: Builder, what: str, scale: str, zero: str, dtype: str
) -> tuple[Array, Array] | None:
    """Constant scale (float32) and zero point (of `dtype`), of equal shape () or (n,).

    None if one is not constant. Raises ModelError for a scale that is not a positive number.
    """
    s = b.value(scale)
    if s is None:
        return None
    z: Array | None = np.zeros(s.shape, dtype)
    if zero:
        z = b.value(zero)
        if z is None:
            return None
    s, z = np.asarray(s, np.float32), np.asarray(z)
    if not np.all(np.isfinite(s)) or not np.all(s > 0):
        raise ModelError(f"{what}: scale {scale!r} has values that are not positive numbers")
    if s.size == 1 and z.size == 1:
        return s.reshape(()), z.reshape(())
    if s.ndim != 1 or z.size not in (1, s.size):
        raise ModelError(f"{what}: scale of shape {s.shape}, zero point of shape {z.shape}")
    return s, np.broadcast_to(z.reshape(-1), s.shape)


def dequantized(
    b: Builder, what: str, name: str, scale: str, zero: str, axis: int = 1, output: str = ""
) -> str | None:
    """Name of the real values of codes; None if their scale is not constant."""
    tensor = b.tensors[name]
    if tensor.dtype not in CODES:
        raise ModelError(f"{what}: {name!r} holds {tensor.dtype}, not codes")
    parameters = _parameters(b, what, scale, zero, tensor.dtype)
    if parameters is None:
        return None
    s, z = parameters
    if s.ndim:
        axis = axis % max(len(tensor.shape), 1) if tensor.shape else 0
        if not tensor.shape or tensor.shape[axis] != s.size:
            raise ModelError(f"{what}: {s.size} scales on axis {axis} of {tensor.shape}")
    output = output or b.fresh(name)
    if tensor.data is not None and tensor.quant is None:
        return _constant(b, output, tensor.data, s, z, axis)
    names = (b.constant(b.fresh(scale), s), b.constant(b.fresh(f"{name}.zero"), z))
    attrs = {"axis": axis}
    return b.emit("DequantizeLinear", [name, *names], attrs, outputs=(output,))


def _constant(b: Builder, output: str, codes: Array, s: Array, z: Array, axis: int) -> str:
    shape = [1] * codes.ndim
    if s.ndim:
        shape[axis] = -1
    data = codes.astype(np.int64) - z.astype(np.int64).reshape(shape if z.ndim else ())
    for dtype in (np.int8, np.int16, np.int32):
        info = np.iinfo(dtype)
        narrow = info.min <= data.min(initial=0) and data.max(initial=0) <= info.max
        if narrow and (dtype != np.int8 or codes.dtype.itemsize <= 2):
            quant = Quant(s, 0, axis if s.ndim else None)
            wide = np.int32 if codes.dtype == np.int32 else dtype
            return b.constant(output, data.astype(wide), quant)
    raise ModelError(f"{output!r}: zero points leave the range of int32")


def _quantize(b: Builder, n: OnnxNode, y: str, scale: str, zero: str) -> None:
    """Writes the node's output: the codes of `y`."""
    z_tensor = b.tensors.get(zero)
    dtype = z_tensor.dtype if z_tensor is not None else "uint8"
    parameters = _parameters(b, f"{n.op} {n.name!r}", scale, zero, dtype)
    if parameters is None or dtype not in CODES:
        raise UnsupportedError(f"{n.op} {n.name!r}: its output's scale is computed at run time")
    s, z = parameters
    names = (b.constant(b.fresh(scale), s), b.constant(b.fresh(f"{y}.zero"), z))
    b.emit("QuantizeLinear", [y, *names], {"axis": 1}, outputs=n.outputs)


def quantize_linear(b: Builder, n: OnnxNode) -> bool:
    """QuantizeLinear with constant parameters and integer codes."""
    zero = given(n, 2)
    if n.attrs.get("block_size", 0) or (not zero and n.attrs.get("output_dtype", 0)):
        return False
    dtype = b.tensors[zero].dtype if zero else "uint8"
    x = b.tensors[n.inputs[0]]
    parameters = _parameters(b, f"{n.op} {n.name!r}", n.inputs[1], zero, dtype)
    if parameters is None or dtype not in CODES or x.dtype != "float32":
        return False
    s, z = parameters
    axis = int(n.attrs.get("axis", 1))
    if s.ndim and (not -len(x.shape) <= axis < len(x.shape) or x.shape[axis] != s.size):
        raise ModelError(f"{n.op} {n.name!r}: {s.size} scales on axis {axis} of {x.shape}")
    names = (b.constant(b.fresh(n.inputs[1]), s), b.constant(b.fresh(f"{n.name}.zero"), z))
    attrs = {"axis": axis % max(len(x.shape), 1)}
    b.emit("QuantizeLinear", [x.name, *names], attrs, name=n.name, outputs=n.outputs)
    return True


def dequantize_linear(b: Builder, n: OnnxNode) -> bool:
    """DequantizeLinear with constant parameters."""
    if n.attrs.get("block_size", 0) or b.tensors[n.inputs[0]].dtype not in CODES:
        return False
    axis = int(n.attrs.get("axis", 1))
    what = f"{n.op} {n.name!r}"
    zero = given(n, 2)
    return dequantized(b, what, n.inputs[0], n.inputs[1], zero, axis, n.outputs[0]) is not None


def _triple(b: Builder, n: OnnxNode, first: int, axis: int = 1) -> str:
    """Real values of the input whose codes, scale and zero point start at input `first`."""
    what = f"{n.op} {n.name!r}"
    name = dequantized(b, what, n.inputs[first], n.inputs[first + 1], given(n, first + 2), axis)
    if name is None:
        raise UnsupportedError(f"{what}: an input's scale is computed at run time")
    return name


def _inner(b: Builder, n: OnnxNode, op: str, inputs: list[str], **attrs: Any) -> str:
    """Adds the real operator; its output."""
    output = b.fresh(n.outputs[0])
    node = replace(n, op=op, domain="", inputs=tuple(inputs), outputs=(output,), attrs=attrs)
    if not INNER["", op](b, node):
        raise UnsupportedError(f"{n.op} {n.name!r} has a form that weft does not know")
    return output


def _integer_bias(b: Builder, n: OnnxNode, name: str, x_scale: str, w: str) -> str:
    """An int32 bias whose scale is that of the input times the weights'."""
    if not name:
        return ""
    codes, s = b.tensors[name].data, b.value(x_scale)
    quant = b.tensors[w].quant
    if codes is None or s is None or quant is None:
        raise UnsupportedError(f"{n.op} {n.name!r}: bias or weights are computed at run time")
    scale = np.asarray(np.float32(s.reshape(())) * quant.scale, np.float32)
    integers = codes.reshape(-1).astype(np.int32)
    return b.constant(b.fresh(name), integers, Quant(scale, 0, 0 if scale.ndim else None))


def qlinear_conv(b: Builder, n: OnnxNode) -> bool:
    """QLinearConv(x, xs, xz, w, ws, wz, ys, yz, bias)."""
    x, w = _triple(b, n, 0), _triple(b, n, 3, axis=0)
    bias = _integer_bias(b, n, given(n, 8), n.inputs[1], w)
    if n.attrs.get("channels_last", 0):
        raise UnsupportedError(f"{n.op} {n.name!r}: channels_last; export it with channels first")
    y = _inner(b, n, "Conv", [x, w, bias], **n.attrs)
    _quantize(b, n, y, n.inputs[6], n.inputs[7])
    return True


def qlinear_matmul(b: Builder, n: OnnxNode) -> bool:
    """QLinearMatMul(a, as, az, b, bs, bz, ys, yz)."""
    x, w = _triple(b, n, 0, axis=-2), _triple(b, n, 3, axis=-1)
    _quantize(b, n, _inner(b, n, "MatMul", [x, w]), n.inputs[6], n.inputs[7])
    return True


def q_gemm(b: Builder, n: OnnxNode) -> bool:
    """com.microsoft QGemm(a, as, az, b, bs, bz, c, ys, yz)."""
    a = n.attrs
    if a.get("alpha", 1.0) != 1.0:
        raise UnsupportedError(f"{n.op} {n.name!r}: alpha = {a['alpha']}; only 1 is known")
    trans = int(a.get("transB", 0))
    x, w = _triple(b, n, 0), _triple(b, n, 3, axis=0 if trans else 1)
    bias = _integer_bias(b, n, given(n, 6), n.inputs[1], w)
    if bias and b.tensors[bias].size == 1:
        raise UnsupportedError(f"{n.op} {n.name!r}: a bias of one element")
    y = _inner(b, n, "Gemm", [x, w, bias], transA=int(a.get("transA", 0)), transB=trans)
    if given(n, 7):
        _quantize(b, n, y, n.inputs[7], given(n, 8))
    else:
        b.emit("Identity", [y], outputs=n.outputs)
    return True


def _binary(op: str) -> Handler:
    def handler(b: Builder, n: OnnxNode) -> bool:
        y = _inner(b, n, op, [_triple(b, n, 0), _triple(b, n, 3)])
        _quantize(b, n, y, n.inputs[6], given(n, 7))
        return True

    return handler


def _unary(op: str, *drop: str) -> Handler:
    """An operator with inputs x, xs, xz, ys, yz and the attributes of `op`."""

    def handler(b: Builder, n: OnnxNode) -> bool:
        if n.attrs.get("channels_last", 0):
            raise UnsupportedError(f"{n.op} {n.name!r}: channels_last is not supported")
        attrs = {k: v for k, v in n.attrs.items() if k not in ("channels_last", *drop)}
        inner = replace(n, version=int(n.attrs.get("opset", 13)))
        y = _inner(b, inner, op, [_triple(b, n, 0)], **attrs)
        _quantize(b, n, y, n.inputs[3], given(n, 4))
        return True

    return handler


def qlinear_concat(b: Builder, n: OnnxNode) -> bool:
    """com.microsoft QLinearConcat(ys, yz, then x, xs, xz of each input)."""
    parts = [_triple(b, n, i) for i in range(2, len(n.inputs), 3)]
    y = _inner(b, n, "Concat", parts, axis=int(n.attrs["axis"]))
    _quantize(b, n, y, n.inputs[0], n.inputs[1])
    return True


def fold(b: Builder, n: OnnxNode) -> bool:
    """Moves the integers of a quantized constant; True if it did."""
    tensor = b.tensors[n.inputs[0]] if n.inputs and n.inputs[0] else None
    if tensor is None or tensor.quant is None or tensor.data is None:
        return False
    quant = tensor.quant
    if n.op == "Transpose":
        perm = onnx_nodes.ints(n, "perm", range(tensor.data.ndim - 1, -1, -1))
        if quant.axis is not None:
            quant = replace(quant, axis=perm.index(quant.axis))
        b.constant(n.outputs[0], np.ascontiguousarray(tensor.data.transpose(perm)), quant)
        return True
    if n.op == "Identity":
        b.constant(n.outputs[0], tensor.data, quant)
        return True
    return False


HANDLERS: dict[tuple[str, str], Handler] = {
    **{(domain, "QuantizeLinear"): quantize_linear for domain in ("", ORT)},
    **{(domain, "DequantizeLinear"): dequantize_linear for domain in ("", ORT)},
    ("", "QLinearConv"): qlinear_conv,
    (ORT, "QLinearConv"): qlinear_conv,
    ("", "QLinearMatMul"): qlinear_matmul,
    (ORT, "QGemm"): q_gemm,
    (ORT, "QLinearAdd"): _binary("Add"),
    (ORT, "QLinearMul"): _binary("Mul"),
    (ORT, "QLinearAveragePool"): _unary("AveragePool"),
    (ORT, "QLinearConcat"): qlinear_concat,
    (ORT, "QLinearGlobalAveragePool"): _unary("GlobalAveragePool"),
    (ORT, "QLinearLeakyRelu"): _unary("LeakyRelu"),
    (ORT, "QLinearReduceMean"): _unary("ReduceMean"),
    (ORT, "QLinearSigmoid"): _unary("Sigmoid"),
    (ORT, "QLinearSoftmax"): _unary("Softmax", "opset"),
}
