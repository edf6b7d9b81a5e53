"""Operators of windowed Transformers (Swin: Liu et al., ICCV 2021): tokens of an image in the order
of its windows, and patches merged two by two. In numpy; `SPECS` as in `weft.transformer_ops`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from weft.errors import ShapeError
from weft.graph import Array, Node, Shape, Tensor
from weft.shapes import first

Inputs = Sequence[Tensor | None]


def window_order(
    size: tuple[int, int], window: tuple[int, int], shift: tuple[int, int]
) -> NDArray[np.int64]:
    """Which token of an image (size, row by row) comes where, window by window [H·W].

    Windows begin `shift` rows and columns further on, and go round the edges.
    """
    places = np.arange(size[0] * size[1]).reshape(size)
    turned = np.roll(places, (-shift[0], -shift[1]), (0, 1))
    counts = size[0] // window[0], size[1] // window[1]
    parts = turned.reshape(counts[0], window[0], counts[1], window[1])
    return np.ascontiguousarray(parts.transpose(0, 2, 1, 3)).reshape(-1)


def map_of(node: Node, given: bool) -> tuple[int, int]:
    """Rows and columns of the map that the tokens of a Windows or PatchMerge are the positions of,
    of its input (`given`) or output: in the order of windows, one lies below the other.
    """
    height, width = node.attrs["size"]
    if node.op == "PatchMerge":
        return (height, width) if given else (height // 2, width // 2)
    if bool(node.attrs["inverse"]) != given:
        return height, width
    return height * width // node.attrs["window"][1], node.attrs["window"][1]


def windows_shape(node: Node, inputs: Inputs) -> list[Shape]:
    """[1, H·W, C] as it is. Raises ShapeError for windows that don't fill the image."""
    x, size, window = first(node, inputs).shape, node.attrs["size"], node.attrs["window"]
    if len(x) != 3 or x[1] != size[0] * size[1]:
        raise ShapeError(f"Windows {node.name!r}: x {x} for an image of {size} tokens")
    if min(window) < 1 or size[0] % window[0] or size[1] % window[1]:
        raise ShapeError(
            f"Windows {node.name!r}: an image of {size} tokens in windows of {window}; both sides "
            "must be multiples"
        )
    return [x]


def windows(node: Node, inputs: list[Array]) -> list[Array]:
    """Tokens in the order of the windows; `inverse`: back to rows."""
    order = window_order(*(node.attrs[name] for name in ("size", "window", "shift")))
    if node.attrs["inverse"]:
        order = np.argsort(order)
    return [np.ascontiguousarray(inputs[0][:, order])]


def merge_shape(node: Node, inputs: Inputs) -> list[Shape]:
    """[1, H·W, C] → [1, H·W / 4, 4·C]."""
    x, size = first(node, inputs).shape, node.attrs["size"]
    if len(x) != 3 or x[1] != size[0] * size[1] or size[0] % 2 or size[1] % 2:
        raise ShapeError(
            f"PatchMerge {node.name!r}: x {x} for an image of {size} tokens; both sides must be "
            "even"
        )
    return [(x[0], x[1] // 4, 4 * x[2])]


def merge(node: Node, inputs: list[Array]) -> list[Array]:
    """Four neighbours side by side in the channels: above and below left, above and below right."""
    (x,), (height, width) = inputs, node.attrs["size"]
    parts = x.reshape(len(x), height // 2, 2, width // 2, 2, -1).transpose(0, 1, 3, 4, 2, 5)
    return [np.ascontiguousarray(parts).reshape(len(x), height * width // 4, -1)]


SPECS = (
    ("Windows", windows_shape, windows, "move", "x; size, window, shift, inverse"),
    ("PatchMerge", merge_shape, merge, "move", "x; size"),
)
