"""Quantized graph ↔ one array of bytes: what a program keeps of the model it was compiled from.

The bytes are the unpacked size (uint64, little endian), then a zlib stream of a safetensors file
with the constants and a JSON manifest. They are read when somebody asks for the graph, not when a
program is loaded. Nothing in them is executed; whatever is wrong becomes a ProgramError.
"""

from __future__ import annotations

import json
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weft.errors import ProgramError, WeftError
from weft.formats import parse
from weft.graph import Array, Graph, Node, Quant, Tensor

Bytes = NDArray[np.uint8]

LEVEL = 1  # int8 weights shrink by as much as at 9, in a third of the time
_SIZE = struct.Struct("<Q")
_RATIO = 1032  # zlib never packs better (RFC 1951: 258 bytes from 2 bits)
_ARRAYS = ("groups", "zeros", "codebook")  # of a Quant


def pack(graph: Graph) -> Bytes:
    """The bytes of a graph. Raises ProgramError for what they can't hold."""
    from safetensors import SafetensorError
    from safetensors.numpy import save

    blobs: dict[str, Array] = {}
    tensors = [_tensor_entry(t, i, blobs) for i, t in enumerate(graph.tensors.values())]
    manifest = {
        "name": graph.name,
        "inputs": graph.inputs,
        "outputs": graph.outputs,
        "tensors": tensors,
        "nodes": [node_entry(node) for node in graph],
    }
    text = json.dumps(manifest).encode()
    blobs["manifest"] = np.frombuffer(text, np.uint8)
    try:
        content = save(blobs)
    except (SafetensorError, KeyError, ValueError) as error:
        raise ProgramError(f"graph {graph.name!r} can't be stored ({error})") from None
    data = _SIZE.pack(len(content)) + zlib.compress(content, LEVEL)
    return np.frombuffer(data, np.uint8)


def unpack(data: Bytes) -> Graph:
    """The graph of these bytes. Raises ProgramError for anything but what `pack` makes."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    content = _inflated(data.tobytes())
    try:
        blobs = load(content)
        manifest = json.loads(blobs["manifest"].tobytes())
        tensors = [_tensor(entry, blobs) for entry in manifest["tensors"]]
        return Graph(
            str(manifest["name"]),
            {t.name: t for t in tensors},
            tuple(node_of(entry) for entry in manifest["nodes"]),
            tuple(map(str, manifest["inputs"])),
            tuple(map(str, manifest["outputs"])),
        ).verify()
    except ProgramError:
        raise
    except (SafetensorError, WeftError) as error:
        raise ProgramError(f"damaged graph ({error})") from None
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ProgramError(f"damaged graph ({type(error).__name__}: {error})") from None


def _inflated(data: bytes) -> bytes:
    if len(data) < _SIZE.size:
        raise ProgramError(f"damaged graph: {len(data)} bytes")
    (size,) = _SIZE.unpack_from(data)
    if size > _RATIO * len(data):
        raise ProgramError(f"damaged graph: {len(data)} bytes can't hold {size}")
    stream = zlib.decompressobj()
    try:
        content = stream.decompress(data[_SIZE.size :], size + 1)
    except zlib.error as error:
        raise ProgramError(f"damaged graph ({error})") from None
    if len(content) != size or not stream.eof or stream.unused_data:
        raise ProgramError(f"damaged graph: its {len(data)} bytes don't hold the {size} they name")
    return content


def _tensor_entry(tensor: Tensor, index: int, blobs: dict[str, Array]) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": tensor.name, "shape": tensor.shape, "dtype": tensor.dtype}
    if tensor.data is not None:
        entry["data"] = f"{index}.data"
        blobs[entry["data"]] = np.asarray(tensor.data, order="C")  # scalars stay scalars
    quant = tensor.quant
    if quant is not None:
        entry["quant"] = found = {
            "scale": f"{index}.scale",
            "zero_point": int(quant.zero_point),
            "axis": quant.axis,
            "format": quant.format,
            "rows": quant.rows,
            "heads": quant.heads,
        }
        blobs[f"{index}.scale"] = np.asarray(quant.scale, np.float32, order="C")
        for name in _ARRAYS:
            array = getattr(quant, name)
            if array is not None:
                found[name] = f"{index}.{name}"
                blobs[f"{index}.{name}"] = np.asarray(array, order="C")
    return entry


def _tensor(entry: dict[str, Any], blobs: dict[str, Array]) -> Tensor:
    data = blobs[entry["data"]] if "data" in entry else None
    quant = None
    if "quant" in entry:
        found = entry["quant"]
        scale = blobs[found["scale"]]
        if scale.dtype != np.float32 or not (np.isfinite(scale).all() and (scale > 0).all()):
            raise ProgramError(f"damaged graph: the scale of {entry['name']!r} is no scale")
        parse(found["format"])
        axis = None if found["axis"] is None else int(found["axis"])
        arrays = {name: blobs[found[name]] for name in _ARRAYS if name in found}
        rows = bool(found.get("rows", False))
        heads = tuple(float(share) for share in found.get("heads", ()))
        if not all(np.isfinite(share) and share > 0 for share in heads):
            raise ProgramError(f"damaged graph: shares {heads} of the scale of {entry['name']!r}")
        point, form = int(found["zero_point"]), found["format"]
        quant = Quant(scale, point, axis, form, **arrays, rows=rows, heads=heads)
    shape = tuple(int(d) for d in entry["shape"])
    return Tensor(str(entry["name"]), shape, np.dtype(entry["dtype"]).name, data, quant)


def node_entry(node: Node) -> dict[str, Any]:
    """A node as JSON. Raises ProgramError for an attribute that JSON has no form for."""
    attrs = {name: _attribute(node, value) for name, value in node.attrs.items()}
    return {
        "op": node.op,
        "name": node.name,
        "inputs": node.inputs,
        "outputs": node.outputs,
        "attrs": attrs,
    }


def node_of(entry: dict[str, Any]) -> Node:
    """The node of such an entry."""
    return Node(
        str(entry["op"]),
        str(entry["name"]),
        tuple(map(str, entry["inputs"])),
        tuple(map(str, entry["outputs"])),
        {str(name): _restored(value) for name, value in entry["attrs"].items()},
    )


def _attribute(node: Node, value: Any) -> Any:
    """Arrays are tagged so that they come back as arrays."""
    if isinstance(value, np.ndarray):
        return {"array": value.tolist(), "dtype": str(value.dtype)}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, (list, tuple)):
        return [_attribute(node, v) for v in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ProgramError(
        f"{node.op} {node.name!r} has an attribute of type {type(value).__name__}, which a "
        "program file can't hold"
    )


def _restored(value: Any) -> Any:
    if isinstance(value, dict):
        return np.asarray(value["array"], value["dtype"])
    return tuple(_restored(v) for v in value) if isinstance(value, list) else value
