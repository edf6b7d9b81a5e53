"""Class tokens: rows in front of the patches that a convolution makes, as a part of it.

A patch of zeros becomes the bias of the convolution, and position embeddings are added to every
row: so they can hold the class token as well, less that bias, and nothing has to be joined.
"""

from __future__ import annotations

import numpy as np

from weft.graph import Graph, Node
from weft.passes.attention import positions
from weft.passes.edit import Edit

MOVES = ("Reshape", "Transpose", "Identity")


def front_tokens(graph: Graph) -> Graph:
    """The graph whose convolutions of patches give tokens, with rows for class tokens in front.

    Results are the same but for the rounding of float32.
    """
    edit = Edit(graph)
    changed = False
    for node in edit.snapshot():
        changed |= edit.alive(node) and node.op == "Add" and _joined(edit, node)
    return edit.graph().pruned().verify() if changed else graph


def _joined(edit: Edit, node: Node) -> bool:
    """Conv, its output as tokens, rows of zeros in front, and the addition `node` of a constant."""
    for x, other in (node.inputs, node.inputs[::-1]):
        pad, places = edit.only_producer(x), edit.tensors[other]
        shape = edit.tensors[x].shape
        rows = _rows_in_front(pad) if pad is not None and pad.op == "Pad" else 0
        if pad is None or not rows or places.data is None or places.shape[-2:] != shape[-2:]:
            continue
        conv = _patches(edit, pad.inputs[0])
        if conv is None or places.quant is not None:
            continue
        values = np.broadcast_to(np.asarray(places.real(), np.float32), shape).copy()
        if len(conv.inputs) > 2 and conv.inputs[2]:
            values[:, :rows] -= np.asarray(edit.tensors[conv.inputs[2]].real()).reshape(-1)
        added = (x, edit.constant(f"{node.name}.front", values))
        attrs = {**conv.attrs, "front": rows}
        edit.put(pad, Node("Conv", conv.name, conv.inputs, pad.outputs, attrs))
        edit.put(node, Node("Add", node.name, added, node.outputs, node.attrs))
        return True
    return False


def _rows_in_front(pad: Node) -> int:
    """How many rows of zeros a Pad puts in front of [1, S, D]; 0 where it does something else."""
    pads = tuple(pad.attrs["pads"])
    zeros = pad.attrs.get("mode", "constant") == "constant" and not pad.attrs.get("value")
    fits = len(pads) == 6 and pads[1] > 0 and not any(pads[:1] + pads[2:])
    return int(pads[1]) if fits and zeros and not pad.attrs.get("activation") else 0


def _patches(edit: Edit, name: str) -> Node | None:
    """The convolution whose output [1, D, h, w] moves make the tokens [1, h · w, D] `name` of."""
    shape, chain = edit.tensors[name].shape, []
    node = edit.only_producer(name)
    while node is not None and node.op in MOVES and "opset" not in node.attrs:
        chain.append(node)
        node = edit.only_producer(node.inputs[0])
    if node is None or node.op != "Conv" or node.attrs.get("activation"):
        return None
    out = edit.tensors[node.outputs[0]]
    bias = edit.tensors.get(node.inputs[2]) if len(node.inputs) > 2 else None
    if len(out.shape) != 4 or len(shape) != 3 or out.quant is not None:
        return None
    if bias is not None and bias.data is None:
        return None
    places = positions(edit, node.outputs[0], chain).reshape(shape[1:])
    wanted = np.arange(out.size).reshape(shape[2], shape[1]).T if out.size == places.size else None
    return node if wanted is not None and np.array_equal(places, wanted) else None
