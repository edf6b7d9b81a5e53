"""TFLite's operators that move values: reshapes, slices, joins, paddings, enlargements."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from weft.errors import ModelError, ShapeError, UnsupportedError
from weft.frontend.tflite_build import FIRST, Importer, needs
from weft.frontend.tflite_nodes import activation
from weft.frontend.tflite_read import TfOp
from weft.graph import Shape

OPSET = 18  # of the ONNX operators that stand for resizes


def reshape(m: Importer, op: TfOp) -> None:
    """RESHAPE: the new shape is an input, an attribute, or what the file says of the output."""
    needs(op, 1)
    x, out = op.inputs[0], op.outputs[0]
    o = op.options("ReshapeOptions")
    if len(op.inputs) > 1 and op.inputs[1] >= 0:
        wanted = m.ints(op.inputs[1], f"the shape of {op}")
    elif o.NewShapeLength():
        wanted = tuple(int(d) for d in np.asarray(o.NewShapeAsNumpy()).reshape(-1)[:16])
    else:
        wanted = m.tensor(out).shape or ()
    _reshaped(m, op, x, out, wanted)


def _reshaped(m: Importer, op: TfOp, x: int, out: int, wanted: Shape) -> None:
    """`wanted` may hold one -1."""
    size = int(np.prod(m.shape(x), dtype=np.int64))
    known = int(np.prod([d for d in wanted if d != -1], dtype=np.int64))
    if any(d < -1 for d in wanted) or wanted.count(-1) > 1:
        raise ShapeError(f"{op}: shape {wanted}")
    if -1 in wanted and known and not size % known:
        wanted = tuple(size // known if d == -1 else d for d in wanted)
    if int(np.prod(wanted, dtype=np.int64)) != size:
        raise ShapeError(f"{op}: {m.tensor(x)} of shape {m.shape(x)} does not fill {wanted}")
    if m.codes(x) is not None:
        m.fold(out, m.codes(x).reshape(wanted))  # type: ignore[union-attr]
        return
    m.put(out, "Reshape", [m.plain(x)], {"shape": wanted})


def squeeze(m: Importer, op: TfOp) -> None:
    """SQUEEZE: axes of 1 disappear, all or those given."""
    needs(op, 1)
    shape, o = m.shape(op.inputs[0]), op.options("SqueezeOptions")
    rank = len(shape)
    axes = [int(a) % max(rank, 1) for a in _vector(o.SqueezeDimsLength(), o.SqueezeDimsAsNumpy)]
    chosen = axes or [i for i, d in enumerate(shape) if d == 1]
    if any(shape[a] != 1 for a in chosen):
        raise ShapeError(f"{op}: axes {axes} of shape {shape}")
    kept = tuple(d for i, d in enumerate(shape) if i not in chosen)
    _reshaped(m, op, op.inputs[0], op.outputs[0], kept)


def _vector(length: int, values: Any) -> list[int]:
    if length > 16:
        raise ModelError(f"a list of {length} axes")
    return [int(v) for v in values()] if length else []


def expand_dims(m: Importer, op: TfOp) -> None:
    """EXPAND_DIMS: one more axis of 1."""
    needs(op, 2)
    shape = list(m.shape(op.inputs[0]))
    (axis,) = m.ints(op.inputs[1], f"the axis of {op}")
    shape.insert(axis if axis >= 0 else axis + len(shape) + 1, 1)
    _reshaped(m, op, op.inputs[0], op.outputs[0], tuple(shape))


def concat(m: Importer, op: TfOp) -> None:
    """CONCATENATION along one axis, of tensors that may have scales of their own."""
    needs(op, 1)
    o, out = op.options("ConcatenationOptions"), op.outputs[0]
    rank = m.rank(op.inputs[0])
    axis = _axis(op, o.Axis(), rank)
    fused = activation(op, o.FusedActivationFunction())
    if fused:
        raise UnsupportedError(f"{op} has a fused activation; make it an operator of its own")
    constants = [m.codes(i) for i in op.inputs]
    if all(c is not None for c in constants):
        m.fold(out, np.concatenate(constants, axis))  # type: ignore[arg-type]
        return
    first = rank == 4 and m.has_first(*op.inputs)
    names = [m.first(i) if first else m.plain(i) for i in op.inputs]
    m.put(out, "Concat", names, {"axis": FIRST.index(axis) if first else axis}, first=first)


def _axis(op: TfOp, axis: int, rank: int) -> int:
    if not -rank <= axis < rank:
        raise ModelError(f"{op}: axis {axis} of {rank} dimensions")
    return axis % rank


def pack(m: Importer, op: TfOp) -> None:
    """PACK: joins along a new axis."""
    needs(op, 1)
    out, shape = op.outputs[0], m.shape(op.inputs[0])
    axis = _axis(op, op.options("PackOptions").Axis(), len(shape) + 1)
    constants = [m.codes(i) for i in op.inputs]
    if all(c is not None for c in constants):
        m.fold(out, np.stack(constants, axis))  # type: ignore[arg-type]
        return
    wide = (*shape[:axis], 1, *shape[axis:])
    parts = [m.between("Reshape", [m.plain(i)], {"shape": wide}, i) for i in op.inputs]
    m.put(out, "Concat", parts, {"axis": axis})


def unpack(m: Importer, op: TfOp) -> None:
    """UNPACK: one slice per index of an axis, without that axis."""
    needs(op, 1)
    x, shape = op.inputs[0], m.shape(op.inputs[0])
    axis = _axis(op, op.options("UnpackOptions").Axis(), len(shape))
    if len(op.outputs) != shape[axis]:
        raise ShapeError(f"{op}: {len(op.outputs)} outputs for an axis of {shape[axis]}")
    kept = (*shape[:axis], *shape[axis + 1 :])
    for index, out in enumerate(op.outputs):
        attrs = {"axes": (axis,), "starts": (index,), "ends": (index + 1,), "steps": (1,)}
        name = m.between("Slice", [m.plain(x)], attrs, x)
        m.put(out, "Reshape", [name], {"shape": kept})


def pad(m: Importer, op: TfOp) -> None:
    """PAD, PADV2 and MIRROR_PAD with constant widths."""
    needs(op, 2)
    x, out, rank = op.inputs[0], op.outputs[0], m.rank(op.inputs[0])
    widths = m.ints(op.inputs[1], f"the widths of {op}")
    if len(widths) != 2 * rank or min(widths, default=0) < 0:
        raise ShapeError(f"{op}: widths {widths} for {rank} dimensions")
    attrs: dict[str, Any] = {"mode": "constant", "value": 0.0}
    if op.op == "MIRROR_PAD":
        attrs = {"mode": ("reflect", "symmetric")[op.options("MirrorPadOptions").Mode() & 1]}
    elif len(op.inputs) > 2 and op.inputs[2] >= 0:
        if m.codes(op.inputs[2]) is None:
            raise UnsupportedError(f"{op}: a padded value that is computed at run time")
        attrs["value"] = float(m.real(op.inputs[2]).reshape(-1)[0])
    first = rank == 4 and m.has_first(x)
    order = FIRST if first else tuple(range(rank))
    attrs["pads"] = tuple(widths[2 * a + end] for end in (0, 1) for a in order)
    m.put(out, "Pad", [m.first(x) if first else m.plain(x)], attrs, first=first)


def _cut(
    m: Importer, x: int, ranges: list[tuple[int, int, int]]
) -> tuple[str, dict[str, Any], bool]:
    """A Slice's input, attributes and order, from (start, end, step) per axis of the file."""
    first = len(ranges) == 4 and m.has_first(x)
    order = FIRST if first else tuple(range(len(ranges)))
    starts, ends, steps = zip(*(ranges[a] for a in order), strict=True) if ranges else ((),) * 3
    attrs = {"axes": tuple(range(len(ranges))), "starts": starts, "ends": ends, "steps": steps}
    return (m.first(x) if first else m.plain(x)), attrs, first


def slice_(m: Importer, op: TfOp) -> None:
    """SLICE: begins and sizes, -1 for the rest."""
    needs(op, 3)
    x, shape = op.inputs[0], m.shape(op.inputs[0])
    begins, sizes = (m.ints(i, f"a bound of {op}") for i in op.inputs[1:3])
    if len(begins) != len(shape) or len(sizes) != len(shape):
        raise ShapeError(f"{op}: begins {begins}, sizes {sizes} for shape {shape}")
    ranges = []
    for begin, size, extent in zip(begins, sizes, shape, strict=True):
        end = extent if size == -1 else begin + size
        if not 0 <= begin <= end <= extent:
            raise ShapeError(f"{op}: begins {begins}, sizes {sizes} for shape {shape}")
        ranges.append((begin, end, 1))
    if m.codes(x) is not None:
        m.fold(op.outputs[0], m.codes(x)[tuple(slice(*r) for r in ranges)])  # type: ignore[index]
        return
    name, attrs, first = _cut(m, x, ranges)
    m.put(op.outputs[0], "Slice", [name], attrs, first=first)


def strided_slice(m: Importer, op: TfOp) -> None:
    """STRIDED_SLICE with constant bounds; numpy's basic indexing, without new axes."""
    needs(op, 4)
    x, out, shape = op.inputs[0], op.outputs[0], m.shape(op.inputs[0])
    o = op.options("StridedSliceOptions")
    if o.EllipsisMask() or o.NewAxisMask():
        raise UnsupportedError(f"{op} has an ellipsis or a new axis; index without them")
    begins, ends, steps = (m.ints(i, f"a bound of {op}") for i in op.inputs[1:4])
    if not len(begins) == len(ends) == len(steps) <= len(shape) or 0 in steps:
        raise ShapeError(f"{op}: {begins}, {ends}, {steps} for shape {shape}")
    ranges, shrunk = [(0, d, 1) for d in shape], []
    for a, (begin, end, step) in enumerate(zip(begins, ends, steps, strict=True)):
        if o.ShrinkAxisMask() >> a & 1:
            at = begin + (shape[a] if begin < 0 else 0)
            ranges[a] = (at, at + 1, 1)
            shrunk.append(a)
            continue
        low = None if o.BeginMask() >> a & 1 else begin
        high = None if o.EndMask() >> a & 1 else end
        ranges[a] = slice(low, high, step).indices(shape[a])
    if m.codes(x) is not None:
        picked = tuple(_index(r) for r in ranges)
        m.fold(out, m.codes(x)[picked].reshape(_sizes(ranges, shrunk)))  # type: ignore[index]
        return
    name, attrs, first = _cut(m, x, ranges)
    if not shrunk:
        m.put(out, "Slice", [name], attrs, first=first)
        return
    name = m.between("Slice", [name], attrs, x)
    if first:
        name = m.between("Transpose", [name], {"perm": (0, 2, 3, 1)}, x)
    m.put(out, "Reshape", [name], {"shape": _sizes(ranges, shrunk)})


def _index(part: tuple[int, int, int]) -> slice:
    start, end, step = part
    return slice(start, None if step < 0 and end < 0 else end, step)


def _sizes(ranges: list[tuple[int, int, int]], shrunk: list[int]) -> Shape:
    return tuple(len(range(*r)) for a, r in enumerate(ranges) if a not in shrunk)


def split(m: Importer, op: TfOp) -> None:
    """SPLIT into equal parts, SPLIT_V into parts of given sizes."""
    needs(op, 2)
    if op.op == "SPLIT":
        (axis,), x = m.ints(op.inputs[0], f"the axis of {op}"), op.inputs[1]
        count = len(op.outputs)
        extent = m.shape(x)[_axis(op, axis, m.rank(x))]
        if extent % count:
            raise ShapeError(f"{op}: an axis of {extent} in {count} parts")
        sizes: tuple[int, ...] = (extent // count,) * count
    else:
        needs(op, 3)
        x, sizes = op.inputs[0], m.ints(op.inputs[1], f"the sizes of {op}")
        (axis,) = m.ints(op.inputs[2], f"the axis of {op}")
        extent = m.shape(x)[_axis(op, axis, m.rank(x))]
        rest = extent - sum(s for s in sizes if s != -1)
        sizes = tuple(rest if s == -1 else s for s in sizes)
    axis = _axis(op, axis, m.rank(x))
    if sum(sizes) != extent or min(sizes) < 1 or len(sizes) != len(op.outputs):
        raise ShapeError(f"{op}: parts of {sizes} of an axis of {extent}")
    start = 0
    for size, out in zip(sizes, op.outputs, strict=True):
        ranges = [(0, d, 1) for d in m.shape(x)]
        ranges[axis] = (start, start + size, 1)
        name, attrs, first = _cut(m, x, ranges)
        m.put(out, "Slice", [name], attrs, first=first)
        start += size


def transpose(m: Importer, op: TfOp) -> None:
    """TRANSPOSE with a constant permutation."""
    needs(op, 2)
    x, rank = op.inputs[0], m.rank(op.inputs[0])
    perm = m.ints(op.inputs[1], f"the permutation of {op}")
    if sorted(perm) != list(range(rank)):
        raise ModelError(f"{op}: permutation {perm} of {rank} dimensions")
    if m.codes(x) is not None:
        m.fold(op.outputs[0], m.codes(x).transpose(perm))  # type: ignore[union-attr]
        return
    m.put(op.outputs[0], "Transpose", [m.plain(x)], {"perm": perm})


def gather(m: Importer, op: TfOp) -> None:
    """GATHER of constant indices."""
    needs(op, 2)
    o, x = op.options("GatherOptions"), op.inputs[0]
    indices = m.codes(op.inputs[1])
    if indices is None or o.BatchDims():
        raise UnsupportedError(f"{op}: indices that are computed at run time, or per sample")
    axis, extent = _axis(op, o.Axis(), m.rank(x)), 0
    extent = m.shape(x)[axis]
    if indices.size and not 0 <= indices.min() <= indices.max() < extent:
        raise ModelError(f"{op}: indices up to {indices.max()} of an axis of {extent}")
    if m.codes(x) is not None:
        m.fold(op.outputs[0], np.take(m.codes(x), indices, axis))  # type: ignore[arg-type]
        return
    name = m.b.constant(m.b.fresh(m.name(op.inputs[1])), indices.astype(np.int64))
    m.put(op.outputs[0], "Gather", [m.plain(x), name], {"axis": axis})


def shape(m: Importer, op: TfOp) -> None:
    """SHAPE: known, so a constant."""
    needs(op, 1)
    m.fold(op.outputs[0], np.asarray(m.shape(op.inputs[0])))


def cast(m: Importer, op: TfOp) -> None:
    """CAST of numbers."""
    needs(op, 1)
    to = m.tensor(op.outputs[0]).dtype
    data = m.codes(op.inputs[0])
    if data is not None:
        m.fold(op.outputs[0], data.astype(to))
        return
    kind = "float32" if to.startswith("float") else to
    m.put(op.outputs[0], "Cast", [m.plain(op.inputs[0])], {"to": kind})


def resize(m: Importer, op: TfOp) -> None:
    """RESIZE_NEAREST_NEIGHBOR, RESIZE_BILINEAR to a constant size."""
    needs(op, 2)
    nearest = op.op == "RESIZE_NEAREST_NEIGHBOR"
    o = op.options("ResizeNearestNeighborOptions" if nearest else "ResizeBilinearOptions")
    name = m.first(op.inputs[0])
    size, target = m.b.shape(name)[2:], m.ints(op.inputs[1], f"the size of {op}")
    if len(target) != 2 or min(target) < 1:
        raise ModelError(f"{op}: size {target}")
    whole = all(t % s == 0 for t, s in zip(target, size, strict=True))
    if nearest and whole and not o.AlignCorners():
        scales = (1, 1, *(t // s for t, s in zip(target, size, strict=True)))
        m.put(op.outputs[0], "Resize", [name], {"scales": scales}, first=True)
        return
    way = "align_corners" if o.AlignCorners() else "asymmetric"
    way = "half_pixel" if o.HalfPixelCenters() else way
    quant = m.quant(op.inputs[0])
    if quant is not None and not nearest:
        facts = {"size": target, "way": way, "kernels": m.kernels}
        facts["quant"] = (float(quant.scale), quant.zero_point)
        m.put(op.outputs[0], "Resize8", [name], facts, first=True)
        return
    attrs: dict[str, Any] = {
        "mode": "nearest" if nearest else "linear",
        "coordinate_transformation_mode": way,
        "opset": OPSET,
    }
    if nearest:
        attrs["nearest_mode"] = "floor" if way == "asymmetric" else "round_prefer_ceil"
    wanted = np.asarray((*m.b.shape(name)[:2], *target), np.int64)
    sizes = m.b.constant(m.b.fresh(f"{m.name(op.outputs[0])}.sizes"), wanted)
    m.put(op.outputs[0], "onnx.Resize", [name, "", "", sizes], attrs, first=True)


def depth_to_space(m: Importer, op: TfOp) -> None:
    """DEPTH_TO_SPACE."""
    needs(op, 1)
    block = op.options("DepthToSpaceOptions").BlockSize()
    if block < 1:
        raise ModelError(f"{op}: blocks of {block}")
    attrs = {"blocksize": block, "mode": "DCR"}
    m.put(op.outputs[0], "DepthToSpace", [m.first(op.inputs[0])], attrs, first=True)


HANDLERS: dict[str, Callable[[Importer, TfOp], None]] = {
    "CAST": cast,
    "CONCATENATION": concat,
    "DEPTH_TO_SPACE": depth_to_space,
    "EXPAND_DIMS": expand_dims,
    "GATHER": gather,
    **dict.fromkeys(("PAD", "PADV2", "MIRROR_PAD"), pad),
    "PACK": pack,
    "RESHAPE": reshape,
    **dict.fromkeys(("RESIZE_NEAREST_NEIGHBOR", "RESIZE_BILINEAR"), resize),
    "SHAPE": shape,
    "SLICE": slice_,
    **dict.fromkeys(("SPLIT", "SPLIT_V"), split),
    "SQUEEZE": squeeze,
    "STRIDED_SLICE": strided_slice,
    "TRANSPOSE": transpose,
    "UNPACK": unpack,
}
