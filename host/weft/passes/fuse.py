"""Fuses a float or quantized graph: fewer nodes, the same results.

BatchNormalization and per-channel constants go into weights and bias, activations into the node
before them (`attrs["activation"]`), Pad into windows; what does nothing disappears. A tensor that
carries `quant` is rounded to its codes, so nothing is merged across one that would change codes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from weft.errors import ModelError
from weft.graph import Array, Graph, Node, Quant, Tensor
from weft.passes.bias import integer_bias
from weft.passes.edit import Edit
from weft.passes.patterns import join_activation
from weft.passes.transformer import join_transformer
from weft.reference import slices

Rule = Callable[[Edit, Node], bool]

WEIGHTED = ("Conv", "ConvTranspose", "Linear")
ACTIVATING = (*WEIGHTED, "Add", "Sub", "Mul", "AveragePool", "GlobalAveragePool", "MaxPool")
FLOAT_MAX = float(np.finfo(np.float32).max)
CODES_COMMUTE = ("Relu", "Clip")  # the same before and after rounding to one grid


def fuse(graph: Graph) -> Graph:
    """The graph with everything merged that leaves its results unchanged; verified."""
    edit = Edit(graph)
    _apply_rules(edit)
    for _ in range(2):  # layers that have got their biases move past what is around them
        edit = Edit(join_transformer(edit.graph().pruned()))
        _apply_rules(edit)
    for node in edit.snapshot():
        if node.op == "BatchNormalization":
            _spread_batch_normalization(edit, node)
    _apply_rules(edit)
    for node in edit.snapshot():
        if node.op in ("Conv", "Linear") and not _float_sums(edit, node):
            _round_bias(edit, node)
    return edit.graph().pruned().verify()


def _float_sums(edit: Edit, node: Node) -> bool:
    """Whether a node's sums are float32, as those of bf16 products are, and the bias with them."""
    w = edit.tensors[node.inputs[1]]
    return w.quant is not None and w.data is not None and w.data.dtype.kind == "f"


def _apply_rules(edit: Edit) -> None:
    changed = True
    while changed:
        changed = False
        for rule in RULES:
            for node in edit.snapshot():
                changed |= edit.alive(node) and rule(edit, node)


def _drop_idle(edit: Edit, node: Node) -> bool:
    """Removes a node that passes its input on."""
    if not node.inputs or not _is_idle(edit, node):
        return False
    x, y = edit.tensors[node.inputs[0]], edit.tensors[node.outputs[0]]
    if x.data is not None or x.dtype != y.dtype or not same_quant(x.quant, y.quant):
        return False
    return edit.bypass(node)


def _is_idle(edit: Edit, node: Node) -> bool:
    x, y, a = edit.tensors[node.inputs[0]], edit.tensors[node.outputs[0]], node.attrs
    if "opset" in a or x.shape != y.shape:
        return False
    if node.op == "Transpose":
        moved = [p for p in a["perm"] if x.shape[p] > 1]
        return moved == sorted(moved)
    if node.op == "Slice":
        return all(
            list(range(d)[s]) == list(range(d))
            for d, s in zip(x.shape, slices(node, len(x.shape)), strict=True)
        )
    if node.op == "Concat":
        return len(node.inputs) == 1
    return node.op in ("Identity", "Reshape", "Pad", "Resize")


def same_quant(a: Quant | None, b: Quant | None) -> bool:
    """Whether codes mean the same."""
    if a is None or b is None:
        return a is b
    same = a.zero_point == b.zero_point and a.axis == b.axis
    return same and np.array_equal(a.scale, b.scale)


def _join_moves(edit: Edit, node: Node) -> bool:
    """Transpose of a Transpose, Reshape of a Reshape: one of them is enough."""
    if node.op not in ("Transpose", "Reshape"):
        return False
    before = edit.producer(node.inputs[0])
    if before is None or before.op != node.op:
        return False
    x, middle = edit.tensors[before.inputs[0]], edit.tensors[node.inputs[0]]
    if not same_quant(x.quant, middle.quant):
        return False
    attrs = dict(node.attrs)
    if node.op == "Transpose":
        attrs["perm"] = tuple(before.attrs["perm"][p] for p in node.attrs["perm"])
    edit.put(node, Node(node.op, node.name, (x.name,), node.outputs, attrs))
    return True


def _merge_pad(edit: Edit, node: Node) -> bool:
    """Zeros around a map become the pads of the window that reads it."""
    if node.op not in ("Conv", "AveragePool", "MaxPool") or "opset" in node.attrs:
        return False
    before = edit.only_producer(node.inputs[0])
    if before is None or before.op != "Pad" or before.attrs["mode"] != "constant":
        return False
    x, middle = edit.tensors[before.inputs[0]], edit.tensors[node.inputs[0]]
    pads, value, rank = before.attrs["pads"], before.attrs["value"], len(x.shape)
    if any(pads[i] for i in (0, 1, rank, rank + 1)) or not same_quant(x.quant, middle.quant):
        return False
    own = node.attrs["pads"]
    attrs = {"pads": tuple(p + q for p, q in zip(own, _spatial(pads), strict=True))}
    if node.op == "AveragePool":
        counted = node.attrs["count_include_pad"] or not any(own)
        if not counted or value != 0:
            return False
        attrs["count_include_pad"] = 1  # type: ignore[assignment]
    elif value != (0 if node.op == "Conv" else -math.inf):
        return False
    fused = node.with_attrs(**attrs)
    edit.put(node, Node(node.op, node.name, (x.name, *node.inputs[1:]), node.outputs, fused.attrs))
    return True


def _spatial(pads: tuple[int, ...]) -> tuple[int, ...]:
    half = len(pads) // 2
    return (*pads[2:half], *pads[half + 2 :])


def _per_channel(edit: Edit, name: str, target: Tensor, axis: int) -> Array | None:
    """The constant `name` as one value per channel of `target` (size 1 or C); None if it isn't."""
    tensor = edit.tensors[name]
    if tensor.data is None or len(tensor.shape) > len(target.shape):
        return None
    values = tensor.real()
    full = (1,) * (len(target.shape) - values.ndim) + values.shape
    axis %= len(target.shape)
    if any(d != 1 for i, d in enumerate(full) if i != axis):
        return None
    return np.asarray(values.reshape(-1))


def _channel_axis(node: Node) -> int:
    return -1 if node.op == "Linear" else 1


def _weighted_before(edit: Edit, node: Node, index: int) -> Node | None:
    """The weighted node that alone feeds input `index`, its weights constant, nothing fused."""
    before = edit.only_producer(node.inputs[index])
    if before is None or before.op not in WEIGHTED or "activation" in before.attrs:
        return None
    if edit.tensors[node.inputs[index]].quant is not None or "opset" in before.attrs:
        return None
    bias = before.inputs[2] if len(before.inputs) > 2 else ""
    constants = [before.inputs[1], *([bias] if bias else [])]
    return before if all(edit.tensors[c].data is not None for c in constants) else None


def _fold_batch_normalization(edit: Edit, node: Node) -> bool:
    if node.op != "BatchNormalization":
        return False
    before = _weighted_before(edit, node, 0)
    rank = len(edit.tensors[node.inputs[0]].shape)
    if before is None or (before.op == "Linear" and rank != 2):
        return False
    gain, offset = _affine(edit, node)
    return _scale_and_shift(edit, before, node, gain, offset)


def _affine(edit: Edit, node: Node) -> tuple[Array, Array]:
    """BatchNormalization as x·gain + offset, in double precision."""
    scale, bias, mean, variance = (
        edit.tensors[name].real().astype(np.float64) for name in node.inputs[1:]
    )
    with np.errstate(all="ignore"):
        gain = scale / np.sqrt(variance + node.attrs["epsilon"])
        offset = bias - mean * gain
    if not np.all(np.abs([gain, offset]) < FLOAT_MAX):
        raise ModelError(
            f"BatchNormalization {node.name!r}: variance, scale and bias give factors that are not "
            f"finite (smallest variance {variance.min()}, epsilon {node.attrs['epsilon']})"
        )
    return gain, offset


def _fold_constant(edit: Edit, node: Node) -> bool:
    """A per-channel constant added to, or multiplied with, a weighted node's output."""
    if node.op not in ("Add", "Sub", "Mul") or "activation" in node.attrs:
        return False
    for index in (0, 1):
        before = _weighted_before(edit, node, index)
        if before is None or (node.op == "Sub" and index == 1):
            continue
        target = edit.tensors[node.inputs[index]]
        if edit.tensors[node.outputs[0]].shape != target.shape:
            continue
        values = _per_channel(edit, node.inputs[1 - index], target, _channel_axis(before))
        if values is not None:
            gain = values.astype(np.float64) if node.op == "Mul" else np.ones(1)
            offset = {"Add": values, "Sub": -values}.get(node.op, np.zeros(1))
            return _scale_and_shift(edit, before, node, gain, offset.astype(np.float64))
    return False


def _scale_and_shift(edit: Edit, before: Node, node: Node, gain: Array, offset: Array) -> bool:
    """Merges output·gain + offset into `before`, which takes over the output of `node`."""
    weights = edit.tensors[before.inputs[1]]
    channels = edit.tensors[before.outputs[0]].shape[_channel_axis(before)]
    if weights.quant is not None and not np.all(gain == 1):
        return False
    bias_name = before.inputs[2] if len(before.inputs) > 2 else ""
    bias = edit.tensors[bias_name].real() if bias_name else np.zeros(channels, np.float32)
    w_name, merged = weights.name, bias.astype(np.float64) * gain + offset
    if np.abs(merged).max() > FLOAT_MAX:
        return False
    if not np.all(gain == 1):
        scaled = weights.real() * _along_outputs(before, weights.shape, gain)
        if np.abs(scaled).max() > FLOAT_MAX:
            return False
        w_name = edit.constant(weights.name, scaled.astype(np.float32))
    b_name = edit.constant(bias_name or f"{before.name}.bias", merged.astype(np.float32))
    attrs = _with_requant(before, node)
    edit.drop(before)
    inputs = (before.inputs[0], w_name, b_name)
    edit.put(node, Node(before.op, before.name, inputs, node.outputs, attrs))
    return True


def _with_requant(before: Node, node: Node) -> dict[str, Any]:
    """Attributes of `before`, but it rounds as `node` did."""
    own = {"requant": node.attrs["requant"]} if "requant" in node.attrs else {}
    return {**before.attrs, **own}


def _along_outputs(node: Node, shape: tuple[int, ...], gain: Array) -> Array:
    """`gain` so that it multiplies each output channel's weights."""
    if gain.size == 1:
        return gain.reshape(())
    if node.op == "Linear":
        return gain
    if node.op == "Conv":
        return gain.reshape(-1, *[1] * (len(shape) - 1))
    group = node.attrs["group"]  # ConvTranspose: [C, O/group, *kernel], channel c of group g
    per_group = np.repeat(gain.reshape(group, shape[1]), shape[0] // group, axis=0)
    return per_group.reshape(*shape[:2], *[1] * (len(shape) - 2))


def _fuse_activation(edit: Edit, node: Node) -> bool:
    before = edit.only_producer(node.inputs[0]) if node.inputs else None
    if before is None or before.op not in ACTIVATING or "activation" in before.attrs:
        return False
    if "opset" in before.attrs or "opset" in node.attrs:
        return False
    middle, out = edit.tensors[node.inputs[0]], edit.tensors[node.outputs[0]]
    commutes = node.op in CODES_COMMUTE and same_quant(middle.quant, out.quant)
    if middle.dtype != "float32" or (middle.quant is not None and not commutes):
        return False
    activation = _activation(edit, node, before)
    if activation is None:
        return False
    attrs = {**_with_requant(before, node), "activation": activation}
    edit.drop(before)
    edit.put(node, Node(before.op, before.name, before.inputs, node.outputs, attrs))
    return True


def _activation(edit: Edit, node: Node, before: Node) -> tuple[object, ...] | None:
    a = node.attrs
    if node.op == "Relu":
        return ("Relu",)
    if node.op == "Clip":
        return ("Clip", a["min"], a["max"])
    if node.op == "LeakyRelu":
        return ("LeakyRelu", a["alpha"])
    if node.op != "PRelu":
        return None
    target = edit.tensors[node.inputs[0]]
    axis = _channel_axis(before)
    slopes = _per_channel(edit, node.inputs[1], target, axis)
    if slopes is None or len(target.shape) < 2:
        return None
    if slopes.size == 1:
        return ("LeakyRelu", float(slopes[0]))
    return ("PRelu", tuple(float(s) for s in slopes))


def _spread_batch_normalization(edit: Edit, node: Node) -> None:
    """A BatchNormalization with nothing to fold into: a depthwise 1×1 Conv, or Mul and Add."""
    gain, offset = (v.astype(np.float32) for v in _affine(edit, node))
    x = edit.tensors[node.inputs[0]]
    spatial = len(x.shape) - 2
    requant = {k: v for k, v in node.attrs.items() if k == "requant"}
    bias = edit.constant(f"{node.name}.bias", offset)
    if not spatial:
        g, middle = edit.constant(f"{node.name}.gain", gain), edit.activation(node.name, x.shape)
        add = Node("Add", node.name, (middle, bias), node.outputs, requant)
        edit.put(node, Node("Mul", f"{node.name}.mul", (x.name, g), (middle,)), add)
        return
    w = edit.constant(f"{node.name}.gain", gain.reshape(-1, *[1] * (spatial + 1)))
    attrs = {
        "strides": (1,) * spatial,
        "pads": (0,) * 2 * spatial,
        "dilations": (1,) * spatial,
        "group": x.shape[1],
        **requant,
    }
    edit.put(node, Node("Conv", node.name, (x.name, w, bias), node.outputs, attrs))


def _round_bias(edit: Edit, node: Node) -> None:
    """The bias of a quantized node as int32 of scale input × weights."""
    name = node.inputs[2] if len(node.inputs) > 2 else ""
    x, w = edit.tensors[node.inputs[0]], edit.tensors[node.inputs[1]]
    if not name or x.quant is None or w.quant is None or edit.tensors[name].data is None:
        return
    if node.attrs.get("exact_sums"):  # its sums become real before the bias is added
        return
    bias = integer_bias(edit.tensors[name], x.quant, w.quant)
    if bias is not edit.tensors[name]:
        fresh = edit.fresh(name)
        edit.tensors[fresh] = replace(bias, name=fresh)
        edit.put(node, Node(node.op, node.name, (x.name, w.name, fresh), node.outputs, node.attrs))


RULES: tuple[Rule, ...] = (
    _drop_idle,
    _join_moves,
    join_activation,
    _merge_pad,
    _fold_batch_normalization,
    _fold_constant,
    _fuse_activation,
)
