"""LayerNorm and RMSNorm that exporters write out as means, squares and roots: joined again."""

from __future__ import annotations

import numpy as np

from weft.graph import Array, Node
from weft.passes.edit import Edit


def join_norm(edit: Edit, node: Node) -> bool:
    """(x − mean) / √(mean of squares + ε) becomes LayerNorm, x / √(...) RMSNorm."""
    if node.op not in ("Div", "Mul") or len(node.inputs) != 2 or "activation" in node.attrs:
        return False
    orders = [node.inputs] if node.op == "Div" else [node.inputs, node.inputs[::-1]]
    for x, other in orders:
        root = other if node.op == "Div" else _reciprocal(edit, other)
        found = _power(edit, root, node.op == "Mul" and root == other) if root else None
        if found is None:
            continue
        squared, epsilon = found
        if not _same(edit, squared, x):
            continue
        source = _centred(edit, x)
        _emit(edit, node, source or x, epsilon, "LayerNorm" if source else "RMSNorm")
        return True
    return False


def fold_affine(edit: Edit, node: Node) -> bool:
    """A constant per channel behind a norm goes into its gamma (Mul) or beta (Add)."""
    if node.op not in ("Mul", "Add") or len(node.inputs) != 2 or "activation" in node.attrs:
        return False
    for x, other in (node.inputs, node.inputs[::-1]):
        before = edit.only_producer(x)
        if before is None or before.op not in ("LayerNorm", "RMSNorm") or _coded(edit, x):
            continue
        values = _along_last(edit, other, edit.tensors[x].shape)
        if values is None or (node.op == "Add" and before.op == "RMSNorm"):
            continue
        if edit.tensors[node.outputs[0]].shape != edit.tensors[x].shape:
            continue
        names = list(before.inputs)
        if node.op == "Mul":
            names[1:] = [_times(edit, name, values) for name in names[1:]]
        else:
            beta = names[2] if len(names) > 2 else ""
            old = edit.tensors[beta].real() if beta else np.zeros_like(values)
            names = [*names[:2], edit.constant(beta or f"{before.name}.beta", old + values)]
        edit.drop(before)
        edit.put(node, Node(before.op, before.name, tuple(names), node.outputs, before.attrs))
        return True
    return False


def _times(edit: Edit, name: str, values: Array) -> str:
    return edit.constant(name, edit.tensors[name].real() * values) if name else ""


def _emit(edit: Edit, node: Node, x: str, epsilon: float, op: str) -> None:
    width = edit.tensors[x].shape[-1]
    gamma = edit.constant(f"{node.name}.gamma", np.ones(width, np.float32))
    attrs = {"epsilon": epsilon}
    edit.put(node, Node(op, node.name, (x, gamma), node.outputs, attrs))


def _along_last(edit: Edit, name: str, shape: tuple[int, ...]) -> Array | None:
    """A constant as one value per index of the last axis; None if it is something else."""
    tensor = edit.tensors[name]
    if tensor.data is None or tensor.dtype != "float32":
        return None
    if tensor.size != 1 and (tensor.size != shape[-1] or tensor.shape[-1:] != shape[-1:]):
        return None
    values = np.broadcast_to(tensor.real().reshape(-1), shape[-1:])
    return np.asarray(values, np.float32)


def _coded(edit: Edit, name: str) -> bool:
    return edit.tensors[name].quant is not None


def _made_by(edit: Edit, name: str, *ops: str) -> Node | None:
    """The float node of one of `ops` that writes `name`."""
    node = edit.producer(name)
    if node is None or node.op not in ops or _coded(edit, name) or "activation" in node.attrs:
        return None
    return node


def _number(edit: Edit, name: str) -> float | None:
    tensor = edit.tensors[name]
    if tensor.data is None or tensor.size != 1:
        return None
    return float(np.asarray(tensor.real()).reshape(()))


def _reciprocal(edit: Edit, name: str) -> str:
    """The name under 1 / name, or `name` itself for a power of −1/2; "" if it is neither."""
    node = _made_by(edit, name, "Reciprocal", "Div", "Pow")
    if node is None:
        return ""
    if node.op == "Reciprocal":
        return node.inputs[0]
    if node.op == "Div":
        return node.inputs[1] if _number(edit, node.inputs[0]) == 1 else ""
    return name if _number(edit, node.inputs[1]) == -0.5 else ""


def _power(edit: Edit, name: str, inverse: bool) -> tuple[str, float] | None:
    """(x, ε) where `name` is √(mean(x²) + ε), or with `inverse` that to the power of −1/2."""
    node = _made_by(edit, name, "Sqrt", "Pow")
    power = -0.5 if inverse else 0.5
    if node is None or (node.op == "Pow" and _number(edit, node.inputs[1]) != power):
        return None
    if node.op == "Sqrt" and inverse:
        return None
    epsilon, inner = 0.0, node.inputs[0]
    total = _made_by(edit, inner, "Add")
    if total is not None:
        for one, other in (total.inputs, total.inputs[::-1]):
            number = _number(edit, other)
            if number is not None:
                epsilon, inner = number, one
                break
    square = _last_mean(edit, inner)
    made = _made_by(edit, square, "Mul", "Pow") if square else None
    if made is None or epsilon < 0:
        return None
    if made.op == "Mul":
        return (made.inputs[0], epsilon) if made.inputs[0] == made.inputs[1] else None
    return (made.inputs[0], epsilon) if _number(edit, made.inputs[1]) == 2 else None


def _last_mean(edit: Edit, name: str) -> str:
    """The tensor whose mean over the last axis `name` is; "" if it is none."""
    node = _made_by(edit, name, "ReduceMean", "GlobalAveragePool")
    if node is None:
        return ""
    rank = len(edit.tensors[node.inputs[0]].shape)
    if node.op == "GlobalAveragePool":  # what a mean over the third of three axes is imported as
        return node.inputs[0] if rank == 3 else ""
    whole = "opset" not in node.attrs and node.attrs["keepdims"]
    return node.inputs[0] if whole and tuple(node.attrs["axes"]) == (rank - 1,) else ""


def _centred(edit: Edit, name: str) -> str:
    """The x of `name` = x − mean(x); "" if it is something else."""
    node = _made_by(edit, name, "Sub")
    if node is None or _last_mean(edit, node.inputs[1]) != node.inputs[0]:
        return ""
    return node.inputs[0]


def _same(edit: Edit, a: str, b: str) -> bool:
    """Whether two tensors are one, or the same difference computed twice."""
    return a == b or (bool(_centred(edit, a)) and _centred(edit, a) == _centred(edit, b))
