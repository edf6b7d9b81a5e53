"""hls4ml models → Graph, bit for bit: the precisions, roundings and overflows of its types.

`load_hls4ml` takes the ModelGraph that hls4ml makes of a Keras, PyTorch, HGQ2, QKeras or ONNX
model. What fits 8 bits becomes int8 with power-of-two scales, which the accelerator computes
exactly; what does not is computed on the host in integers. `keras_file` reads Keras 2 files
through hls4ml's own reader, without TensorFlow.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from json import loads
from pathlib import Path
from typing import Any

from weft.config import Overlay
from weft.errors import (
    InputError,
    MissingDependency,
    ModelError,
    UnsupportedError,
    WeftError,
    unknown,
)
from weft.frontend import hls4ml_layers as layers
from weft.frontend import hls4ml_moves as moves
from weft.frontend.hls4ml_lower import Lowering, Note
from weft.frontend.hls4ml_values import Value, layer_name
from weft.graph import Graph

Handler = Callable[[Lowering, Any], Value]

HANDLERS: dict[str, Handler] = {
    "Activation": layers.activation,
    "BatchNormalization": layers.batch_normalization,
    "Clone": moves.same,
    "Concatenate": moves.concatenate,
    "Constant": moves.constant,
    "Conv1D": layers.conv,
    "Conv2D": layers.conv,
    "Dense": layers.dense,
    "DepthwiseConv1D": layers.conv,
    "DepthwiseConv2D": layers.conv,
    "ELU": layers.activation,
    "FixedPointQuantizer": layers.quantizer,
    "GlobalPooling1D": moves.pooling,
    "GlobalPooling2D": moves.pooling,
    "HardActivation": layers.activation,
    "Input": moves.input_,
    "Merge": moves.merge,
    "PReLU": layers.prelu,
    "ParametrizedActivation": layers.activation,
    "PointwiseConv1D": layers.conv,
    "PointwiseConv2D": layers.conv,
    "Pooling1D": moves.pooling,
    "Pooling2D": moves.pooling,
    "Repack": moves.same,
    "Reshape": moves.reshape,
    "Resize": moves.resize,
    "Softmax": layers.softmax,
    "Transpose": moves.transpose,
    "UnaryLUT": layers.unary_lut,
    "ZeroPadding1D": moves.zero_padding,
    "ZeroPadding2D": moves.zero_padding,
}


@dataclass(frozen=True)
class Lowered:
    """The graph of a model; where each layer runs and why; layer → (tensor, fractional bits).

    A traced tensor holds real values (fractional bits None) or int64 codes.
    """

    graph: Graph
    notes: tuple[Note, ...]
    tensors: Mapping[str, tuple[str, int | None]]


def load_hls4ml(model: Any, overlay: Overlay | str = "lab") -> Graph:
    """The quantized graph of an hls4ml ModelGraph for an overlay; raises as `lower_model` does."""
    return lower_for(model, overlay).graph


def lower_for(model: Any, overlay: Overlay | str, *, trace: bool = False) -> Lowered:
    """`lower_model`, with the host computing every layer that the overlay has no room for.

    Only then is the result exact: a node that the compiler moves to the host works on real
    numbers there.
    """
    from weft.compiler import preflight

    hosted: dict[str, str] = {}
    while True:
        found = lower_model(model, trace=trace, hosted=hosted)
        moved = {
            place.node.attrs["layer"]: f"not on this overlay: {place.why}"
            for place in preflight(found.graph, overlay)
            if place.where == "host" and place.node.attrs.get("exact")
        }
        if not moved:
            return found
        hosted |= moved


def lower_model(
    model: Any, *, trace: bool = False, hosted: Mapping[str, str] | None = None
) -> Lowered:
    """The quantized graph of an hls4ml ModelGraph, with notes on where its layers run.

    `hosted` are layers that stay on the host, and why.

    Inputs and outputs are real numbers in hls4ml's layout (channels last). With `trace` every
    layer's result is kept. Raises UnsupportedError for layers and precisions that weft has not,
    ModelError for weights that are not finite or don't fit.
    """
    if not hasattr(model, "get_layers") or not hasattr(model, "get_output_variables"):
        raise InputError(
            f"{type(model).__name__} given, hls4ml's ModelGraph expected: "
            "hls4ml.converters.convert_from_keras_model(...)"
        )
    L = Lowering(str(model.config.get_project_name() or "hls4ml"), hosted or {})
    all_layers = list(model.get_layers())
    outputs = [variable.name for variable in model.get_output_variables()]
    L.readers = _readers(model, all_layers, trace)
    for layer in all_layers:
        _lower_layer(L, layer)
    names = [_real_output(L, L.values[name]) for name in _output_names(model)]
    assert len(names) == len(outputs), "hls4ml lists each output once"
    kept = {name: _kept(L, value) for name, value in L.values.items()} if trace else {}
    graph = L.b.graph(list(dict.fromkeys([*names, *(name for name, _ in kept.values())])))
    return Lowered(graph, tuple(L.notes), kept)


def _readers(model: Any, all_layers: list[Any], trace: bool) -> dict[str, int]:
    """Tensor → how many read it; outputs and (with `trace`) all are read once more."""
    count: dict[str, int] = {}
    for layer in all_layers:
        for name in layer.inputs:
            count[name] = count.get(name, 0) + 1
    for name in _output_names(model):
        count[name] = count.get(name, 0) + 2
    return {name: n + trace for name, n in count.items()}


def _output_names(model: Any) -> list[str]:
    """Tensors that are outputs, by the names that layers give them."""
    return [str(name) for name in model.outputs]


def _lower_layer(L: Lowering, layer: Any) -> None:
    # The backend's own classes are called after it; the one before says what the layer is.
    kind = next((c.__name__ for c in type(layer).__mro__ if c.__name__ in HANDLERS), None)
    if kind is None or str(layer.class_name) == "Conv2DBatchnorm":
        raise UnsupportedError(
            f"layer {layer.name!r}: {unknown('hls4ml layer', str(layer.class_name), HANDLERS)}. "
            "Compute it outside the model, or import the model through ONNX (weft.load_model)"
        )
    try:
        value = HANDLERS[kind](L, layer)
    except WeftError:
        raise
    except Exception as error:  # a model from outside may trip any line
        raise ModelError(
            f"{layer_name(layer)} can't be read: {type(error).__name__}: {error}"
        ) from error
    for name in layer.outputs:
        L.values[name] = value


def _real_output(L: Lowering, value: Value) -> str:
    """The value as float32, for an output of the graph."""
    if value.real:
        return L.real_last(value)
    return L.new("FixedDequantize", [L.codes(value)], {"frac": value.type.frac})


def _kept(L: Lowering, value: Value) -> tuple[str, int | None]:
    return (L.real_last(value), None) if value.real else (L.codes(value), value.type.frac)


def keras_file(
    h5: str | Path,
    json: str | Path | None = None,
    *,
    config: Mapping[str, Any] | None = None,
    backend: str = "Weft",
    output_dir: str | Path = "hls4ml_prj",
    **options: Any,
) -> Any:
    """hls4ml's ModelGraph of a Keras 2 file, read without TensorFlow.

    `h5` is a saved model, or with `json` (its architecture) weights only. `config` is the
    HLSConfig (default: fixed<16,6> everywhere), `options` are the backend's. Raises ModelError
    for a broken file, UnsupportedError for layers that hls4ml does not read (Lambda, ...).
    """
    hls4ml = import_hls4ml()
    from hls4ml.converters import keras_v2_to_hls

    for path in (h5, json):
        if path is not None and not Path(path).is_file():
            raise InputError(f"{path}: no such file")
    _check_opens(Path(h5))
    _check_default(config)
    settings = hls4ml.utils.config.create_config(
        output_dir=str(output_dir), backend=backend, **options
    )
    settings["KerasH5"] = str(h5)
    if json is not None:
        settings["KerasJson"] = str(json)
    settings["HLSConfig"] = dict(
        config or {"Model": {"Precision": "fixed<16,6>", "ReuseFactor": 1}}
    )
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return keras_v2_to_hls(settings)
    except WeftError:
        raise
    except ImportError as error:  # QKeras' layers: hls4ml asks it to round their weights
        raise MissingDependency(
            f"{json or h5}: its layers need the package {error.name!r}: pip install {error.name}"
        ) from error
    except Exception as error:
        text = f"{h5}: hls4ml can't read it: {type(error).__name__}: {error}"
        unread = re.search(r"Unsupported layer type: (\w+)", str(error))
        if unread is not None:
            raise UnsupportedError(
                f"{h5}: hls4ml reads no {unread[1]} layers: {_named(h5, json, unread[1])}; "
                "replace it by layers that hls4ml has, compute it outside the model, or export "
                "the model as ONNX, where a Lambda is the operators that it calls"
            ) from error
        raise ModelError(text) from error


def _named(h5: str | Path, json: str | Path | None, kind: str) -> str:
    """Names of the layers of a kind in a model's architecture, which hls4ml does not tell."""
    import h5py

    if json is not None:
        text = Path(json).read_text()
    else:
        with h5py.File(h5, "r") as file:
            text = file.attrs["model_config"]
    names: list[str] = []

    def look(node: Any) -> None:
        if isinstance(node, dict) and node.get("class_name") == kind:
            names.append(repr(node["config"]["name"]))
        for part in node.values() if isinstance(node, dict) else node:
            if isinstance(part, (dict, list)):
                look(part)

    look(loads(text))
    return ", ".join(names)


def _check_default(config: Mapping[str, Any] | None) -> None:
    """Raises InputError for a model whose default type is "auto": hls4ml would infer for ever."""
    model = (config or {}).get("Model")
    given = model.get("Precision") if isinstance(model, Mapping) else None
    default = given.get("default") if isinstance(given, Mapping) else given
    if str(default).lower() == "auto":
        raise InputError(
            "config['Model']['Precision'] is 'auto', which hls4ml has nothing to infer from: give "
            "the model a type such as 'fixed<16,6>', and 'auto' to layers"
        )


def _check_opens(h5: Path) -> None:
    """Raises ModelError for what HDF5 can't open: hls4ml's reader would be left half made."""
    import h5py

    try:
        h5py.File(h5, "r").close()
    except OSError as error:
        raise ModelError(f"{h5}: not an HDF5 file, or a damaged one: {error}") from error


def import_hls4ml() -> Any:
    """The hls4ml package; raises MissingDependency if it is not installed."""
    try:
        import hls4ml
    except ImportError as error:
        raise MissingDependency(
            "reading Keras, PyTorch and HGQ models needs hls4ml: pip install 'weft[compile]'"
        ) from error
    return hls4ml
