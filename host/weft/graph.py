"""Tensor, Node, Graph: the one intermediate form between a model file and a program.

A graph is a value: passes take one and return another. Operators carry ONNX's names and
attributes (`ops.py` lists them), with the batch dimension, always the first, fixed to 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weft.errors import ModelError, ShapeError

Array = NDArray[Any]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Quant:
    """Affine quantization: real = scale * (q - zero_point).

    Activations: int8, `scale` of shape (), one zero point in -128..127 (uint8 models are moved
    by -128 when they are imported); other formats use fewer codes, are int16 (the residual stream
    of transformers), or real (bf16). Weights: symmetric (zero point 0), `scale` of shape () or
    (channels,) along `axis`; constants hold in `Tensor.data` what the array multiplies with:
    integers, or float32 numbers that bf16 holds exactly.

    `format` names how they are stored (`weft.formats`). Formats with a scale of their own per
    group of input channels keep its bytes in `groups`, uint8 [N, *taps, groups], asymmetric ones
    their zero points in `zeros`, int8 of that shape; `codebook` holds the int16 values of one.
    With `rows` each row of an activation has a range of its own (`weft.passes.row_ranges`). With
    `heads` each head of each row has one: shares of the scale, one per head
    (`weft.passes.token_ranges`).
    """

    scale: NDArray[np.float32]
    zero_point: int = 0
    axis: int | None = None
    format: str = "int8"
    groups: Array | None = None
    zeros: Array | None = None
    codebook: Array | None = None
    rows: bool = False
    heads: tuple[float, ...] = ()

    def quantize(self, x: Array) -> Array:
        """Nearest codes of `x` (ties to even, saturating); for per-tensor quantization.

        int8, of formats with fewer codes only theirs (`weft.activation`); int16, float32 for bf16.
        """
        if self.format != "int8":
            from weft.activation import to_codes

            return to_codes(x, self)
        q = np.rint(np.asarray(x, np.float32) / self.scale) + np.float32(self.zero_point)
        return np.asarray(np.clip(q, -128, 127), np.int8)

    def dequantize(self, q: Array) -> NDArray[np.float32]:
        """Real values of the codes `q`; per-channel scales broadcast along `axis`."""
        scale = np.asarray(self.scale, np.float32)
        if self.axis is not None and scale.ndim:
            shape = [1] * np.ndim(q)
            shape[self.axis] = -1
            scale = scale.reshape(shape)
        whole = np.asarray(q)
        if whole.dtype.kind != "f":
            whole = (whole.astype(np.int32) - self.zero_point).astype(np.float32)
        return np.asarray(whole * scale, np.float32)


@dataclass(frozen=True)
class Tensor:
    """A named value: static `shape`, numpy `dtype` name, `data` if constant, `quant` if integer.

    A tensor with `quant` stands for real numbers that are stored as integers: `dtype` stays
    float32 for activations (codes are int8), constants hold integer `data`.
    """

    name: str
    shape: Shape
    dtype: str = "float32"
    data: Array | None = None
    quant: Quant | None = None

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    def real(self) -> Array:
        """The constant's real values (dequantized if it holds integers)."""
        assert self.data is not None, f"{self.name} is not a constant"
        return self.quant.dequantize(self.data) if self.quant else self.data


@dataclass(frozen=True)
class Node:
    """One operator. An empty input name is an absent optional input, as in ONNX."""

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)

    def with_attrs(self, **attrs: Any) -> Node:
        """The same node with some attributes replaced."""
        return replace(self, attrs={**self.attrs, **attrs})


@dataclass(frozen=True)
class Graph:
    """Nodes in topological order over named tensors."""

    name: str
    tensors: Mapping[str, Tensor]
    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    @property
    def is_quantized(self) -> bool:
        """Whether activations carry scales."""
        return any(t.quant is not None and t.data is None for t in self.tensors.values())

    def replace(self, **fields: Any) -> Graph:
        """The same graph with some fields replaced."""
        return replace(self, **fields)

    def producers(self) -> dict[str, Node]:
        """Tensor name → the node that writes it."""
        return {out: node for node in self.nodes for out in node.outputs}

    def reshaped_from(self, name: str) -> str:
        """The tensor that `name` is a Reshape of, or itself."""
        producers = self.producers()
        while name in producers and producers[name].op == "Reshape":
            name = producers[name].inputs[0]
        return name

    def consumers(self) -> dict[str, list[Node]]:
        """Tensor name → the nodes that read it, in order."""
        readers: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(n for n in node.inputs if n):
                readers.setdefault(name, []).append(node)
        return readers

    def pruned(self) -> Graph:
        """Without the nodes and tensors that no output needs."""
        needed = set(self.outputs)
        nodes: list[Node] = []
        for node in reversed(self.nodes):
            if needed.intersection(node.outputs):
                nodes.append(node)
                needed.update(n for n in node.inputs if n)
        nodes.reverse()
        kept = needed | set(self.inputs) | {out for node in nodes for out in node.outputs}
        tensors = {name: t for name, t in self.tensors.items() if name in kept}
        return replace(self, nodes=tuple(nodes), tensors=tensors)

    def verify(self) -> Graph:
        """Returns itself; raises ModelError naming the first node that breaks the rules."""
        known = set(self.inputs) | {n for n, t in self.tensors.items() if t.data is not None}
        for node in self.nodes:
            missing = [n for n in node.inputs if n and n not in known]
            if missing:
                raise ModelError(
                    f"{node.op} {node.name!r} reads {missing[0]!r}, which no earlier node writes "
                    "(a cycle, or a missing input)"
                )
            twice = [n for n in node.outputs if n in known]
            if twice:
                raise ModelError(f"{node.op} {node.name!r} writes {twice[0]!r} a second time")
            known.update(node.outputs)
        for name in (*self.inputs, *self.outputs, *known):
            if name not in self.tensors:
                raise ModelError(f"tensor {name!r} has no description")
        for name in self.outputs:
            if name not in known:
                raise ModelError(f"output {name!r} is never written")
        for tensor in self.tensors.values():
            if any(d <= 0 for d in tensor.shape):
                raise ShapeError(f"tensor {tensor.name!r} has shape {tensor.shape}: an empty one")
            if tensor.data is not None and tensor.data.shape != tensor.shape:
                raise ShapeError(
                    f"constant {tensor.name!r}: data of shape {tensor.data.shape}, "
                    f"declared {tensor.shape}"
                )
        return self
