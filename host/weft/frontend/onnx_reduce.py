"""ONNX reductions and softmax, in canonical form."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from weft.frontend.build import Builder
from weft.frontend.onnx_nodes import Handler, axis_of, given
from weft.graph import Array

if TYPE_CHECKING:
    from weft.frontend.onnx import OnnxNode


def reduce(b: Builder, n: OnnxNode) -> bool:
    """Reductions with static axes; the mean over all spatial axes is GlobalAveragePool."""
    x = n.inputs[0]
    rank = len(b.shape(x))
    axes: Array | tuple[int, ...] | None = n.attrs.get("axes")
    if given(n, 1):
        axes = b.value(n.inputs[1])
        if axes is None:
            return False
    if axes is None or not len(axes):
        if n.attrs.get("noop_with_empty_axes", 0):
            b.emit("Identity", [x], name=n.name, outputs=n.outputs)
            return True
        axes = tuple(range(rank))
    found = tuple(sorted({axis_of(n, int(a), rank) for a in axes}))
    keep = int(n.attrs.get("keepdims", 1))
    pools = {"ReduceMean": "GlobalAveragePool", "ReduceMax": "GlobalMaxPool"}
    if n.op in pools and rank > 2 and found == tuple(range(2, rank)):
        y = b.emit(pools[n.op], [x], name=n.name, outputs=n.outputs if keep else ())
        if not keep:
            b.emit("Reshape", [y], {"shape": b.shape(x)[:2]}, outputs=n.outputs)
        return True
    b.emit(n.op, [x], {"axes": found, "keepdims": keep}, name=n.name, outputs=n.outputs)
    return True


def arg(b: Builder, n: OnnxNode) -> bool:
    """ArgMax and ArgMin; of equal values the first."""
    if n.attrs.get("select_last_index", 0):
        return False
    axis = axis_of(n, int(n.attrs.get("axis", 0)), len(b.shape(n.inputs[0])))
    attrs = {"axes": (axis,), "keepdims": int(n.attrs.get("keepdims", 1))}
    b.emit(n.op, n.inputs, attrs, name=n.name, outputs=n.outputs)
    return True


def softmax(b: Builder, n: OnnxNode) -> bool:
    """Softmax along an axis; before opset 13 it covered all axes from `axis` on."""
    x = n.inputs[0]
    shape = b.shape(x)
    rank = len(shape)
    axis = axis_of(n, int(n.attrs.get("axis", -1 if n.version >= 13 else 1)), rank)
    wide = n.version < 13 and int(np.prod(shape[axis + 1 :])) > 1
    if not wide:
        b.emit(n.op, [x], {"axis": axis}, name=n.name, outputs=n.outputs)
        return True
    flat = b.emit("Reshape", [x], {"shape": (*shape[:axis], int(np.prod(shape[axis:])))})
    y = b.emit(n.op, [flat], {"axis": axis}, name=n.name)
    b.emit("Reshape", [y], {"shape": shape}, outputs=n.outputs)
    return True


HANDLERS: dict[tuple[str, str], Handler] = {
    **{("", f"Reduce{kind}"): reduce for kind in ("Max", "Mean", "Min", "Prod", "Sum")},
    ("", "ArgMax"): arg,
    ("", "ArgMin"): arg,
    ("", "LogSoftmax"): softmax,
    ("", "Softmax"): softmax,
}
