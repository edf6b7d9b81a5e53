"""The operators: what shape each gives, and what it computes, in numpy.

`OPS` is the registry. A node whose attributes hold "opset" is in ONNX's own form and is left to
onnx's reference evaluator (`weft.fallback`); all others have the attributes of the table in
ARCHITECTURE.md and need nothing but numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from weft import (
    fallback,
    fixed_ops,
    integer_ops,
    lstm,
    quant_ops,
    reference,
    samples,
    shapes,
    tflite_resize,
    transformer_ops,
    window_ops,
)
from weft.errors import InputError, ShapeError, UnsupportedError, unknown
from weft.graph import Array, Graph, Node, Shape, Tensor

Infer = Callable[[Node, Sequence[Tensor | None]], list[Shape]]
Reference = Callable[[Node, list[Array]], list[Array]]
Batched = Callable[[Node, Sequence[Shape]], bool]


def _one_rank(node: Node, inputs: Sequence[Shape]) -> bool:
    return len({len(s) for s in inputs}) == 1


@dataclass(frozen=True)
class OpSpec:
    """One operator.

    `infer_shape(node, input tensors)` gives the shapes of the outputs and raises ShapeError.
    `reference(node, input arrays)` computes them; absent optional inputs at the end are left out.
    `batched(node, shapes of the activations)` says whether `reference` takes n samples stacked in
    dimension 0, where the graph declares 1. `dtype` is the output's, None: that of the first input.
    """

    name: str
    infer_shape: Infer
    reference: Reference
    category: str
    doc: str
    batched: Batched = _one_rank
    dtype: str | None = None


def _unary(name: str) -> OpSpec:
    def run(node: Node, inputs: list[Array]) -> list[Array]:
        options = {k: v for k, v in node.attrs.items() if k not in ("requant", "roles")}
        return [np.asarray(reference.UNARY[name](inputs[0], **options), inputs[0].dtype)]

    return OpSpec(name, shapes.same, run, "elementwise", f"ONNX's {name} of every element")


_COMPARISONS = {"And", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Or", "Xor"}


def _binary(name: str) -> OpSpec:
    def run(node: Node, inputs: list[Array]) -> list[Array]:
        y = inputs[0]
        if "quants" in node.attrs:
            y = integer_ops.binary(node, inputs)
        else:
            for other in inputs[1:]:
                y = reference.BINARY[name](y, other)
        return [reference.activate(np.asarray(y), node.attrs.get("activation"))]

    doc = f"ONNX's {name}, with broadcasting"
    dtype = "bool" if name in _COMPARISONS else None
    return OpSpec(name, shapes.broadcast, run, "binary", doc, dtype=dtype)


def _reduction(name: str, function: Callable[..., Array]) -> OpSpec:
    def run(node: Node, inputs: list[Array]) -> list[Array]:
        a = node.attrs
        y = function(inputs[0], axis=tuple(a["axes"]), keepdims=bool(a["keepdims"]))
        return [np.asarray(y, inputs[0].dtype)]

    return OpSpec(name, shapes.reduce, run, "reduce", f"{name} over axes", _not_first("axes"))


def _not_first(attribute: str) -> Batched:
    """Batched if none of the axes in `attribute` (an axis or several) is the batch axis."""

    def batched(node: Node, inputs: Sequence[Shape]) -> bool:
        value = node.attrs[attribute]
        axes = value if isinstance(value, Iterable) else (value,)
        return all(len(s) and all(a % len(s) for a in axes) for s in inputs)

    return batched


def _reshape(node: Node, inputs: list[Array]) -> list[Array]:
    shape = tuple(node.attrs["shape"])
    if shape and shape[0] == 1 and len(inputs[0].shape):
        shape = (-1, *shape[1:])
    return [inputs[0].reshape(shape)]


def _global(function: Callable[..., Array]) -> Reference:
    def run(node: Node, inputs: list[Array]) -> list[Array]:
        x = inputs[0]
        y = np.asarray(function(x, axis=tuple(range(2, x.ndim)), keepdims=True), x.dtype)
        return [reference.activate(y, node.attrs.get("activation"))]

    return run


def _arg(function: Callable[..., Array]) -> Reference:
    def run(node: Node, inputs: list[Array]) -> list[Array]:
        (axis,) = node.attrs["axes"]
        y = np.asarray(function(inputs[0], axis=axis), np.int64)
        return [np.expand_dims(y, axis) if node.attrs["keepdims"] else y]

    return run


def _softmax(function: Callable[..., Array]) -> Reference:
    return lambda node, inputs: [function(inputs[0], node.attrs["axis"])]


def _perm_keeps_batch(node: Node, inputs: Sequence[Shape]) -> bool:
    return bool(node.attrs["perm"]) and node.attrs["perm"][0] == 0


def _pads_keep_batch(node: Node, inputs: Sequence[Shape]) -> bool:
    pads = node.attrs["pads"]
    return bool(pads) and pads[0] == pads[len(pads) // 2] == 0


def _matmul_batched(node: Node, inputs: Sequence[Shape]) -> bool:
    return _one_rank(node, inputs) and (len(inputs) == 1 or len(inputs[0]) > 2)


def _depth_to_space(node: Node, inputs: list[Array]) -> list[Array]:
    return [reference.depth_to_space(inputs[0], node.attrs["blocksize"], node.attrs["mode"])]


def _gather(node: Node, inputs: list[Array]) -> list[Array]:
    return [np.take(inputs[0], inputs[1], axis=node.attrs["axis"])]


def _concat(node: Node, inputs: list[Array]) -> list[Array]:
    axis = node.attrs["axis"]
    parts = reference.stacked(inputs) if axis % inputs[0].ndim else inputs
    return [np.concatenate(parts, axis=axis)]


def _slice(node: Node, inputs: list[Array]) -> list[Array]:
    return [inputs[0][reference.slices(node, inputs[0].ndim)]]


def _transpose(node: Node, inputs: list[Array]) -> list[Array]:
    return [np.transpose(inputs[0], node.attrs["perm"])]


def _moves() -> list[OpSpec]:
    def move(
        name: str, shape: Infer, run: Reference, doc: str, batched: Batched = _one_rank
    ) -> OpSpec:
        return OpSpec(name, shape, run, "move", doc, batched)

    axis = _not_first("axis")
    return [
        move("Concat", shapes.concat, _concat, "joins along axis", axis),
        move("Slice", shapes.slice_, _slice, "starts, ends, axes, steps", _not_first("axes")),
        move("Pad", shapes.pad, reference.pad, "pads, value, mode", _pads_keep_batch),
        move(
            "Resize",
            shapes.resize,
            reference.resize,
            "nearest neighbour, integer scales",
            lambda node, _: node.attrs["scales"][0] == 1,
        ),
        move("DepthToSpace", shapes.depth_to_space, _depth_to_space, "blocksize, mode"),
        move("Reshape", shapes.reshape, _reshape, "shape, static"),
        move("Transpose", shapes.transpose, _transpose, "perm", _perm_keeps_batch),
        move(
            "Gather",
            shapes.gather,
            _gather,
            "constant indices along axis",
            lambda node, inputs: len(inputs) == 1 and axis(node, inputs),
        ),
    ]


def _windows() -> list[OpSpec]:
    heavy = partial(OpSpec, category="matrix")
    pool = partial(OpSpec, category="pool")
    alone: Batched = lambda node, inputs: len(inputs) == 1  # noqa: E731 - weights are constants
    matmul = heavy(
        "MatMul",
        shapes.matmul,
        lambda node, inputs: [
            reference.activate(inputs[0] @ inputs[1], node.attrs.get("activation"), -1)
        ],
        doc="product of two activations",
        batched=_matmul_batched,
    )
    return [
        heavy("Conv", shapes.conv, reference.conv, doc="x, w, bias", batched=alone),
        heavy(
            "ConvTranspose",
            shapes.conv_transpose,
            reference.conv_transpose,
            doc="x, w, bias; strides, pads, dilations, group, output_padding",
            batched=alone,
        ),
        heavy("Linear", shapes.linear, reference.linear, doc="x [..., K] · w [K, N] + bias"),
        matmul,
        pool("MaxPool", shapes.pool, reference.max_pool, doc="largest of a window"),
        pool("AveragePool", shapes.pool, reference.average_pool, doc="mean of a window"),
        pool("GlobalAveragePool", shapes.global_pool, _global(np.mean), doc="mean of a map"),
        pool("GlobalMaxPool", shapes.global_pool, _global(np.max), doc="largest of a map"),
        OpSpec(
            "BatchNormalization",
            shapes.same,
            reference.batch_normalization,
            "elementwise",
            "x, scale, bias, mean, variance; fuse removes it",
            lambda node, inputs: len(inputs) == 1 and len(inputs[0]) > 1,
        ),
    ]


def _quantizers() -> list[OpSpec]:
    return [
        OpSpec(name, shapes.same, function, "elementwise", f"QONNX's {name}", dtype="float32")
        for name, function in quant_ops.REFERENCES.items()
    ]


def _others() -> list[OpSpec]:
    arg = partial(OpSpec, category="reduce", batched=_not_first("axes"), dtype="int64")
    axis = partial(OpSpec, category="reduce", batched=_not_first("axis"))
    convert = partial(OpSpec, category="elementwise")
    return [
        arg("ArgMax", shapes.reduce, _arg(np.argmax), doc="index of the largest"),
        arg("ArgMin", shapes.reduce, _arg(np.argmin), doc="index of the smallest"),
        axis("Softmax", shapes.same, _softmax(reference.softmax), doc="along axis"),
        axis("LogSoftmax", shapes.same, _softmax(reference.log_softmax), doc="along axis"),
        convert(
            "Where", shapes.broadcast, lambda _, inputs: [np.where(*inputs)], doc="condition, x, y"
        ),
        convert(
            "Clip",
            shapes.same,
            lambda node, inputs: [reference.clip(inputs[0], node.attrs["min"], node.attrs["max"])],
            doc="min, max",
        ),
        convert(
            "Cast",
            shapes.same,
            lambda node, inputs: [inputs[0].astype(node.attrs["to"])],
            doc="to a numpy dtype",
        ),
        convert("QuantizeLinear", shapes.same, reference.quantize_linear, doc="real → codes"),
        convert(
            "DequantizeLinear",
            shapes.same,
            reference.dequantize_linear,
            doc="codes → real",
            dtype="float32",
        ),
    ]


def _integers() -> list[OpSpec]:
    """TFLite's integer kernels, and its LSTM."""
    alone: Batched = lambda node, inputs: len(inputs) == 1  # noqa: E731 - weights are constants
    last: Batched = lambda node, inputs: len(inputs[0]) > 1  # noqa: E731
    axes = _not_first("axes")
    return [
        OpSpec("Lookup", shapes.same, integer_ops.lookup, "elementwise", "a table of 256 codes"),
        OpSpec("Mean8", shapes.reduce, integer_ops.mean8, "reduce", "mean of codes", axes),
        OpSpec("Resize8", tflite_resize.shape, tflite_resize.resize8, "move", "bilinear, of codes"),
        OpSpec("Softmax8", shapes.same, integer_ops.softmax8, "reduce", "softmax of codes", last),
        OpSpec("SequenceLstm", lstm.shape, lstm.sequence, "matrix", "LSTM in float", alone),
        OpSpec("SequenceLstm8", lstm.shape, lstm.sequence8, "matrix", "LSTM of codes", alone),
    ]


_REDUCTIONS: dict[str, Callable[..., Array]] = {
    "ReduceMax": np.max,
    "ReduceMean": np.mean,
    "ReduceMin": np.min,
    "ReduceProd": np.prod,
    "ReduceSum": np.sum,
}

OPS: dict[str, OpSpec] = {
    spec.name: spec
    for spec in (
        *(_unary(name) for name in reference.UNARY),
        *(_binary(name) for name in reference.BINARY),
        *(_reduction(name, function) for name, function in _REDUCTIONS.items()),
        *_moves(),
        *_windows(),
        *_quantizers(),
        *_others(),
        *_integers(),
        *(OpSpec(*spec) for spec in transformer_ops.SPECS),
        *(OpSpec(*spec) for spec in window_ops.SPECS),
        *(OpSpec(n, infer, run, c, d, dtype=t) for n, infer, run, c, t, d in fixed_ops.SPECS),
    )
}


def spec_of(node: Node) -> OpSpec:
    """The operator of a node; for one in ONNX's own form, one made of onnx's evaluator.

    Raises UnsupportedError for an operator that is neither.
    """
    if "opset" in node.attrs:
        return OpSpec(
            node.op,
            lambda node, inputs: [t.shape for t in fallback.describe(node, inputs)],
            fallback.run,
            "host",
            "as ONNX",
            lambda node, inputs: False,
        )
    if node.op not in OPS:
        raise UnsupportedError(unknown("operator", node.op, OPS))
    return OPS[node.op]


def describe_outputs(node: Node, tensors: Mapping[str, Tensor]) -> list[Tensor]:
    """The node's output tensors (name, shape, dtype), from its inputs'.

    Raises ShapeError if the inputs don't fit, UnsupportedError if the shapes depend on data.
    """
    inputs = [tensors[name] if name else None for name in node.inputs]
    if "opset" in node.attrs:
        return fallback.describe(node, inputs)
    spec = spec_of(node)
    dtypes = [spec.dtype or _output_dtype(node, inputs), "int64"]  # the second: MaxPool's indices
    found = spec.infer_shape(node, inputs)
    if len(node.outputs) > len(found):
        raise ShapeError(f"{node.op} {node.name!r} has {len(node.outputs)} outputs")
    return [Tensor(*each) for each in zip(node.outputs, found, dtypes, strict=False) if each[0]]


def _output_dtype(node: Node, inputs: Sequence[Tensor | None]) -> str:
    if node.op == "Cast":
        return str(node.attrs["to"])
    if node.op == "QuantizeLinear":
        return shapes.nth(node, inputs, 2).dtype
    return shapes.nth(node, inputs, 1 if node.op == "Where" else 0).dtype


def evaluate(
    graph: Graph,
    feeds: Mapping[str, Array],
    *,
    keep: Iterable[str] = (),
    fake_quant: bool = False,
) -> dict[str, Array]:
    """Outputs of the graph, and the tensors named in `keep`, for n samples.

    `feeds` and results have n × the declared size in dimension 0 (scalars: shape (n,)). A
    quantized graph is evaluated on real values that saturate where codes do (its activations may
    be nothing else); with `fake_quant` they are rounded to the codes, too, as the accelerator
    does, but sums are float32.

    Raises InputError for feeds that don't fit, MissingDependency if an operator needs onnx.
    """
    values: dict[str, Array] = {}
    wanted = dict.fromkeys((*graph.outputs, *keep))
    count = samples.take_feeds(graph, feeds, values)
    for name in wanted:
        if name not in graph.tensors:
            raise InputError(unknown("tensor", name, graph.tensors))
    for name in graph.inputs:
        values[name] = samples.rounded(graph[name], values[name], fake_quant)
    last_use = {name: i for i, node in enumerate(graph.nodes) for name in node.inputs if name}
    for i, node in enumerate(graph.nodes):
        with np.errstate(all="ignore"):  # infinities and NaN pass on, as anywhere in float32
            results = samples.run(spec_of(node), graph, node, values, count)
        for name, result in zip(node.outputs, results, strict=False):
            if name:
                values[name] = samples.rounded(graph[name], result, fake_quant)
        for name in node.inputs:
            if name in values and last_use[name] == i and name not in wanted:
                del values[name]
    return {n: values[n] if n in values else samples.constant(graph, n, count) for n in wanted}
