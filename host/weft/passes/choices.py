"""Which number formats the layers of a graph get."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from weft import codes
from weft.format import SMALLEST_SCALE
from weft.formats import int8, parse
from weft.graph import Graph, Node, Quant
from weft.passes.weights import method_of

if TYPE_CHECKING:
    from weft.plan import Plan


@dataclass(frozen=True)
class Choice:
    """Formats of a layer's weights and of the activations that it reads, and the method."""

    weights: str
    activations: str
    method: str


@dataclass(frozen=True)
class Choices:
    """The same for all layers, but for those that a plan names."""

    weights: str = "int8"
    activations: str = "int8"
    method: str = "max"
    plan: Plan | None = None

    def verify(self, graph: Graph) -> Choices:
        """Returns itself. Raises UsageError for unknown names and layers."""
        if self.plan is not None:
            self.plan.verify(graph)
        for node in graph:
            if node.op in ("Conv", "Linear"):
                choice = self.of(node)
                parse(choice.weights)
                method_of(choice.method)
                codes.check(choice.activations)
        return self

    def of(self, node: Node) -> Choice:
        """What a layer gets."""
        own = None if self.plan is None else self.plan.for_layer(node.name)
        if own is None:
            return Choice(self.weights, self.activations, self.method)
        return Choice(
            own.weights or self.weights,
            own.activations or self.activations,
            own.method or self.method,
        )

    def formats(self, graph: Graph, roots: Mapping[str, str]) -> dict[str, str]:
        """Activation → its format, where it is not int8."""
        found: dict[str, str] = {}
        outer = {roots.get(name) for name in (*graph.inputs, *graph.outputs)}
        for node in graph:
            if node.op not in ("Conv", "Linear") or node.inputs[0] not in roots:
                continue
            root, choice = roots[node.inputs[0]], self.of(node)
            asked = self.plan is not None and self.plan.names_activations(node.name)
            if choice.activations != "int8" and (root not in outer or asked):
                found[root] = choice.activations
        return found


def activation_quant(name: str, low: float, high: float, symmetric: bool) -> Quant:
    """Quant of an activation in low..high: 0 is exactly representable.

    Formats that are not uniform have zero point 0, and the largest magnitude is their largest
    value; binary and ternary ones stand for half of it.
    """
    if name == "int8":
        return int8.affine(low, high, symmetric)
    if not codes.uniform(name):
        grid = codes.grid(name).astype(np.float64)
        most = max(abs(low), abs(high)) if grid[0] < 0 else max(high, 0.0)
        top = float(np.abs(grid).max()) * (2 if len(grid) <= 3 else 1)
        scale = max(most / top, SMALLEST_SCALE) if most else 1.0
        return Quant(np.asarray(scale, np.float32), format=name)
    least, greatest = codes.code_range(name)
    if symmetric and least < 0:
        most = max(abs(low), abs(high))
        scale = max(most / greatest, SMALLEST_SCALE) if most else 1.0
        return Quant(np.asarray(scale, np.float32), format=name)
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max((high - low) / (greatest - least), SMALLEST_SCALE) if high > low else 1.0
    zero = min(max(round(least - low / scale), least), greatest)
    return Quant(np.asarray(scale, np.float32), zero, format=name)
