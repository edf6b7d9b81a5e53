"""Activation functions that exporters write out as several nodes: found and made one node again.

On the accelerator such a node is one lookup; its pieces would each be rounded to codes.
"""

from __future__ import annotations

import math

import numpy as np

from weft.graph import Node
from weft.passes.edit import Edit

TOLERANCE = 1e-5  # relative, of the constants that are compared


def join_activation(edit: Edit, node: Node) -> bool:
    """Swish, HardSwish and Gelu written out with `node` as their last multiplication."""
    if node.op != "Mul" or len(node.inputs) != 2 or "activation" in node.attrs:
        return False
    for match in (_swish, _hard_swish, _scaled_hard_swish, _gelu):
        for x, other in (node.inputs, node.inputs[::-1]):
            found = match(edit, x, other)
            if found is None:
                continue
            source, op, attrs = found
            if edit.tensors[source].shape != edit.tensors[node.outputs[0]].shape:
                continue
            kept = {k: v for k, v in node.attrs.items() if k == "requant"}
            edit.put(node, Node(op, node.name, (source,), node.outputs, {**attrs, **kept}))
            return True
    return False


Found = tuple[str, str, dict[str, object]] | None


def _swish(edit: Edit, x: str, other: str) -> Found:
    """x · sigmoid(x)"""
    gate = _inner(edit, other, "Sigmoid")
    return (x, "Swish", {"alpha": 1.0}) if gate is not None and gate.inputs[0] == x else None


def _hard_swish(edit: Edit, x: str, other: str) -> Found:
    """x · hard_sigmoid(x), with slope 1/6 and offset 1/2"""
    gate = _inner(edit, other, "HardSigmoid")
    if gate is None or gate.inputs[0] != x:
        return None
    slope, offset = gate.attrs.get("alpha", 0.2), gate.attrs.get("beta", 0.5)
    right = math.isclose(slope, 1 / 6, rel_tol=TOLERANCE) and offset == 0.5
    return (x, "HardSwish", {}) if right else None


def _scaled_hard_swish(edit: Edit, product: str, sixth: str) -> Found:
    """(x · clip(x + 3, 0, 6)) · 1/6, or x · (clip(x + 3, 0, 6) · 1/6)"""
    outer = _inner(edit, product, "Mul")
    if outer is None:
        return None
    if _is_constant(edit, sixth, 1 / 6):
        for x, gate in (outer.inputs, outer.inputs[::-1]):
            if _is_gate(edit, gate, x):
                return x, "HardSwish", {}
        return None
    for gate, factor in (outer.inputs, outer.inputs[::-1]):
        if _is_constant(edit, factor, 1 / 6) and _is_gate(edit, gate, sixth):
            return sixth, "HardSwish", {}
    return None


def _is_gate(edit: Edit, name: str, x: str) -> bool:
    """Whether `name` is clip(x + 3, 0, 6)."""
    shift = _inner(edit, name, "Add", activation=("Clip", 0.0, 6.0))
    clip = _inner(edit, name, "Clip")
    if clip is not None and (clip.attrs["min"], clip.attrs["max"]) == (0, 6):
        shift = _inner(edit, clip.inputs[0], "Add")
    if shift is None or x not in shift.inputs:
        return False
    return any(_is_constant(edit, n, 3.0) for n in shift.inputs if n != x)


def _gelu(edit: Edit, a: str, b: str) -> Found:
    """x · (1 + erf(x / √2)) · 1/2, multiplied in any order"""
    for name, rest in ((a, b), (b, a)):
        inner = _inner(edit, name, "Mul")
        found = _gelu_of(edit, [rest, *inner.inputs]) if inner is not None else None
        if found is not None:
            return found
    return None


def _gelu_of(edit: Edit, factors: list[str]) -> Found:
    halves = [n for n in factors if _is_constant(edit, n, 0.5)]
    rest = [n for n in factors if n not in halves]
    if len(halves) != 1 or len(rest) != 2:
        return None
    for x, gate in (rest, rest[::-1]):
        one = _inner(edit, gate, "Add")
        if one is None or not any(_is_constant(edit, n, 1.0) for n in one.inputs):
            continue
        tanh = next((t for n in one.inputs if (t := _inner(edit, n, "Tanh")) is not None), None)
        if tanh is not None and _is_tanh_argument(edit, tanh.inputs[0], x):
            return x, "Gelu", {"approximate": "tanh"}
        erf = next((e for n in one.inputs if (e := _inner(edit, n, "Erf")) is not None), None)
        scaled = _inner(edit, erf.inputs[0], "Mul") if erf is not None else None
        if scaled is None or x not in scaled.inputs:
            continue
        if any(_is_constant(edit, n, math.sqrt(0.5)) for n in scaled.inputs):
            return x, "Gelu", {"approximate": "none"}
    return None


def _is_tanh_argument(edit: Edit, name: str, x: str) -> bool:
    """Whether `name` is √(2/π) · (x + 0.044715 · x³)."""
    scaled = _inner(edit, name, "Mul")
    factors = scaled.inputs if scaled is not None else ()
    total = next((t for n in factors if (t := _inner(edit, n, "Add")) is not None), None)
    if total is None or x not in total.inputs:
        return False
    if not any(_is_constant(edit, n, math.sqrt(2 / math.pi)) for n in factors):
        return False
    cubic = _inner(edit, next((n for n in total.inputs if n != x), x), "Mul")
    if cubic is None or not any(_is_constant(edit, n, 0.044715) for n in cubic.inputs):
        return False
    return any(_is_cube(edit, n, x) for n in cubic.inputs)


def _is_cube(edit: Edit, name: str, x: str) -> bool:
    """Whether `name` is x³, as a power or multiplied out."""
    power = _inner(edit, name, "Pow")
    if power is not None:
        return power.inputs[0] == x and _is_constant(edit, power.inputs[1], 3.0)
    outer = _inner(edit, name, "Mul")
    if outer is None or x not in outer.inputs:
        return False
    square = _inner(edit, next((n for n in outer.inputs if n != x), x), "Mul", None)
    return square is not None and square.inputs == (x, x)


def _inner(edit: Edit, name: str, op: str, activation: object = None) -> Node | None:
    """The node `op` that writes `name` for one reader only, in float; None if there is none."""
    node = edit.only_producer(name)
    if node is None or node.op != op or edit.tensors[name].quant is not None:
        return None
    return node if node.attrs.get("activation") == activation else None


def _is_constant(edit: Edit, name: str, value: float) -> bool:
    """Whether `name` is one number, `value`."""
    data = edit.tensors[name].data
    if data is None or data.size != 1:
        return False
    number = float(np.asarray(edit.tensors[name].real()).reshape(()))
    return math.isclose(number, value, rel_tol=TOLERANCE)
