"""What Transformers are made of as standard ONNX, for `weft.export_qdq`.

Norms are LayerNormalization, or written out; attention is its products, moves and softmax.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from weft.graph import Array, Node
from weft.transformer_ops import window
from weft.window_ops import window_order

if TYPE_CHECKING:
    from weft.export_qdq import _Writer

MASKED = -1e9  # added to scores that don't count: far below any other, and no infinity
Special = Callable[["_Writer", Node, list[str], dict[str, Any]], str]


def _ints(w: _Writer, *values: int) -> str:
    return w.constant(np.asarray(values), np.int64)


def _conv(w: _Writer, node: Node, inputs: list[str], attrs: dict[str, Any]) -> str:
    """A Conv; of tokens with rows in front, padded before the bias is added."""
    front = attrs.pop("front", None)
    if set(attrs.get("dilations", (0,))) == {1}:
        del attrs["dilations"]
    attrs = {k: v for k, v in attrs.items() if v != ()}
    if front is None:
        return w.node("Conv", inputs, **attrs)
    channels = w.graph[node.outputs[0]].shape[-1]
    y = w.node("Conv", inputs[:2], **attrs)
    y = w.node("Reshape", [y, _ints(w, 0, channels, -1)])
    y = w.node("Transpose", [y], perm=[0, 2, 1])
    y = w.node("Pad", [y, _ints(w, 0, front, 0, 0, 0, 0)], mode="constant")
    return w.node("Add", [y, inputs[2]]) if len(inputs) > 2 and inputs[2] else y


def _layer_norm(w: _Writer, node: Node, inputs: list[str], attrs: dict[str, Any]) -> str:
    return w.node("LayerNormalization", inputs, axis=-1, epsilon=float(attrs["epsilon"]))


def _rms_norm(w: _Writer, node: Node, inputs: list[str], attrs: dict[str, Any]) -> str:
    """x / √(mean of squares + epsilon) · gamma: ONNX has it from opset 23 on."""
    x, gamma = inputs
    power = w.node("ReduceMean", [w.node("Mul", [x, x]), _ints(w, -1)], keepdims=1)
    epsilon = w.constant(np.asarray(attrs["epsilon"]), np.float32)
    root = w.node("Sqrt", [w.node("Add", [power, epsilon])])
    return w.node("Mul", [w.node("Div", [x, root]), gamma])


def _swish(w: _Writer, node: Node, inputs: list[str], attrs: dict[str, Any]) -> str:
    """x · sigmoid(alpha · x): ONNX has it from opset 24 on."""
    alpha = w.constant(np.asarray(attrs.get("alpha", 1.0)), np.float32)
    gate = w.node("Sigmoid", [w.node("Mul", [inputs[0], alpha])])
    return w.node("Mul", [inputs[0], gate])


def _windows(w: _Writer, node: Node, inputs: list[str], attrs: dict[str, Any]) -> str:
    order = window_order(attrs["size"], attrs["window"], attrs["shift"])
    order = np.argsort(order) if attrs["inverse"] else order
    return w.node("Gather", [inputs[0], w.constant(order, np.int64)], axis=1)


def _patch_merge(w: _Writer, node: Node, inputs: list[str], attrs: dict[str, Any]) -> str:
    height, width = attrs["size"]
    parts = _ints(w, 0, height // 2, 2, width // 2, 2, w.graph[node.inputs[0]].shape[-1])
    y = w.node("Transpose", [w.node("Reshape", [inputs[0], parts])], perm=[0, 1, 3, 4, 2, 5])
    shape = w.graph[node.outputs[0]].shape
    return w.node("Reshape", [y, _ints(w, 0, *shape[1:])])


def _attention(w: _Writer, node: Node, inputs: list[str], attrs: dict[str, Any]) -> str:
    """Softmax of scaled, masked products per head, times values: [n, windows, heads, S, ...]."""
    added = _added(w, node)
    if attrs.get("cache") or (len(inputs) > 4 and inputs[4]):
        raise w.unsupported(node)
    shape, heads, count = w.graph[node.outputs[0]].shape, attrs["heads"], attrs.get("windows", 1)
    perms = ([0, 1, 3, 2, 4], [0, 1, 3, 4, 2], [0, 1, 3, 2, 4])
    parts: list[str] = []
    for name, value, perm in zip(node.inputs, inputs, perms, strict=False):
        own = heads if perm is perms[0] and not parts else attrs["kv_heads"]
        _, tokens, width = w.graph[name].shape
        split = w.node("Reshape", [value, _ints(w, 0, count, tokens // count, own, width // own)])
        turned = w.node("Transpose", [split], perm=perm)
        if own != heads:
            groups = w.constant(np.arange(heads) // (heads // own), np.int64)
            turned = w.node("Gather", [turned, groups], axis=2)
        parts.append(turned)
    scores = w.node("MatMul", parts[:2])
    scores = w.node("Mul", [scores, w.constant(np.asarray(attrs["scale"]), np.float32)])
    if added is not None:
        scores = w.node("Add", [scores, w.constant(added, np.float32)])
    y = w.node("MatMul", [w.node("Softmax", [scores], axis=-1), parts[2]])
    y = w.node("Transpose", [y], perm=[0, 1, 3, 2, 4])
    return w.node("Reshape", [y, _ints(w, 0, *shape[1:])])


def _added(w: _Writer, node: Node) -> Array | None:
    """Bias and mask [windows or 1, heads or 1, S, T]; None without. Raises UnsupportedError where
    a query sees no key: the softmax of ONNX has no such row.
    """
    count = node.attrs.get("windows", 1)
    rows, columns = (w.graph[name].shape[1] // count for name in node.inputs[:2])
    left, right = window(node)
    away = np.arange(columns) - np.arange(rows)[:, None]
    seen = (away >= left) & (away <= right)
    if not seen.any(1).all():
        raise w.unsupported(node)
    mask = np.where(seen, 0, MASKED).astype(np.float32)
    if len(node.inputs) < 4 or not node.inputs[3]:
        return None if seen.all() else mask[None, None]
    bias = w.graph[node.inputs[3]]
    assert bias.data is not None, "what runs on the accelerator has a constant one"
    kinds = node.attrs.get("kinds", (0,) * count)
    each = np.asarray(bias.real()).reshape(max(kinds) + 1, -1, rows, columns)
    return np.asarray(np.maximum(each[list(kinds)] + mask, MASKED))


SPECIAL: dict[str, Special] = {
    "Conv": _conv,
    "LayerNorm": _layer_norm,
    "RMSNorm": _rms_norm,
    "Swish": _swish,
    "Windows": _windows,
    "PatchMerge": _patch_merge,
    "Attention": _attention,
}
