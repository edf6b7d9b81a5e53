"""Shape rules of the operators: (node, its input tensors) → the shapes of its outputs."""

from __future__ import annotations

import math
from collections.abc import Sequence

from weft.errors import ShapeError
from weft.graph import Node, Shape, Tensor
from weft.reference import slices

Inputs = Sequence[Tensor | None]


def first(node: Node, inputs: Inputs) -> Tensor:
    """The first input; raises ShapeError if it is absent."""
    return nth(node, inputs, 0)


def nth(node: Node, inputs: Inputs, index: int) -> Tensor:
    """Input number `index`; raises ShapeError if it is absent."""
    tensor = inputs[index] if index < len(inputs) else None
    if tensor is None:
        raise ShapeError(f"{node.op} {node.name!r} has no input {index}")
    return tensor


def same(node: Node, inputs: Inputs) -> list[Shape]:
    """The shape of the first input."""
    return [first(node, inputs).shape]


def broadcast(node: Node, inputs: Inputs) -> list[Shape]:
    """numpy's broadcasting of all inputs."""
    shapes = [t.shape for t in inputs if t is not None]
    rank = max((len(s) for s in shapes), default=0)
    padded = [(1,) * (rank - len(s)) + s for s in shapes]
    result = []
    for dims in zip(*padded, strict=True):
        size = max(dims) if min(dims) else 0
        if any(d not in (1, size) for d in dims):
            raise ShapeError(f"{node.op} {node.name!r}: shapes {shapes} do not broadcast")
        result.append(size)
    return [tuple(result)]


def linear(node: Node, inputs: Inputs) -> list[Shape]:
    """[..., K] · [K, N] → [..., N]."""
    x, w = first(node, inputs).shape, nth(node, inputs, 1).shape
    if not x or len(w) != 2 or x[-1] != w[0]:
        raise ShapeError(f"{node.op} {node.name!r}: input {x} does not fit weights {w}")
    _check_bias(node, inputs, w[1])
    return [(*x[:-1], w[1])]


def matmul(node: Node, inputs: Inputs) -> list[Shape]:
    """numpy's matmul."""
    x, y = first(node, inputs).shape, nth(node, inputs, 1).shape
    left = (1, *x) if len(x) == 1 else x
    right = (*y, 1) if len(y) == 1 else y
    if len(left) < 2 or len(right) < 2 or left[-1] != right[-2]:
        raise ShapeError(f"{node.op} {node.name!r}: {x} · {y} do not fit")
    batch = broadcast(node, [Tensor("", left[:-2]), Tensor("", right[:-2])])[0]
    rows = left[-2:-1] if len(x) > 1 else ()
    columns = right[-1:] if len(y) > 1 else ()
    return [(*batch, *rows, *columns)]


def _check_bias(node: Node, inputs: Inputs, channels: int) -> None:
    bias = inputs[2] if len(inputs) > 2 else None
    if bias is not None and bias.shape != (channels,):
        raise ShapeError(
            f"{node.op} {node.name!r}: bias of shape {bias.shape}, expected ({channels},)"
        )


def window(
    node: Node, size: Sequence[int], kernel: Sequence[int], pads: Sequence[int]
) -> tuple[int, ...]:
    """Output positions of a window that walks a map of `size` with the node's strides."""
    a = node.attrs
    rank = len(size)
    lengths = {
        "kernel": len(kernel),
        "strides": len(a["strides"]),
        "dilations": len(a["dilations"]),
        "half of pads": len(pads) / 2,
    }
    for name, length in lengths.items():
        if length != rank:
            raise ShapeError(
                f"{node.op} {node.name!r}: {name} has {length:g} entries for {rank} spatial axes"
            )
    for name in ("strides", "dilations"):
        if min(a[name], default=1) < 1:
            raise ShapeError(f"{node.op} {node.name!r}: {name} {tuple(a[name])} must be at least 1")
    out = []
    for i, (n, k) in enumerate(zip(size, kernel, strict=True)):
        span = a["dilations"][i] * (k - 1) + 1
        count = (n + pads[i] + pads[rank + i] - span) // a["strides"][i] + 1
        if k < 1 or count < 1:
            raise ShapeError(
                f"{node.op} {node.name!r}: a window of {span} does not fit a map of {n} with "
                f"pads {pads[i]} and {pads[rank + i]}"
            )
        out.append(count)
    return tuple(out)


def conv(node: Node, inputs: Inputs) -> list[Shape]:
    """[N, C, *spatial] with weights [O, C/group, *kernel]; tokens with rows in `front`."""
    x, w = first(node, inputs).shape, nth(node, inputs, 1).shape
    group = node.attrs["group"]
    fits = len(x) == len(w) >= 3 and group >= 1
    if not fits or w[0] % group or x[1] != w[1] * group:
        raise ShapeError(
            f"{node.op} {node.name!r}: input {x} does not fit weights {w} in {group} groups"
        )
    _check_bias(node, inputs, w[0])
    if min(node.attrs["pads"], default=0) < 0:
        raise ShapeError(f"{node.op} {node.name!r}: negative pads {node.attrs['pads']}")
    spatial = window(node, x[2:], w[2:], node.attrs["pads"])
    if "front" in node.attrs:
        return [(x[0], node.attrs["front"] + math.prod(spatial), w[0])]
    return [(x[0], w[0], *spatial)]


def conv_transpose(node: Node, inputs: Inputs) -> list[Shape]:
    """[N, C, *spatial] with weights [C, O/group, *kernel]."""
    x, w, a = first(node, inputs).shape, nth(node, inputs, 1).shape, node.attrs
    rank = len(x) - 2
    fits = len(x) == len(w) >= 3 and a["group"] >= 1
    if not fits or x[1] != w[0] or w[0] % a["group"]:
        raise ShapeError(
            f"{node.op} {node.name!r}: input {x} does not fit weights {w} in {a['group']} groups"
        )
    lengths = [len(a[n]) for n in ("strides", "dilations", "output_padding")]
    if lengths != [rank] * 3 or len(a["pads"]) != 2 * rank or min(*a["strides"], *w[2:]) < 1:
        raise ShapeError(f"{node.op} {node.name!r}: attributes do not fit {rank} spatial axes")
    _check_bias(node, inputs, w[1] * a["group"])
    size = []
    for i in range(rank):
        full = (x[2 + i] - 1) * a["strides"][i] + (w[2 + i] - 1) * a["dilations"][i] + 1
        size.append(full + a["output_padding"][i] - a["pads"][i] - a["pads"][rank + i])
    if min(size) < 1:
        raise ShapeError(f"{node.op} {node.name!r}: pads leave an output of size {size}")
    return [(x[0], w[1] * a["group"], *size)]


def pool(node: Node, inputs: Inputs) -> list[Shape]:
    """[N, C, *spatial] under kernel_shape."""
    x = first(node, inputs).shape
    if len(x) < 3:
        raise ShapeError(f"{node.op} {node.name!r}: input {x} has no spatial axes")
    shape = (*x[:2], *window(node, x[2:], node.attrs["kernel_shape"], node.attrs["pads"]))
    return [shape] * len(node.outputs)


def global_pool(node: Node, inputs: Inputs) -> list[Shape]:
    """[N, C, *spatial] → [N, C, 1...]."""
    x = first(node, inputs).shape
    if len(x) < 3:
        raise ShapeError(f"{node.op} {node.name!r}: input {x} has no spatial axes")
    return [(*x[:2], *[1] * (len(x) - 2))]


def axis_of(node: Node, axis: int, rank: int) -> int:
    """`axis` counted from the front; raises ShapeError if there is no such axis."""
    if not -rank <= axis < rank:
        raise ShapeError(f"{node.op} {node.name!r}: axis {axis} of a tensor with {rank} dimensions")
    return axis % rank


def concat(node: Node, inputs: Inputs) -> list[Shape]:
    """Sizes add up along `axis`, all else equal."""
    shapes = [t.shape for t in inputs if t is not None]
    axis = axis_of(node, node.attrs["axis"], len(first(node, inputs).shape))
    rest = {(*s[:axis], *s[axis + 1 :]) for s in shapes}
    if len(rest) != 1:
        raise ShapeError(f"{node.op} {node.name!r}: shapes {shapes} do not join on axis {axis}")
    total = sum(s[axis] for s in shapes)
    return [(*shapes[0][:axis], total, *shapes[0][axis + 1 :])]


def slice_(node: Node, inputs: Inputs) -> list[Shape]:
    """What the index leaves."""
    x = first(node, inputs).shape
    return [tuple(len(range(d)[s]) for d, s in zip(x, slices(node, len(x)), strict=True))]


def pad(node: Node, inputs: Inputs) -> list[Shape]:
    """Sizes grow by the pads."""
    x, pads = first(node, inputs).shape, node.attrs["pads"]
    if len(pads) != 2 * len(x) or min(pads, default=0) < 0:
        raise ShapeError(f"{node.op} {node.name!r}: pads {tuple(pads)} for a tensor of shape {x}")
    return [tuple(d + b + e for d, b, e in zip(x, pads, pads[len(x) :], strict=False))]


def resize(node: Node, inputs: Inputs) -> list[Shape]:
    """Sizes times integer factors."""
    x, scales = first(node, inputs).shape, node.attrs["scales"]
    return [tuple(d * int(s) for d, s in zip(x, scales, strict=True))]


def reshape(node: Node, inputs: Inputs) -> list[Shape]:
    """attrs["shape"], of the same size as the input."""
    x, shape = first(node, inputs).shape, tuple(node.attrs["shape"])
    if math.prod(x) != math.prod(shape):
        raise ShapeError(f"{node.op} {node.name!r}: {x} can't become {shape}")
    return [shape]


def transpose(node: Node, inputs: Inputs) -> list[Shape]:
    """Axes in the order of perm."""
    x, perm = first(node, inputs).shape, node.attrs["perm"]
    if sorted(perm) != list(range(len(x))):
        raise ShapeError(f"{node.op} {node.name!r}: perm {tuple(perm)} of a tensor of shape {x}")
    return [tuple(x[p] for p in perm)]


def depth_to_space(node: Node, inputs: Inputs) -> list[Shape]:
    """[N, C·b², H, W] → [N, C, H·b, W·b]."""
    x, block = first(node, inputs).shape, node.attrs["blocksize"]
    if len(x) != 4 or block < 1 or x[1] % block**2:
        raise ShapeError(f"{node.op} {node.name!r}: blocks of {block} in a tensor of shape {x}")
    return [(x[0], x[1] // block**2, x[2] * block, x[3] * block)]


def reduce(node: Node, inputs: Inputs) -> list[Shape]:
    """The axes become 1, or vanish without keepdims."""
    x, a = first(node, inputs).shape, node.attrs
    axes = {axis_of(node, axis, len(x)) for axis in a["axes"]}
    kept = [(1 if i in axes else d) for i, d in enumerate(x) if a["keepdims"] or i not in axes]
    return [tuple(kept)]


def gather(node: Node, inputs: Inputs) -> list[Shape]:
    """The indices' shape takes the place of the axis."""
    x, indices = first(node, inputs).shape, nth(node, inputs, 1).shape
    axis = axis_of(node, node.attrs["axis"], len(x))
    return [(*x[:axis], *indices, *x[axis + 1 :])]
