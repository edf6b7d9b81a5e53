"""hls4ml models → float Graph: their layers without their precisions, for weft's own quantization.

What `exact=False` of the backend asks for. Weights are those that hls4ml holds, rounded only where
a quantizer of the model (QKeras, HGQ2) did so; sums and results are real numbers. Activations have
the channels first, where they have positions, as weft's convolutions want them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from weft.errors import ModelError, UnsupportedError, WeftError, unknown
from weft.frontend.build import Builder, check_finite
from weft.frontend.hls4ml_layers import NAMES, check_channels_last, window_of
from weft.frontend.hls4ml_lower import first, last
from weft.frontend.hls4ml_moves import merge_function, padding_of, whole_scales
from weft.frontend.hls4ml_values import layer_name
from weft.graph import Array, Graph


class Floats:
    """A graph under construction; `values` are the tensors that hls4ml's became."""

    def __init__(self, name: str) -> None:
        self.b = Builder(name)
        self.values: dict[str, str] = {}

    def x(self, layer: Any, index: int = 0) -> str:
        """The tensor of a layer's input."""
        name = layer.inputs[index]
        if name not in self.values:
            raise ModelError(f"{layer_name(layer)} reads {name!r}, which is missing")
        return self.values[name]

    def rank(self, name: str) -> int:
        """Dimensions, the batch among them."""
        return len(self.b.shape(name))

    def turned(self, name: str, perm: tuple[int, ...]) -> str:
        """Transposed; itself where nothing moves."""
        if perm == tuple(range(len(perm))):
            return name
        return self.b.emit("Transpose", [name], {"perm": perm})

    def last(self, name: str) -> str:
        """With the channels last, as hls4ml has them."""
        return self.turned(name, last(self.rank(name)))

    def first(self, name: str) -> str:
        """With the channels first, of a tensor that has them last."""
        return self.turned(name, first(self.rank(name)))

    def constant(self, layer: Any, name: str, data: Any) -> str:
        """Adds a constant of a layer."""
        array = np.ascontiguousarray(np.asarray(data, np.float32))
        return self.b.constant(self.b.fresh(f"{layer.name}.{name}"), array)

    def emit(self, layer: Any, op: str, inputs: list[str], attrs: Any = None) -> str:
        """A node with the name of its layer."""
        return self.b.emit(op, inputs, attrs or {}, name=layer.name)


def load_float(model: Any) -> Graph:
    """The float graph of an hls4ml ModelGraph; inputs and outputs in hls4ml's layout.

    Raises UnsupportedError for layers that weft has not, ModelError for broken ones.
    """
    F = Floats(str(model.config.get_project_name() or "hls4ml"))
    for layer in model.get_layers():
        kinds = (base.__name__ for base in type(layer).__mro__)
        kind = next((name for name in kinds if name in HANDLERS), None)
        if kind is None:
            known = unknown("hls4ml layer", str(layer.class_name), HANDLERS)
            raise UnsupportedError(f"layer {layer.name!r}: {known}")
        try:
            value = HANDLERS[kind](F, layer)
        except WeftError:
            raise
        except Exception as error:  # a model from outside may trip any line
            raise ModelError(
                f"{layer_name(layer)} can't be read: {type(error).__name__}: {error}"
            ) from error
        for name in layer.outputs:
            F.values[name] = value
    outputs = [F.last(F.values[str(name)]) for name in model.outputs]
    graph = F.b.graph(list(dict.fromkeys(outputs)))
    check_finite(graph)
    return graph


def _input(F: Floats, layer: Any) -> str:
    F.b.input(layer.name, (1, *map(int, layer.get_output_variable().shape)), "float32")
    return F.first(layer.name)


def _constant(F: Floats, layer: Any) -> str:
    data = np.asarray(layer.get_attr("value"))
    return F.first(F.constant(layer, "value", data[None]))


def _data(layer: Any, name: str) -> Array:
    if name not in layer.weights:
        raise ModelError(f"{layer_name(layer)} has no weights {name!r}")
    return np.asarray(layer.weights[name].data, np.float32)


def _weighted(F: Floats, layer: Any, op: str, x: str, w: Array, attrs: Any = None) -> str:
    inputs = [x, F.constant(layer, "weight", w)]
    if "bias" in layer.weights:
        inputs.append(F.constant(layer, "bias", _data(layer, "bias").reshape(-1)))
    return F.emit(layer, op, inputs, attrs)


def _dense(F: Floats, layer: Any) -> str:
    n_in, n_out = int(layer.get_attr("n_in")), int(layer.get_attr("n_out"))
    w = _data(layer, "weight")
    w = w.reshape(n_out, n_in).T if layer.get_attr("_weights_transposed") else w
    return F.first(_weighted(F, layer, "Linear", F.last(F.x(layer)), w.reshape(n_in, n_out)))


def _conv(F: Floats, layer: Any) -> str:
    check_channels_last(layer)
    window, depthwise = window_of(layer, "filt"), "Depthwise" in layer.class_name
    channels, filters = int(layer.get_attr("n_chan")), int(layer.get_attr("n_filt"))
    if layer.get_attr("_weights_transposed") or (depthwise and filters != channels):
        raise UnsupportedError(
            f"{layer_name(layer)}: weights in the order of the Resource strategy, or a depth "
            "multiplier; convert with backend='Weft', and repeat the channels"
        )
    rank = len(window.kernel)
    w = _data(layer, "weight")
    if depthwise:
        w = np.moveaxis(w.reshape(*window.kernel, channels), -1, 0)[:, None]
    else:
        w = w.reshape(*window.kernel, channels, filters).transpose(rank + 1, rank, *range(rank))
    attrs = {
        "strides": window.strides,
        "pads": window.pads,
        "dilations": (1,) * rank,
        "group": channels if depthwise else 1,
    }
    return _weighted(F, layer, "Conv", F.x(layer), w, attrs)


def _normalization(F: Floats, layer: Any) -> str:
    x = F.x(layer)
    shape = F.b.shape(x)
    scale, bias = _data(layer, "scale"), _data(layer, "bias")

    def spread(data: Array) -> Array:
        if data.size == shape[1]:
            return data.reshape(1, -1, *(1,) * (len(shape) - 2))
        turned = [shape[axis] for axis in last(len(shape))]
        return data.reshape(turned).transpose(first(len(shape)))

    scaled = F.b.emit("Mul", [x, F.constant(layer, "scale", spread(scale))])
    return F.emit(layer, "Add", [scaled, F.constant(layer, "bias", spread(bias))])


ACTIVATIONS = {
    "relu": "Relu",
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "softplus": "Softplus",
    "softsign": "Softsign",
}
PARAMETRIZED = {"leaky_relu": "LeakyRelu", "thresholded_relu": "ThresholdedRelu", "elu": "Elu"}


def _activation(F: Floats, layer: Any) -> str:
    name, x = str(layer.get_attr("activation")).lower(), F.x(layer)
    name = NAMES.get(name, name)
    if name == "linear":
        return x
    if name in ACTIVATIONS:
        return F.emit(layer, ACTIVATIONS[name], [x])
    if name in PARAMETRIZED:
        alpha = float(layer.get_attr("activ_param", 1.0))
        return F.emit(layer, PARAMETRIZED[name], [x], {"alpha": alpha})
    if name in ("relu1", "relu6"):
        return F.emit(layer, "Clip", [x], {"min": 0.0, "max": float(name[-1])})
    if name in ("hard_sigmoid", "hard_tanh"):
        slope, shift = (float(layer.get_attr(part)) for part in ("slope", "shift"))
        y = F.emit(layer, "HardSigmoid", [x], {"alpha": slope, "beta": shift})
        if name == "hard_sigmoid":
            return y
        twice = F.b.emit("Mul", [y, F.constant(layer, "two", 2.0)])
        return F.b.emit("Sub", [twice, F.constant(layer, "one", 1.0)])
    known = [*ACTIVATIONS, *PARAMETRIZED, "hard_sigmoid", "hard_tanh", "linear", "relu1", "relu6"]
    raise UnsupportedError(f"{layer_name(layer)}: {unknown('activation', name, known)}")


def _prelu(F: Floats, layer: Any) -> str:
    x = F.x(layer)
    shape, alpha = F.b.shape(x), _data(layer, "param")
    if alpha.size == shape[1]:
        alpha = alpha.reshape(1, -1, *(1,) * (len(shape) - 2))
    else:
        alpha = alpha.reshape([shape[a] for a in last(len(shape))]).transpose(first(len(shape)))
    return F.emit(layer, "PRelu", [x, F.constant(layer, "alpha", alpha)])


def _softmax(F: Floats, layer: Any) -> str:
    x = F.last(F.x(layer))
    axis = int(layer.get_attr("axis", -1)) % F.rank(x)
    return F.first(F.emit(layer, "Softmax", [x], {"axis": axis}))


def _pooling(F: Floats, layer: Any) -> str:
    check_channels_last(layer)
    x = F.x(layer)
    average = str(layer.get_attr("pool_op")).lower() != "max"
    if layer.class_name.startswith("Global"):
        y = F.emit(layer, f"Global{'Average' if average else 'Max'}Pool", [x])
        return _shaped(F, layer, y)
    window = window_of(layer, "pool")
    attrs = {
        "kernel_shape": window.kernel,
        "strides": window.strides,
        "pads": window.pads,
        "dilations": (1,) * len(window.kernel),
        "ceil_mode": 0,
    }
    if average:
        attrs["count_include_pad"] = int(bool(layer.get_attr("count_pad", False)))
    return _shaped(F, layer, F.emit(layer, f"{'Average' if average else 'Max'}Pool", [x], attrs))


MERGES = {"add": "Add", "subtract": "Sub", "multiply": "Mul", "maximum": "Max", "minimum": "Min"}


def _merge(F: Floats, layer: Any) -> str:
    function, pair = merge_function(layer), [F.x(layer, 0), F.x(layer, 1)]
    if function != "average":
        return F.emit(layer, MERGES[function], pair)
    total = F.b.emit("Add", pair)
    return F.emit(layer, "Mul", [total, F.constant(layer, "half", 0.5)])


def _concatenate(F: Floats, layer: Any) -> str:
    parts = [F.x(layer, i) for i in range(len(layer.inputs))]
    rank = F.rank(parts[0])
    axis = int(layer.get_attr("axis", -1))
    axis = axis % rank if axis else rank - 1
    return F.emit(layer, "Concat", parts, {"axis": first(rank).index(axis)})


def _same(F: Floats, layer: Any) -> str:
    return _shaped(F, layer, F.x(layer))


def _shaped(F: Floats, layer: Any, x: str) -> str:
    """The tensor in the shape that hls4ml gives the layer's output."""
    shape = (1, *map(int, layer.get_output_variable().shape))
    found = F.b.shape(x)
    if tuple(found[axis] for axis in last(len(found))) == shape:
        return x
    return F.first(F.b.emit("Reshape", [F.last(x)], {"shape": shape}))


def _transpose(F: Floats, layer: Any) -> str:
    perm = (0, *(int(p) + 1 for p in layer.get_attr("perm")))
    return F.first(F.turned(F.last(F.x(layer)), perm))


def _padding(F: Floats, layer: Any) -> str:
    check_channels_last(layer)
    pads, rank = padding_of(layer), F.rank(F.x(layer))
    turned = tuple(pads[end * rank + axis] for end in (0, 1) for axis in first(rank))
    attrs = {"pads": turned, "value": 0, "mode": "constant"}
    return F.emit(layer, "Pad", [F.x(layer)], attrs)


def _resize(F: Floats, layer: Any) -> str:
    x = F.x(layer)
    rank, shape = F.rank(x), F.b.shape(x)
    scales = whole_scales(layer, tuple(shape[axis] for axis in last(rank)))
    return F.emit(layer, "Resize", [x], {"scales": tuple(scales[a] for a in first(rank))})


HANDLERS: dict[str, Callable[[Floats, Any], str]] = {
    "Activation": _activation,
    "BatchNormalization": _normalization,
    "Clone": _same,
    "Concatenate": _concatenate,
    "Constant": _constant,
    "Conv1D": _conv,
    "Conv2D": _conv,
    "Dense": _dense,
    "DepthwiseConv1D": _conv,
    "DepthwiseConv2D": _conv,
    "ELU": _activation,
    "FixedPointQuantizer": _same,
    "GlobalPooling1D": _pooling,
    "GlobalPooling2D": _pooling,
    "HardActivation": _activation,
    "Input": _input,
    "Merge": _merge,
    "PReLU": _prelu,
    "ParametrizedActivation": _activation,
    "PointwiseConv1D": _conv,
    "PointwiseConv2D": _conv,
    "Pooling1D": _pooling,
    "Pooling2D": _pooling,
    "Repack": _same,
    "Reshape": _same,
    "Resize": _resize,
    "Softmax": _softmax,
    "Transpose": _transpose,
    "ZeroPadding1D": _padding,
    "ZeroPadding2D": _padding,
}
