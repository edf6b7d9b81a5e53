"""TFLite models → Graph, in the canonical form of the table in ARCHITECTURE.md.

Float models and int8 ones, which keep their scales and the rounding of TFLite's kernels
(`weft.tflite_kernels`). Inputs and outputs are what they are in the file: codes stay codes, images
have their channels last.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from weft.errors import ModelError, UnsupportedError, UsageError, WeftError, unknown
from weft.frontend import tflite_elementwise, tflite_lstm, tflite_moves, tflite_nodes
from weft.frontend.build import check_finite
from weft.frontend.tflite_build import QUANTIZED, Importer
from weft.frontend.tflite_read import TfOp, TfTensor, read_model
from weft.graph import Graph, Shape
from weft.tflite_kernels import KERNELS

HANDLERS = {
    **tflite_elementwise.HANDLERS,
    **tflite_lstm.HANDLERS,
    **tflite_moves.HANDLERS,
    **tflite_nodes.HANDLERS,
}
CROSSING = ("ARG_MAX", "ARG_MIN", "CAST", "DEQUANTIZE", "QUANTIZE", "SHAPE")
SPATIAL = (
    *("AVERAGE_POOL_2D", "CONV_2D", "DEPTHWISE_CONV_2D", "MAX_POOL_2D", "TRANSPOSE_CONV"),
    *("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "DEPTH_TO_SPACE"),
)
CONTROL = ("IF", "WHILE", "CALL", "CALL_ONCE", "VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE")


def load_tflite(
    source: str | Path | bytes,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    kernels: str = "xnnpack",
) -> Graph:
    """The graph of a TFLite model: a path, or the file's bytes.

    `shapes` gives inputs with dynamic dimensions their shape, the batch included; the batch (the
    first dimension) becomes 1 in any case. `kernels` says whose int8 arithmetic the graph has:
    "xnnpack" that of LiteRT's interpreter, "reference" that of TFLite's reference kernels and of
    TFLite Micro. Raises ModelError for a broken model, UnsupportedError for operators that weft
    does not know (all of them in one message), UsageError for arguments that don't fit.
    """
    if kernels not in KERNELS:
        raise UsageError(unknown("set of kernels", kernels, KERNELS))
    model = read_model(source)
    try:
        _check_known(model.ops)
        name = "model" if isinstance(source, bytes) else Path(source).stem
        m = Importer(model, name, kernels, check=not shapes)
        _add_inputs(m, dict(shapes or {}))
        for op in model.ops:
            _add(m, op)
        graph = m.b.graph(_add_outputs(m))
        check_finite(graph)
        return graph
    except WeftError:
        raise
    except Exception as error:  # a hostile file may trip any line of the importer
        raise ModelError(f"the model can't be read: {type(error).__name__}: {error}") from error


def _check_known(ops: Sequence[TfOp]) -> None:
    """Raises UnsupportedError naming every operator that has no handler."""
    missing = Counter(op.op for op in ops if op.op not in HANDLERS)
    if not missing:
        return
    names = ", ".join(f"{name} ({count}×)" for name, count in sorted(missing.items()))
    remedy = "express them with other operators"
    if any(name.startswith("custom") for name in missing):
        remedy = "convert without allow_custom_ops, or with the operator written in TensorFlow"
    elif any(name.startswith("FLEX") for name in missing):
        remedy = "convert with TFLITE_BUILTINS only"
    elif any(name in CONTROL for name in missing):
        remedy = "convert a model without control flow and variables, loops unrolled"
    raise UnsupportedError(
        f"weft does not know these operators of the model: {names}; {remedy}, or cut the model "
        "before them. What it knows: docs/tflite.md"
    )


def _add(m: Importer, op: TfOp) -> None:
    """Adds an operator's nodes; whatever fails names it."""
    try:
        for i in (*op.inputs, *op.outputs):
            if i >= 0 and m.tensor(i).dtype in QUANTIZED and op.op not in ("CAST", "GATHER"):
                _check_codes(m, m.tensor(i))
        if op.op not in CROSSING:
            _check_mixed(m, op)
        HANDLERS[op.op](m, op)
    except WeftError as error:
        text = str(error)
        raise error if str(op) in text else type(error)(f"{op}: {text}") from None
    except Exception as error:
        raise ModelError(f"{op} can't be read: {type(error).__name__}: {error}") from error


def _check_codes(m: Importer, t: TfTensor) -> None:
    if t.index not in m.values:
        m.quant(t.index)


def _check_mixed(m: Importer, op: TfOp) -> None:
    """Raises ModelError if an operator reads codes and writes numbers, or the other way round."""
    moving = [m.tensor(i) for i in op.inputs if i >= 0 and i not in m.values]
    moving = [t for t in (*moving, *(m.tensor(i) for i in op.outputs if i >= 0)) if not t.variable]
    kinds = {t.dtype in QUANTIZED: t for t in moving if t.dtype in (*QUANTIZED, "float32")}
    if len(kinds) > 1:
        raise ModelError(
            f"{op} mixes {kinds[True]}, {kinds[True].dtype}, with {kinds[False]}, "
            f"{kinds[False].dtype}: put QUANTIZE or DEQUANTIZE between, or convert the model "
            "again, wholly in int8 or wholly in float"
        )


def _add_inputs(m: Importer, shapes: dict[str, Sequence[int]]) -> None:
    names = {m.name(i): i for i in m.model.inputs}
    if any(op.op in SPATIAL for op in m.model.ops):
        m.images.update(i for i in m.model.inputs if len(m.tensor(i).shape or ()) == 4)
    for name in shapes:
        if name not in names:
            raise UsageError(unknown("input", name, names))
    for name, i in names.items():
        t = m.tensor(i)
        if i in m.values:
            raise ModelError(f"{t} is an input and a constant")
        shape = _input_shape(t, shapes.get(name))
        quant = m.quant(i)
        dtype = "float32" if t.dtype.startswith("float") else t.dtype
        m.b.input(name, shape, dtype)
        if quant is None:
            m.keep(i, name)
            continue
        zero = np.asarray(quant.zero_point + (128 if t.dtype == "uint8" else 0), t.dtype)
        parameters = [m.b.constant(f"{name}.scale", np.asarray(quant.scale))]
        parameters.append(m.b.constant(f"{name}.zero", zero))
        real = m.b.emit("DequantizeLinear", [name, *parameters], outputs=(f"{name}.real",))
        m.mark(real, quant)
        m.keep(i, real)


def _input_shape(t: TfTensor, given: Sequence[int] | None) -> Shape:
    """The input's static shape, batch 1."""
    if t.shape is None:
        raise ModelError(f"input {t} has no shape; convert the model with one")
    signature = t.signature if len(t.signature) == len(t.shape) else t.shape
    if given is not None and len(given) != len(t.shape):
        raise UsageError(
            f"shapes[{t.name!r}] = {tuple(given)} has {len(given)} dimensions, the input "
            f"{len(t.shape)}"
        )
    shape = []
    for axis, (size, dynamic) in enumerate(zip(t.shape, signature, strict=True)):
        if axis == 0:
            if size > 1 and dynamic != -1:
                raise UnsupportedError(
                    f"input {t} has a batch of {size} fixed: convert the model with a batch of 1, "
                    "or None"
                )
            shape.append(1)
            continue
        value = given[axis] if given is not None else size
        if dynamic == -1 and given is None:
            raise ModelError(
                f"input {t}: dimension {axis} is dynamic: pass shapes={{{t.name!r}: ...}} "
                "with its size"
            )
        if value < 1 or (dynamic != -1 and value != size):
            raise UsageError(f"shapes[{t.name!r}][{axis}] = {value}, the model has {size}")
        shape.append(int(value))
    return tuple(shape)


def _add_outputs(m: Importer) -> list[str]:
    """Writes the outputs under their own names, as codes where the file has codes."""
    if not m.model.outputs:
        raise ModelError("the model has no outputs")
    names = []
    for i in dict.fromkeys(m.model.outputs):
        name, t, real = m.name(i), m.tensor(i), m.plain(i)
        quant = m.quant(i)
        if real == name:  # an input that is passed on
            name = m.b.fresh(name)
        names.append(name)
        if quant is None:
            m.b.emit("Identity", [real], outputs=(name,))
            continue
        zero = np.asarray(quant.zero_point + (128 if t.dtype == "uint8" else 0), t.dtype)
        parameters = [m.b.constant(m.b.fresh(f"{name}.scale"), np.asarray(quant.scale))]
        parameters.append(m.b.constant(m.b.fresh(f"{name}.zero"), zero))
        m.b.emit("QuantizeLinear", [real, *parameters], outputs=(name,))
    return names
