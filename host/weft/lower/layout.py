"""How tensor dimensions map to channels, rows and columns, and which reshapes cost nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from weft import ops
from weft.graph import Graph, Node, Shape
from weft.lower.stage import HostOnlyError
from weft.pack import extents, sequence
from weft.program import Layout
from weft.window_ops import map_of

Dims = tuple[tuple[str, ...], ...]
RELABELS = ("Reshape", "Transpose", "Identity")
_SPATIAL = (
    "Conv",
    "MaxPool",
    "AveragePool",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "Resize",
    "DepthToSpace",
)
_ROWS = ("Linear", "LinearBytes", "LayerNorm", "RMSNorm", "Rope", "Attention")
_MAPS = ("Windows", "PatchMerge")  # of which the tokens are the positions
_SAME_DIMS = ("Add", "Sub", "Mul", "Concat", "Slice", "Pad", "Relu", "Clip", "LeakyRelu", "PRelu")


def kept(layout: Layout, axis: int) -> tuple[str, ...]:
    """Letters of dimension `axis` that are larger than 1."""
    size = extents(layout)
    return tuple(letter for letter in layout.dims[axis] if size[letter] > 1)


def channels_first(shape: Shape) -> Layout:
    """Layout of an (N, C), (N, C, L) or (N, C, H, W) tensor."""
    if not 1 <= len(shape) <= 4:
        raise HostOnlyError(f"a tensor of {len(shape)} dimensions")
    names: Dims = ((), ("c",), ("h",), ("w",))
    return _named(shape, names[: len(shape)])


def channels_last(shape: Shape) -> Layout:
    """Layout of an (N, ..., C) tensor, as Linear wants it."""
    names: dict[int, Dims] = {
        1: ((),),
        2: ((), ("c",)),
        3: ((), ("h",), ("c",)),
        4: ((), ("h",), ("w",), ("c",)),
    }
    if len(shape) not in names:
        raise HostOnlyError(f"a tensor of {len(shape)} dimensions")
    return _named(shape, names[len(shape)])


def _named(shape: Shape, dims: Dims) -> Layout:
    size = {dim[0]: extent for dim, extent in zip(dims, shape, strict=True) if dim}
    return Layout(size.get("c", 1), size.get("h", 1), size.get("w", 1), dims)


def reshaped(layout: Layout, shape: Shape) -> Layout:
    """The same map under another shape. Raises HostOnlyError where a dimension would be cut."""
    size = extents(layout)
    letters = list(sequence(layout))
    dims: list[tuple[str, ...]] = []
    for extent in shape:
        taken: list[str] = []
        product = 1
        while product < extent and letters:
            letter = letters.pop(0)
            taken.append(letter)
            product *= size[letter]
        if product != extent:
            raise HostOnlyError(f"a reshape to {shape} that cuts through the layout of the map")
        dims.append(tuple(taken))
    return replace(layout, dims=tuple(dims))


def transposed(layout: Layout, perm: Sequence[int]) -> Layout:
    """The same map with permuted dimensions. Raises HostOnlyError if the batch moves."""
    if perm[0] != 0:
        raise HostOnlyError("a transpose that moves the batch dimension")
    return replace(layout, dims=tuple(layout.dims[axis] for axis in perm))


def ranked(layout: Layout, shape: Shape) -> Layout:
    """`layout` with dimensions of 1 in front, where `shape` has more of them."""
    extra = len(shape) - len(layout.dims)
    if extra < 0:
        raise HostOnlyError("an operand of more dimensions than the output")
    return replace(layout, dims=((),) * extra + layout.dims)


def relabeled(layout: Layout, node: Node, shape: Shape) -> Layout:
    """Layout of the output of a node in RELABELS, whose output has `shape`."""
    if shape[:1] != (1,):
        raise HostOnlyError(f"{node.op} to {shape}: the first dimension is not the batch of 1")
    if node.op == "Transpose":
        rank = len(shape)
        perm = tuple(node.attrs.get("perm", range(rank))) or tuple(range(rank))
        return transposed(layout, tuple(axis % rank for axis in perm))
    return reshaped(layout, shape)


def wish(graph: Graph, consumers: Mapping[str, list[Node]], name: str) -> Layout:
    """Layout in which the host should hand over tensor `name`: what its first reader wants.

    Reshapes and transposes in between are undone, so that they become free. A tensor whose
    dimensions would split channels, rows or columns is described flattened: ((), (letters...)).
    """
    chain: list[Node] = []
    last = name
    reader = _reader(consumers, last)
    while reader is not None and reader.op in RELABELS:
        chain.append(reader)
        last = reader.outputs[0]
        reader = _reader(consumers, last)
    try:
        layout = _natural(graph, consumers, last)
        for node in reversed(chain):
            layout = _pulled_back(layout, node, graph[node.inputs[0]].shape)
        return layout
    except HostOnlyError:
        return channels_first(graph[name].shape)


def _reader(consumers: Mapping[str, list[Node]], name: str) -> Node | None:
    readers = consumers.get(name, [])
    return readers[0] if readers else None


def _natural(graph: Graph, consumers: Mapping[str, list[Node]], name: str) -> Layout:
    """Layout that the operators reading `name` imply, looking through lane-wise ones: its first
    readers, else any that share a map with it.
    """
    shape, seen = graph[name].shape, name
    for _ in range(len(graph.nodes)):
        reader = _reader(consumers, seen)
        if reader is None:
            break
        wanted = _wanted(reader, shape)
        if wanted is not None:
            return wanted
        out = reader.outputs[0]
        if reader.op not in _SAME_DIMS or len(graph[out].shape) != len(shape):
            break
        seen = out
    return _of_neighbours(graph, consumers, name) or channels_first(shape)


def _wanted(node: Node, shape: Shape) -> Layout | None:
    """Layout of `shape` as a node wants its maps; None where any will do."""
    if node.op in _MAPS:
        return Layout(shape[-1], *map_of(node, True), ((), ("h", "w"), ("c",)))
    if node.op in _ROWS:
        return channels_last(shape)
    return channels_first(shape) if node.op in _SPATIAL else None


def _of_neighbours(graph: Graph, consumers: Mapping[str, list[Node]], name: str) -> Layout | None:
    """Layout that any reader of `name`, or whatever its values are combined with, wants."""
    shape, producers = graph[name].shape, graph.producers()
    found = {name: None}
    queue = [name]
    for seen in queue:
        writers = [producers[seen]] if seen in producers and seen != name else []
        for node in (*consumers.get(seen, []), *writers):
            wanted = _wanted(node, shape)
            if wanted is not None:
                return wanted
            for other in (*node.inputs, *node.outputs) if _lane_wise(node) else ():
                same = other and other not in found and len(graph[other].shape) == len(shape)
                if same and graph[other].data is None:
                    found[other] = None
                    queue.append(other)
    return None


def _lane_wise(node: Node) -> bool:
    """Whether the maps of a node lie alike."""
    spec = ops.OPS.get(node.op)
    functions = spec is not None and spec.category in ("elementwise", "binary")
    return "opset" not in node.attrs and (node.op in _SAME_DIMS or functions)


def _pulled_back(layout: Layout, node: Node, shape: Shape) -> Layout:
    """Layout of the input of `node`, which has `shape`, that makes its output lie as `layout`."""
    if node.op == "Transpose":
        rank = len(shape)
        perm = [axis % rank for axis in node.attrs.get("perm", range(rank))]
        if len(layout.dims) != rank:
            raise HostOnlyError("a transpose of a flattened tensor")
        return replace(layout, dims=tuple(layout.dims[perm.index(axis)] for axis in range(rank)))
    try:
        return reshaped(layout, shape)
    except HostOnlyError:
        return replace(layout, dims=((), sequence(layout)))


def spatial_letters(layout: Layout) -> tuple[str, ...]:
    """The letters of the axes behind the channels, for an operator with a window.

    Axes of extent 1 take the letters that are left. Raises HostOnlyError if the channels are not
    dimension 1, or two letters share an axis.
    """
    if kept(layout, 1) not in ((), ("c",)):
        raise HostOnlyError("channels that are not dimension 1 of the map")
    axes = [kept(layout, axis) for axis in range(2, len(layout.dims))]
    if len(axes) > 2:
        raise HostOnlyError(f"a window over {len(axes)} axes")
    if any(len(axis) > 1 or axis == ("c",) for axis in axes):
        raise HostOnlyError("an axis that is not one row or column axis of the map")
    used = {axis[0] for axis in axes if axis}
    if kept(layout, 1) == () and layout.channels > 1:
        raise HostOnlyError("channels that are not dimension 1 of the map")
    free = [letter for letter in ("h", "w") if letter not in used]
    if len(axes) == 1:
        return (axes[0][0],) if axes[0] else ("h",)
    return tuple(axis[0] if axis else free.pop(0) for axis in axes)
