"""Masks of padding that exporters compute from an input of the model, found by what they do.

PyTorch and optimum write them in many forms (Cast, Unsqueeze, Sub, Mul, Where, Expand, Gather).
All that matters is that scores of keys that are not there become very negative, and that no other
score changes: so what is computed is evaluated for every number of tokens that there can be.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from weft.graph import Array, Graph, Node
from weft.ops import evaluate
from weft.passes.edit import Edit

HIDDEN = -1e3  # what is added to a score that shall not count, at most
MOST_NODES = 64  # between an input and a mask


@dataclass(frozen=True)
class Mask:
    """What is added to scores, times `factor`: the tensor `name` itself, or, of one of truths, 0
    where it is `keeps` and -inf elsewhere. All of it comes of the input `source`.
    """

    name: str
    source: str
    nodes: tuple[Node, ...]
    keeps: bool | None = None
    factor: float = 1.0


def mask_step(edit: Edit, node: Node, shape: tuple[int, ...]) -> tuple[str, Mask] | None:
    """The scores that a node masks by something that an input says, and by what."""
    if node.op == "Add" and len(node.inputs) == 2:
        for x, other in (node.inputs, node.inputs[::-1]):
            mask = _mask(edit, other, None) if edit.tensors[x].shape == shape else None
            if mask is not None:
                return x, mask
    if node.op == "Where":
        condition, yes, no = node.inputs
        for x, fill, keeps in ((yes, no, True), (no, yes, False)):
            data = edit.tensors[fill].data
            hides = data is not None and data.size == 1 and float(data.reshape(())) <= HIDDEN
            mask = _mask(edit, condition, keeps) if hides else None
            if mask is not None and edit.tensors[x].shape == shape:
                return x, mask
    return None


def _mask(edit: Edit, name: str, keeps: bool | None) -> Mask | None:
    """The mask `name`, if it comes of one input [1, T] and constants alone."""
    nodes: dict[int, Node] = {}
    sources: set[str] = set()
    waiting = [name]
    while waiting:
        seen = waiting.pop()
        node = edit.producer(seen)
        if node is None:
            sources |= set() if edit.tensors[seen].data is not None else {seen}
        elif id(node) not in nodes:
            nodes[id(node)] = node
            waiting += [n for n in node.inputs if n]
        if len(nodes) > MOST_NODES or len(sources) > 1:
            return None
    if len(sources) != 1 or not nodes:
        return None
    (source,) = sources
    shape = edit.tensors[source].shape
    fits = len(shape) == 2 and shape[0] == 1 and edit.tensors[source].quant is None
    place = {id(node): i for i, node in enumerate(edit.snapshot())}
    ordered = sorted(nodes.values(), key=lambda node: place[id(node)])
    return Mask(name, source, tuple(ordered), keeps) if fits else None


def first_keys(edit: Edit, masks: list[Mask], shape: tuple[int, ...]) -> Array | None:
    """What the masks add to scores of `shape` [..., S, T] where all tokens are there, if for every
    n they hide the keys from n on from the first n queries, and do nothing else to those.
    """
    sources = {mask.source for mask in masks}
    rows, columns = shape[-2:]
    if len(sources) != 1 or edit.tensors[masks[0].source].shape != (1, columns):
        return None
    every = np.tri(columns, dtype=np.int64)  # row n - 1: the first n are there
    whole = _added(edit, masks, every[-1:], shape)
    if whole.shape != shape:
        return None
    for n in range(1, columns):
        found = _added(edit, masks, every[n - 1 : n], shape)
        queries = min(n, rows)
        inside = found[..., :queries, :n], whole[..., :queries, :n]
        if not np.array_equal(*inside) or (found[..., :queries, n:] > HIDDEN).any():
            return None
    return whole


def _added(edit: Edit, masks: list[Mask], there: Array, shape: tuple[int, ...]) -> Array:
    total = np.zeros(shape, np.float32)
    for mask in masks:
        key = (mask.name, there.tobytes())
        if key not in edit.known:
            dtype = edit.tensors[mask.source].dtype
            graph = Graph("mask", edit.tensors, mask.nodes, (mask.source,), (mask.name,))
            edit.known[key] = evaluate(graph, {mask.source: there.astype(dtype)})[mask.name]
        value = edit.known[key]
        if mask.keeps is not None:
            value = np.where(value == mask.keeps, 0, -np.inf)
        total = total + np.asarray(value, np.float32) * np.float32(mask.factor)
    return np.asarray(total).reshape(-1, *shape[-2:])
