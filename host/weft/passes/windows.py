"""Tokens that exporters put in the order of windows, and merged patches: found by where each
element comes from, whatever reshapes, transposes, slices and joins there are.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from weft.graph import Node
from weft.ops import OPS
from weft.passes.edit import Edit
from weft.window_ops import merge, window_order

MOVES = ("Reshape", "Transpose", "Slice", "Concat", "Identity")
READERS = ("Linear", "Add", "LayerNorm", "RMSNorm")
MOST_MOVES = 32
Index = NDArray[np.int64]
Order = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]  # size, window, shift


def join_windows(edit: Edit, node: Node) -> bool:
    """What a layer, an addition or a norm reads is tokens in another order, or four side by side:
    one node says so."""
    if node.op not in READERS or "opset" in node.attrs or not _attends_in_windows(edit):
        return False
    for place, name in enumerate(node.inputs[: 2 if node.op == "Add" else 1]):
        made = _moved(edit, name)
        if made:
            inputs = list(node.inputs)
            inputs[place] = made[-1].outputs[0]
            new = [other for other in made if not edit.alive(other)]
            edit.put(node, *new, replace(node, inputs=tuple(inputs)))
            return True
    return False


def _attends_in_windows(edit: Edit) -> bool:
    """Whether there is such attention: other networks keep their moves."""
    key = "attends in windows"
    if key not in edit.known:
        edit.known[key] = any(n.attrs.get("windows", 1) > 1 for n in edit.snapshot())
    return bool(edit.known[key])


def early_windows(edit: Edit, node: Node) -> bool:
    """Tokens go back to rows before a layer, not behind it: its output joins the stream."""
    if node.op != "Windows" or not node.attrs["inverse"]:
        return False
    layer = edit.only_producer(node.inputs[0])
    tensors = [edit.tensors[n] for n in (*node.inputs, *node.outputs)]
    if layer is None or layer.op != "Linear" or any(t.quant is not None for t in tensors):
        return False
    x = edit.tensors[layer.inputs[0]]
    if "activation" in layer.attrs or x.quant is not None or len(x.shape) != 3:
        return False
    rows = edit.activation(f"{layer.name}.rows", x.shape)
    first = Node("Windows", rows, (x.name,), (rows,), node.attrs)
    behind = Node("Linear", layer.name, (rows, *layer.inputs[1:]), node.outputs, layer.attrs)
    edit.drop(layer)
    edit.put(node, first, behind)
    return True


def _moved(edit: Edit, name: str) -> list[Node]:
    """The nodes that give `name` of what it is moved from; none where it is no such order."""
    producer = edit.producer(name)
    if producer is None or producer.op not in MOVES:
        return []
    found = _sources(edit, name)
    if found is None:
        return []
    base, index = found
    x, y = edit.tensors[base].shape, edit.tensors[name].shape
    if x[:1] != (1,) or len(x) < 3 or index.size != edit.tensors[base].size:
        return []
    channels = x[-1]
    tokens = index.size // channels
    if y[-1] == 4 * channels:
        size = _merged_size(index.reshape(-1, 4 * channels), tokens, channels)
        node = Node("PatchMerge", "", (), (), {"size": size})
        return _nodes(edit, name, base, node, (1, tokens // 4, 4 * channels)) if size else []
    flat = index.reshape(tokens, channels)
    alike = y[-1] == channels and np.array_equal(flat, flat[:, :1] + np.arange(channels))
    return _windows(edit, name, base, flat[:, 0] // channels) if alike else []


def _windows(edit: Edit, name: str, base: str, order: Index) -> list[Node]:
    if (order[1:] > order[:-1]).all():
        return []  # in the same order
    ways = [(0, order), (1, np.argsort(order))]
    writer = edit.producer(base)
    if writer is not None and writer.op in ("Attention", "Linear"):
        ways.reverse()  # an order without shift is that of other windows backwards, too
    for inverse, wanted in ways:
        facts = order_of(wanted)
        if facts is not None:
            attrs = dict(zip(("size", "window", "shift"), facts, strict=True))
            node = Node("Windows", "", (), (), {**attrs, "inverse": inverse})
            return _nodes(edit, name, base, node, (1, len(order), edit.tensors[base].shape[-1]))
    return []


def _nodes(edit: Edit, name: str, base: str, node: Node, shape: tuple[int, ...]) -> list[Node]:
    """`node` with a Reshape on either side, where one is needed."""
    key = (node.op, base, tuple(sorted(node.attrs.items())), edit.tensors[name].shape)
    if key in edit.known:  # another layer reads it, too
        known = edit.producer(edit.known[key])
        return [known] if known is not None else []
    channels = edit.tensors[base].shape[-1]
    flat = (1, edit.tensors[base].size // channels, channels)
    nodes, source = [], base
    if edit.tensors[base].shape != flat:
        source = edit.activation(f"{name}.flat", flat)
        nodes.append(Node("Reshape", source, (base,), (source,), {"shape": flat}))
    out = edit.activation(f"{name}.{node.op.lower()}", shape)
    nodes.append(Node(node.op, out, (source,), (out,), node.attrs))
    wanted = edit.tensors[name].shape
    if wanted != shape:
        back = edit.activation(f"{name}.back", wanted)
        nodes.append(Node("Reshape", back, (out,), (back,), {"shape": wanted}))
    edit.known[key] = nodes[-1].outputs[0]
    return nodes


def _sources(edit: Edit, name: str) -> tuple[str, Index] | None:
    """The one tensor that moves alone make `name` of, and the place there of each element."""
    order: list[Node] = []
    seen: set[int] = set()
    bases: set[str] = set()
    waiting = [name]
    while waiting:
        own = waiting.pop()
        node, tensor = edit.producer(own), edit.tensors[own]
        movable = node is not None and node.op in MOVES and "opset" not in node.attrs
        if node is None or not movable or "activation" in node.attrs:
            bases.add(own)
        elif id(node) not in seen:
            seen.add(id(node))
            order.append(node)
            waiting += node.inputs if node.op == "Concat" else node.inputs[:1]
        if tensor.quant is not None or tensor.dtype != "float32" or len(bases) > 1:
            return None
        if len(seen) > MOST_MOVES:
            return None
    (base,) = bases
    if edit.tensors[base].data is not None:
        return None
    values = {base: np.arange(edit.tensors[base].size).reshape(edit.tensors[base].shape)}
    return base, _evaluated(edit, name, values)


def _evaluated(edit: Edit, name: str, values: dict[str, Index]) -> Index:
    if name not in values:
        node = edit.producer(name)
        assert node is not None, "it was found before"
        inputs = node.inputs if node.op == "Concat" else node.inputs[:1]
        arrays = [_evaluated(edit, n, values) for n in inputs]
        values[name] = OPS[node.op].reference(node, [*arrays])[0]
    return values[name]


def order_of(order: Index) -> Order | None:
    """Size, window and shift of an order of tokens; None where it is no order of windows."""
    steps = np.flatnonzero(np.diff(order) != 1)
    if not len(steps):
        return None
    width = int(steps[0]) + 1  # of a window: the first one goes round no edge
    across = int(order[width] - order[0]) if width < len(order) else 0  # of the image
    if across < width or len(order) % across or across % width:
        return None
    rows = order[: len(order) // width * width : width]
    broken = np.flatnonzero(np.diff(rows) != across)
    height = int(broken[0]) + 1 if len(broken) else len(rows)
    size = len(order) // across, across
    if size[0] % height:
        return None
    shift = divmod(int(order[0]), across)
    found = size, (height, width), (int(shift[0]), int(shift[1]))
    return found if np.array_equal(window_order(*found), order) else None


def _merged_size(index: Index, tokens: int, channels: int) -> tuple[int, int] | None:
    """Rows and columns of the image whose patches are merged so."""
    across = int(index[0, channels]) // channels  # the second one is below
    if across < 2 or tokens % across or across % 2 or tokens // across % 2:
        return None
    size = tokens // across, across
    x = np.arange(tokens * channels).reshape(1, tokens, channels)
    (wanted,) = merge(Node("PatchMerge", "", (), (), {"size": size}), [x])
    return size if np.array_equal(wanted[0], index) else None
