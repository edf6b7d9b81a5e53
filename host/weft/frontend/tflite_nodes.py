"""TFLite's convolutions, matrix products, pools and the LSTM as nodes of the graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from weft.errors import ModelError, ShapeError, UnsupportedError
from weft.frontend.tflite_build import FIRST, Importer, needs
from weft.frontend.tflite_read import TfOp
from weft.graph import Quant

Handler = Callable[[Importer, TfOp], None]
ACTIVATIONS: dict[int, tuple[Any, ...] | None] = {
    0: None,
    1: ("Relu",),
    2: ("Clip", -1.0, 1.0),
    3: ("Clip", 0.0, 6.0),
}
SAME, VALID = 0, 1


def activation(op: TfOp, code: int) -> dict[str, Any]:
    """The fused activation as an attribute. Raises UnsupportedError for TANH and SIGN_BIT."""
    if code not in ACTIVATIONS:
        raise UnsupportedError(
            f"{op} has fused activation number {code}; weft fuses Relu, Relu6 and Relu_N1_to_1: "
            "make it an operator of its own before converting"
        )
    kind = ACTIVATIONS[code]
    return {"activation": kind} if kind else {}


def same_pads(
    size: tuple[int, ...], kernel: tuple[int, ...], stride: tuple[int, ...], step: tuple[int, ...]
) -> tuple[int, ...]:
    """TensorFlow's "same": ceil(size / stride) outputs, the odd padding behind."""
    begins, ends = [], []
    for n, k, s, d in zip(size, kernel, stride, step, strict=True):
        total = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
        begins.append(total // 2)
        ends.append(total - total // 2)
    return (*begins, *ends)


def window(
    op: TfOp, o: Any, size: tuple[int, ...], kernel: tuple[int, ...], dilated: bool
) -> dict[str, Any]:
    """Strides, pads and dilations of an operator with a window."""
    strides = (o.StrideH(), o.StrideW())
    dilations = (o.DilationHFactor(), o.DilationWFactor()) if dilated else (1, 1)
    if min(*strides, *dilations, *kernel) < 1:
        raise ModelError(
            f"{op}: kernel {kernel}, strides {strides}, dilations {dilations}; all at least 1"
        )
    if o.Padding() not in (SAME, VALID):
        raise ModelError(f"{op} has padding number {o.Padding()}; 0 is SAME, 1 is VALID")
    pads = same_pads(size, kernel, strides, dilations) if o.Padding() == SAME else (0,) * 4
    return {"strides": strides, "pads": pads, "dilations": dilations}


def _bias(
    m: Importer, op: TfOp, index: int, channels: int, x: Quant | None, w: Quant | None
) -> str:
    """The bias at input `index`: int32 of scale x · w for a quantized operator; "" if absent."""
    i = op.inputs[index] if len(op.inputs) > index else -1
    if i < 0:
        return ""
    data = m.codes(i)
    if data is None:
        raise UnsupportedError(f"{op}: bias {m.tensor(i)} is computed at run time")
    if data.size != channels:
        raise ShapeError(f"{op}: bias {m.tensor(i)} has {data.size} values, expected {channels}")
    name = m.b.fresh(m.name(i))
    if x is None or w is None:
        return m.b.constant(name, m.real(i).reshape(-1))
    if data.dtype != np.int32:
        raise ModelError(f"{op}: bias {m.tensor(i)} is {data.dtype} where activations are int8")
    scale = np.asarray(np.float32(x.scale) * w.scale, np.float32)
    quant = Quant(scale, 0, 0 if scale.ndim else None)
    return m.b.constant(name, data.reshape(-1).astype(np.int32), quant)


def conv(m: Importer, op: TfOp) -> None:
    """CONV_2D: x [N, H, W, C], w [O, kh, kw, C/group], bias."""
    needs(op, 2)
    o = op.options("Conv2DOptions")
    _convolution(m, op, o, FIRST, 0)


def depthwise(m: Importer, op: TfOp) -> None:
    """DEPTHWISE_CONV_2D: w [1, kh, kw, C · multiplier]."""
    needs(op, 2)
    o = op.options("DepthwiseConv2DOptions")
    _convolution(m, op, o, (3, 0, 1, 2), m.shape(op.inputs[0])[-1])


def _convolution(m: Importer, op: TfOp, o: Any, perm: tuple[int, ...], group: int) -> None:
    x, out = op.inputs[0], op.outputs[0]
    quant = m.quant(x)
    name = m.first(x)
    w, w_quant = m.weights(op.inputs[1], perm, quant is not None)
    shape, channels = m.b.shape(w), m.b.shape(name)[1]
    if shape[1] < 1 or channels % shape[1]:
        raise ShapeError(f"{op}: input of {channels} channels, weights for {shape[1]}")
    attrs = {
        **window(op, o, m.b.shape(name)[2:], shape[2:], True),
        **activation(op, o.FusedActivationFunction()),
        "group": group or channels // shape[1],
    }
    bias = _bias(m, op, 2, shape[0], quant, w_quant)
    m.put(out, "Conv", [name, w, *([bias] if bias else [])], attrs, first=True)


def transpose_conv(m: Importer, op: TfOp) -> None:
    """TRANSPOSE_CONV: output shape, w [O, kh, kw, C], x, bias."""
    needs(op, 3)
    o, x = op.options("TransposeConvOptions"), op.inputs[2]
    name, quant = m.first(x), m.quant(x)
    w, w_quant = m.weights(op.inputs[1], (3, 0, 1, 2), quant is not None)
    wanted, size = m.ints(op.inputs[0], f"the output shape of {op}"), m.b.shape(name)[2:]
    kernel, strides = m.b.shape(w)[2:], (o.StrideH(), o.StrideW())
    if len(wanted) != 4 or min(strides) < 1:
        raise ModelError(f"{op}: output shape {wanted}, strides {strides}")
    begins, ends, extra = [], [], []
    for n, k, s, target in zip(size, kernel, strides, wanted[1:3], strict=True):
        full = (n - 1) * s + k
        total = max(full - target, 0) if o.Padding() == SAME else 0
        begins.append(total // 2)
        ends.append(total - total // 2)
        extra.append(target - (full - total))
    attrs = {
        "strides": strides,
        "pads": (*begins, *ends),
        "dilations": (1, 1),
        "group": 1,
        "output_padding": tuple(extra),
        **activation(op, o.FusedActivationFunction()),
    }
    bias = _bias(m, op, 3, m.b.shape(w)[1], quant, w_quant)
    m.put(op.outputs[0], "ConvTranspose", [name, w, *([bias] if bias else [])], attrs, first=True)


def fully_connected(m: Importer, op: TfOp) -> None:
    """FULLY_CONNECTED: x [..., K] or anything of K per row, w [N, K], bias."""
    needs(op, 2)
    o, x = op.options("FullyConnectedOptions"), op.inputs[0]
    if o.WeightsFormat():
        raise UnsupportedError(f"{op} has shuffled weights; convert the model with default ones")
    quant, name = m.quant(x), m.plain(x)
    shape = m.b.shape(name)
    w, w_quant = m.weights(op.inputs[1], (1, 0), quant is not None)
    depth, channels = m.b.shape(w)
    if not shape or int(np.prod(shape)) % max(depth, 1):
        raise ShapeError(f"{op}: input of shape {shape}, weights of {depth} per output")
    if not (o.KeepNumDims() and shape[-1] == depth) and (len(shape) != 2 or shape[1] != depth):
        rows = int(np.prod(shape)) // depth
        name = m.between("Reshape", [name], {"shape": (rows, depth)}, x)
    bias = _bias(m, op, 2, channels, quant, w_quant)
    attrs = activation(op, o.FusedActivationFunction())
    if quant is not None and m.kernels == "reference":
        attrs["requant"] = "single_round"  # this one kernel of the set rounds once
    m.put(op.outputs[0], "Linear", [name, w, *([bias] if bias else [])], attrs)


def pool(kind: str) -> Handler:
    """MAX_POOL_2D and AVERAGE_POOL_2D; the mean is one over what lies inside the map."""

    def handler(m: Importer, op: TfOp) -> None:
        needs(op, 1)
        o, x = op.options("Pool2DOptions"), op.inputs[0]
        name = m.first(x)
        kernel = (o.FilterHeight(), o.FilterWidth())
        attrs = {
            "kernel_shape": kernel,
            **window(op, o, m.b.shape(name)[2:], kernel, False),
            **activation(op, o.FusedActivationFunction()),
        }
        if kind == "AveragePool":
            attrs["count_include_pad"] = 0
            if m.quant(x) is not None:
                attrs["kernels"] = m.kernels
        m.put(op.outputs[0], kind, [name], attrs, first=True)

    return handler


def batch_matmul(m: Importer, op: TfOp) -> None:
    """BATCH_MATMUL of two activations."""
    needs(op, 2)
    o = op.options("BatchMatMulOptions")
    names = []
    for i, swapped in zip(op.inputs, (o.AdjX(), o.AdjY()), strict=False):
        name, rank = m.plain(i), m.rank(i)
        if swapped:
            perm = (*range(rank - 2), rank - 1, rank - 2)
            name = m.between("Transpose", [name], {"perm": perm}, i)
        names.append(name)
    m.put(op.outputs[0], "MatMul", names)


HANDLERS: dict[str, Handler] = {
    "AVERAGE_POOL_2D": pool("AveragePool"),
    "BATCH_MATMUL": batch_matmul,
    "CONV_2D": conv,
    "DEPTHWISE_CONV_2D": depthwise,
    "FULLY_CONNECTED": fully_connected,
    "MAX_POOL_2D": pool("MaxPool"),
    "TRANSPOSE_CONV": transpose_conv,
}
