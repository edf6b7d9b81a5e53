"""Operators on codes that stand for TFLite's integer kernels; they get and give real values.

Real values of codes are exact in float32, so the codes come back by rounding.
"""

from __future__ import annotations

import numpy as np

from weft import tflite_kernels
from weft.graph import Array, Node, Quant


def _codes(x: Array, scale: float, zero_point: int) -> Array:
    return Quant(np.asarray(scale, np.float32), zero_point).quantize(x)


def lookup(node: Node, inputs: list[Array]) -> list[Array]:
    """A table of 256 codes: attributes table, input and output (scale, zero point)."""
    scale, zero_point = node.attrs["output"]
    codes = _codes(inputs[0], *node.attrs["input"]).astype(np.int64)
    y = np.asarray(node.attrs["table"], np.int8)[codes + 128]
    return [Quant(np.asarray(scale, np.float32), zero_point).dequantize(y)]


def binary(node: Node, inputs: list[Array]) -> Array:
    """Add, Sub, Mul of codes: attributes quants (of both operands and the result), kernels."""
    a, b, y = (Quant(np.asarray(s, np.float32), z) for s, z in node.attrs["quants"])
    p, q = a.quantize(inputs[0]), b.quantize(inputs[1])
    if node.op == "Mul":
        codes = tflite_kernels.multiply(node.attrs["kernels"], p, q, (a, b, y))
    else:
        sign = 1 if node.op == "Add" else -1
        codes = tflite_kernels.add(node.attrs["kernels"], p, q, (a, b, y), sign)
    return y.dequantize(codes)


def mean8(node: Node, inputs: list[Array]) -> list[Array]:
    """Mean of codes: attributes axes, keepdims, quants (of input and result), kernels."""
    a = node.attrs
    x, y = (Quant(np.asarray(s, np.float32), z) for s, z in a["quants"])
    codes = tflite_kernels.mean(
        a["kernels"], x.quantize(inputs[0]), tuple(a["axes"]), (x, y), bool(a["keepdims"])
    )
    return [y.dequantize(codes)]


def softmax8(node: Node, inputs: list[Array]) -> list[Array]:
    """Softmax of codes along the last axis: attributes input (scale, zero point), beta, kernels."""
    a = node.attrs
    y = tflite_kernels.softmax(
        a["kernels"], _codes(inputs[0], *a["input"]), a["input"][0], a["beta"]
    )
    return [Quant(np.asarray(1 / 256, np.float32), -128).dequantize(y)]
