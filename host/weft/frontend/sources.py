"""Which frontend reads what: one place that knows the kinds of files and objects."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from weft.errors import ModelError, UnsupportedError
from weft.frontend import stored
from weft.graph import Graph, Shape

PICKLED = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".joblib")

MODULES = (
    "torch.nn.modules.module.Module",
    "torch.export.exported_program.ExportedProgram",
)


def load(
    source: Any, shapes: Mapping[str, Shape] | None = None, example_inputs: Any = None
) -> Graph:
    """The graph of a file, or of a PyTorch module.

    Raises ModelError, which names the file, UnsupportedError for files without a graph and for
    pickled ones, which are never opened.
    """
    if is_module(source):
        from weft.frontend.pytorch import load_module

        return load_module(source, example_inputs)
    if isinstance(source, (str, Path)):
        _refuse(Path(source))
    from weft.frontend.onnx import load_onnx

    try:
        return load_onnx(source, shapes=dict(shapes) if shapes else None)
    except ModelError as error:
        if str(source) in str(error):
            raise
        raise type(error)(f"{source}: {error}") from None


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
    if stored.is_stored(path):
        raise UnsupportedError(
            f"{path} holds weights and no graph: `weft inspect {path}` shows them, "
            "weft.frontend.stored.load reads them. To run the network, load it with its library "
            "and pass the module: weft.compile(module, example_inputs=...), or export it to ONNX"
        )
