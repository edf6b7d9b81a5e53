"""Masks of padding that exporters compute from an input of the model, found by what they do.

PyTorch and optimum write them in many forms (Cast, Unsqueeze, Sub, Mul, Where, Expand, Gather).
All that matters is that scores of keys that are not there become very negative, and that no other
score changes: so what is computed is evaluated for every number of tokens that there can be.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from weft.graph import Array, Graph, Node
from weft.ops import evaluate
from weft.passes.edit import Edit
from weft.transformer_ops import ABSENT

MASKED = -1e4  # a bias below this says: not seen
LOWEST = float(np.finfo(np.float32).min) / 4  # so that a score added to it stays finite
HIDDEN = -1e3  # what is added to a score that shall not count, at most
MOST_NODES = 64  # between an input and a mask
PRODUCTS = ("MatMul", "Linear", "Attention")  # no mask has them, but the first layer's scores do


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
        elif node.op in PRODUCTS:
            return None
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


def as_mask(bias: Array | None) -> tuple[Array | None, dict[str, int]]:
    """Bias [1 or heads, S, T] and the attributes that say it shorter: a causal mask, a window."""
    if bias is None or not np.any(bias):
        return None, {}
    values = np.maximum(bias, LOWEST)
    if (values == values[:1]).all():
        values = values[:1]
    seen = values[0] > MASKED
    if len(values) == 1 and not np.any(values[0][seen]):
        found = _window(seen)
        if found is not None:
            return None, found
    return np.ascontiguousarray(values, np.float32), {}


def _window(seen: Array) -> dict[str, int] | None:
    """left and right, or causal, of a mask that is a band; None for any other."""
    rows, columns = seen.shape
    away = np.arange(columns) - np.arange(rows)[:, None]
    inside, outside = away[seen], away[~seen]
    if not inside.size:
        return None
    low, high = int(inside.min()), int(inside.max())
    if ((away >= low) & (away <= high) != seen).any():
        return None
    left = low if (outside < low).any() else -ABSENT
    right = high if (outside > high).any() else ABSENT
    named = {} if left == -ABSENT else {"left": left}
    if right == 0:
        return {**named, "causal": 1}
    return named if right == ABSENT else {**named, "right": right}


def of_windows(bias: Array, count: int) -> tuple[Array | None, dict[str, Any]]:
    """Bias [kinds · (1 or heads), S, T] of `count` windows, and the attributes that say which kind
    each is, from [1 or count · heads, S, T].
    """
    every = np.maximum(bias, LOWEST)
    if len(every) % count:  # the same for all of them
        every = np.broadcast_to(every, (count, *every.shape[1:]))
    each = every.reshape(count, -1, *every.shape[1:])
    found, kinds = np.unique(each, axis=0, return_inverse=True)
    attrs: dict[str, Any] = {"windows": count}
    if len(found) == 1:
        one, more = as_mask(found[0])
        return one, {**attrs, **more}
    if (found == found[:, :1]).all():
        found = found[:, :1]
    attrs["kinds"] = tuple(int(kind) for kind in kinds.reshape(-1))
    values = found.reshape(-1, *found.shape[2:])
    return np.ascontiguousarray(values, np.float32), attrs
