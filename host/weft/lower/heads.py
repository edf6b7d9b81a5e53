"""Heads of whole words: channels of zeros behind those of each head of attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from weft.config import Overlay
from weft.graph import Array, Graph, Node, Tensor


@dataclass(frozen=True)
class _Heads:
    """`count` heads of `width` channels that become `wide` each."""

    count: int
    width: int
    wide: int

    @property
    def channels(self) -> int:
        """Channels of all heads, with the zeros."""
        return self.count * self.wide

    @property
    def true(self) -> tuple[int, int]:
        """The share of channels that are none of these zeros, as a fraction."""
        return self.width, self.wide

    def spread(self, data: Array, axis: int, fill: Any = 0) -> Array:
        """`data` with `fill` behind each head along an axis."""
        moved = np.moveaxis(data, axis, -1)
        whole = np.full((*moved.shape[:-1], self.count, self.wide), fill, data.dtype)
        whole[..., : self.width] = moved.reshape(*moved.shape[:-1], self.count, self.width)
        return np.moveaxis(whole.reshape(*moved.shape[:-1], -1), -1, axis)


def pad_heads(graph: Graph, overlay: Overlay) -> Graph:
    """The graph whose heads take whole words of `overlay`, where weights around them can be padded:
    columns of the layers that make queries, keys and values, rows of the one that reads the output.
    """
    if "attention" not in overlay.units:
        return graph
    for node in graph.nodes:
        if node.op == "Attention":
            graph = _padded(graph, node, overlay.lanes)
    return graph


def _padded(graph: Graph, node: Node, lanes: int) -> Graph:
    heads = int(node.attrs["heads"])
    kinds = _kinds([graph[name].shape[-1] for name in node.inputs[:3]], node, lanes)
    producers, consumers = graph.producers(), graph.consumers()
    parts = dict(zip(node.inputs[:3], kinds, strict=False))
    layers = [producers.get(name) for name in parts]
    mixed, out = _reader(graph, consumers, node.outputs[0])
    sole = all(len(consumers[n]) == 1 and n not in graph.outputs for n in parts)
    if len(parts) < 3 or not sole or not _paddable(graph, *layers, out):
        return graph
    changed = _Changed(dict(graph.tensors), {})
    for name, layer in zip(parts, layers, strict=True):
        assert layer is not None, "it can be padded"
        changed.columns(layer, parts[name])
        changed.widen(name, parts[name].channels)
    assert out is not None, "it can be padded"
    value = kinds[2]
    made = replace(value, count=heads)
    changed.rows(out, made)
    for name in mixed:
        changed.widen(name, made.channels)
    scale = node.attrs.get("scale") or kinds[0].width ** -0.5
    own = {"scale": scale, "true_width": kinds[0].width, "true_value_width": value.width}
    changed.nodes[id(node)] = node.with_attrs(**own)
    nodes = tuple(changed.nodes.get(id(n), n) for n in graph.nodes)
    return graph.replace(tensors=changed.tensors, nodes=nodes).verify()


def _reader(
    graph: Graph, consumers: Mapping[str, list[Node]], name: str
) -> tuple[list[str], Node | None]:
    """The only reader of an attention's output, behind moves of whole tokens, and the tensors up
    to there; None if there are several.
    """
    names = [name]
    while True:
        readers = consumers.get(names[-1], [])
        if len(readers) != 1 or names[-1] in graph.outputs:
            return names, None
        if readers[0].op != "Windows":
            return names, readers[0]
        names.append(readers[0].outputs[0])


def _kinds(sizes: Sequence[int], node: Node, lanes: int) -> list[_Heads]:
    """Heads of queries, keys and values; none where they are whole words, or can't be at all."""
    q, k, v = sizes
    heads = int(node.attrs["heads"])
    shared = int(node.attrs.get("kv_heads") or heads)
    if q % heads or k % shared or v % shared or heads % shared or q // heads != k // shared:
        return []  # what is wrong with it is told where it is lowered
    width, value = q // heads, v // shared
    if width % lanes == 0 and value % lanes == 0:
        return []
    wide, wide_value = (-(-n // lanes) * lanes for n in (width, value))
    counts = ((heads, width, wide), (shared, width, wide), (shared, value, wide_value))
    return [_Heads(*each) for each in counts]


def _paddable(graph: Graph, *layers: Node | None) -> bool:
    """Whether all are Linear with integer weights of their own whose scales are of columns."""
    for node in layers:
        if node is None or node.op != "Linear" or node.attrs.get("activation"):
            return False
        weights = graph[node.inputs[1]]
        quant = weights.quant
        if weights.data is None or quant is None or graph[node.inputs[0]].quant is None:
            return False
        if any(part is not None for part in (quant.groups, quant.zeros)) or quant.format != "int8":
            return False
    return True


@dataclass
class _Changed:
    """Tensors and nodes that take the place of others."""

    tensors: dict[str, Tensor]
    nodes: dict[int, Node]

    def columns(self, node: Node, heads: _Heads) -> None:
        """A Linear with columns of zeros."""
        weights = self.tensors[node.inputs[1]]
        assert weights.data is not None, "it can be padded"
        assert weights.quant is not None, "it can be padded"
        quant, bias = weights.quant, node.inputs[2] if len(node.inputs) > 2 else ""
        if np.size(quant.scale) > 1:
            quant = replace(quant, scale=heads.spread(quant.scale, 0, 1))
        names = [node.inputs[0], self._put(node, weights, heads.spread(weights.data, 1), quant)]
        if bias:
            old = self.tensors[bias]
            assert old.data is not None, "constants have data"
            own = old.quant
            if own is not None and np.size(own.scale) > 1:
                own = replace(own, scale=heads.spread(own.scale, 0, 1))
            names.append(self._put(node, old, heads.spread(old.data.reshape(-1), 0), own))
        self.nodes[id(node)] = replace(node, inputs=tuple(names)).with_attrs(true=heads.true)

    def rows(self, node: Node, heads: _Heads) -> None:
        """A Linear with rows of zeros."""
        weights = self.tensors[node.inputs[1]]
        assert weights.data is not None, "it can be padded"
        name = self._put(node, weights, heads.spread(weights.data, 0), weights.quant)
        inputs = (node.inputs[0], name, *node.inputs[2:])
        self.nodes[id(node)] = replace(node, inputs=inputs).with_attrs(true=heads.true)

    def widen(self, name: str, channels: int) -> None:
        """An activation with more channels."""
        tensor = self.tensors[name]
        self.tensors[name] = replace(tensor, shape=(*tensor.shape[:-1], channels))

    def _put(self, node: Node, old: Tensor, data: Array, quant: Any) -> str:
        name = f"{old.name}/heads/{node.name}"
        while name in self.tensors:
            name += "'"
        self.tensors[name] = Tensor(name, data.shape, old.dtype, data, quant)
        return name
