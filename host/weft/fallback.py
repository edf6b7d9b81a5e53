"""Operators that weft leaves to onnx: shapes from its inference, values from its evaluator.

Such a node's attributes are ONNX's own, and "opset" (its version), "domain" if it is not the
standard one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from weft.errors import MissingDependency, ModelError, ShapeError, UnsupportedError
from weft.graph import Array, Node, Tensor

PREFIX = "onnx."  # marks ONNX's form of an operator that has a form of its own in OPS
CONSTANT_LIMIT = 1 << 16  # elements of a constant whose values the shape inference may look at


def import_onnx() -> Any:
    """The onnx package; raises MissingDependency if it is not installed."""
    try:
        import onnx
    except ImportError as error:
        raise MissingDependency(
            "reading ONNX models and running rare operators needs the onnx package: "
            "pip install 'weft[compile]'"
        ) from error
    return onnx


def node_proto(node: Node, names: Sequence[str]) -> Any:
    """The node as a protobuf, its inputs renamed to `names`."""
    onnx = import_onnx()
    attrs = {
        k: v for k, v in node.attrs.items() if k not in ("opset", "domain", "requant", "roles")
    }
    proto = onnx.helper.make_node(
        node.op.removeprefix(PREFIX),
        list(names),
        [f"y{i}" if name else "" for i, name in enumerate(node.outputs)],
        domain=node.attrs.get("domain", ""),
    )
    for key, value in attrs.items():
        if isinstance(value, np.ndarray):
            value = onnx.numpy_helper.from_array(value)
        elif isinstance(value, tuple):
            value = list(value)
        if value != []:
            proto.attribute.append(onnx.helper.make_attribute(key, value))
    return proto


def describe(node: Node, inputs: Sequence[Tensor | None]) -> list[Tensor]:
    """Output tensors by onnx's shape inference.

    Raises UnsupportedError if a shape depends on data or the operator has no schema.
    """
    onnx = import_onnx()
    names = [f"x{i}" if t is not None else "" for i, t in enumerate(inputs)]
    infos, constants = [], []
    for name, tensor in zip(names, inputs, strict=True):
        if tensor is None:
            continue
        kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype))
        infos.append(onnx.helper.make_tensor_value_info(name, kind, tensor.shape))
        if tensor.data is not None and tensor.size <= CONSTANT_LIMIT:
            constants.append(onnx.numpy_helper.from_array(np.asarray(tensor.real()), name))
    proto = node_proto(node, names)
    outputs = [onnx.ValueInfoProto(name=name) for name in proto.output if name]
    graph = onnx.helper.make_graph([proto], "one", infos, outputs, constants)
    opset = onnx.helper.make_opsetid(node.attrs.get("domain", ""), node.attrs["opset"])
    model = onnx.helper.make_model(graph, opset_imports=[opset])
    try:
        model = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except Exception as error:  # onnx raises its own kinds, and ValueError, RuntimeError
        raise ShapeError(f"{node.op} {node.name!r}: {error}") from None
    found = {info.name: info.type for info in model.graph.output}
    real = [(name, found[p]) for name, p in zip(node.outputs, proto.output, strict=True) if name]
    return [_tensor(node, name, kind) for name, kind in real]


def _tensor(node: Node, name: str, kind: Any) -> Tensor:
    onnx = import_onnx()
    static = kind.HasField("tensor_type") and kind.tensor_type.HasField("shape")
    dims = kind.tensor_type.shape.dim if static else []
    if not static or not all(d.HasField("dim_value") for d in dims):
        raise UnsupportedError(
            f"{node.op} {node.name!r}: the shape of {name!r} is not known before it runs; "
            "export the model with fixed shapes, or fold its constants (onnxsim) first"
        )
    try:
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.tensor_type.elem_type))
    except KeyError:
        raise UnsupportedError(f"{node.op} {node.name!r}: {name!r} has an unknown type") from None
    return Tensor(name, tuple(d.dim_value for d in dims), plain_dtype(dtype, name))


def plain_dtype(dtype: np.dtype[Any], name: str) -> str:
    """The name of the dtype that weft holds such values in: all floats become float32.

    Raises UnsupportedError for strings, complex numbers and other things that are not numbers.
    """
    if dtype.kind == "f" or dtype.name.startswith(("bfloat", "float")):
        return "float32"
    if dtype.name.startswith(("int", "uint")) and dtype.kind == "V":
        return "int8" if dtype.name.startswith("int") else "uint8"
    if dtype.kind in "iub":
        return dtype.name
    raise UnsupportedError(f"tensor {name!r} has dtype {dtype.name}; weft knows real numbers only")


def run(node: Node, inputs: list[Array]) -> list[Array]:
    """Outputs by onnx's reference evaluator, on one sample.

    Raises ModelError if the evaluator does not know the operator or fails.
    """
    onnx = import_onnx()
    from onnx.reference import ReferenceEvaluator

    names = [f"x{i}" if a is not None else "" for i, a in enumerate(inputs)]
    feeds = {n: a for n, a in zip(names, inputs, strict=True) if n}
    infos = [
        onnx.helper.make_tensor_value_info(
            n, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape
        )
        for n, a in feeds.items()
    ]
    proto = node_proto(node, names)
    outputs = [onnx.ValueInfoProto(name=name) for name in proto.output if name]
    graph = onnx.helper.make_graph([proto], "one", infos, outputs)
    opset = onnx.helper.make_opsetid(node.attrs.get("domain", ""), node.attrs["opset"])
    try:
        evaluator = ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=[opset]))
        with np.errstate(all="ignore"):
            results = evaluator.run(None, feeds)
    except Exception as error:  # anything may come out of its many operators
        raise ModelError(f"{node.op} {node.name!r} can't be evaluated by onnx: {error}") from error
    return [_plain(np.asarray(r), node.name) for r in results]


def _plain(array: Array, name: str) -> Array:
    return array.astype(plain_dtype(array.dtype, name), copy=False)
