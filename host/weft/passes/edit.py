"""A graph being rewritten: who writes and who reads each tensor, kept up to date."""

from __future__ import annotations

from typing import Any

import numpy as np

from weft.graph import Array, Graph, Node, Tensor


class Edit:
    """Nodes keep their place in the order; one that takes another's place takes its number."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self.tensors: dict[str, Tensor] = dict(graph.tensors)
        self._nodes: dict[int, list[Node]] = {}
        self._place: dict[str, int] = {}
        self._writer: dict[str, Node] = {}
        self._readers: dict[str, dict[int, int]] = {}
        self.known: dict[object, Any] = {}  # what rules have found out
        for place, node in enumerate(graph.nodes):
            self._nodes[place] = []
            self._link(place, node)

    def _link(self, place: int, node: Node) -> None:
        self._nodes[place].append(node)
        for name in node.outputs:
            self._writer[name] = node
            self._place[name] = place
        for name in node.inputs:
            if name:
                counts = self._readers.setdefault(name, {})
                counts[place] = counts.get(place, 0) + 1

    def _unlink(self, node: Node) -> int:
        place = self._place[node.outputs[0]]
        self._nodes[place] = [n for n in self._nodes[place] if n is not node]
        for name in node.outputs:
            if self._writer.get(name) is node:
                del self._writer[name], self._place[name]
        for name in node.inputs:
            if name:
                counts = self._readers[name]
                counts[place] -= 1
                if not counts[place]:
                    del counts[place]
        return place

    def snapshot(self) -> list[Node]:
        """The nodes of this moment, in order."""
        return [node for place in sorted(self._nodes) for node in self._nodes[place]]

    def alive(self, node: Node) -> bool:
        """Whether the node is still part of the graph."""
        return bool(node.outputs) and self._writer.get(node.outputs[0]) is node

    def put(self, old: Node, *new: Node) -> None:
        """Puts nodes in the place of one."""
        place = self._unlink(old)
        for node in new:
            self._link(place, node)

    def drop(self, node: Node) -> None:
        """Takes a node out; another must write or nobody read what it wrote."""
        self._unlink(node)

    def producer(self, name: str) -> Node | None:
        """The node that writes `name`; None for inputs and constants."""
        return self._writer.get(name)

    def only_producer(self, name: str) -> Node | None:
        """The node that writes `name`, if nobody but one reader ever sees it."""
        node = self._writer.get(name)
        if node is None or name in self._graph.outputs or len(node.outputs) > 1:
            return None
        return node if sum(self._readers.get(name, {}).values()) == 1 else None

    def bypass(self, node: Node) -> bool:
        """Removes a node with one output that equals its first input; False if it must stay."""
        x, y = node.inputs[0], node.outputs[0]
        if y not in self._graph.outputs:
            self._unlink(node)
            self._rename_readers(y, x)
            return True
        writer = self._writer.get(x)
        if writer is None or x in self._graph.outputs:
            return False
        self._unlink(node)
        self.tensors[y] = Tensor(
            y, self.tensors[x].shape, self.tensors[x].dtype, None, self.tensors[x].quant
        )
        outputs = tuple(y if name == x else name for name in writer.outputs)
        self.put(writer, Node(writer.op, writer.name, writer.inputs, outputs, writer.attrs))
        self._rename_readers(x, y)
        return True

    def _rename_readers(self, old: str, new: str) -> None:
        for place in list(self._readers.get(old, {})):
            for node in list(self._nodes[place]):
                if old in node.inputs:
                    inputs = tuple(new if name == old else name for name in node.inputs)
                    self.put(node, Node(node.op, node.name, inputs, node.outputs, node.attrs))

    def fresh(self, base: str) -> str:
        """`base`, or it with a number, that no tensor is named."""
        name, count = base, 1
        while name in self.tensors:
            name, count = f"{base}.{count}", count + 1
        return name

    def constant(self, base: str, data: Array) -> str:
        """Adds a constant; its name."""
        name = self.fresh(base)
        self.tensors[name] = Tensor(name, data.shape, data.dtype.name, np.ascontiguousarray(data))
        return name

    def activation(self, base: str, shape: tuple[int, ...]) -> str:
        """Adds a float tensor; its name."""
        name = self.fresh(base)
        self.tensors[name] = Tensor(name, shape)
        return name

    def graph(self) -> Graph:
        """The graph as it is now; tensors that nothing uses are still in it."""
        return self._graph.replace(nodes=tuple(self.snapshot()), tensors=self.tensors)
