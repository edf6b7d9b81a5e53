"""PyTorch modules → Graph, through torch.export and PyTorch's own ONNX exporter.

Modules that Brevitas or torchao (PT2E) quantized keep their integers: the former are exported as
QONNX, the latter as QuantizeLinear and DequantizeLinear.
"""

from __future__ import annotations

import io
import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any

from weft.errors import MissingDependency, UnsupportedError, UsageError
from weft.graph import Graph

OPSET = 18


def load_module(module: Any, example_inputs: Any) -> Graph:
    """The graph of a module in evaluation mode, traced with `example_inputs`, a tensor or a tuple.

    Raises UsageError without example inputs, MissingDependency without onnxscript,
    UnsupportedError where PyTorch can't export the module.
    """
    if example_inputs is None:
        raise UsageError(
            "a PyTorch module needs example_inputs, a tensor or a tuple of tensors of the shapes "
            "it takes, the batch first: example_inputs=torch.zeros(1, 3, 32, 32)"
        )
    inputs = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    was_training = _to_eval(module)
    try:
        proto = _brevitas(module, inputs) if _is_brevitas(module) else _exported(module, inputs)
    finally:
        if was_training:
            module.train()
    from weft.frontend.onnx import load_onnx

    return load_onnx(proto)


def _to_eval(module: Any) -> bool:
    """Puts the module in evaluation mode; whether it was in another."""
    if not getattr(module, "training", False):
        return False
    try:
        module.eval()
    except NotImplementedError:  # an exported module, whose mode is part of its graph
        return False
    return True


def _is_brevitas(module: Any) -> bool:
    parts = module.modules() if hasattr(module, "modules") else ()
    return any(type(part).__module__.startswith("brevitas.") for part in parts)


def _brevitas(module: Any, inputs: tuple[Any, ...]) -> bytes:
    from brevitas.export import export_qonnx

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "model.onnx"
        try:
            export_qonnx(module, args=inputs, export_path=str(path), opset_version=13, dynamo=False)
        except ModuleNotFoundError as error:
            raise MissingDependency(
                f"exporting a Brevitas module: {error}; pip install 'weft[brevitas]'"
            ) from None
        except Exception as error:  # whatever tracing the module provokes
            raise UnsupportedError(f"Brevitas can't export the module: {error}") from error
        return path.read_bytes()


def _exported(module: Any, inputs: tuple[Any, ...]) -> bytes:
    try:
        import onnxscript  # noqa: F401
        import torch
    except ImportError:
        raise MissingDependency(
            "exporting a PyTorch module needs onnxscript: pip install 'weft[torch]'"
        ) from None
    target = io.BytesIO()
    logging.disable(logging.WARNING)  # of optional packages that are not installed
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            made = torch.onnx.export(
                module, inputs, dynamo=True, opset_version=OPSET, verbose=False
            )
        target.write(made.model_proto.SerializeToString())
    except Exception as error:  # whatever tracing the module provokes
        text = str(error).strip().split("\n")[0]
        raise UnsupportedError(f"PyTorch can't export the module to ONNX: {text}") from error
    finally:
        logging.disable(logging.NOTSET)
    return target.getvalue()
