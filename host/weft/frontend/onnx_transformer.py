"""ONNX's operators of Transformers in canonical form: norms, Attention, Einsum, Expand."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from weft.errors import ModelError, ShapeError
from weft.frontend.build import Builder
from weft.frontend.onnx_nodes import Handler, axis_of, given
from weft.graph import Array
from weft.passes.masks import as_mask

if TYPE_CHECKING:
    from weft.frontend.onnx import OnnxNode


def norm(b: Builder, n: OnnxNode) -> bool:
    """LayerNormalization and RMSNormalization over the last axis, with constant parameters."""
    x = n.inputs[0]
    rank = len(b.shape(x))
    last = axis_of(n, int(n.attrs.get("axis", -1)), rank) == rank - 1
    parameters = [name for name in n.inputs[1:] if name]
    width = b.shape(x)[-1:]
    constant = all(b.value(name) is not None for name in parameters)
    if not last or len(n.outputs) > 1 or not constant:
        return False
    names = [_widened(b, name, width) for name in parameters]
    op = "LayerNorm" if n.op == "LayerNormalization" else "RMSNorm"
    attrs = {"epsilon": float(n.attrs.get("epsilon", 1e-5))}
    b.emit(op, [x, *names], attrs, name=n.name, outputs=n.outputs)
    return True


def _widened(b: Builder, name: str, shape: tuple[int, ...]) -> str:
    """A constant of one value per channel: ONNX lets it broadcast."""
    if b.shape(name) == shape:
        return name
    value = b.value(name)
    assert value is not None, "the caller has checked it"
    return b.constant(b.fresh(name), np.broadcast_to(value.reshape(-1), shape).copy())


def attention(b: Builder, n: OnnxNode) -> bool:
    """Attention (opset 23) without a cache, its mask constant."""
    cached = any(given(n, i) for i in (4, 5, 6)) or len(n.outputs) > 1
    a = n.attrs
    if cached or a.get("qk_matmul_output_mode", 0) or a.get("softcap", 0.0):
        return False
    four = len(b.shape(n.inputs[0])) == 4
    shapes = [b.shape(name) for name in n.inputs[:3]]
    heads = shapes[0][1] if four else int(a.get("q_num_heads", 0))
    kv_heads = shapes[1][1] if four else int(a.get("kv_num_heads", 0))
    if min(heads, kv_heads) < 1:
        raise ModelError(f"Attention {n.name!r}: q_num_heads and kv_num_heads are missing")
    names = [_flat(b, name) if four else name for name in n.inputs[:3]]
    rows, columns = b.shape(names[0])[1], b.shape(names[1])[1]
    width = b.shape(names[0])[2] // heads
    attrs = {
        "heads": heads,
        "kv_heads": kv_heads,
        "scale": float(a.get("scale", 1 / math.sqrt(max(width, 1)))),
        "causal": int(a.get("is_causal", 0)),
    }
    if given(n, 3):
        mask = b.value(n.inputs[3])
        if mask is None:
            return False
        bias, window = as_mask(_bias_of(n, mask, heads, rows, columns))
        attrs |= window
        if bias is not None:
            names.append(b.constant(b.fresh(n.inputs[3]), bias))
    if not four:
        b.emit("Attention", names, attrs, name=n.name, outputs=n.outputs)
        return True
    y = b.emit("Attention", names, attrs, name=n.name)
    split = b.emit("Reshape", [y], {"shape": (1, rows, heads, b.shape(y)[2] // heads)})
    b.emit("Transpose", [split], {"perm": (0, 2, 1, 3)}, outputs=n.outputs)
    return True


def _bias_of(n: OnnxNode, mask: Array, heads: int, rows: int, columns: int) -> Array:
    """The mask [heads, S, T] as numbers that are added; a boolean one says what is seen."""
    if mask.dtype == bool:
        mask = np.where(mask, 0, -np.inf).astype(np.float32)
    missing = columns - mask.shape[-1]
    if missing > 0:  # ONNX pads a short mask with what is not seen
        mask = np.pad(mask, [(0, 0)] * (mask.ndim - 1) + [(0, missing)], constant_values=-np.inf)
    try:
        return np.asarray(np.broadcast_to(mask, (1, heads, rows, columns))[0])
    except ValueError:
        raise ShapeError(
            f"Attention {n.name!r}: mask of shape {mask.shape} for {heads} heads, {rows} queries "
            f"and {columns} keys"
        ) from None


def _flat(b: Builder, x: str) -> str:
    """[1, H, S, d] as [1, S, H·d]."""
    _, heads, rows, width = b.shape(x)
    turned = b.emit("Transpose", [x], {"perm": (0, 2, 1, 3)})
    return b.emit("Reshape", [turned], {"shape": (1, rows, heads * width)})


def einsum(b: Builder, n: OnnxNode) -> bool:
    """A product of two tensors over shared indices: Transpose, Reshape, MatMul and back."""
    left, _, right = str(n.attrs["equation"]).replace(" ", "").partition("->")
    terms = left.split(",")
    text = left.replace(",", "") + right
    if len(terms) != 2 or len(n.inputs) != 2 or not right or not text.isalpha():
        return False
    x, y = terms
    repeated = any(len(set(term)) != len(term) for term in (x, y, right))
    if repeated or len(x) != len(b.shape(n.inputs[0])) or len(y) != len(b.shape(n.inputs[1])):
        return False
    size = dict(zip(x, b.shape(n.inputs[0]), strict=True))
    if any(size.setdefault(i, d) != d for i, d in zip(y, b.shape(n.inputs[1]), strict=True)):
        raise ShapeError(f"Einsum {n.name!r}: {n.attrs['equation']} with sizes that differ")
    batch = [i for i in x if i in y and i in right]
    summed = [i for i in x if i in y and i not in right]
    rows, columns = [i for i in x if i not in y], [i for i in y if i not in x]
    if not summed or set(right) != {*batch, *rows, *columns}:
        return False
    groups = (batch, rows, summed), (batch, summed, columns)
    parts = [
        _grouped(b, name, term, group, size)
        for name, term, group in zip(n.inputs, (x, y), groups, strict=True)
    ]
    constant = not batch and b.tensors[parts[1]].data is not None
    if constant:  # the batch of 1 stays in front, in the rows
        made = b.emit("Linear", [*parts, ""], name=n.name)
    else:
        made = b.emit("MatMul", parts, name=n.name)
    order = [*batch, *rows, *columns]
    whole = b.emit("Reshape", [made], {"shape": tuple(size[i] for i in order)})
    perm = tuple(order.index(i) for i in right)
    b.emit("Transpose", [whole], {"perm": perm}, outputs=n.outputs)
    return True


def _grouped(
    b: Builder, name: str, term: str, groups: tuple[list[str], ...], size: dict[str, int]
) -> str:
    """A factor with its indices in the order of the groups; an empty batch leaves a matrix."""
    perm = tuple(term.index(i) for group in groups for i in group)
    batch, *rest = groups
    shape = (*(size[i] for i in batch), *(math.prod(size[i] for i in group) for group in rest))
    value = b.value(name)
    if value is not None:
        return b.constant(b.fresh(name), value.transpose(perm).reshape(shape).copy())
    turned = b.emit("Transpose", [name], {"perm": perm})
    return b.emit("Reshape", [turned], {"shape": shape})


def expand(b: Builder, n: OnnxNode) -> bool:
    """Expand to a shape that the tensor has already."""
    target = b.value(n.inputs[1])
    x = b.shape(n.inputs[0])
    if target is None or np.broadcast_shapes(x, tuple(int(d) for d in target)) != x:
        return False
    b.emit("Identity", n.inputs[:1], name=n.name, outputs=n.outputs)
    return True


HANDLERS: dict[tuple[str, str], Handler] = {
    ("", "Attention"): attention,
    ("", "Einsum"): einsum,
    ("", "Expand"): expand,
    ("", "LayerNormalization"): norm,
    ("", "RMSNormalization"): norm,
}
