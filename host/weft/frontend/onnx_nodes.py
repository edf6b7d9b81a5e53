"""ONNX operators that compute, in canonical form: products, windows, elementwise, reductions.

A handler adds nodes that write the ONNX node's outputs and returns True, or returns False for a
form that has no canonical one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from weft.errors import ModelError, ShapeError, UnsupportedError
from weft.fallback import import_onnx
from weft.frontend.build import Builder
from weft.reference import BINARY, UNARY

if TYPE_CHECKING:
    from weft.frontend.onnx import OnnxNode

Handler = Callable[[Builder, "OnnxNode"], bool]


def given(n: OnnxNode, index: int) -> str:
    """Name of input `index`, "" if it is absent."""
    return n.inputs[index] if index < len(n.inputs) else ""


def axis_of(n: OnnxNode, axis: int, rank: int) -> int:
    """`axis` counted from the front; raises ShapeError if there is no such axis."""
    if not -rank <= axis < rank:
        raise ShapeError(f"{n.op} {n.name!r}: axis {axis} of a tensor with {rank} dimensions")
    return axis % rank


def ints(n: OnnxNode, name: str, default: Sequence[int]) -> tuple[int, ...]:
    """A list attribute."""
    return tuple(int(v) for v in n.attrs.get(name, default))


def _window_attrs(n: OnnxNode, size: Sequence[int], kernel: Sequence[int]) -> dict[str, Any]:
    """strides, pads and dilations of a window over a map of `size`, auto_pad resolved."""
    rank = len(size)
    strides = ints(n, "strides", [1] * rank)
    dilations = ints(n, "dilations", [1] * rank)
    pads = ints(n, "pads", [0] * 2 * rank)
    auto = _auto_pad(n)
    lengths = (len(kernel), len(strides), len(dilations), len(pads) / 2)
    if lengths != (rank,) * 4 or min((*strides, *dilations, *kernel), default=1) < 1:
        raise ShapeError(
            f"{n.op} {n.name!r}: kernel {tuple(kernel)}, strides {strides}, dilations {dilations} "
            f"and pads {pads} don't fit a map of {tuple(size)}"
        )
    if auto == "VALID":
        pads = (0,) * (2 * rank)
    elif auto.startswith("SAME"):
        missing = [
            max((-(-d // s) - 1) * s + (k - 1) * e + 1 - d, 0)
            for d, k, s, e in zip(size, kernel, strides, dilations, strict=True)
        ]
        small, large = [m // 2 for m in missing], [m - m // 2 for m in missing]
        pads = (*small, *large) if auto == "SAME_UPPER" else (*large, *small)
    return {"strides": strides, "pads": pads, "dilations": dilations}


def _auto_pad(n: OnnxNode) -> str:
    auto = str(n.attrs.get("auto_pad", "NOTSET"))
    known = ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")
    if auto not in known:
        raise ModelError(f"{n.op} {n.name!r}: auto_pad = {auto!r} is none of {', '.join(known)}")
    return auto


def _shifted(pads: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Pads without the negative ones, and the crops that those mean."""
    return tuple(max(p, 0) for p in pads), tuple(max(-p, 0) for p in pads)


def crop(b: Builder, x: str, crops: Sequence[int]) -> str:
    """`x` without the first and last elements of its last axes (begins, then ends)."""
    if not any(crops):
        return x
    shape, half = b.shape(x), len(crops) // 2
    axes = tuple(range(len(shape) - half, len(shape)))
    ends = tuple(shape[a] - e for a, e in zip(axes, crops[half:], strict=True))
    attrs = {"starts": tuple(crops[:half]), "ends": ends, "axes": axes, "steps": (1,) * half}
    return b.emit("Slice", [x], attrs)


def conv(b: Builder, n: OnnxNode) -> bool:
    """Conv with any number of spatial axes."""
    x, w = n.inputs[:2]
    size, kernel = b.shape(x)[2:], b.shape(w)[2:]
    if len(b.shape(x)) < 3:
        raise ShapeError(f"Conv {n.name!r}: input {b.shape(x)} has no spatial axes")
    attrs = _window_attrs(n, size, ints(n, "kernel_shape", kernel))
    if ints(n, "kernel_shape", kernel) != kernel:
        raise ShapeError(
            f"Conv {n.name!r}: kernel_shape {n.attrs['kernel_shape']} with weights {b.shape(w)}"
        )
    attrs["pads"], crops = _shifted(attrs["pads"])
    attrs["group"] = int(n.attrs.get("group", 1))
    inputs = [crop(b, x, crops), w, given(n, 2)]
    b.emit("Conv", inputs, attrs, name=n.name, outputs=n.outputs)
    return True


def conv_transpose(b: Builder, n: OnnxNode) -> bool:
    """ConvTranspose, auto_pad and output_shape resolved."""
    x, w = n.inputs[:2]
    size, kernel = b.shape(x)[2:], b.shape(w)[2:]
    rank = len(size)
    strides = ints(n, "strides", [1] * rank)
    dilations = ints(n, "dilations", [1] * rank)
    extra = ints(n, "output_padding", [0] * rank)
    pads = ints(n, "pads", [0] * 2 * rank)
    auto = _auto_pad(n)
    target = ints(n, "output_shape", ())
    if auto.startswith("SAME") and not target:
        target = tuple(d * s for d, s in zip(size, strides, strict=True))
    if auto == "VALID":
        pads = (0,) * 2 * rank
    if target:
        full = [
            (d - 1) * s + e + (k - 1) * i + 1 - t
            for d, s, e, k, i, t in zip(
                size, strides, extra, kernel, dilations, target[-rank:], strict=True
            )
        ]
        half = [f // 2 for f in full]
        rest = [f - h for f, h in zip(full, half, strict=True)]
        pads = (*half, *rest) if auto == "SAME_UPPER" else (*rest, *half)
    if min(pads, default=0) < 0:
        return False
    attrs = {
        "strides": strides,
        "pads": pads,
        "dilations": dilations,
        "group": int(n.attrs.get("group", 1)),
        "output_padding": extra,
    }
    b.emit("ConvTranspose", [x, w, given(n, 2)], attrs, name=n.name, outputs=n.outputs)
    return True


def pool(b: Builder, n: OnnxNode) -> bool:
    """MaxPool and AveragePool; ceil_mode becomes pads at the end."""
    if n.attrs.get("storage_order", 0):
        raise UnsupportedError(f"{n.op} {n.name!r}: indices in column order (storage_order = 1)")
    x = n.inputs[0]
    size = b.shape(x)[2:]
    kernel = ints(n, "kernel_shape", ())
    attrs = {"kernel_shape": kernel, **_window_attrs(n, size, kernel)}
    pads, rank = attrs["pads"], len(size)
    if min(pads, default=0) < 0:
        return False
    if any(p >= k for p, k in zip(pads, kernel * 2, strict=True)):
        raise ShapeError(f"{n.op} {n.name!r}: pads {pads} as large as the kernel {kernel}")
    extra = [0] * rank
    if n.attrs.get("ceil_mode", 0):
        for i in range(rank):
            extra[i] = _ceil_pad(attrs, size[i], kernel[i], i, rank)
    counts = bool(n.attrs.get("count_include_pad", 0)) and n.op == "AveragePool"
    if counts and any(extra):  # what ceil_mode adds is never counted
        zeros = (0, 0, *pads[:rank], 0, 0, *pads[rank:])
        x = b.emit("Pad", [x], {"pads": zeros, "value": 0.0, "mode": "constant"})
        pads, counts = (0,) * 2 * rank, False
    ends = [p + e for p, e in zip(pads[rank:], extra, strict=True)]
    attrs["pads"] = (*pads[:rank], *ends)
    attrs["count_include_pad"] = int(counts)
    b.emit(n.op, [x], attrs, name=n.name, outputs=n.outputs)
    return True


def _ceil_pad(attrs: dict[str, Any], size: int, kernel: int, axis: int, rank: int) -> int:
    """What must be added at the end so that rounding down gives ceil_mode's output size."""
    begin, end = attrs["pads"][axis], attrs["pads"][rank + axis]
    stride, span = attrs["strides"][axis], attrs["dilations"][axis] * (kernel - 1) + 1
    count = -(-(size + begin + end - span) // stride) + 1
    if (count - 1) * stride >= size + begin:
        count -= 1  # a window that would start in the padding is left out
    return int(max((count - 1) * stride + span - size - begin - end, 0))


def gemm(b: Builder, n: OnnxNode) -> bool:
    """Gemm: Linear if the second factor is constant, else MatMul, Mul and Add."""
    x, w, c = n.inputs[0], n.inputs[1], given(n, 2)
    if len(b.shape(x)) != 2 or len(b.shape(w)) != 2:
        raise ShapeError(f"Gemm {n.name!r}: factors of shape {b.shape(x)} and {b.shape(w)}")
    alpha, beta = float(n.attrs.get("alpha", 1.0)), float(n.attrs.get("beta", 1.0))
    if n.attrs.get("transA", 0):
        x = b.emit("Transpose", [x], {"perm": (1, 0)})
    if n.attrs.get("transB", 0):
        w = transposed(b, w, (1, 0))
    c = _times(b, c, beta) if c else ""
    if b.tensors[w].data is None:
        y = b.emit("MatMul", [x, w], name=n.name, outputs=() if c or alpha != 1 else n.outputs)
        if alpha != 1:
            y = b.emit("Mul", [y, _factor(b, alpha)], outputs=() if c else n.outputs)
        bias = ""
    else:
        bias = _gemm_bias(b, c, b.shape(w)[1])
        inputs = [x, _times(b, w, alpha), bias]
        y = b.emit("Linear", inputs, name=n.name, outputs=() if c and not bias else n.outputs)
    if c and not bias:
        b.emit("Add", [y, c], outputs=n.outputs)
    return True


def _factor(b: Builder, value: float) -> str:
    return b.constant(b.fresh("factor"), np.asarray(value, np.float32))


def _times(b: Builder, name: str, factor: float) -> str:
    """`name` times a number: computed now if it is constant."""
    tensor = b.tensors[name]
    if factor == 1:
        return name
    if tensor.data is None:
        return b.emit("Mul", [name, _factor(b, factor)])
    return b.constant(b.fresh(name), tensor.real() * np.float32(factor))


def _gemm_bias(b: Builder, c: str, width: int) -> str:
    """The constant `c` as a bias of shape (width,), "" if it isn't one."""
    tensor = b.tensors.get(c) if c else None
    if tensor is None or tensor.data is None:
        return ""
    if tensor.shape == (width,):
        return c
    if tensor.quant is not None or tensor.size not in (1, width):
        return ""
    if tensor.size == width and tensor.shape[-1:] != (width,):
        return ""
    return b.constant(b.fresh(c), np.broadcast_to(tensor.data.reshape(-1), (width,)))


def transposed(b: Builder, name: str, perm: tuple[int, ...]) -> str:
    """Transpose of a tensor: computed now if it is constant, integers and scales included."""
    tensor = b.tensors[name]
    if tensor.data is None:
        return b.emit("Transpose", [name], {"perm": perm})
    quant = tensor.quant
    if quant is not None and quant.axis is not None:
        quant = type(quant)(quant.scale, quant.zero_point, perm.index(quant.axis))
    return b.constant(b.fresh(name), np.ascontiguousarray(tensor.data.transpose(perm)), quant)


def matmul(b: Builder, n: OnnxNode) -> bool:
    """MatMul: Linear if the second factor is a constant matrix."""
    x, w = n.inputs
    constant = b.tensors[w].data is not None
    if constant and len(b.shape(w)) == 2 and len(b.shape(x)) > 1:
        b.emit("Linear", [x, w, ""], name=n.name, outputs=n.outputs)
    else:
        b.emit("MatMul", [x, w], name=n.name, outputs=n.outputs)
    return True


def batch_normalization(b: Builder, n: OnnxNode) -> bool:
    """BatchNormalization for inference, with constant statistics."""
    if n.attrs.get("training_mode", 0) or len(n.outputs) > 1:
        raise UnsupportedError(
            f"BatchNormalization {n.name!r} is in training mode: export the model for inference"
        )
    if any(b.tensors[name].data is None for name in n.inputs[1:]):
        return False
    x = b.shape(n.inputs[0])
    for name in n.inputs[1:]:
        if len(x) < 2 or b.shape(name) != (x[1],):
            raise ShapeError(
                f"BatchNormalization {n.name!r}: {name!r} of shape {b.shape(name)} for {x}"
            )
    attrs = {"epsilon": float(n.attrs.get("epsilon", 1e-5))}
    b.emit("BatchNormalization", n.inputs, attrs, name=n.name, outputs=n.outputs)
    return True


def clip(b: Builder, n: OnnxNode) -> bool:
    """Clip with bounds as attributes, or as constant inputs."""
    bounds = []
    for index, key in enumerate(("min", "max"), start=1):
        name = given(n, index)
        limit: Any = n.attrs.get(key)
        if name:
            limit = b.value(name)
            if limit is None:
                return False
        bounds.append(None if limit is None else float(np.asarray(limit).reshape(())))
    widest = float(np.finfo(np.float32).max)
    low = -widest if bounds[0] is None else max(bounds[0], -widest)
    high = widest if bounds[1] is None else min(bounds[1], widest)
    attrs = {"min": min(low, high), "max": high}
    b.emit("Clip", n.inputs[:1], attrs, name=n.name, outputs=n.outputs)
    return True


def unary(b: Builder, n: OnnxNode) -> bool:
    """Elementwise functions; float attributes as ONNX's."""
    attrs = dict(n.attrs)
    schema = import_onnx().defs.get_schema(n.op, n.version)
    for key, attribute in schema.attributes.items():
        default = attribute.default_value
        if key not in attrs and default.HasField("f"):
            attrs[key] = default.f
    b.emit(n.op, n.inputs[:1], attrs, name=n.name, outputs=n.outputs)
    return True


def binary(b: Builder, n: OnnxNode) -> bool:
    """Elementwise functions of two or more inputs."""
    if n.op == "Mod" or n.attrs.get("axis") is not None:
        return False
    b.emit(n.op, n.inputs, name=n.name, outputs=n.outputs)
    return True


def div(b: Builder, n: OnnxNode) -> bool:
    """Division; by a constant it is a multiplication."""
    divisor = b.value(n.inputs[1])
    if divisor is not None and divisor.dtype.kind == "f":
        with np.errstate(all="ignore"):
            factor = np.float32(1) / divisor
        if np.all(np.isfinite(factor)) and np.all(divisor):
            name = b.constant(b.fresh(n.inputs[1]), factor)
            b.emit("Mul", [n.inputs[0], name], name=n.name, outputs=n.outputs)
            return True
    return binary(b, n)


def global_pool(b: Builder, n: OnnxNode) -> bool:
    """GlobalAveragePool and GlobalMaxPool."""
    b.emit(n.op, n.inputs, name=n.name, outputs=n.outputs)
    return True


def identity(b: Builder, n: OnnxNode) -> bool:
    """Identity, and Dropout outside training."""
    if len(n.outputs) > 1 or (given(n, 2) and np.any(b.value(n.inputs[2]))):
        return False
    b.emit("Identity", n.inputs[:1], name=n.name, outputs=n.outputs)
    return True


HANDLERS: dict[tuple[str, str], Handler] = {
    **{("", op): unary for op in UNARY},
    **{("", op): binary for op in BINARY},
    ("", "AveragePool"): pool,
    ("", "BatchNormalization"): batch_normalization,
    ("", "Clip"): clip,
    ("", "Conv"): conv,
    ("", "ConvTranspose"): conv_transpose,
    ("", "Div"): div,
    ("", "Dropout"): identity,
    ("", "Gemm"): gemm,
    ("", "GlobalAveragePool"): global_pool,
    ("", "GlobalMaxPool"): global_pool,
    ("", "Identity"): identity,
    ("", "MatMul"): matmul,
    ("", "MaxPool"): pool,
    ("", "Sum"): lambda b, n: _variadic(b, n, "Add"),
}


def _variadic(b: Builder, n: OnnxNode, op: str) -> bool:
    """A function of any number of inputs as a chain of two-input ones."""
    if len(n.inputs) == 1:
        b.emit("Identity", n.inputs, name=n.name, outputs=n.outputs)
        return True
    total = n.inputs[0]
    for other in n.inputs[1:-1]:
        total = b.emit(op, [total, other])
    b.emit(op, [total, n.inputs[-1]], name=n.name, outputs=n.outputs)
    return True
