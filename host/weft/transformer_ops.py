"""Operators of Transformers: LayerNorm, RMSNorm, Rope and Attention, in float for the host.

`SPECS` lists (name, shapes, function, category, doc, batched); `weft.ops` makes operators of them.
Their inputs and attributes are those of the table in ARCHITECTURE.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from weft.errors import InputError, ShapeError
from weft.graph import Array, Node, Shape, Tensor
from weft.shapes import first, nth

Inputs = Sequence[Tensor | None]
ABSENT = 1 << 30  # a window's side that is not there: no sequence is as long


def norm_shape(node: Node, inputs: Inputs) -> list[Shape]:
    """[..., D] with gamma [D] and, for LayerNorm, beta [D] or none; RMSNorm of the first channels
    of each of `heads` heads with gamma [w].
    """
    x = first(node, inputs).shape
    constants = {"gamma": nth(node, inputs, 1)}
    if "heads" in node.attrs and node.op == "RMSNorm":
        return [_head_norm_shape(node, x, constants["gamma"].shape, int(node.attrs["heads"]))]
    if node.op == "LayerNorm" and len(inputs) > 2 and inputs[2] is not None:
        constants["beta"] = inputs[2]
    for name, tensor in constants.items():
        if not x or tensor.shape != x[-1:]:
            raise ShapeError(
                f"{node.op} {node.name!r}: {name} of shape {tensor.shape} for an input of shape "
                f"{x}; it has one value for each of the last axis"
            )
    if not node.attrs["epsilon"] >= 0:
        raise ShapeError(f"{node.op} {node.name!r}: epsilon = {node.attrs['epsilon']}; at least 0")
    return [x]


def _head_norm_shape(node: Node, x: Shape, gamma: Shape, heads: int) -> Shape:
    if (
        not x
        or heads < 1
        or x[-1] % heads
        or len(gamma) != 1
        or not 1 <= gamma[0] <= x[-1] // heads
    ):
        raise ShapeError(
            f"RMSNorm {node.name!r}: gamma of shape {gamma} for {heads} heads of an input of shape "
            f"{x}; it has one value for each of the first channels of a head"
        )
    return x


def rope_shape(node: Node, inputs: Inputs) -> list[Shape]:
    """x [1, S, H·w] with frequencies [w / 2]."""
    x, frequencies = (nth(node, inputs, i).shape for i in range(2))
    heads = node.attrs["heads"]
    pairs = len(frequencies) == 1 and len(x) == 3 and heads >= 1
    if not pairs or x[2] != 2 * heads * frequencies[0]:
        raise ShapeError(
            f"Rope {node.name!r}: x {x} with frequencies {frequencies} and {heads} heads; [1, S, "
            "heads · width] and one for each pair of a head's channels are expected"
        )
    return [x]


def attention_shape(node: Node, inputs: Inputs) -> list[Shape]:
    """q [1, S, H·dh], k [1, T, Hk·dh], v [1, T, Hk·dv] → [1, S, H·dv]; bias [1 or H, S, T], with
    windows of S tokens as many of these as there are kinds of windows.
    """
    q, k, v = (nth(node, inputs, i).shape for i in range(3))
    heads, kv_heads = node.attrs["heads"], node.attrs["kv_heads"]
    if not len(q) == len(k) == len(v) == 3 or k[:2] != v[:2] or q[0] != k[0]:
        raise ShapeError(
            f"Attention {node.name!r}: q {q}, k {k} and v {v}; [1, S, width] and twice [1, T, "
            "width] are expected"
        )
    if min(heads, kv_heads) < 1 or heads % kv_heads:
        raise ShapeError(
            f"Attention {node.name!r}: {heads} heads in groups of {kv_heads}; the first is a "
            "multiple of the second"
        )
    if q[2] % heads or k[2] % kv_heads or v[2] % kv_heads or q[2] // heads != k[2] // kv_heads:
        raise ShapeError(
            f"Attention {node.name!r}: widths q {q[2]}, k {k[2]}, v {v[2]} don't fit {heads} and "
            f"{kv_heads} heads of one width"
        )
    bias, keys = (inputs[i] if len(inputs) > i else None for i in (3, 4))
    rows, columns, count = _window_sizes(node, q[1], k[1])
    distances = bias is not None and len(bias.shape) == 2 and bool(node.attrs.get("cache"))
    whole = (heads, node.attrs["cache"]) if distances else (count * heads, rows, columns)
    fits = [(count, rows, columns), whole]
    if bias is not None and bias.shape not in fits:
        raise ShapeError(
            f"Attention {node.name!r}: bias of shape {bias.shape}, expected {fits[0]} or {fits[1]}"
        )
    if keys is not None and (keys.shape != (1, 1) or node.attrs.get("windows", 1) > 1):
        raise ShapeError(
            f"Attention {node.name!r}: keys of shape {keys.shape}, expected (1, 1), and no windows"
        )
    return [(*q[:2], heads * (v[2] // kv_heads))]


def _window_sizes(node: Node, queries: int, keys: int) -> tuple[int, int, int]:
    """Queries and keys of a window, and how many kinds of windows there are."""
    count = node.attrs.get("windows", 1)
    kinds = node.attrs.get("kinds", (0,) * count)
    if count < 1 or queries % count or keys % count:
        raise ShapeError(
            f"Attention {node.name!r}: {queries} queries and {keys} keys in {count} windows"
        )
    if len(kinds) != count or min(kinds) < 0:
        raise ShapeError(f"Attention {node.name!r}: kinds {kinds} of {count} windows")
    return queries // count, keys // count, max(kinds) + 1


def first_tokens_shape(node: Node, inputs: Inputs) -> list[Shape]:
    """[1, T] → [1, 1]."""
    x = first(node, inputs).shape
    if len(x) != 2:
        raise ShapeError(f"FirstTokens {node.name!r}: a mask of shape {x}; [1, tokens] is expected")
    return [(x[0], 1)]


def first_tokens(node: Node, inputs: list[Array]) -> list[Array]:
    """How many tokens a mask [n, T] says are there. Raises InputError unless they are the first."""
    return [count_first(inputs[0], f"mask {node.inputs[0]!r}").reshape(-1, 1)]


def count_first(mask: Array, what: str) -> NDArray[np.int64]:
    """The numbers of ones [n] in front of the zeros of a mask [n, T].

    Raises InputError for other values, and for ones behind a zero.
    """
    there = mask.astype(np.float64)
    counts = there.sum(1)
    wrong = (there != (np.arange(mask.shape[1]) < counts[:, None])).any(1)
    if wrong.any():
        raise InputError(
            f"{what}: sample {int(np.argmax(wrong))} is no row of ones with zeros behind; tokens "
            "that are not there must be the last ones"
        )
    return np.asarray(counts, np.int64)


def layer_norm(node: Node, inputs: list[Array]) -> list[Array]:
    """(x − mean) / √(variance + epsilon) · gamma + beta over the last axis (Ba et al., 2016)."""
    x, gamma = inputs[:2]
    centred = x - x.mean(-1, keepdims=True)
    y = _normalized(centred, node.attrs["epsilon"]) * gamma
    if len(inputs) > 2 and inputs[2] is not None:
        y = y + inputs[2]
    return [y.astype(x.dtype, copy=False)]


def rms_norm(node: Node, inputs: list[Array]) -> list[Array]:
    """x / √(mean of squares + epsilon) · gamma over the last axis (Zhang, Sennrich, 2019), or over
    the first channels of each of `heads` heads; those behind are 0.
    """
    x, gamma = inputs
    if "heads" in node.attrs:
        parts = x.reshape(*x.shape[:-1], int(node.attrs["heads"]), -1)
        found = np.zeros_like(parts)
        some = parts[..., : len(gamma)]
        found[..., : len(gamma)] = _normalized(some, node.attrs["epsilon"]) * gamma
        return [found.reshape(x.shape)]
    return [(_normalized(x, node.attrs["epsilon"]) * gamma).astype(x.dtype, copy=False)]


def _normalized(x: Array, epsilon: float) -> Array:
    """x over its root mean square; a row of zeros stays one, also with an epsilon of 0."""
    power = np.square(x).mean(-1, keepdims=True) + np.asarray(epsilon, x.dtype)
    return x / np.sqrt(np.where(power > 0, power, 1))


def rotations(frequencies: Array, positions: int, first: int = 0) -> tuple[Array, Array]:
    """cos and sin of position · frequency, each [positions, pairs], in float64."""
    angles = np.outer(np.arange(first, first + positions), np.asarray(frequencies, np.float64))
    return np.cos(angles), np.sin(angles)


def rope(node: Node, inputs: list[Array]) -> list[Array]:
    """Rotary position embedding; the first token is at position 0."""
    return [rotated(inputs[0], inputs[1], int(node.attrs["heads"]))]


def rotated(x: Array, frequencies: Array, heads: int, first: int = 0) -> Array:
    """Adjacent channels (2i, 2i + 1) of each head turned by position times frequency i (Su et al.,
    RoFormer, 2021, equation 34); token 0 of x [n, S, H·w] is at position `first`.
    """
    cos, sin = rotations(frequencies, x.shape[1], first)
    pairs = x.reshape(*x.shape[:2], heads, -1, 2).astype(np.float64)
    even, odd = pairs[..., 0], pairs[..., 1]
    cos, sin = cos[:, None], sin[:, None]
    y = np.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1)
    return np.asarray(y.reshape(x.shape), x.dtype)


def attention(node: Node, inputs: list[Array]) -> list[Array]:
    """softmax(scale · q kᵀ + bias) v per head (Vaswani et al., 2017); 0 where no key is seen.
    A bias [H, D] is by distance (`by_distance`).

    Query m sees key j if left ≤ j − m ≤ right, j < keys of the sample, and, causal, j ≤ m.
    Heads of a group share keys and values (Ainslie et al., GQA, 2023). With `windows`, each of so
    many equal parts of the tokens sees itself alone; `kinds` says which part of the bias it takes.
    """
    if node.attrs.get("windows", 1) > 1:
        return [_windowed(node, inputs)]
    q, k, v = inputs[:3]
    bias, keys = (inputs[i] if len(inputs) > i else None for i in (3, 4))
    a = node.attrs
    heads, groups = a["heads"], a["kv_heads"]
    n, rows, columns = len(q), q.shape[1], k.shape[1]
    queries = q.reshape(n, rows, groups, heads // groups, -1).transpose(0, 2, 3, 1, 4)
    keys_of = k.reshape(n, columns, groups, 1, -1).transpose(0, 2, 3, 4, 1)
    values = v.reshape(n, columns, groups, 1, -1).transpose(0, 2, 3, 1, 4)
    scores = queries @ keys_of * np.asarray(a["scale"], q.dtype)
    if bias is not None:
        if bias.ndim == 2:
            bias = by_distance(bias, rows, columns)
        per_head = bias if len(bias) > 1 else np.broadcast_to(bias, (heads, *bias.shape[1:]))
        scores = scores + per_head.reshape(groups, heads // groups, rows, columns)
    seen = _seen(node, rows, columns)
    if keys is not None:
        seen = seen & (np.arange(columns) < keys.reshape(n, 1, 1, 1, 1))
    out = _softmax(scores, seen) @ values
    return [out.transpose(0, 3, 1, 2, 4).reshape(n, rows, -1).astype(q.dtype, copy=False)]


def by_distance(bias: Array, rows: int, columns: int, first: int = 0) -> Array:
    """[H, rows, columns] of a bias [H, D] by how far a key lies behind its query, the first of
    which is at position `first`. Keys in front of it, which nothing sees, have 0.
    """
    behind = first + np.arange(rows)[:, None] - np.arange(columns)
    return np.where(behind >= 0, bias[:, np.maximum(behind, 0)], np.asarray(0, bias.dtype))


def _windowed(node: Node, inputs: list[Array]) -> Array:
    """Attention window by window."""
    count, heads = node.attrs["windows"], node.attrs["heads"]
    alone = node.with_attrs(windows=1)
    bias = inputs[3] if len(inputs) > 3 else None
    kinds = node.attrs.get("kinds", (0,) * count)
    each = 0 if bias is None else len(bias) // (max(kinds) + 1)
    assert each in (0, 1, heads), "its shape was checked"
    parts = []
    for place, kind in enumerate(kinds):
        cut = [np.split(x, count, axis=1)[place] for x in inputs[:3]]
        own = None if bias is None else bias[kind * each : (kind + 1) * each]
        parts.append(attention(alone, cut if own is None else [*cut, own])[0])
    return np.concatenate(parts, axis=1)


def window(node: Node) -> tuple[int, int]:
    """(left, right) of an Attention, the causal mask included: left ≤ key − query ≤ right."""
    left, right = node.attrs.get("left", -ABSENT), node.attrs.get("right", ABSENT)
    return left, min(right, 0) if node.attrs.get("causal") else right


def _seen(node: Node, rows: int, columns: int) -> Array:
    """Which key each query sees [rows, columns]."""
    left, right = window(node)
    away = np.arange(columns) - np.arange(rows)[:, None]
    return np.asarray((away >= left) & (away <= right))


def _softmax(scores: Array, seen: Array) -> Array:
    """Over the keys that are seen; a row that sees none is 0, not NaN."""
    masked = np.where(seen, scores, -math.inf)
    largest = masked.max(-1, keepdims=True)
    e = np.exp(masked - np.where(np.isfinite(largest), largest, 0))
    total = e.sum(-1, keepdims=True)
    return np.asarray(e / np.where(total > 0, total, 1))


def _rows_alone(node: Node, inputs: Sequence[Shape]) -> bool:
    return len(inputs) == 1 and len(inputs[0]) > 1


def _samples_alone(node: Node, inputs: Sequence[Shape]) -> bool:
    """Whether the activations are q, k, v and keys: a bias is for all samples."""
    ranks = [len(shape) for shape in inputs]
    return ranks[:3] == [3, 3, 3] and ranks[3:] in ([], [2])


SPECS = (
    (
        "LayerNorm",
        norm_shape,
        layer_norm,
        "reduce",
        "x, gamma, beta or none; epsilon",
        _rows_alone,
    ),
    ("RMSNorm", norm_shape, rms_norm, "reduce", "x, gamma; epsilon, heads", _rows_alone),
    ("Rope", rope_shape, rope, "reduce", "x, frequencies; heads", _rows_alone),
    (
        "FirstTokens",
        first_tokens_shape,
        first_tokens,
        "reduce",
        "mask; how many tokens are there",
        _rows_alone,
        "int64",
    ),
    (
        "Attention",
        attention_shape,
        attention,
        "matrix",
        "q, k, v, bias or none, keys or none; heads, kv_heads, scale, causal, left, right, cache, "
        "windows, kinds",
        _samples_alone,
    ),
)
