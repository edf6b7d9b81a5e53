"""Ranges per token and head of what a decoder keeps: scales, and their codes in float arithmetic.

The keys and values of each token and head fill int8 by the largest of their own magnitudes
(per-token quantization of the cache, as KIVI has it of values: Liu et al., ICML 2024), which the
accelerator finds while it runs (docs/isa.md, "Rotate"). A calibrated scale stays, of which each
head has a share: it says what int16 is made of before that, so that the largest that calibration
has seen of a head is 127 * STEPS of it. It may be more than the tensor's own, whose calibrator
cuts off what is rare.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from weft.errors import UsageError
from weft.graph import Array, Graph, Node, Quant
from weft.passes.head_scales import LEAST, MOST
from weft.passes.ranges import largest_of
from weft.passes.row_ranges import rounded_rows, step_of


def with_token_ranges(graph: Graph, batches: Iterable[Mapping[str, Array]]) -> Graph:
    """A quantized graph whose keys and values of attention with a cache have ranges per token and
    head, from typical inputs.

    Raises UsageError for a graph without such attention, or whose keys and values are no int8.
    """
    found = {name: heads for node in graph for name, heads in _kept(node).items()}
    quants = {name: graph[name].quant for name in found}
    if not found or not all(q is not None and q.format == "int8" for q in quants.values()):
        raise UsageError(
            f"graph {graph.name!r} has no ranges per token: they are of int8 keys and values that "
            "attention keeps in a cache; leave token_ranges out"
        )
    bare = {name: replace(graph[name], quant=None) for name in found}  # which cuts nothing off
    largest = largest_of(graph.replace(tensors={**graph.tensors, **bare}), list(found), batches)
    tensors = dict(graph.tensors)
    for name, heads in found.items():
        quant = graph[name].quant
        assert quant is not None, "checked above"
        reach = largest[name].reshape(heads, -1).max(1) / (MOST * float(quant.scale))
        shares = tuple(np.maximum(reach, LEAST).tolist())
        tensors[name] = replace(tensors[name], quant=replace(quant, heads=shares))
    return graph.replace(tensors=tensors)


def _kept(node: Node) -> dict[str, int]:
    """Keys and values that a node keeps in a cache, and their heads."""
    if node.op != "Attention" or not node.attrs.get("cache"):
        return {}
    return dict.fromkeys(node.inputs[1:3], int(node.attrs["kv_heads"]))


def head_step(quant: Quant, head: int) -> float:
    """What int16 of a head counts in, of which codes of ranges per token are made."""
    return step_of(quant) * quant.heads[head]


def rounded_heads(x: Array, quant: Quant, to_codes: bool) -> Array:
    """x [..., heads * width] as the int16 in front of codes of a range per token and head
    saturates, and `to_codes` rounded to these codes.
    """
    parts = x.reshape(*x.shape[:-1], len(quant.heads), -1)
    made = [
        rounded_rows(
            parts[..., i, :], replace(quant, scale=quant.scale * np.float32(share)), to_codes
        )
        for i, share in enumerate(quant.heads)
    ]
    return np.stack(made, axis=-2).reshape(x.shape)


def check_alone(token_ranges: bool, head_scales: bool, cache_bits: int = 8) -> None:
    """Raises UsageError for two kinds of ranges of the same keys and values, or of packed ones."""
    if token_ranges and cache_bits != 8:
        raise UsageError(
            f"token_ranges is of keys and values in int8, cache_bits = {cache_bits} packs them: "
            "take one of them"
        )
    if token_ranges and head_scales:
        raise UsageError(
            "token_ranges gives each token and head of the cache a range, head_scales one per "
            "head: take one of them"
        )
