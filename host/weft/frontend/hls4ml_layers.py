"""hls4ml's layers with weights, activations and softmax → nodes. One function per class."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from weft import fixed_kernels
from weft.errors import ModelError, UnsupportedError, unknown
from weft.fixed import Codes, FixedType, cast, from_real
from weft.fixed_functions import FUNCTIONS, TABLED, Function
from weft.frontend.hls4ml_lower import Lowering
from weft.frontend.hls4ml_sums import NotExactError, Sum, Window
from weft.frontend.hls4ml_values import (
    Value,
    check_int64,
    layer_name,
    named_type,
    result_type,
    type_of,
    weights,
)


def dense(L: Lowering, layer: Any) -> Value:
    """Dense: [.., n_in] · [n_in, n_out] + bias."""
    n_in, n_out = int(layer.get_attr("n_in")), int(layer.get_attr("n_out"))
    w, kind = weights(layer, "weight")
    w = w.reshape(n_out, n_in).T if layer.get_attr("_weights_transposed") else w
    _check_shape(layer, w, (n_in, n_out))
    return _weighted(L, layer, w, kind, None)


def conv(L: Lowering, layer: Any) -> Value:
    """Conv1D, Conv2D and their pointwise and depthwise forms, channels last."""
    check_channels_last(layer)
    window = window_of(layer, "filt")
    depthwise = "Depthwise" in layer.class_name
    channels, filters = int(layer.get_attr("n_chan")), int(layer.get_attr("n_filt"))
    if depthwise and filters != channels:
        raise UnsupportedError(
            f"{layer_name(layer)}: depth multiplier {filters // channels}; weft has depthwise "
            "convolutions of multiplier 1: use a Conv2D with groups, or repeat the channels"
        )
    w, kind = weights(layer, "weight")
    if layer.get_attr("_weights_transposed"):
        raise UnsupportedError(
            f"{layer_name(layer)}: weights in the order of the Resource strategy; convert the "
            "model with backend='Weft', or with Strategy: Latency"
        )
    w = w.reshape(*window.kernel, channels) if depthwise else w
    w = w.reshape(*window.kernel, channels, filters) if not depthwise and w.size else w
    return _weighted(L, layer, w, kind, window, depthwise=depthwise)


def _weighted(
    L: Lowering,
    layer: Any,
    w: Codes,
    kind: FixedType,
    window: Window | None,
    *,
    depthwise: bool = False,
) -> Value:
    accum = named_type(layer, "accum_t")
    if "bias" in layer.weights:
        bias, bias_kind = weights(layer, "bias")
        bias = cast(bias.reshape(-1), bias_kind.frac, accum)
    else:
        bias = np.zeros(w.shape[-1], np.int64)
    x = settled(L, L.value(layer))
    check_int64(layer, x.largest * _largest(w), x.type.frac + kind.frac, accum)
    sum_ = Sum(layer.name, x, w, kind.frac, bias, accum, window, depthwise)
    shape = (1, *map(int, layer.get_output_variable().shape))
    alone = L.readers.get(layer.outputs[0], 0) == 1
    return L.rounded_sum(sum_, result_type(layer), shape, alone)


def _largest(codes: Codes) -> int:
    return int(np.abs(codes).max(initial=0))


def settled(L: Lowering, value: Value) -> Value:
    """A value whose sum is not pending any more."""
    if value.pending is None:
        return value
    L.tell(value.pending.name, "host", f"its result {value.type} is wider than 8 bits")
    return L.of_codes(value.type, L.codes(value))


def window_of(layer: Any, prefix: str) -> Window:
    """Kernel, strides and pads of a layer over one or two axes."""
    two = layer.get_attr("in_height") is not None
    axes = ("height", "width") if two else ("width",)
    ends = {"height": ("top", "bottom"), "width": ("left", "right")}
    for axis in ("dilation", *(f"dilation_{axis}" for axis in axes)):
        if layer.get_attr(axis, 1) not in (1, [1], [1, 1], (1, 1)):
            raise UnsupportedError(f"{layer_name(layer)}: dilation {layer.get_attr(axis)}, not 1")

    def get(name: str) -> int:
        value = layer.get_attr(name)
        if value is None:
            raise ModelError(f"{layer_name(layer)} has no {name}")
        return int(value)

    return Window(
        tuple(get(f"{prefix}_{axis}") for axis in axes),
        tuple(get(f"stride_{axis}") for axis in axes),
        tuple(get(f"pad_{ends[axis][end]}") for end in (0, 1) for axis in axes),
    )


def check_channels_last(layer: Any) -> None:
    """Raises UnsupportedError for a layer whose channels come first."""
    if layer.get_attr("data_format", "channels_last") != "channels_last":
        raise UnsupportedError(
            f"{layer_name(layer)} is channels first; convert the PyTorch model with "
            "channels_last_conversion='full'"
        )


def _check_shape(layer: Any, w: Codes, shape: tuple[int, ...]) -> None:
    if w.shape != shape:
        raise ModelError(f"{layer_name(layer)}: weights of shape {w.shape}, expected {shape}")


def batch_normalization(L: Lowering, layer: Any) -> Value:
    """x · scale + bias per channel: a depthwise 1x1 window where there are positions."""
    x = settled(L, L.value(layer))
    scale, scale_kind = weights(layer, "scale")
    bias, bias_kind = weights(layer, "bias")
    result, channels = result_type(layer), x.shape[-1]
    product_frac = x.type.frac + scale_kind.frac
    frac = max(product_frac, bias_kind.frac)
    product = x.largest * _largest(scale) << (frac - product_frac)
    offset = _largest(bias) << (frac - bias_kind.frac)
    check_int64(layer, product + offset, frac, result)
    wide = bias.reshape(-1) << (frac - bias_kind.frac)
    if 3 <= len(x.shape) <= 4 and scale.size == channels:
        axes = len(x.shape) - 2
        window = Window((1,) * axes, (1,) * axes, (0,) * 2 * axes)
        exact = FixedType(40, 40 - frac)
        w = scale.reshape(*window.kernel, channels)
        sum_ = Sum(layer.name, x, w, scale_kind.frac, wide, exact, window, depthwise=True)
        try:
            return L.sum(sum_, None, result, False, layer.name)
        except NotExactError as error:
            L.tell(layer.name, "host", str(error))
    else:
        L.tell(layer.name, "host", "normalization of a vector")
    shape = (-1,) if scale.size == channels else x.shape[1:]
    inputs = [
        L.codes(x),
        L.constant(f"{layer.name}.scale", scale.reshape(shape)),
        L.constant(f"{layer.name}.bias", wide.reshape(shape)),
    ]
    attrs = {"product_frac": product_frac, "frac": frac, "result": result.attribute}
    return L.of_codes(result, L.new("FixedAffine", inputs, attrs, layer.name))


NAMES = {  # hls4ml's other spellings
    "leakyrelu": "leaky_relu",
    "leaky_relu": "leaky_relu",
    "thresholdedrelu": "thresholded_relu",
    "hard_sigmoid": "hard_sigmoid",
    "hard_tanh": "hard_tanh",
}


def activation(L: Lowering, layer: Any) -> Value:
    """Activation, ParametrizedActivation, HardActivation."""
    name = str(layer.get_attr("activation")).lower()
    name = NAMES.get(name, name)
    if name not in FUNCTIONS:
        known = [*FUNCTIONS, "softmax", "prelu"]
        raise UnsupportedError(f"{layer_name(layer)}: {unknown('activation', name, known)}")
    value, result = L.value(layer), result_type(layer)
    if value.pending is not None and name in ("linear", "relu"):
        try:
            return L.sum(value.pending, value.type, result, name == "relu", layer.name)
        except NotExactError as error:
            L.tell(value.pending.name, "host", str(error))
            value = L.of_codes(value.type, L.codes(value))
    if name == "linear":
        return L.converted(settled(L, value), result, layer.name)
    declared = type_of(layer.get_input_variable().type, f"{layer_name(layer)}, input")
    table, size = None, 0
    if name in TABLED:
        table, size = named_type(layer, "table_t"), int(layer.get_attr("table_size", 1024))
    params = _parameters(layer, name)
    for factor, frac in params.values():
        check_int64(layer, value.largest * abs(factor), value.type.frac + frac, result)
    function = Function(name, declared, result, table, size, params)
    return L.function(settled(L, value), function, layer.name)


def _parameters(layer: Any, name: str) -> dict[str, tuple[int, int]]:
    if name in ("hard_sigmoid", "hard_tanh"):
        found = {"slope": "slope", "shift": "shift"}
    else:
        keys = {"leaky_relu": "alpha", "thresholded_relu": "theta", "elu": "alpha"}
        found = {keys[name]: "param"} if name in keys else {}
    params = {}
    for key, attribute in found.items():
        kind = named_type(layer, f"{attribute}_t")
        value = layer.get_attr("activ_param" if attribute == "param" else attribute, 1.0)
        params[key] = (int(from_real(float(value), kind)), kind.frac)
    return params


LARGEST_TABLE = 16  # bits of what a table is looked up with


def unary_lut(L: Lowering, layer: Any) -> Value:
    """UnaryLUT of HGQ: a table of every code of its input."""
    value, result = settled(L, L.value(layer)), result_type(layer)
    declared = type_of(layer.get_input_variable().type, f"{layer_name(layer)}, input")
    entries, kind = weights(layer, "table")
    if declared.width > LARGEST_TABLE or entries.size != 1 << declared.width:
        raise UnsupportedError(
            f"{layer_name(layer)}: a table of {entries.size} entries for an input of "
            f"{declared.width} bits; weft looks up all 2**bits codes of up to {LARGEST_TABLE} "
            "bits: quantize the layer's input"
        )
    table = tuple(entries.reshape(-1).tolist())
    return L.function(
        value, Function("unary_lut", declared, result, kind, entries=table), layer.name
    )


def quantizer(L: Lowering, layer: Any) -> Value:
    """FixedPointQuantizer of HGQ: a type per element, or one that hls4ml could not merge."""
    value, result = settled(L, L.value(layer)), result_type(layer)
    rounding, overflow = str(layer.RND), str(layer.SAT)
    signed, width, integer = (np.asarray(m, np.int64) for m in layer.mask_kbi)
    try:
        kinds = {
            FixedType(int(w), int(i), bool(k), rounding, overflow)
            for k, w, i in zip(*map(np.ravel, (signed, width, integer)), strict=True)
            if w > 0
        }
    except UnsupportedError as error:
        raise UnsupportedError(f"{layer_name(layer)}: {error}") from None
    if len(kinds) == 1 and np.all(width > 0):
        value = L.converted(value, kinds.pop(), f"{layer.name}.own")
        return L.converted(value, result, layer.name)
    types = np.stack([np.broadcast_to(m, value.shape)[0] for m in (signed, width, integer)])
    attrs = {
        "frac": value.type.frac,
        "rounding": rounding,
        "overflow": overflow,
        "result": result.attribute,
    }
    L.tell(layer.name, "host", "a type per element")
    inputs = [L.codes(value), L.constant(f"{layer.name}.types", types)]
    return L.of_codes(result, L.new("FixedCastEach", inputs, attrs, layer.name))


def prelu(L: Lowering, layer: Any) -> Value:
    """PReLU: a slope per element, on the host."""
    x, result = settled(L, L.value(layer)), result_type(layer)
    alpha, kind = weights(layer, "param")
    alpha = alpha.reshape(x.shape[1:]) if alpha.size == math.prod(x.shape) else alpha.reshape(-1)
    check_int64(layer, x.largest * _largest(alpha), x.type.frac + kind.frac, result)
    inputs = [L.codes(x), L.constant(f"{layer.name}.alpha", alpha)]
    attrs = {"x_frac": x.type.frac, "alpha_frac": kind.frac, "result": result.attribute}
    L.tell(layer.name, "host", "a slope per element")
    return L.of_codes(result, L.new("FixedPRelu", inputs, attrs, layer.name))


def softmax(L: Lowering, layer: Any) -> Value:
    """Softmax by hls4ml's two tables, on the host."""
    x, result = settled(L, L.value(layer)), result_type(layer)
    kind = str(layer.get_attr("implementation", "stable")).lower()
    known = ("argmax", "latency", "stable")
    if kind not in known:
        raise UnsupportedError(f"{layer_name(layer)}: {unknown('implementation', kind, known)}")
    declared = type_of(layer.get_input_variable().type, f"{layer_name(layer)}, input")
    inputs = [L.codes(x, declared)]
    axis = int(layer.get_attr("axis", -1))
    attrs: dict[str, Any] = {"implementation": kind, "axis": axis, "result": result.attribute}
    if kind != "argmax":
        types, tables = _softmax_tables(layer, declared, result, kind == "stable")
        names = ("exp_table", "inverse_table")
        inputs += [L.constant(f"{layer.name}.{n}", t) for n, t in zip(names, tables, strict=True)]
        attrs["types"] = tuple((name, t.attribute) for name, t in types.items())
    L.tell(layer.name, "host", "softmax by hls4ml's tables")
    return L.of_codes(result, L.new("FixedSoftmax", inputs, attrs, layer.name))


def _softmax_tables(
    layer: Any, x: FixedType, result: FixedType, stable: bool
) -> tuple[dict[str, FixedType], tuple[Codes, Codes]]:
    size = int(layer.get_attr("table_size", 1024))
    exp_size = int(layer.get_attr("exp_table_size", size))
    inv_size = int(layer.get_attr("inv_table_size", size))
    exp = named_type(layer, "exp_table_t")
    inverse = named_type(layer, "inv_table_t")
    inverse_input = layer.get_attr("inv_inp_t")
    named_default = getattr(inverse_input, "name", "") == "model_default_t"
    norm = x
    if stable and layer.get_attr("inp_norm_t") is not None:
        norm = named_type(layer, "inp_norm_t")
    elif stable:
        norm = FixedType(max(x.width - x.signed, 1), x.integer - x.signed, signed=False)
        exp_size = min(inv_size, 1 << norm.width) if x.signed else exp_size
    types = {
        "x": x,
        "norm": norm,
        "exp": exp,
        "accum": named_type(layer, "accum_t"),
        "inverse_input": exp if named_default else named_type(layer, "inv_inp_t", exp),
        "inverse": inverse,
        "result": result,
    }
    key = norm if stable else x
    tables = (("input", key, exp_size), ("sum", types["inverse_input"], inv_size))
    for name, kind, entries in tables:
        if max(entries - 1, 1).bit_length() > kind.width:
            raise UnsupportedError(
                f"{layer_name(layer)}: a table of {entries} entries for a {name} of "
                f"{kind.width} bits; set its size to {1 << kind.width} or less"
            )
    scale = float(layer.get_attr("exp_scale", 1.0))
    exp_table = fixed_kernels.exp_table(key, exp_size, exp, scale, -1 if stable else 1)
    inv_table = fixed_kernels.inverse_table(types["inverse_input"], inv_size, inverse)
    return types, (exp_table, inv_table)
