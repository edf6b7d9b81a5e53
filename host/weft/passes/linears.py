"""Layers that exporters share or pad: packed projections apart, class tokens without a Concat."""

from __future__ import annotations

import numpy as np

from weft.graph import Node
from weft.passes.attention import positions
from weft.passes.edit import Edit


def narrow_linear(edit: Edit, node: Node) -> bool:
    """A Slice of a Linear's channels becomes a Linear of those: packed q, k and v come apart."""
    if node.op != "Slice" or "opset" in node.attrs:
        return False
    x = edit.tensors[node.inputs[0]]
    before = edit.producer(x.name)
    a = node.attrs
    if tuple(a["axes"]) != (len(x.shape) - 1,) or tuple(a["steps"]) != (1,) or x.quant is not None:
        return False
    if before is None or before.op != "Linear" or "activation" in before.attrs:
        return False
    constants = [n for n in before.inputs[1:] if n]
    if any(edit.tensors[n].data is None or edit.tensors[n].quant is not None for n in constants):
        return False
    names = [before.inputs[0]]
    for name in before.inputs[1:]:
        part = edit.tensors[name].real()[..., a["starts"][0] : a["ends"][0]] if name else None
        names.append("" if part is None else edit.constant(name, part))
    edit.put(node, Node("Linear", node.name, tuple(names), node.outputs, before.attrs))
    return True


def unit_transpose(edit: Edit, node: Node) -> bool:
    """A Transpose that puts the batch of 1 elsewhere, or back, is a Reshape."""
    if node.op != "Transpose" or "opset" in node.attrs:
        return False
    x, y = edit.tensors[node.inputs[0]], edit.tensors[node.outputs[0]]
    moved = [p for p in node.attrs["perm"] if x.shape[p] > 1]
    away = 1 not in (x.shape[:1] + y.shape[:1]) or x.shape[:1] != y.shape[:1]
    if moved != sorted(moved) or not away or x.quant is not None or y.quant is not None:
        return False
    edit.put(node, Node("Reshape", node.name, node.inputs, node.outputs, {"shape": y.shape}))
    return True


def whole_gather(edit: Edit, node: Node) -> bool:
    """A Gather of all there is, in order, is a Reshape: as_strided as torch.export writes it."""
    if node.op != "Gather" or "opset" in node.attrs:
        return False
    x, y = edit.tensors[node.inputs[0]], edit.tensors[node.outputs[0]]
    index = edit.tensors[node.inputs[1]].data
    every = np.arange(x.shape[node.attrs["axis"]])
    if index is None or not np.array_equal(index.reshape(-1), every):
        return False
    if x.data is not None or x.quant is not None or y.quant is not None:
        return False
    edit.put(node, Node("Reshape", node.name, (x.name,), node.outputs, {"shape": y.shape}))
    return True


def pure_moves(edit: Edit, node: Node) -> bool:
    """Moves forth and back that leave the elements in order are one Reshape."""
    if node.op not in ("Transpose", "Reshape") or "opset" in node.attrs:
        return False
    out = edit.tensors[node.outputs[0]]
    chain, base, turned = [node], node.inputs[0], node.op == "Transpose"
    best = None
    while (before := edit.producer(base)) is not None and before.op in ("Transpose", "Reshape"):
        if edit.tensors[base].quant is not None or "opset" in before.attrs:
            break
        chain.append(before)
        base, turned = before.inputs[0], turned or before.op == "Transpose"
        index = positions(edit, base, chain).reshape(-1)
        if turned and (index[1:] > index[:-1]).all():
            best = base
    if best is None or out.quant is not None or edit.tensors[best].quant is not None:
        return False
    edit.put(node, Node("Reshape", node.name, (best,), node.outputs, {"shape": out.shape}))
    return True


def straight_linear(edit: Edit, node: Node) -> bool:
    """A Linear behind a Reshape that takes the batch out of the first axis goes before it."""
    if node.op != "Linear" or "opset" in node.attrs:
        return False
    before = edit.producer(node.inputs[0])
    if before is None or before.op != "Reshape":
        return False
    x, y, out = (edit.tensors[n] for n in (before.inputs[0], node.inputs[0], node.outputs[0]))
    if any(t.quant is not None for t in (x, y, out)) or x.shape[-1] != y.shape[-1]:
        return False
    if x.shape[:1] != (1,) or y.shape[:1] == (1,) or len(x.shape) < 2:
        return False
    middle = edit.activation(f"{node.name}.straight", (*x.shape[:-1], out.shape[-1]))
    names = (x.name, *node.inputs[1:])
    back = Node("Reshape", f"{node.name}.back", (middle,), node.outputs, {"shape": out.shape})
    edit.put(node, Node("Linear", node.name, names, (middle,), node.attrs), back)
    return True


def zero_row(edit: Edit, node: Node) -> bool:
    """Constant rows (a class token) in front of tokens that a constant is added to: rows of zeros,
    and the token in the constant."""
    if node.op != "Add" or "activation" in node.attrs:
        return False
    for x, other in (node.inputs, node.inputs[::-1]):
        joined, places = edit.only_producer(x), edit.tensors[other]
        if joined is None or joined.op != "Concat" or places.data is None:
            continue
        shape = edit.tensors[x].shape
        token, *rest = joined.inputs
        first = edit.tensors[token]
        fits = len(shape) == 3 and joined.attrs["axis"] in (1, -2) and len(rest) == 1
        if not fits or first.data is None or edit.tensors[rest[0]].data is not None:
            continue
        if any(edit.tensors[n].quant is not None for n in (x, other, *joined.inputs)):
            continue
        values = np.broadcast_to(places.real(), shape).copy()
        values[:, : first.shape[1]] += first.real()
        middle = edit.activation(f"{joined.name}.padded", shape)
        pads = {"pads": (0, first.shape[1], 0, 0, 0, 0), "value": 0.0, "mode": "constant"}
        added = (middle, edit.constant(f"{node.name}.constant", values.astype(np.float32)))
        edit.drop(joined)
        pad = Node("Pad", joined.name, (rest[0],), (middle,), pads)
        edit.put(node, pad, Node("Add", node.name, added, node.outputs, node.attrs))
        return True
    return False
