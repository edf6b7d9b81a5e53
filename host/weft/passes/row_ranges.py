"""Ranges per row of tokens: which activations may have them, and their codes in float arithmetic.

What a norm gives to products alone gets codes that fill int8 in each row (per-token quantization:
Yao et al., ZeroQuant, NeurIPS 2022), by magnitudes that the accelerator finds while it runs
(docs/isa.md, "Norm"). A calibrated scale stays: it says what int16 is made of before that.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from weft.errors import UsageError
from weft.formats import int8
from weft.graph import Array, Graph, Node, Quant
from weft.passes.placement import NORMS, accelerated
from weft.units import ranges

STEPS = 128  # of int16 in a step of the calibrated int8: rows may be twice as large as any seen


def row_tensors(graph: Graph) -> frozenset[str]:
    """Activations that may have a range per row: a norm's, or int8 copies of one, that nothing
    but Linear reads.

    Raises UsageError for a graph without any.
    """
    found = frozenset(node.outputs[0] for node in graph if _ranged(graph, node))
    if not found:
        raise UsageError(
            f"graph {graph.name!r} has no ranges per row: they are of what a LayerNorm or RMSNorm "
            "gives to Linear layers alone; leave row_ranges out"
        )
    return found


def _ranged(graph: Graph, node: Node) -> bool:
    if not accelerated(graph, node) or "heads" in node.attrs:
        return False
    producer = graph.producers().get(node.inputs[0])
    copied = producer is not None and producer.op in NORMS and "heads" not in producer.attrs
    name = node.outputs[0]
    if not (node.op in NORMS or (node.op in ("Identity", "Mul") and copied)):
        return False
    readers = graph.consumers().get(name, [])
    fits = all(r.op == "Linear" and r.inputs[0] == name and accelerated(graph, r) for r in readers)
    return bool(readers) and fits and name not in graph.outputs


def step_of(quant: Quant) -> float:
    """What int16 counts in, of which a row's codes are made."""
    return float(np.float32(quant.scale)) / STEPS


def rounded_rows(x: Array, quant: Quant, to_codes: bool) -> Array:
    """x [..., K] as the int16 in front of codes of a range per row saturates, and `to_codes`
    rounded to these codes.
    """
    limit = ranges.MOST * step_of(quant)
    inside = np.clip(np.asarray(x, np.float32), -limit, limit)
    if not to_codes:
        return np.asarray(inside, np.float32)
    scale = np.abs(inside).max(-1, keepdims=True) / ranges.CODE
    codes = np.rint(inside / np.where(scale > 0, scale, 1))
    return np.asarray(codes * scale, np.float32)


def symmetric_rows(x: Array) -> Array:
    """x [..., K] as symmetric int8 with a scale per row keeps it: as the host does it."""
    rows = np.asarray(x, np.float32).reshape(-1, x.shape[-1])
    quant = int8.symmetric(rows, 0)
    return quant.dequantize(int8.quantize(rows, quant)).reshape(x.shape)


def check_one(row_ranges: bool) -> None:
    """Raises UsageError where ranges are asked for that host and accelerator find."""
    if row_ranges:
        raise UsageError(
            "dynamic ranges are found by the host, row_ranges by the accelerator: take one of them"
        )


def with_rows(quant: Quant, rows: bool) -> Quant:
    """The same quantization, or one whose rows have ranges of their own.

    Raises UsageError for activations of other formats.
    """
    if rows and quant.format != "int8":
        raise UsageError(
            f"ranges per row are int8's, not {quant.format}: leave activations at int8, or "
            "row_ranges out"
        )
    return replace(quant, rows=True) if rows else quant
