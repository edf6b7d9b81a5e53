"""What a frontend builds a graph with: tensors and nodes are added, shapes are inferred."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from weft.errors import ModelError, UnsupportedError
from weft.fallback import PREFIX, plain_dtype
from weft.frontend.onnx_read import ELEMENT_LIMIT, element_count
from weft.graph import Array, Graph, Node, Quant, Shape, Tensor
from weft.ops import OPS, describe_outputs


class Builder:
    """A graph under construction. Nodes are added in topological order."""

    def __init__(self, name: str, batch: int | None = None) -> None:
        self.name = name
        self.batch = batch  # the batch size, above 1, that the file fixes; the graph has 1
        self.tensors: dict[str, Tensor] = {}
        self.nodes: list[Node] = []
        self.inputs: list[str] = []
        self.renamed: dict[str, str] = {}  # inputs whose samples come first only in weft
        self._elements = 0
        self._fresh = 0

    def add(self, tensor: Tensor) -> str:
        """Adds a tensor; raises ModelError if its name is taken or the model gets too large."""
        if tensor.name in self.tensors:
            raise ModelError(f"two tensors are named {tensor.name!r}")
        self._elements += element_count(tensor.shape, tensor.name)
        if self._elements > ELEMENT_LIMIT:
            raise ModelError(
                f"with {tensor.name!r} the model has more than {ELEMENT_LIMIT} elements"
            )
        self.tensors[tensor.name] = tensor
        return tensor.name

    def input(self, name: str, shape: Shape, dtype: str) -> None:
        """Adds an input of the graph."""
        self.inputs.append(self.add(Tensor(name, shape, dtype)))

    def constant(self, name: str, value: Array, quant: Quant | None = None) -> str:
        """Adds a constant under `name` and returns it; floats are held as float32."""
        value = np.asarray(value)
        with np.errstate(over="ignore"):
            value = value.astype(plain_dtype(value.dtype, name), copy=False)
        dtype = "float32" if quant else value.dtype.name
        return self.add(Tensor(name, value.shape, dtype, value, quant))

    def fresh(self, base: str) -> str:
        """A name that no tensor has."""
        while True:
            self._fresh += 1
            name = f"{base}.{self._fresh}"
            if name not in self.tensors:
                return name

    def shape(self, name: str) -> Shape:
        """Shape of a tensor."""
        return self.tensors[name].shape

    def value(self, name: str) -> Array | None:
        """Real values of a constant; None for an absent input or an activation."""
        tensor = self.tensors.get(name) if name else None
        return None if tensor is None or tensor.data is None else tensor.real()

    def emit(
        self,
        op: str,
        inputs: Sequence[str],
        attrs: dict[str, Any] | None = None,
        *,
        name: str = "",
        outputs: Sequence[str] = (),
    ) -> str:
        """Adds a node and its outputs; returns the first output's name."""
        outputs = outputs or (self.fresh(name or op),)
        node = Node(op, name or outputs[0], tuple(inputs), tuple(outputs), attrs or {})
        for tensor in describe_outputs(node, self.tensors):
            self.add(tensor)
        self.nodes.append(node)
        return outputs[0]

    def emit_foreign(
        self,
        op: str,
        inputs: Sequence[str],
        attrs: dict[str, Any],
        name: str,
        outputs: Sequence[str],
    ) -> None:
        """Adds a node in ONNX's own form; `attrs` hold "opset", and "domain" if not standard."""
        if attrs.get("domain"):
            raise UnsupportedError(
                f"{op} {name!r} is of the domain {attrs['domain']!r}, which weft does not know"
            )
        inputs = [n if n and self.tensors[n].size else "" for n in inputs]
        self.emit(PREFIX + op if op in OPS else op, inputs, attrs, name=name, outputs=outputs)

    def graph(self, outputs: Sequence[str]) -> Graph:
        """The finished graph, without what no output needs, verified."""
        for name in outputs:
            if name not in self.tensors:
                raise ModelError(f"output {name!r} is never written")
        whole = Graph(
            self.name, self.tensors, tuple(self.nodes), tuple(self.inputs), tuple(outputs)
        )
        return whole.pruned().verify()


def check_finite(graph: Graph) -> None:
    """Raises ModelError for constants with NaN or infinity (Where, Max and Min may have them)."""
    for node in graph:
        if node.op in ("Where", "Max", "Min"):
            continue
        for name in node.inputs:
            data: Array | None = graph[name].data if name else None
            if data is not None and data.dtype.kind == "f":
                bad = int(np.count_nonzero(~np.isfinite(data)))
                if bad:
                    raise ModelError(
                        f"tensor {name!r}, read by {node.op} {node.name!r}, has {bad} values "
                        f"of {data.size} that are NaN or infinite"
                    )
