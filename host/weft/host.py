"""Host segments, prepared once: what `weft.ops.evaluate` gives, without its work per call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from weft import activation, ops, samples
from weft.graph import Array, Graph, Node

Values = dict[str, Array]
Limits = tuple[np.float32, np.float32]


@dataclass(frozen=True)
class _Step:
    """A node: how it is called, and the ends of the ranges that its quantized outputs keep to."""

    call: Callable[[Values, int], list[Array]]
    outputs: tuple[tuple[str, Limits | None], ...]


class HostRunner:
    """Evaluates a host segment on real values, again and again."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        constants = {n for n, t in graph.tensors.items() if t.data is not None}
        self._constants = constants.difference(graph.inputs)
        self._inputs = tuple((name, _limits(graph, name)) for name in graph.inputs)
        self._steps = [self._prepared(node) for node in graph.nodes]

    def run(self, values: Values, count: int) -> None:
        """Adds the tensors that the segment computes from `values`, for `count` samples."""
        local = {name: _kept(values[name], limits) for name, limits in self._inputs}
        for step in self._steps:
            for (name, limits), result in zip(step.outputs, step.call(local, count), strict=False):
                if name:
                    local[name] = _kept(result, limits)
        for name in self.graph.outputs:
            known = name in local
            values[name] = local[name] if known else samples.constant(self.graph, name, count)

    def _prepared(self, node: Node) -> _Step:
        graph, spec = self.graph, ops.spec_of(node)
        outputs = tuple((n, _limits(graph, n) if n else None) for n in node.outputs)
        names = node.inputs
        moving = [graph[n].shape for n in names if n and n not in self._constants]
        made = [graph[n].shape for n in node.outputs if n]
        # Where any of this fails, samples.run finds out what to do, call by call.
        simple = all(names) and bool(moving) and all(s[:1] == (1,) for s in (*moving, *made))
        if not (simple and len(moving[0]) == len(made[0]) and spec.batched(node, moving)):
            return _Step(lambda v, count: samples.run(spec, graph, node, v, count), outputs)
        fixed = {n: graph[n].real() for n in names if n in self._constants}
        if not fixed:
            return _Step(lambda v, _: spec.reference(node, [v[n] for n in names]), outputs)
        return _Step(
            lambda v, _: spec.reference(node, [fixed[n] if n in fixed else v[n] for n in names]),
            outputs,
        )


def _limits(graph: Graph, name: str) -> Limits | None:
    """Real values of the smallest and the largest code of a quantized tensor."""
    quant = graph[name].quant
    if quant is None:
        return None
    wide = quant.format == activation.WIDE
    ends = activation.limits(quant.format) if wide else (-128, 127)
    low, high = quant.dequantize(np.array(ends))
    return low, high


def _kept(value: Array, limits: Limits | None) -> Array:
    return value if limits is None else np.minimum(np.maximum(value, limits[0]), limits[1])
