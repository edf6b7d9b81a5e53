"""hls4ml's inputs, pooling, merging and data movement → nodes. One function per class."""

from __future__ import annotations

from typing import Any

import numpy as np

from weft.errors import UnsupportedError, unknown
from weft.fixed import FixedType, from_real
from weft.fixed_functions import Function
from weft.frontend.hls4ml_layers import check_channels_last, settled, window_of
from weft.frontend.hls4ml_lower import Lowering, first, last
from weft.frontend.hls4ml_sums import NotExactError, Window, clamp, rounding
from weft.frontend.hls4ml_values import (
    Value,
    check_int64,
    fits,
    is_narrow,
    layer_name,
    named_type,
    quant_of,
    result_type,
    type_of,
)


def input_(L: Lowering, layer: Any) -> Value:
    """An input: real numbers that the host rounds to the input's precision."""
    kind = result_type(layer)
    shape = (1, *map(int, layer.get_output_variable().shape))
    L.b.input(layer.name, shape, "float32")
    attrs = {"result": kind.attribute}
    if is_narrow(kind):
        x = L.turned(layer.name, first(len(shape)))
        rounded = L.new("FixedRound", [x], attrs, quant=quant_of(kind))
        return L.of_real(kind, rounded)
    return L.of_codes(kind, L.new("FixedQuantize", [layer.name], attrs))


def constant(L: Lowering, layer: Any) -> Value:
    """A constant operand."""
    kind = result_type(layer)
    data = from_real(np.asarray(layer.get_attr("value"), np.float64), kind)
    return L.of_codes(kind, L.constant(layer.name, data.reshape(1, *data.shape)))


def pooling(L: Lowering, layer: Any) -> Value:
    """Pooling and GlobalPooling, over one or two axes."""
    check_channels_last(layer)
    x, result = settled(L, L.value(layer)), result_type(layer)
    average = str(layer.get_attr("pool_op")).lower() != "max"
    whole = layer.class_name.startswith("Global")
    spatial = x.shape[1:-1]
    zeros = (0,) * 2 * len(spatial)
    window = Window(spatial, (1,) * len(spatial), zeros) if whole else window_of(layer, "pool")
    declared = type_of(layer.get_input_variable().type, f"{layer_name(layer)}, input")
    accum = named_type(layer, "accum_t", declared)
    plain = fits(x, accum) and (declared.signed or not any(window.pads))
    if not average and plain and is_narrow(x.type):
        L.tell(layer.name, "accelerator")
        value = _max_pool(L, x, window, layer.name)
        return _reshaped(L, L.converted(value, result, f"{layer.name}.cast"), layer)
    attrs = {
        "kernel_shape": window.kernel,
        "strides": window.strides,
        "pads": window.pads,
        "x": declared.attribute,
        "accum": accum.attribute,
        "result": result.attribute,
        "average": average,
        "count_pad": bool(layer.get_attr("count_pad", False)),
    }
    out = L.new("FixedPool", [L.codes(x, declared)], attrs, layer.name)
    why = "a mean, divided toward zero" if average else "a maximum of more than 8 bits"
    L.tell(layer.name, "host", why)
    return _reshaped(L, L.of_codes(result, out), layer)


def _max_pool(L: Lowering, x: Value, window: Window, name: str) -> Value:
    attrs = {
        "kernel_shape": window.kernel,
        "strides": window.strides,
        "pads": window.pads,
        "dilations": (1,) * len(window.kernel),
        "ceil_mode": 0,
        "requant": "single_round",
    }
    out = L.new("MaxPool", [L.real(x)], attrs, name, quant_of(x.type))
    return L.of_real(x.type, out).within(x.low, x.high)


def merge_function(layer: Any) -> str:
    """What a Merge does; raises UnsupportedError for what weft has not."""
    function = str(layer.get_attr("op") or layer.class_name).lower()
    known = ("add", "subtract", "multiply", "average", "maximum", "minimum")
    if function not in known:
        raise UnsupportedError(f"{layer_name(layer)}: {unknown('operation', function, known)}")
    return function


def merge(L: Lowering, layer: Any) -> Value:
    """Add, subtract, multiply, average, maximum, minimum of two tensors."""
    function = merge_function(layer)
    a, b = (settled(L, L.value(layer, i)) for i in (0, 1))
    result = result_type(layer)
    try:
        return _accelerated_merge(L, layer.name, function, (a, b), result)
    except NotExactError as error:
        L.tell(layer.name, "host", str(error))
    frac, low, high = _merged_range(function, a, b)
    check_int64(layer, max(abs(low), abs(high)), frac, result)
    attrs = {
        "function": function,
        "fracs": (a.type.frac, b.type.frac),
        "result": result.attribute,
    }
    out = L.new("FixedMerge", [L.codes(a), L.codes(b)], attrs, layer.name)
    return L.of_codes(result, out)


_OPS = {"add": "Add", "subtract": "Sub", "multiply": "Mul"}


def _accelerated_merge(
    L: Lowering, name: str, function: str, operands: tuple[Value, Value], result: FixedType
) -> Value:
    a, b = operands
    if name in L.hosted:
        raise NotExactError(L.hosted[name])
    if function not in _OPS or a.shape != b.shape:
        raise NotExactError(f"{function} of {a.shape} and {b.shape}")
    if not all(is_narrow(t) for t in (a.type, b.type, result)):
        raise NotExactError("operands or result of more than 8 bits")
    frac, low, high = _merged_range(function, a, b)
    if not (low >= -(1 << 30) and high < 1 << 30) or abs(a.type.frac - b.type.frac) > 14:
        raise NotExactError("operands of very different scales")
    shift = frac - result.frac
    bias, mode = rounding(np.zeros(1, np.int64), 0, shift, result.rounding, low >= 0, (low, high))
    if result.overflow not in ("SAT", "SAT_SYM"):
        top = high + (1 << (shift - 1)) >> shift if shift > 0 else high << -shift
        bottom = low >> shift if shift > 0 else low << -shift
        if bottom < result.low or top > result.high:
            raise NotExactError(f"the result {result} may overflow")
    least, most = clamp(result, False)
    attrs = {
        "requant": mode,
        "offset": int(bias[0]),
        "exact": True,
        "layer": name,
        "activation": ("Clip", least * result.step, most * result.step),
    }
    inputs = [L.real(a), L.real(b)]
    out = L.new(_OPS[function], inputs, attrs, name, quant_of(result))
    L.tell(name, "accelerator")
    return L.of_real(result, out)


def _merged_range(function: str, a: Value, b: Value) -> tuple[int, int, int]:
    """(fractional bits, smallest, largest) of the exact result."""
    if function == "multiply":
        ends = [p * q for p in (a.low, a.high) for q in (b.low, b.high)]
        return a.type.frac + b.type.frac, min(ends), max(ends)
    frac = max(a.type.frac, b.type.frac)
    p, q = (1 << (frac - v.type.frac) for v in (a, b))
    if function == "subtract":
        return frac, a.low * p - b.high * q, a.high * p - b.low * q
    return frac, a.low * p + b.low * q, a.high * p + b.high * q


def concatenate(L: Lowering, layer: Any) -> Value:
    """Concatenate along an axis."""
    axis, result = int(layer.get_attr("axis", -1)), result_type(layer)
    rank = len(layer.get_output_variable().shape) + 1
    axis = axis % rank if axis else rank - 1
    parts = [settled(L, L.value(layer, i)) for i in range(len(layer.inputs))]
    attrs = {"axis": axis}
    if len({p.type for p in parts}) == 1 and all(p.real for p in parts):
        kind = parts[0].type
        turned = {"axis": first(rank).index(axis)}
        out = L.new("Concat", [p.real for p in parts], turned, layer.name, quant_of(kind))
        whole = L.of_real(kind, out).within(min(p.low for p in parts), max(p.high for p in parts))
        L.tell(layer.name, "accelerator")
        return L.converted(whole, result, f"{layer.name}.cast")
    codes = []
    for index, part in enumerate(parts):
        function = Function("linear", part.type, result)
        codes.append(L.codes(L.function(part, function, f"{layer.name}.cast{index}"), result))
    L.tell(layer.name, "host", "operands of different types")
    return L.of_codes(result, L.new("Concat", codes, attrs, layer.name))


def same(L: Lowering, layer: Any) -> Value:
    """Repack, Clone and the like: the value itself."""
    return _reshaped(L, settled(L, L.value(layer)), layer)


def _reshaped(L: Lowering, value: Value, layer: Any) -> Value:
    shape = (1, *map(int, layer.get_output_variable().shape))
    return value if value.shape == shape else _moved(L, value, "Reshape", {"shape": shape})


def _moved(L: Lowering, value: Value, op: str, attrs: dict[str, Any], name: str = "") -> Value:
    """A value through an operator that only moves or repeats elements (or pads with zero)."""
    if value.real:
        moved = L.of_real(value.type, _moved_real(L, value, op, attrs, name))
    else:
        moved = L.of_codes(value.type, L.new(op, [value.codes], attrs, name))
    low, high = (min(value.low, 0), max(value.high, 0)) if op == "Pad" else (value.low, value.high)
    return moved.within(low, high)


def _moved_real(L: Lowering, value: Value, op: str, attrs: dict[str, Any], name: str) -> str:
    """The same on a tensor whose channels come first; attributes are meant for channels last."""
    order, quant = first(len(value.shape)), quant_of(value.type)
    if op == "Reshape":
        out = L.new(op, [L.real_last(value)], attrs, name, quant)
        return L.turned(out, first(len(attrs["shape"])))
    if op == "Transpose":
        back = last(len(value.shape))
        attrs = {"perm": tuple(back[attrs["perm"][axis]] for axis in order)}
    elif op == "Pad":
        pads, rank = attrs["pads"], len(order)
        turned = (*(pads[a] for a in order), *(pads[rank + a] for a in order))
        attrs = {**attrs, "pads": turned}
    else:
        attrs = {"scales": tuple(attrs["scales"][axis] for axis in order)}
    return L.new(op, [value.real], attrs, name, quant)


def reshape(L: Lowering, layer: Any) -> Value:
    """Reshape and Flatten."""
    value = _reshaped(L, settled(L, L.value(layer)), layer)
    L.tell(layer.name, "moved")
    return L.converted(value, result_type(layer), f"{layer.name}.cast")


def transpose(L: Lowering, layer: Any) -> Value:
    """Transpose, without the batch."""
    perm = (0, *(int(p) + 1 for p in layer.get_attr("perm")))
    value = settled(L, L.value(layer))
    L.tell(layer.name, "moved")
    if len(perm) != len(value.shape):
        raise UnsupportedError(f"{layer_name(layer)}: perm {perm} of a {value.shape}")
    return _reshaped(L, _moved(L, value, "Transpose", {"perm": perm}, layer.name), layer)


def padding_of(layer: Any) -> tuple[int, ...]:
    """Zeros before and after each axis of a ZeroPadding, channels last, all starts first."""
    two = layer.get_attr("pad_top") is not None
    sides = (("pad_top", "pad_bottom"),) if two else ()
    sides = (*sides, ("pad_left", "pad_right"))
    pads = [tuple(int(layer.get_attr(p)) for p in pair) for pair in sides]
    starts, ends = ((0, *(p[end] for p in pads), 0) for end in (0, 1))
    return (*starts, *ends)


def zero_padding(L: Lowering, layer: Any) -> Value:
    """ZeroPadding1D, ZeroPadding2D."""
    check_channels_last(layer)
    value = settled(L, L.value(layer))
    attrs = {"pads": padding_of(layer), "value": 0, "mode": "constant"}
    L.tell(layer.name, "moved")
    padded = _moved(L, value, "Pad", attrs, layer.name)
    return L.converted(padded, result_type(layer), f"{layer.name}.cast")


def whole_scales(layer: Any, found: tuple[int, ...]) -> tuple[float, ...]:
    """Factors from the shape `found` to a Resize's output; UnsupportedError if not whole."""
    algorithm = str(layer.get_attr("algorithm", "nearest"))
    shape = (1, *map(int, layer.get_output_variable().shape))
    whole = all(n % o == 0 for n, o in zip(shape, found, strict=True))
    if algorithm != "nearest" or not whole:
        raise UnsupportedError(
            f"{layer_name(layer)}: {algorithm} from {found} to {shape}; weft resizes by "
            "whole factors with nearest neighbour"
        )
    return tuple(float(n // o) for n, o in zip(shape, found, strict=True))


def resize(L: Lowering, layer: Any) -> Value:
    """UpSampling and Resize by whole factors, nearest neighbour."""
    value = settled(L, L.value(layer))
    scales = whole_scales(layer, value.shape)
    L.tell(layer.name, "moved")
    return _moved(L, value, "Resize", {"scales": scales}, layer.name)
