"""ONNX models → Graph, in the canonical form of the table in ARCHITECTURE.md.

Float models and models that are already quantized (QDQ, QOperator), opset 7 and newer. What only
computes shapes is folded away; operators without a canonical form stay as they are and run on the
host.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from weft import fallback
from weft.errors import (
    ModelError,
    ShapeError,
    UnsupportedError,
    UsageError,
    WeftError,
    unknown,
)
from weft.frontend import (
    onnx_absorb,
    onnx_quantized,
    onnx_read,
    onnx_recurrent,
    onnx_shapes,
    onnx_transformer,
    qonnx,
)
from weft.frontend.build import Builder, check_finite
from weft.graph import Graph, Node, Shape, Tensor
from weft.passes import staircase

OPSETS = (7, 99)
STANDARD = ("", "ai.onnx")
FOLD_LIMIT = 1 << 27  # elements of a constant that is computed while importing
SLOW_FOLD_LIMIT = 1 << 20  # the same for what onnx computes element by element
SLOW = ("Resize", "Upsample", "GridSample", "RoiAlign")
RANDOM = {"Bernoulli", "Multinomial"} | {
    f"Random{kind}{like}" for kind in ("Normal", "Uniform") for like in ("", "Like")
}
HANDLERS = {
    **onnx_quantized.INNER,
    **onnx_quantized.HANDLERS,
    **onnx_recurrent.HANDLERS,
    **onnx_transformer.HANDLERS,
    **qonnx.HANDLERS,
}


@dataclass(frozen=True)
class OnnxNode:
    """One node as the file has it, attributes as Python values."""

    op: str
    name: str
    domain: str
    version: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: dict[str, Any] = field(default_factory=dict)


def load_onnx(
    source: str | Path | bytes | Any, *, shapes: Mapping[str, Sequence[int]] | None = None
) -> Graph:
    """The graph of an ONNX model: a path, the file's bytes, or a ModelProto.

    `shapes` gives inputs with dynamic dimensions their shape, the batch included; the batch (the
    first dimension) becomes 1 in any case. Raises ModelError for a broken model, UnsupportedError
    for control flow and unknown operators, UsageError for `shapes` that don't fit.
    """
    model, folder = onnx_read.read_model(source)
    try:
        return _import(model, folder, dict(shapes or {}))
    except WeftError:
        raise
    except RecursionError:
        raise ModelError("the model is nested too deeply") from None
    except Exception as error:  # a hostile file may trip any line of the importer
        raise ModelError(f"the model can't be read: {type(error).__name__}: {error}") from error


def _import(model: Any, folder: Path | None, shapes: dict[str, Sequence[int]]) -> Graph:
    opsets = _opsets(model)
    proto = onnx_read.inlined(model).graph
    if proto.sparse_initializer:
        raise UnsupportedError("the model has sparse initializers; export it with dense ones")
    onnx_read.check_names(proto)
    b = Builder(str(proto.name or "model"))
    for tensor in proto.initializer:
        b.constant(tensor.name, onnx_read.read_tensor(tensor, folder))
    _add_inputs(b, proto, shapes, onnx_recurrent.batch_second(proto.node))
    read = {name for node in proto.node for name in node.input if name}
    read.update(info.name for info in proto.output)
    for node in _ordered(proto, set(b.tensors)):
        _add_node(b, _parsed(node, opsets, read, folder))
    outputs = list(dict.fromkeys(info.name for info in proto.output))
    if not outputs:
        raise ModelError("the model has no outputs")
    graph = staircase.fold(onnx_absorb.absorb(b.graph(outputs)))
    _check_batch(b, graph, onnx_recurrent.batch_not_first(proto.node))
    check_finite(graph)
    return graph


def _opsets(model: Any) -> dict[str, int]:
    opsets = {("" if o.domain in STANDARD else o.domain): o.version for o in model.opset_import}
    version = opsets.get("", 0)
    if not version and not any(o.domain for o in model.opset_import):
        raise ModelError("the model does not say its opset")
    if version and not OPSETS[0] <= version <= OPSETS[1]:
        raise UnsupportedError(
            f"the model has opset {version}, weft reads {OPSETS[0]} and newer: convert it with "
            "onnx.version_converter"
        )
    return opsets


def _parsed(node: Any, opsets: dict[str, int], read: set[str], folder: Path | None) -> OnnxNode:
    domain = "" if node.domain in STANDARD else node.domain
    name = node.name or next((n for n in node.output if n), node.op_type)
    attrs = onnx_read.read_attributes(node, folder)
    outputs = _outputs(node, read)
    version = opsets.get(domain, 1)
    return OnnxNode(node.op_type, name, domain, version, tuple(node.input), outputs, attrs)


def _outputs(node: Any, read: set[str]) -> tuple[str, ...]:
    """The node's outputs, without those at the end that nobody reads."""
    outputs = list(node.output)
    while len(outputs) > 1 and outputs[-1] not in read:
        outputs.pop()
    return tuple(outputs)


def _add_inputs(b: Builder, proto: Any, shapes: dict[str, Sequence[int]], second: set[str]) -> None:
    """The model's inputs; those in `second` have the batch as their second dimension."""
    names = [info.name for info in proto.input if info.name not in b.tensors]
    for name in shapes:
        if name not in names:
            raise UsageError(unknown("input", name, names))
    for info in proto.input:
        if info.name in b.tensors and info.name not in b.inputs:
            continue  # an initializer's default
        if not info.type.HasField("tensor_type"):
            raise UnsupportedError(f"input {info.name!r} is not a tensor")
        kind = info.type.tensor_type
        try:
            dtype = fallback.import_onnx().helper.tensor_dtype_to_np_dtype(kind.elem_type)
        except KeyError:
            raise ModelError(f"input {info.name!r} has data type {kind.elem_type}") from None
        later = info.name in second
        shape = _input_shape(b, info.name, kind, shapes.get(info.name), int(later))
        shape = (*shape[1::-1], *shape[2:]) if later else shape
        b.input(info.name, shape, fallback.plain_dtype(np.dtype(dtype), info.name))
        if later:
            perm, inner = (1, 0, *range(2, len(shape))), f"{info.name}/batch second"
            b.renamed[info.name] = inner
            b.emit("Transpose", [info.name], {"perm": perm}, outputs=(inner,))


def _input_shape(
    b: Builder, name: str, kind: Any, given: Sequence[int] | None, batch: int = 0
) -> Shape:
    """The input's static shape, 1 in dimension `batch`; remembers in `b` a batch that the file
    fixes.
    """
    if not kind.HasField("shape"):
        if given is None:
            raise ModelError(f"input {name!r} has no shape: pass shapes={{{name!r}: (1, ...)}}")
        return tuple(1 if i == batch else int(d) for i, d in enumerate(given))
    dims = kind.shape.dim
    if given is not None and len(given) != len(dims):
        raise UsageError(
            f"shapes[{name!r}] = {tuple(given)} has {len(given)} dimensions, the input {len(dims)}"
        )
    shape = []
    for i, dim in enumerate(dims):
        fixed = dim.dim_value if dim.HasField("dim_value") else None
        if fixed is not None and fixed <= 0:
            raise ModelError(f"input {name!r}: dimension {i} is {fixed}")
        if i == batch:
            b.batch = max(fixed or 1, b.batch or 1)
            shape.append(1)
            continue
        value = given[i] if given is not None else fixed
        if value is None:
            raise ModelError(
                f"input {name!r}: dimension {i} ({dim.dim_param or 'unnamed'}) is dynamic: pass "
                f"shapes={{{name!r}: ...}} with its size"
            )
        if value < 1 or fixed not in (None, value):
            raise UsageError(f"shapes[{name!r}][{i}] = {value}, the model has {fixed or 'any'}")
        shape.append(int(value))
    return tuple(shape)


def _ordered(proto: Any, known: set[str]) -> list[Any]:
    """The nodes in topological order; raises ModelError for cycles and missing inputs."""
    producer: dict[str, int] = {}
    for i, node in enumerate(proto.node):
        for name in node.output:
            if name and (name in producer or name in known):
                raise ModelError(f"{node.op_type} {node.name!r} writes {name!r} a second time")
            producer[name] = i
    waiting = [0] * len(proto.node)
    readers: dict[int, list[int]] = {}
    for i, node in enumerate(proto.node):
        for name in node.input:
            if not name or name in known:
                continue
            if name not in producer:
                raise ModelError(f"{node.op_type} {node.name!r} reads {name!r}, which is missing")
            waiting[i] += 1
            readers.setdefault(producer[name], []).append(i)
    ready = [i for i, count in enumerate(waiting) if not count]
    order: list[int] = []
    for i in ready:
        order.append(i)
        for reader in readers.get(i, ()):
            waiting[reader] -= 1
            if not waiting[reader]:
                ready.append(reader)
    if len(order) < len(waiting):
        stuck = proto.node[next(i for i, count in enumerate(waiting) if count)]
        raise ModelError(f"{stuck.op_type} {stuck.name!r} is part of a cycle")
    return [proto.node[i] for i in (range(len(waiting)) if _sorted(order, readers) else order)]


def _sorted(order: list[int], readers: dict[int, list[int]]) -> bool:
    return all(i < reader for i in order for reader in readers.get(i, ()))


def _add_node(b: Builder, n: OnnxNode) -> None:
    """Adds a node: folded to a constant, in canonical form, or as it is."""
    n = replace(n, inputs=tuple(b.renamed.get(name, name) for name in n.inputs))
    try:
        _check(n)
        if _fold(b, n):
            return
        handler = HANDLERS.get((n.domain, n.op))
        if handler is not None and handler(b, n):
            return
        attrs = {**n.attrs, "opset": n.version}
        if n.domain:
            attrs["domain"] = n.domain
        b.emit_foreign(n.op, n.inputs, attrs, n.name, n.outputs)
    except ShapeError as error:
        if not b.batch or b.batch == 1:
            raise
        raise ShapeError(
            f"{error} (the first dimension of the inputs, {b.batch}, is the batch and became 1; if "
            f"a batch of {b.batch} is fixed inside the model, export it with a dynamic batch)"
        ) from None
    except (WeftError, RecursionError):
        raise
    except Exception as error:  # e.g. an attribute of the wrong type
        raise ModelError(
            f"{n.op} {n.name!r} can't be read: {type(error).__name__}: {error}"
        ) from error


def _check(n: OnnxNode) -> None:
    """Raises ModelError if the node breaks its operator's schema."""
    if n.domain:
        return
    onnx = fallback.import_onnx()
    context = onnx.checker.DEFAULT_CONTEXT.__class__()
    context.ir_version = onnx.IR_VERSION
    context.opset_imports = {"": n.version}
    attrs = {**n.attrs, "opset": n.version}
    proto = fallback.node_proto(Node(n.op, n.name, n.inputs, n.outputs, attrs), n.inputs)
    try:
        onnx.checker.check_node(proto, context)
    except onnx.checker.ValidationError as error:
        reason = str(error).split("\n")[0]
        raise ModelError(f"{n.op} {n.name!r}: {reason}") from None


def _fold(b: Builder, n: OnnxNode) -> bool:
    """Computes a node whose inputs are all constant; True if it did."""
    if n.op == "Constant" and not n.domain:
        b.constant(n.outputs[0], onnx_shapes.constant_value(n))
        return True
    if n.op in ("Shape", "Size") and not n.domain:
        b.constant(n.outputs[0], onnx_shapes.shape_value(b, n))
        return True
    tensors = [b.tensors[name] if name else None for name in n.inputs]
    constant = all(t is None or t.data is not None for t in tensors)
    if n.domain or not constant or n.op in RANDOM or n.op == "DequantizeLinear":
        return False
    if onnx_quantized.fold(b, n):
        return True
    node = Node(n.op, n.name, n.inputs, n.outputs, {**n.attrs, "opset": n.version})
    _check_fold_size(node, tensors)
    values = [t.real() if t is not None else None for t in tensors]
    results = fallback.run(node, values)  # type: ignore[arg-type]
    for name, result in zip((o for o in n.outputs if o), results, strict=False):
        b.constant(name, result)
    return True


def _check_fold_size(node: Node, tensors: Sequence[Tensor | None]) -> None:
    """Refuses to compute what would fill memory."""
    if node.op in ("NonZero", "Unique", "Compress", "Range"):
        sizes = [_range_size(tensors)] if node.op == "Range" else []
    else:
        sizes = [t.size for t in fallback.describe(node, tensors)]
    limit = SLOW_FOLD_LIMIT if node.op in SLOW else FOLD_LIMIT
    for size in sizes:
        if size > limit:
            raise ModelError(
                f"{node.op} {node.name!r} is a constant of {size} elements, the limit is {limit}: "
                "store it in the model as an initializer"
            )


def _range_size(tensors: Sequence[Tensor | None]) -> float:
    start, limit, step = (float(t.real()) if t is not None else 0.0 for t in tensors)
    return abs((limit - start) / step) if step else np.inf


def _check_batch(b: Builder, graph: Graph, others: set[str]) -> None:
    """Raises ModelError for outputs with a fixed batch, but for `others`, which have none first."""
    for name in (n for n in graph.outputs if n not in others):
        shape = graph[name].shape
        if b.batch and b.batch > 1 and shape and shape[0] == b.batch:
            raise ModelError(
                f"output {name!r} has shape {shape}: the batch of {b.batch} is fixed inside the "
                "model: export it with a dynamic batch"
            )
