"""Which frontend reads what: one place that knows the kinds of files and objects."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from weft.errors import ModelError, UnsupportedError, UsageError
from weft.frontend import stored, transformers_folder
from weft.graph import Graph, Shape

PICKLED = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".joblib")

KERAS = (".keras", ".h5", ".hdf5")

MODULES = (
    "torch.nn.modules.module.Module",
    "torch.export.exported_program.ExportedProgram",
)


def load(
    source: Any,
    shapes: Mapping[str, Shape] | None = None,
    *,
    requant: str | None = None,
    example_inputs: Any = None,
    tokens: int | None = None,
) -> Graph:
    """The graph of a file or folder, by what it holds, or of a PyTorch module; arguments as for
    `weft.compiler.load_model`.

    Raises ModelError, which names the file, UnsupportedError for files without a graph and for
    pickled ones, which are never opened.
    """
    from weft.frontend.tflite_read import is_tflite

    if is_module(source):
        from weft.frontend.pytorch import load_module

        return load_module(source, example_inputs)
    if hasattr(source, "get_layers"):
        raise UnsupportedError(
            "an hls4ml ModelGraph is lowered for an overlay: "
            "weft.frontend.hls4ml.load_hls4ml(model, overlay) gives the graph to compile"
        )
    if isinstance(source, (str, Path)) and transformers_folder.is_known(source):
        text = transformers_folder.is_text(source)
        return transformers_folder.load(source, tokens, padding=text)
    if tokens is not None:
        raise UsageError(f"tokens = {tokens} is for folders of text encoders; pass shapes instead")
    if isinstance(source, (str, Path)) and not is_tflite(source):
        _refuse(Path(source))
    known = dict(shapes) if shapes else None
    try:
        return _imported(source, known, requant)
    except ModelError as error:
        if str(source) in str(error):
            raise
        raise type(error)(f"{source}: {error}") from None


def _imported(source: Any, shapes: dict[str, Shape] | None, requant: str | None) -> Graph:
    """The graph of a file, by the frontend that its content, else its suffix, asks for."""
    from weft.frontend.tflite_read import is_tflite

    named = isinstance(source, (str, Path))  # anything else load_onnx may know
    if named and (is_tflite(source) or Path(source).suffix == ".tflite"):
        from weft.frontend.tflite import load_tflite
        from weft.tflite_kernels import kernels_of

        graph = load_tflite(source, shapes=shapes)
        if requant in (None, "float_even") or not graph.is_quantized:
            return graph
        return load_tflite(source, shapes=shapes, kernels=kernels_of(str(requant)))
    from weft.frontend.onnx import load_onnx

    return load_onnx(source, shapes=shapes)


def is_module(source: Any) -> bool:
    """Whether `source` is a PyTorch module (or exported program), found out without torch."""
    names = {f"{c.__module__}.{c.__name__}" for c in type(source).__mro__}
    return bool(
        names & {"torch.nn.modules.module.Module", "torch.export.exported_program.ExportedProgram"}
    )


def _refuse(path: Path) -> None:
    """Raises UnsupportedError for what holds no graph, or would run code."""
    if path.suffix.lower() in PICKLED:
        raise UnsupportedError(
            f"{path}: a pickled file can run any code when it is opened, so weft never does. Save "
            "the weights as safetensors, or load them with torch.load(..., weights_only=True), "
            "into the module that they belong to (a state dict has no graph), and pass that: "
            "weft.compile(module, example_inputs=...)"
        )
    if path.suffix.lower() in KERAS:
        raise UnsupportedError(
            f"{path}: a Keras file can hold code of its own (Lambda layers), so weft does not open "
            'it. Load it with Keras and export it: model.export("m.onnx", format="onnx"), or '
            'pass it to hls4ml with backend="Weft"'
        )
    if stored.is_stored(path):
        why = transformers_folder.missing(path) if path.is_dir() else ""
        raise UnsupportedError(
            f"{path} holds weights and no graph{why}: `weft inspect {path}` shows them, "
            "weft.frontend.stored.load reads them. To run the network, load it with its library "
            "and pass the module: weft.compile(module, example_inputs=...), or export it to ONNX"
        )
