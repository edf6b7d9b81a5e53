"""Which format and method each layer gets: what the caller asks for, and the plan's exceptions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from weft import activation
from weft.errors import UsageError
from weft.formats import parse
from weft.graph import Graph, Node
from weft.passes.placement import accelerated
from weft.plan import Plan
from weft.quantization import ant, methods


@dataclass(frozen=True)
class Choice:
    """Formats of a layer's weights and of its input, and how the weights are rounded."""

    weights: str = "int8"
    activations: str = "int8"
    method: str = "nearest"

    def check(self) -> Choice:
        """Itself. Raises UsageError for a name that is unknown, or a pair that can't be."""
        kind = "int8" if self.weights == ant.NAME else parse(self.weights).operand
        activation.check(self.activations)
        methods.check(self.method)
        if self.activations == activation.REAL and kind != activation.REAL:
            raise UsageError(
                f"activations bf16 need weights whose values are bf16, not {self.weights!r}: "
                "bf16, e4m3, e5m2, a microscaling format or nvfp4"
            )
        return self


def layer_name(node: Node) -> str:
    """How plans and tables name a layer: the node's name, or else its output's."""
    return node.name or node.outputs[0]


def layers(graph: Graph) -> list[Node]:
    """The nodes with weights that can become codes: Conv and Linear."""
    return [n for n in graph if n.op in ("Conv", "Linear") and accelerated(graph, n)]


def choices(
    graph: Graph, default: Choice, plan: Plan | None = None, keep_first_last: bool = False
) -> dict[str, Choice]:
    """The choice of each layer, by the name of its output.

    The plan's own defaults win over `default`, its layers over both. `keep_first_last` leaves the
    first and the last layer at int8 where the plan doesn't name them. Raises UsageError for names
    that are unknown and layers that aren't there.
    """
    plan = plan or Plan()
    default = _merged(default, plan.weights, plan.activations, plan.method).check()
    nodes = layers(graph)
    plan.check_layers([layer_name(node) for node in nodes], graph.name)
    made = {}
    for index, node in enumerate(nodes):
        own = plan.layers.get(layer_name(node))
        choice = default
        if keep_first_last and index in (0, len(nodes) - 1):
            choice = Choice(method=default.method)
        if own is not None:
            choice = _merged(choice, own.weights, own.activations, own.method).check()
        made[node.outputs[0]] = choice
    return made


def _merged(
    choice: Choice, weights: str | None, activations: str | None, method: str | None
) -> Choice:
    given = {"weights": weights, "activations": activations, "method": method}
    return replace(choice, **{key: value for key, value in given.items() if value is not None})


def activation_formats(
    graph: Graph, roots: Mapping[str, str], chosen: Mapping[str, Choice]
) -> dict[str, str]:
    """Format of each activation, by root: what the layers that read it ask for, else int8.

    Raises UsageError where two layers that read one activation ask for different formats.
    """
    formats = dict.fromkeys(roots.values(), "int8")
    asked: dict[str, Node] = {}
    for node in layers(graph):
        root = roots.get(node.inputs[0])
        if root is None:
            continue
        wanted = chosen[node.outputs[0]].activations
        other = asked.setdefault(root, node)
        if other is not node and formats[root] != wanted:
            raise UsageError(
                f"layers {layer_name(other)!r} and {layer_name(node)!r} read the same activation "
                f"{root!r}, but ask for {formats[root]} and {wanted}: give them the same"
            )
        formats[root] = wanted
    return formats
