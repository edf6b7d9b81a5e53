"""ONNX operators that move or describe data, in canonical form."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from weft.errors import ModelError, ShapeError, UnsupportedError
from weft.fallback import import_onnx, plain_dtype
from weft.frontend.build import Builder
from weft.frontend.onnx_nodes import Handler, axis_of, crop, given, ints
from weft.graph import Array, Shape

if TYPE_CHECKING:
    from weft.frontend.onnx import OnnxNode


def constant_value(n: OnnxNode) -> Array:
    """What a Constant node holds. Raises UnsupportedError for sparse values and strings."""
    if "value" in n.attrs:
        return np.asarray(n.attrs["value"])
    for key, dtype in (
        ("value_float", np.float32),
        ("value_floats", np.float32),
        ("value_int", np.int64),
        ("value_ints", np.int64),
    ):
        if key in n.attrs:
            return np.asarray(n.attrs[key], dtype)
    raise UnsupportedError(f"Constant {n.name!r} holds {sorted(n.attrs)}; weft reads numbers only")


def shape_value(b: Builder, n: OnnxNode) -> Array:
    """The static value of Shape or Size."""
    shape = b.shape(n.inputs[0])
    if n.op == "Size":
        return np.asarray(math.prod(shape), np.int64)
    return np.asarray(shape[n.attrs.get("start", 0) : n.attrs.get("end")], np.int64)


def _static(b: Builder, n: OnnxNode, index: int, key: str) -> tuple[int, ...] | None:
    """Integers from input `index` or attribute `key`; None if absent; "dynamic" raises."""
    if given(n, index):
        value = b.value(n.inputs[index])
        if value is None:
            raise _DynamicError
        return tuple(int(v) for v in value.reshape(-1))
    return ints(n, key, ()) if key in n.attrs else None


class _DynamicError(Exception):
    """An input that must be constant for the canonical form is not."""


def _static_only(handler: Handler) -> Handler:
    def tried(b: Builder, n: OnnxNode) -> bool:
        try:
            return handler(b, n)
        except _DynamicError:
            return False

    return tried


def _reshape_to(b: Builder, n: OnnxNode, shape: Sequence[int]) -> bool:
    attrs = {"shape": tuple(int(d) for d in shape)}
    b.emit("Reshape", n.inputs[:1], attrs, name=n.name, outputs=n.outputs)
    return True


def reshape(b: Builder, n: OnnxNode) -> bool:
    """Reshape to a static shape; a batch that the file fixes becomes 1."""
    target = _static(b, n, 1, "shape")
    x = b.shape(n.inputs[0])
    if target is None:
        raise ModelError(f"Reshape {n.name!r} has no target shape")
    if not n.attrs.get("allowzero", 0):
        if any(d == 0 and i >= len(x) for i, d in enumerate(target)):
            raise ShapeError(f"Reshape {n.name!r}: {x} can't become {target}")
        target = tuple(x[i] if d == 0 else d for i, d in enumerate(target))
    resolved = _resolve(x, _for_one_sample(b, x, target))
    if resolved is None:
        raise ShapeError(f"Reshape {n.name!r}: {x} can't become {target}")
    return _reshape_to(b, n, resolved)


def _for_one_sample(b: Builder, x: Shape, target: tuple[int, ...]) -> tuple[int, ...]:
    """The target where the file's batch is the outermost part of its first dimension."""
    if not b.batch or b.batch == 1 or x[:1] != (1,) or not target or target[0] == -1:
        return target
    if target[0] % b.batch:
        return target if math.prod(x) == math.prod(target) else ()
    return (target[0] // b.batch, *target[1:])


def _resolve(x: Shape, target: Sequence[int]) -> Shape | None:
    """`target` with its −1 worked out; None if the sizes differ."""
    size, known = math.prod(x), math.prod(d for d in target if d != -1)
    if list(target).count(-1) > 1 or min(target, default=0) < -1:
        return None
    if -1 in target:
        if not known or size % known:
            return None
        return tuple(size // known if d == -1 else d for d in target)
    return tuple(target) if known == size else None


def flatten(b: Builder, n: OnnxNode) -> bool:
    """Flatten to two dimensions."""
    x = b.shape(n.inputs[0])
    axis = int(n.attrs.get("axis", 1))
    if not -len(x) <= axis <= len(x):
        raise ShapeError(f"Flatten {n.name!r}: axis {axis} of {x}")
    axis = axis + len(x) if axis < 0 else axis
    return _reshape_to(b, n, (math.prod(x[:axis]), math.prod(x[axis:])))


def squeeze(b: Builder, n: OnnxNode) -> bool:
    """Squeeze with static axes."""
    x = b.shape(n.inputs[0])
    axes = _static(b, n, 1, "axes")
    if axes is None:
        axes = tuple(i for i, d in enumerate(x) if d == 1)
    gone = {axis_of(n, a, len(x)) for a in axes}
    if any(x[a] != 1 for a in gone):
        raise ShapeError(f"Squeeze {n.name!r}: axes {axes} of {x} are not all 1")
    return _reshape_to(b, n, [d for i, d in enumerate(x) if i not in gone])


def unsqueeze(b: Builder, n: OnnxNode) -> bool:
    """Unsqueeze with static axes."""
    x = list(b.shape(n.inputs[0]))
    axes = _static(b, n, 1, "axes") or ()
    rank = len(x) + len(axes)
    for axis in sorted(axis_of(n, a, rank) for a in axes):
        x.insert(axis, 1)
    return _reshape_to(b, n, x)


def slice_(b: Builder, n: OnnxNode) -> bool:
    """Slice with static bounds, clamped to the tensor."""
    x = b.shape(n.inputs[0])
    starts, ends = _static(b, n, 1, "starts"), _static(b, n, 2, "ends")
    if starts is None or ends is None:
        raise ModelError(f"Slice {n.name!r} lacks starts or ends")
    axes = _static(b, n, 3, "axes") or tuple(range(len(starts)))
    steps = _static(b, n, 4, "steps") or (1,) * len(starts)
    axes = tuple(axis_of(n, a, len(x)) for a in axes)
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        raise ShapeError(f"Slice {n.name!r}: starts {starts}, ends {ends}, axes {axes}: unequal")
    bounds = [
        slice(s, e, t).indices(x[a]) for s, e, t, a in zip(starts, ends, steps, axes, strict=True)
    ]
    return _slice(b, n, [r[0] for r in bounds], [r[1] for r in bounds], axes, steps)


def _slice(
    b: Builder,
    n: OnnxNode,
    starts: Sequence[int],
    ends: Sequence[int],
    axes: Sequence[int],
    steps: Sequence[int],
    output: str = "",
) -> bool:
    attrs = {
        "starts": tuple(starts),
        "ends": tuple(ends),
        "axes": tuple(axes),
        "steps": tuple(steps),
    }
    outputs = (output,) if output else n.outputs
    name = output or n.name
    b.emit("Slice", n.inputs[:1], attrs, name=name, outputs=outputs)
    return True


def split(b: Builder, n: OnnxNode) -> bool:
    """Split as one Slice per output."""
    x = b.shape(n.inputs[0])
    axis = axis_of(n, int(n.attrs.get("axis", 0)), len(x))
    sizes = _static(b, n, 1, "split")
    if sizes is None:
        count = int(n.attrs.get("num_outputs", len(n.outputs)))
        part = -(-x[axis] // count)
        sizes = tuple(min(part, x[axis] - part * i) for i in range(count))
    if sum(sizes) != x[axis] or min(sizes) < 0 or len(sizes) < len(n.outputs):
        raise ShapeError(f"Split {n.name!r}: sizes {sizes} of axis {axis} of {x}")
    start = 0
    for size, output in zip(sizes, n.outputs, strict=False):
        if output:
            _slice(b, n, [start], [start + size], [axis], [1], output)
        start += size
    return True


def concat(b: Builder, n: OnnxNode) -> bool:
    """Concat; empty constants are left out."""
    rank = len(b.shape(n.inputs[0]))
    axis = axis_of(n, int(n.attrs["axis"]), rank)
    inputs = [name for name in n.inputs if 0 not in b.shape(name)]
    b.emit("Concat", inputs, {"axis": axis}, name=n.name, outputs=n.outputs)
    return True


_PAD_MODES = {"constant": "constant", "edge": "edge", "reflect": "reflect", "wrap": "wrap"}


def pad(b: Builder, n: OnnxNode) -> bool:
    """Pad with static pads; negative ones crop."""
    x = b.shape(n.inputs[0])
    pads, axes = _static(b, n, 1, "pads"), _static(b, n, 3, "axes")
    value = b.value(given(n, 2)) if given(n, 2) else np.asarray(n.attrs.get("value", 0.0))
    mode = n.attrs.get("mode", "constant")
    if pads is None or value is None or mode not in _PAD_MODES:
        return False
    if axes is not None:
        full = [0] * (2 * len(x))
        for i, axis in enumerate(axis_of(n, a, len(x)) for a in axes):
            full[axis], full[len(x) + axis] = pads[i], pads[len(axes) + i]
        pads = tuple(full)
    if len(pads) != 2 * len(x):
        raise ShapeError(f"Pad {n.name!r}: {len(pads)} pads for a tensor of shape {x}")
    crops = tuple(max(-p, 0) for p in pads)
    attrs = {
        "pads": tuple(max(p, 0) for p in pads),
        "value": float(value.reshape(())),
        "mode": _PAD_MODES[mode],
    }
    if any(crops) and mode != "constant":
        return False
    b.emit("Pad", [crop(b, n.inputs[0], crops)], attrs, name=n.name, outputs=n.outputs)
    return True


def resize(b: Builder, n: OnnxNode) -> bool:
    """Resize and Upsample; canonical are nearest neighbour and integer factors."""
    x = b.shape(n.inputs[0])
    scales, sizes = _resize_target(b, n)
    if sizes is None and scales is None:
        return False
    axes = ints(n, "axes", range(len(x)))
    axes = tuple(axis_of(n, a, len(x)) for a in axes)
    target = sizes if sizes is not None else scales
    if target is None or len(target) != len(axes):
        raise ShapeError(f"{n.op} {n.name!r}: {target} for axes {axes} of {x}")
    factors = [1.0] * len(x)
    for i, axis in enumerate(axes):
        factors[axis] = target[i] / x[axis] if sizes is not None else target[i]
    if all(f == 1 for f in factors):
        b.emit("Identity", n.inputs[:1], name=n.name, outputs=n.outputs)
        return True
    nearest = n.attrs.get("mode", "nearest") == "nearest" and all(
        f >= 1 and f == int(f) for f in factors
    )
    policy = n.attrs.get("keep_aspect_ratio_policy", "stretch") == "stretch"
    if nearest and policy and all(_repeats(n, d, int(f)) for d, f in zip(x, factors, strict=True)):
        attrs = {"scales": tuple(int(f) for f in factors)}
        b.emit("Resize", n.inputs[:1], attrs, name=n.name, outputs=n.outputs)
        return True
    return n.op == "Upsample" and _upsample(b, n, factors)


def _resize_target(
    b: Builder, n: OnnxNode
) -> tuple[Sequence[float] | None, tuple[int, ...] | None]:
    """(scales, sizes), of which one is None; both if they are not constant."""
    index = 1 if n.op == "Upsample" or n.version < 11 else 2
    scales: Any = n.attrs.get("scales")
    if given(n, index):
        value = b.value(n.inputs[index])
        if value is None:
            return None, None
        scales = [float(v) for v in value.reshape(-1)]
    sizes = _static(b, n, 3, "") if index == 2 else None
    return (None, sizes) if sizes else (scales or None, None)


def _repeats(n: OnnxNode, size: int, factor: int) -> bool:
    """Whether the node's nearest neighbour is repetition on an axis of `size`."""
    if factor == 1:
        return True
    old = n.op == "Upsample" or n.version < 11
    mode = "asymmetric" if old else n.attrs.get("coordinate_transformation_mode", "half_pixel")
    rounding = "floor" if old else n.attrs.get("nearest_mode", "round_prefer_floor")
    out = np.arange(size * factor, dtype=np.float64)
    if mode == "asymmetric":
        at = out / factor
    elif mode in ("half_pixel", "pytorch_half_pixel", "half_pixel_symmetric"):
        at = (out + 0.5) / factor - 0.5
    elif mode == "align_corners":
        at = out * (size - 1) / (size * factor - 1)
    else:
        return False
    functions: dict[str, Callable[[Array], Array]] = {
        "round_prefer_floor": lambda v: np.ceil(v - 0.5),
        "round_prefer_ceil": lambda v: np.floor(v + 0.5),
        "floor": np.floor,
        "ceil": np.ceil,
    }
    picked = np.clip(functions[rounding](at), 0, size - 1)
    return bool(np.array_equal(picked, out // factor))


def _upsample(b: Builder, n: OnnxNode, factors: Sequence[float]) -> bool:
    """Upsample in the form of Resize, version 13, which onnx can evaluate."""
    scales = b.constant(b.fresh(n.name), np.asarray(factors, np.float32))
    mode = {"bilinear": "linear", "linear": "linear"}.get(n.attrs.get("mode", ""), "nearest")
    attrs = {
        "mode": mode,
        "coordinate_transformation_mode": "asymmetric",
        "nearest_mode": "floor",
        "opset": 13,
    }
    b.emit_foreign("Resize", [n.inputs[0], "", scales], attrs, n.name, n.outputs)
    return True


def depth_to_space(b: Builder, n: OnnxNode) -> bool:
    """DepthToSpace."""
    attrs = {"blocksize": int(n.attrs["blocksize"]), "mode": n.attrs.get("mode", "DCR")}
    b.emit("DepthToSpace", n.inputs, attrs, name=n.name, outputs=n.outputs)
    return True


def transpose(b: Builder, n: OnnxNode) -> bool:
    """Transpose; without perm the axes are reversed."""
    rank = len(b.shape(n.inputs[0]))
    perm = ints(n, "perm", range(rank - 1, -1, -1))
    b.emit("Transpose", n.inputs, {"perm": perm}, name=n.name, outputs=n.outputs)
    return True


def cast(b: Builder, n: OnnxNode) -> bool:
    """Cast; between float types it does nothing, as all are held as float32."""
    target = import_onnx().helper.tensor_dtype_to_np_dtype(n.attrs["to"])
    dtype = plain_dtype(np.dtype(target), n.outputs[0])
    if dtype == b.tensors[n.inputs[0]].dtype:
        b.emit("Identity", n.inputs, name=n.name, outputs=n.outputs)
    else:
        b.emit("Cast", n.inputs, {"to": dtype}, name=n.name, outputs=n.outputs)
    return True


def gather(b: Builder, n: OnnxNode) -> bool:
    """Gather with constant indices; a single index is a Slice and a Reshape."""
    x = b.shape(n.inputs[0])
    axis = axis_of(n, int(n.attrs.get("axis", 0)), len(x))
    indices = b.value(n.inputs[1])
    if indices is None or not indices.size:
        return False
    if indices.min() < -x[axis] or indices.max() >= x[axis]:
        raise ShapeError(f"Gather {n.name!r}: an index outside axis {axis} of {x}")
    if indices.size == 1:
        at = int(indices.reshape(())) % x[axis]
        attrs = {"starts": (at,), "ends": (at + 1,), "axes": (axis,), "steps": (1,)}
        y = b.emit("Slice", n.inputs[:1], attrs, name=n.name)
        shape = (*x[:axis], *indices.shape, *x[axis + 1 :])
        b.emit("Reshape", [y], {"shape": shape}, outputs=n.outputs)
        return True
    positive = b.constant(b.fresh(n.inputs[1]), np.where(indices < 0, indices + x[axis], indices))
    inputs = [n.inputs[0], positive]
    b.emit("Gather", inputs, {"axis": axis}, name=n.name, outputs=n.outputs)
    return True


def where(b: Builder, n: OnnxNode) -> bool:
    """Where."""
    b.emit("Where", n.inputs, name=n.name, outputs=n.outputs)
    return True


HANDLERS: dict[tuple[str, str], Handler] = {
    ("", "Cast"): cast,
    ("", "Concat"): concat,
    ("", "DepthToSpace"): depth_to_space,
    ("", "Flatten"): flatten,
    ("", "Gather"): gather,
    ("", "Pad"): _static_only(pad),
    ("", "Reshape"): _static_only(reshape),
    ("", "Resize"): _static_only(resize),
    ("", "Slice"): _static_only(slice_),
    ("", "Split"): _static_only(split),
    ("", "Squeeze"): _static_only(squeeze),
    ("", "Transpose"): transpose,
    ("", "Unsqueeze"): _static_only(unsqueeze),
    ("", "Upsample"): _static_only(resize),
    ("", "Where"): where,
}
