"""ONNX files → checked protobufs and arrays. Everything here expects a hostile file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from weft.errors import ModelError, UnsupportedError
from weft.fallback import import_onnx, plain_dtype
from weft.graph import Array

ELEMENT_LIMIT = 1 << 31  # elements of all tensors of a model together
NODE_LIMIT = 1 << 20  # nodes after the model's own functions are expanded


def read_model(source: Any) -> tuple[Any, Path | None]:
    """The ModelProto in a file, in bytes, or given as such, and the folder of its external data.

    Raises ModelError for a file that is absent or is not an ONNX model.
    """
    onnx = import_onnx()
    if isinstance(source, onnx.ModelProto):
        return source, None
    folder = None
    if not isinstance(source, bytes):
        path = Path(source)
        folder = path.resolve().parent
        try:
            source = path.read_bytes()
        except OSError as error:
            raise ModelError(f"{path}: {error.strerror or error}") from None
    model = onnx.ModelProto()
    try:
        model.ParseFromString(source)
    except Exception as error:  # DecodeError, and RuntimeError for more than 2 GiB
        raise ModelError(f"not an ONNX model, or a damaged one: {error}") from None
    if not model.HasField("graph") or (not model.graph.node and not model.graph.output):
        raise ModelError("not an ONNX model: it has no graph")
    return model, folder


def check_names(graph: Any) -> None:
    """Raises ModelError if a name in the graph is not text (damaged UTF-8 is read as bytes)."""
    for node in graph.node:
        attributes = (attribute.name for attribute in node.attribute)
        words = (node.op_type, node.domain, node.name, *node.input, *node.output)
        for name in (*words, *attributes):
            if not isinstance(name, str):
                raise ModelError(f"damaged file: the name {name!r} of a node is not text")
    for part in (*graph.initializer, *graph.input, *graph.output):
        if not isinstance(part.name, str):
            raise ModelError(f"damaged file: the name {part.name!r} of a tensor is not text")


def inlined(model: Any) -> Any:
    """The model with its own functions put in the place of their calls.

    Raises ModelError for functions that call themselves, or grow beyond all measure.
    """
    if not model.functions:
        return model
    bodies = {(f.domain, f.name): f.node for f in model.functions}
    sizes: dict[tuple[str, str], int] = {}

    def size(nodes: Any, within: tuple[Any, ...]) -> int:
        total = 0
        for node in nodes:
            key = (node.domain, node.op_type)
            if key in within:
                raise ModelError(f"function {key[1]!r} of the model calls itself")
            if key in bodies and key not in sizes:
                sizes[key] = size(bodies[key], (*within, key))
            total += sizes.get(key, 1)
        return total

    if size(model.graph.node, ()) > NODE_LIMIT:
        raise ModelError(f"the model's functions expand to more than {NODE_LIMIT} nodes")
    from onnx import inliner

    return inliner.inline_local_functions(model)


def read_tensor(tensor: Any, folder: Path | None) -> Array:
    """A TensorProto's values, floats as float32.

    Raises ModelError if its shape, type and data don't fit, or its external file is not allowed.
    """
    onnx = import_onnx()
    size = element_count(tensor.dims, tensor.name)
    try:
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
    except KeyError:
        raise ModelError(f"tensor {tensor.name!r} has data type {tensor.data_type}") from None
    plain = plain_dtype(dtype, tensor.name)
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        tensor = _with_external_data(tensor, folder)
    if tensor.HasField("raw_data"):
        expected = -(-size * _element_bits(tensor.data_type, dtype) // 8)
        if len(tensor.raw_data) != expected:
            raise ModelError(
                f"tensor {tensor.name!r} of shape {tuple(tensor.dims)}, {dtype.name}, needs "
                f"{expected} bytes, the file has {len(tensor.raw_data)}"
            )
    try:
        array = onnx.numpy_helper.to_array(tensor)
    except Exception as error:  # whatever its typed fields provoke
        raise ModelError(f"tensor {tensor.name!r} is damaged: {error}") from None
    if array.shape != tuple(tensor.dims):
        raise ModelError(f"tensor {tensor.name!r}: {array.shape} values for {tuple(tensor.dims)}")
    with np.errstate(over="ignore"):
        return np.asarray(array).astype(plain)


_BITS = {"BFLOAT16": 16, "FLOAT8": 8, "FLOAT4": 4, "INT4": 4, "UINT4": 4, "INT2": 2, "UINT2": 2}


def _element_bits(data_type: int, dtype: np.dtype[Any]) -> int:
    """Bits of an element in raw_data; numpy's type may be wider than the file's."""
    name = import_onnx().TensorProto.DataType.Name(data_type)
    found = [bits for start, bits in _BITS.items() if name.startswith(start)]
    return found[0] if found else dtype.itemsize * 8


def element_count(dims: Any, name: str) -> int:
    """Elements of a tensor; raises ModelError for a negative dimension or too many."""
    size = int(math.prod(dims))
    if any(d < 0 for d in dims) or size > ELEMENT_LIMIT:
        raise ModelError(
            f"tensor {name!r} has shape {tuple(dims)}; dimensions must be positive and the "
            f"product at most {ELEMENT_LIMIT}"
        )
    return size


def _with_external_data(tensor: Any, folder: Path | None) -> Any:
    """A copy of the tensor with its bytes inside."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    if folder is None:
        raise ModelError(
            f"tensor {tensor.name!r} lies in the file {location!r}: load the model from its path"
        )
    path = (folder / location).resolve()
    inside = path.is_relative_to(folder) and path != folder
    if not location or Path(location).is_absolute() or not inside:
        raise ModelError(
            f"tensor {tensor.name!r} lies in {location!r}, outside the model's folder {folder}: "
            "refused"
        )
    try:
        offset = int(entries.get("offset", 0))
        with path.open("rb") as file:
            size = path.stat().st_size
            length = int(entries.get("length", size - offset))
            if offset < 0 or length < 0 or offset + length > size:
                raise ModelError(
                    f"tensor {tensor.name!r}: bytes {offset}..{offset + length} of {path}, which "
                    f"has {size}"
                )
            file.seek(offset)
            data = file.read(length)
    except (OSError, ValueError) as error:
        raise ModelError(f"tensor {tensor.name!r} in {path}: {error}") from None
    whole = type(tensor)()
    whole.CopyFrom(tensor)
    del whole.external_data[:]
    whole.data_location = import_onnx().TensorProto.DEFAULT
    whole.raw_data = data
    return whole


def read_attributes(node: Any, folder: Path | None) -> dict[str, Any]:
    """A NodeProto's attributes as Python values: lists become tuples, tensors arrays.

    Raises UnsupportedError for subgraphs, ModelError for an attribute without a type.
    """
    onnx = import_onnx()
    kinds = onnx.AttributeProto
    values: dict[str, Any] = {}
    for attribute in node.attribute:
        if attribute.type in (kinds.GRAPH, kinds.GRAPHS):
            raise UnsupportedError(
                f"{node.op_type} {node.name!r} holds a subgraph; weft needs straight graphs: "
                "export the model without control flow, or unroll its loops"
            )
        if attribute.type == kinds.TENSOR:
            values[attribute.name] = read_tensor(attribute.t, folder)
            continue
        if attribute.type not in (
            *(kinds.FLOAT, kinds.INT, kinds.STRING),
            *(kinds.FLOATS, kinds.INTS, kinds.STRINGS),
        ):
            raise UnsupportedError(
                f"{node.op_type} {node.name!r}: attribute {attribute.name!r} has a type "
                f"(number {attribute.type}) that weft does not read"
            )
        values[attribute.name] = _plain(onnx.helper.get_attribute_value(attribute), node)
    return values


def _plain(value: Any, node: Any) -> Any:
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise ModelError(f"{node.op_type} {node.name!r}: an attribute is not text") from None
    if isinstance(value, (int, float)):
        return value
    return tuple(_plain(v, node) for v in value)
