"""n samples through operators that are declared for one.

A tensor of declared shape (d, ...) is held as (n·d, ...), a scalar as (n,). Operators that take a
batch do so in one call, all others are evaluated sample by sample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from weft.errors import InputError, unknown
from weft.graph import Array, Graph, Node, Shape, Tensor

if TYPE_CHECKING:
    from weft.ops import OpSpec


def take_feeds(graph: Graph, feeds: Mapping[str, Array], values: dict[str, Array]) -> int:
    """Copies the feeds to `values`; the number of samples."""
    samples: int | None = None
    for name in feeds:
        if name not in graph.inputs:
            raise InputError(unknown("input", name, graph.inputs))
    for name in graph.inputs:
        if name not in feeds:
            raise InputError(f"input {name!r} is missing; the graph needs {list(graph.inputs)}")
        shape, array = graph[name].shape, np.asarray(feeds[name])
        per_sample = shape[0] if shape else 1
        count = len(array) if array.ndim else 1
        fits = array.shape[1:] == shape[1:] if shape else array.ndim <= 1
        fits = fits and count > 0 and count % per_sample == 0
        if not fits or samples not in (None, count // per_sample):
            expected = f"({per_sample}·n, {', '.join(map(str, shape[1:]))})"
            raise InputError(f"input {name!r} has shape {array.shape}, expected {expected}")
        samples = count // per_sample
        array = array.astype(graph[name].dtype, copy=False)
        values[name] = array if shape or array.ndim else array.reshape(1)
    return samples or 1


def rounded(tensor: Tensor, value: Array, to_codes: bool) -> Array:
    """`value` as the tensor's codes keep it: saturated, and `to_codes` rounded, too."""
    quant = tensor.quant
    if quant is None:
        return value
    if quant.rows:
        from weft.passes.row_ranges import rounded_rows

        return rounded_rows(value, quant, to_codes)
    if quant.heads:
        from weft.passes.token_ranges import rounded_heads

        return rounded_heads(value, quant, to_codes)
    if to_codes:
        return quant.dequantize(quant.quantize(value))
    if quant.format == "bf16":
        return value
    low, high = quant.dequantize(np.array(_limits(quant.format)))
    return np.clip(value, low, high)


def _limits(name: str) -> tuple[int, int]:
    if name == "int8":
        return -128, 127
    from weft.activation import limits

    return limits(name)


def constant(graph: Graph, name: str, samples: int) -> Array:
    """A constant that is an output: the same for each sample."""
    data = graph[name].real()
    return np.concatenate([data] * samples) if data.ndim else np.repeat(data, samples)


def run(
    spec: OpSpec, graph: Graph, node: Node, values: Mapping[str, Array], samples: int
) -> list[Array]:
    """Outputs of a node for n samples; `values` holds the activations."""
    names = list(node.inputs)
    while names and not names[-1]:
        names.pop()
    arrays = {n: values[n] if n in values else graph[n].real() for n in names if n}
    activations = [graph[n].shape for n in names if n in values]
    outputs = [graph[n].shape for n in node.outputs if n]
    stacked = [s[:1] == (1,) for s in (*activations, *outputs)]
    if all(stacked) and activations and _same_base(spec, node, activations, outputs):
        return spec.reference(node, _ordered(names, arrays))
    pieces = []
    for i in range(samples):
        parts = {n: _sample(graph[n].shape, a, i) if n in values else a for n, a in arrays.items()}
        pieces.append(spec.reference(node, _ordered(names, parts)))
    return [_join(list(group)) for group in zip(*pieces, strict=True)]


def _ordered(names: Sequence[str], arrays: Mapping[str, Array]) -> list[Array]:
    """Arrays by name; None for an absent input, which only ONNX's own operators have."""
    return [arrays[n] if n else None for n in names]  # type: ignore[misc]


def _same_base(
    spec: OpSpec, node: Node, activations: Sequence[Shape], outputs: Sequence[Shape]
) -> bool:
    if spec.category in ("elementwise", "binary") and len(outputs[0]) != len(activations[0]):
        return False
    return spec.batched(node, activations)


def _sample(shape: Shape, array: Array, index: int) -> Array:
    if not shape:
        return np.asarray(array[index])
    return array[index * shape[0] : (index + 1) * shape[0]]


def _join(parts: list[Array]) -> Array:
    return np.concatenate(parts) if parts[0].ndim else np.stack(parts)
