"""Which dimension of which tensor counts tokens, so that a run may have fewer of them."""

from __future__ import annotations

from collections.abc import Mapping

from weft import ops
from weft.graph import Graph, Node
from weft.passes.placement import NORMS

TOKEN_AXIS = 1
_ROWWISE = ("Linear", "Rope", *NORMS)


def token_axes(graph: Graph) -> dict[str, str]:
    """For every tensor whose dimension 1 counts the tokens of an input: the name of that input.

    Inputs of shape [1, S, D] count tokens as long as every operator works on each token by itself,
    or is attention. Inputs that are added up, or attended together, count the same ones. So do
    token ids [1, S], and what is counted of them: positions that leave out padding.
    """
    found = {
        name: name
        for name in graph.inputs
        if len(graph[name].shape) == 3 and graph[name].shape[0] == 1 and graph[name].shape[1] > 1
    }
    found |= {name: name for name in graph.inputs if _embedded(graph, name)}
    if not found or not any(node.op == "Attention" for node in graph):
        return {}
    same: dict[str, str] = {}
    fixed: set[str] = set()
    for node in graph:
        names = [n for n in node.inputs if n in found]
        if not names:
            continue
        groups, out = _step(graph, node, names)
        for group in groups:
            _join(same, [found[n] for n in group])
        if out is None:
            fixed |= {found[n] for n in names}
        elif out:
            found[node.outputs[0]] = found[out]
    bad = {_root(same, name) for name in fixed}
    roots = {name: _root(same, symbol) for name, symbol in found.items()}
    return {name: root for name, root in roots.items() if root not in bad}


def _embedded(graph: Graph, name: str) -> bool:
    """Whether numbers [1, S], or others made of them token by token, say rows of constant tables,
    and nothing else.
    """
    shape, readers = graph[name].shape, graph.consumers().get(name, [])
    numbers = len(shape) == 2 and shape[0] == 1 and shape[1] > 1
    return (
        numbers
        and bool(readers)
        and all(
            _looks_up(graph, n, name) or (_numbers(graph, n) and _embedded(graph, n.outputs[0]))
            for n in readers
        )
    )


def _numbers(graph: Graph, node: Node) -> bool:
    """Whether a node makes numbers [1, S] of others, each of those at its place and before it."""
    if len(graph[node.outputs[0]].shape) != 2 or node.outputs[0] in graph.outputs:
        return False
    constant = [graph[n] for n in node.inputs if n and graph[n].data is not None]
    if node.op == "GatherElements":  # a row of a table, one entry per token
        table, rows = (graph[n] for n in node.inputs)
        fits = table.data is not None and table.shape[0] == 1 and rows.data is None
        return fits and node.attrs.get("axis", 0) == TOKEN_AXIS
    if node.op == "CumSum":
        axis = [int(t.data.reshape(())) % 2 for t in constant if t.data is not None]
        return axis == [TOKEN_AXIS] and not node.attrs.get("reverse", 0)
    spec = ops.OPS.get(node.op)
    return (
        spec is not None
        and spec.category in ("elementwise", "binary")
        and all(t.size == 1 for t in constant)
    )


def _looks_up(graph: Graph, node: Node, name: str) -> bool:
    if node.op not in ("Gather", "onnx.Gather") or node.inputs[1] != name:
        return False
    table = graph[node.inputs[0]]
    return table.data is not None and len(table.shape) == 2 and not node.attrs.get("axis", 0)


def _root(same: Mapping[str, str], symbol: str) -> str:
    while symbol in same:
        symbol = same[symbol]
    return symbol


def _join(same: dict[str, str], symbols: list[str]) -> None:
    first = _root(same, symbols[0])
    for other in symbols[1:]:
        root = _root(same, other)
        if root != first:
            same[root] = first


def _step(graph: Graph, node: Node, names: list[str]) -> tuple[list[list[str]], str | None]:
    """Groups of inputs of a node that must count the same tokens, and the input that its output
    counts the tokens of: "" if it counts none, None where the number of tokens may not change.
    """
    x = node.inputs[0]
    moving = [n for n in node.inputs if n and graph[n].data is None]
    if node.op == "Attention":
        if node.attrs.get("windows", 1) > 1:
            return [], None
        keys = [n for n in node.inputs[1:3] if n in names]
        if len(keys) not in (0, 2) or (x not in names and not keys):
            return [], None
        return ([keys] if keys else []), x if x in names else ""
    if len(names) == 1 and _looks_up(graph, node, names[0]):
        return [], names[0]
    if len(graph[x].shape) == 2 and _numbers(graph, node):
        return [names], names[0] if set(moving) == set(names) else None
    if node.op == "Slice":
        return [], "" if _first_token(graph, node) else None
    shape = graph[node.outputs[0]].shape
    if len(shape) != 3 or any(graph[n].shape[1] != shape[1] for n in names):
        return [], None
    if node.op in _ROWWISE:
        return [], x if moving == [x] else None
    spec = ops.OPS.get(node.op)
    if spec is None or spec.category not in ("elementwise", "binary") or set(moving) != set(names):
        return [], None
    return [names], names[0]


def _first_token(graph: Graph, node: Node) -> bool:
    """Whether a Slice takes the first token only (and any channels)."""
    facts = (node.attrs[key] for key in ("axes", "starts", "ends", "steps"))
    rank = len(graph[node.inputs[0]].shape)
    for axis, start, end, step in zip(*facts, strict=True):
        if axis % rank == TOKEN_AXIS:
            return (start, end, step) == (0, 1, 1)
    return False
