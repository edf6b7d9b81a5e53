"""Operators on fixed-point codes: what the host computes exactly where int8 would not do.

Activations are int64 codes (dtype int64, channels last); a node's attributes say their types as
`FixedType.attribute`. `SPECS` lists (name, shapes, function, category, dtype of the output, doc);
`weft.ops` makes operators of them. FixedTable works on real values and becomes a lookup table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from weft import fixed_kernels as kernels
from weft import shapes
from weft.fixed import FixedType, cast, from_real, to_real
from weft.fixed_functions import Function
from weft.graph import Array, Node, Shape, Tensor

Tensors = Sequence[Tensor | None]


def _type(node: Node, name: str = "result") -> FixedType:
    return FixedType.of(node.attrs[name])


def _quantize(node: Node, inputs: list[Array]) -> list[Array]:
    return [from_real(inputs[0], _type(node))]


def _round(node: Node, inputs: list[Array]) -> list[Array]:
    to = _type(node)
    return [to_real(from_real(inputs[0], to), to.frac).astype(np.float32)]


def _dequantize(node: Node, inputs: list[Array]) -> list[Array]:
    return [to_real(inputs[0], node.attrs["frac"]).astype(np.float32)]


def _cast(node: Node, inputs: list[Array]) -> list[Array]:
    return [cast(inputs[0], node.attrs["frac"], _type(node))]


def _cast_each(node: Node, inputs: list[Array]) -> list[Array]:
    (x, types), a = inputs, node.attrs
    y = kernels.each_to_its_own(x, a["frac"], types, a["rounding"], a["overflow"], _type(node))
    return [y]


def _matmul(node: Node, inputs: list[Array]) -> list[Array]:
    x, w, bias = inputs
    frac = node.attrs["frac"]
    return [kernels.sums(x, w, bias, frac, _type(node, "accum"), _type(node))]


def _conv(node: Node, inputs: list[Array]) -> list[Array]:
    x, w, bias = inputs
    a = node.attrs
    accum, result = _type(node, "accum"), _type(node)
    return [kernels.conv(x, w, bias, a["strides"], a["pads"], a["frac"], accum, result)]


def _affine(node: Node, inputs: list[Array]) -> list[Array]:
    """x · scale + bias, exactly, then converted: the bias has the fractional bits `frac`."""
    x, scale, bias = inputs
    shift = node.attrs["frac"] - node.attrs["product_frac"]
    return [cast(((x * scale) << shift) + bias, node.attrs["frac"], _type(node))]


def _activation(node: Node, inputs: list[Array]) -> list[Array]:
    return [Function.of(node.attrs)(inputs[0])]


def _prelu(node: Node, inputs: list[Array]) -> list[Array]:
    (q, alpha), a, to = inputs, node.attrs, _type(node)
    negative = cast(q * alpha, a["x_frac"] + a["alpha_frac"], to)
    return [np.where(q > 0, cast(q, a["x_frac"], to), negative)]


def _softmax(node: Node, inputs: list[Array]) -> list[Array]:
    kind, axis = node.attrs["implementation"], node.attrs["axis"]
    x = np.moveaxis(inputs[0], axis, -1)
    if kind == "argmax":
        y = kernels.argmax(x, _type(node))
    else:
        types = {name: FixedType.of(value) for name, value in node.attrs["types"]}
        y = kernels.softmax(x, inputs[1], inputs[2], types, stable=kind == "stable")
    return [np.moveaxis(y, -1, axis)]


def _merge(node: Node, inputs: list[Array]) -> list[Array]:
    fracs = (int(node.attrs["fracs"][0]), int(node.attrs["fracs"][1]))
    return [kernels.merge(inputs[0], inputs[1], fracs, node.attrs["function"], _type(node))]


def _pool(node: Node, inputs: list[Array]) -> list[Array]:
    a = node.attrs
    types = (_type(node, "x"), _type(node, "accum"), _type(node))
    return [
        kernels.pool(
            inputs[0],
            a["kernel_shape"],
            a["strides"],
            a["pads"],
            *types,
            average=a["average"],
            count_pad=a["count_pad"],
        )
    ]


def _table(node: Node, inputs: list[Array]) -> list[Array]:
    """table[code of x]: real values to real values; codes count from `low` in steps of `step`."""
    a = node.attrs
    codes = np.rint(np.asarray(inputs[0], np.float64) / a["step"]).astype(np.int64) - a["low"]
    table = np.asarray(a["table"], np.float32)
    return [table[np.clip(codes, 0, len(table) - 1)]]


def _last(node: Node, inputs: Tensors) -> list[Shape]:
    x, w = shapes.nth(node, inputs, 0), shapes.nth(node, inputs, 1)
    return [(*x.shape[:-1], w.shape[-1])]


def _windowed(node: Node, inputs: Tensors) -> list[Shape]:
    x = shapes.nth(node, inputs, 0).shape
    rank = len(x) - 2
    a = node.attrs
    kernel, channels = a.get("kernel_shape"), x[-1]
    if kernel is None:
        w = shapes.nth(node, inputs, 1).shape
        kernel, channels = w[:rank], w[-1]
    out = [
        (x[1 + i] + a["pads"][i] + a["pads"][rank + i] - kernel[i]) // a["strides"][i] + 1
        for i in range(rank)
    ]
    return [(x[0], *out, channels)]


SPECS: tuple[tuple[str, Any, Any, str, str, str], ...] = (
    ("FixedQuantize", shapes.same, _quantize, "fixed", "int64", "real to codes of a type"),
    ("FixedRound", shapes.same, _round, "fixed", "float32", "real to real that a type has"),
    ("FixedDequantize", shapes.same, _dequantize, "fixed", "float32", "codes to real"),
    ("FixedCast", shapes.same, _cast, "fixed", "int64", "codes of one type to another's"),
    ("FixedCastEach", shapes.same, _cast_each, "fixed", "int64", "a type of its own per element"),
    ("FixedMatMul", _last, _matmul, "fixed", "int64", "x [..., K], w [K, N], bias"),
    ("FixedConv", _windowed, _conv, "fixed", "int64", "x channels last, w, bias"),
    ("FixedAffine", shapes.same, _affine, "fixed", "int64", "x · scale + bias"),
    ("FixedActivation", shapes.same, _activation, "fixed", "int64", "function of one element"),
    ("FixedPRelu", shapes.same, _prelu, "fixed", "int64", "a slope per element"),
    ("FixedSoftmax", shapes.same, _softmax, "fixed", "int64", "by two tables, along axis"),
    ("FixedMerge", shapes.broadcast, _merge, "fixed", "int64", "function of two tensors"),
    ("FixedPool", _windowed, _pool, "fixed", "int64", "maximum or mean of windows"),
    ("FixedTable", shapes.same, _table, "elementwise", "float32", "a table of real values"),
)
