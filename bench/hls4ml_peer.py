"""The same networks in hls4ml: its C simulation, as its users run it (`compile`, `predict`).

hls4ml's own ONNX converter needs qonnx, so the layers are given to it as the list of dictionaries
that its converters make. Settings are its defaults: Vitis, ap_fixed<16,6>, reuse factor 1.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import time
from pathlib import Path

import numpy as np


def layer_list(model):
    """A chain of Conv, Relu, MaxPool, Flatten, Gemm, Softmax as hls4ml's layers, channels last."""
    from onnx import numpy_helper

    weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim][1:]
    shape = [*shape[1:], shape[0]]
    layers = [{"class_name": "InputLayer", "name": "x", "input_shape": list(shape)}]
    for node in model.graph.node:
        attrs = {a.name: list(a.ints) or a.i for a in node.attribute}
        constants = [weights[name] for name in node.input if name in weights]
        layer = {"name": node.name.lower(), "data_format": "channels_last"}
        made, shape = LAYERS[node.op_type](attrs, constants, shape)
        layers.append(layer | made)
    return _flattened(layers)


def _conv(attrs, constants, shape):
    w, b = constants
    top, left, bottom, right = attrs.get("pads", [0] * 4)
    (height, width, channels), (out, _, rows, cols) = shape, w.shape
    made = [height + top + bottom - rows + 1, width + left + right - cols + 1, out]
    return {
        "class_name": "Conv2D",
        "weight_data": np.ascontiguousarray(w.transpose(2, 3, 1, 0)),
        "bias_data": b,
        "use_bias": True,
        "in_height": height,
        "in_width": width,
        "n_chan": channels,
        "n_filt": out,
        "filt_height": rows,
        "filt_width": cols,
        "stride_height": 1,
        "stride_width": 1,
        "out_height": made[0],
        "out_width": made[1],
        "pad_top": top,
        "pad_bottom": bottom,
        "pad_left": left,
        "pad_right": right,
    }, made


def _pool(attrs, constants, shape):
    (rows, cols), (height, width, channels) = attrs["kernel_shape"], shape
    made = [height // rows, width // cols, channels]
    return {
        "class_name": "MaxPooling2D",
        "in_height": height,
        "in_width": width,
        "n_filt": channels,
        "pool_height": rows,
        "pool_width": cols,
        "stride_height": rows,
        "stride_width": cols,
        "out_height": made[0],
        "out_width": made[1],
        "pad_top": 0,
        "pad_bottom": 0,
        "pad_left": 0,
        "pad_right": 0,
    }, made


def _dense(attrs, constants, shape):
    w, b = constants
    w = w.T if attrs.get("transB") else w
    return {
        "class_name": "Dense",
        "weight_data": np.ascontiguousarray(w),
        "bias_data": b,
        "n_in": w.shape[0],
        "n_out": w.shape[1],
        "weight_quantizer": None,
        "bias_quantizer": None,
    }, [w.shape[1]]


def _relu(attrs, constants, shape):
    return {"class_name": "Activation", "activation": "relu"}, shape


def _softmax(attrs, constants, shape):
    return {"class_name": "Softmax", "activation": "softmax", "axis": -1}, shape


def _flatten(attrs, constants, shape):
    size = int(np.prod(shape))
    return {"class_name": "Reshape", "target_shape": [size], "map": shape}, [size]


LAYERS = {
    "Conv": _conv,
    "MaxPool": _pool,
    "Gemm": _dense,
    "Relu": _relu,
    "Softmax": _softmax,
    "Flatten": _flatten,
}


def _flattened(layers):
    """hls4ml flattens with the channels last: moves the rows of the next matrix accordingly."""
    for before, after in itertools.pairwise(layers):
        if "map" in before and "weight_data" in after:
            height, width, channels = before.pop("map")
            w = after["weight_data"].reshape(channels, height, width, -1)
            after["weight_data"] = np.ascontiguousarray(
                w.transpose(1, 2, 0, 3).reshape(channels * height * width, -1)
            )
    return layers


def compiled(model, folder: Path):
    """hls4ml's model, compiled in `folder`, and the seconds that took."""
    import hls4ml
    from hls4ml.model.graph import ModelGraph

    logging.getLogger("hls4ml").setLevel(logging.ERROR)
    start = time.perf_counter()
    config = hls4ml.utils.config.create_config(output_dir=str(folder), backend="Vitis")
    config["HLSConfig"] = {"Model": {"Precision": "ap_fixed<16,6>", "ReuseFactor": 1}}
    with contextlib.redirect_stdout(io.StringIO()):
        made = ModelGraph.from_layer_list(config, layer_list(model))
        made.compile()
    return made, time.perf_counter() - start


def channels_last(x):
    """Samples as hls4ml takes them: NHWC, contiguous float32."""
    moved = np.moveaxis(x, 1, -1) if x.ndim > 2 else x
    return np.ascontiguousarray(moved, np.float32)
