"""What quantization knows of unrolled steps and of gates: shared scales, and ranges that matter.

Nodes of a recurrent layer's steps carry "roles", a name per input and last one for the output.
Tensors of one role get one scale, found on all of them: so a step leaves its state in the codes in
which the next one reads it, and all steps have the same weights and tables.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from weft.graph import Graph, Node
from weft.passes.placement import follows

LEVELS = 255  # steps of the codes of a gate
# Beyond these the codes of σ (0 to 1) and tanh (−1 to 1) stay the same.
SATURATED = {"Sigmoid": math.log(2 * LEVELS - 1), "Tanh": math.atanh(1 - 1 / LEVELS)}


@dataclass(frozen=True)
class Pools:
    """Activations that shall have one scale: name → the one it is called after, and that one →
    all whose ranges count.
    """

    roots: Mapping[str, str]
    members: Mapping[str, tuple[str, ...]]


def roles_of(node: Node) -> Iterator[tuple[str, str]]:
    """(tensor, role) of the inputs and the output that have a role."""
    roles = node.attrs.get("roles", ())
    for name, role in zip((*node.inputs, node.outputs[0]), roles, strict=False):
        if name and role:
            yield name, role


def pools(
    graph: Graph, roots: Mapping[str, str], states: Mapping[str, str] = MappingProxyType({})
) -> Pools:
    """`roots` (of activations that shall be codes) with those of one role, and with those that
    `states` gives one name, under one root.
    """
    parent: dict[str, str] = {}

    def find(name: str) -> str:
        while name in parent:
            name = parent[name]
        return name

    first: dict[tuple[str, bool], str] = {}
    parts = [(name, (role, False)) for node in graph for name, role in roles_of(node)]
    for name, key in (*parts, *((name, (state, True)) for name, state in states.items())):
        if name in roots:
            base, own = find(first.setdefault(key, roots[name])), find(roots[name])
            if base != own:
                parent[own] = base
    found = {name: find(root) for name, root in roots.items()}
    members: dict[str, dict[str, None]] = {}
    for root in roots.values():
        members.setdefault(find(root), {})[root] = None
    return Pools(found, {root: tuple(names) for root, names in members.items()})


def saturated(graph: Graph, roots: Mapping[str, str]) -> dict[str, float]:
    """Root → the largest magnitude that matters, where only saturating functions read its tensors.

    What a gate reads reaches far beyond where its codes still change; cut off there, the codes
    that it has are spent on the rest.
    """
    limits: dict[str, float] = {}
    consumers = graph.consumers()
    for name, root in roots.items():
        readers = consumers.get(name, [])
        known = math.inf if name in graph.outputs or not readers else 0.0
        limits[root] = max(
            known, limits.get(root, 0.0), *(_limit(graph, n, roots) for n in readers)
        )
    return {root: limit for root, limit in limits.items() if math.isfinite(limit)}


def _limit(graph: Graph, reader: Node, roots: Mapping[str, str]) -> float:
    """Beyond which magnitude a node does not tell values apart."""
    if follows(graph, reader) and reader.outputs[0] in roots:
        return 0.0  # what reads the moved values has its say
    return SATURATED.get(reader.op, math.inf)
