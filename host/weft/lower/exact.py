"""Integer arithmetic of the vector unit that gives what TFLite's kernels give, code for code."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from weft import tflite_kernels
from weft.graph import Node, Quant
from weft.lower.context import Context
from weft.lower.epilogue import Scaling, epilogue, scaling
from weft.lower.stage import Epilogue
from weft.units.requant import encode, requantize

LARGEST_FACTOR = 32767  # of add: int16
NUDGE = 2.0**-29  # relative; two units in the last place of a multiplier
NUDGES = (0.0, NUDGE, -NUDGE, 4 * NUDGE, -4 * NUDGE)
TRIES = 200  # factor pairs that are compared

Factors = tuple[int, int]
Found = tuple[Factors, float, str, int]


def code_mean(ctx: Context, node: Node, x: Quant, count: int, y: Quant) -> Epilogue:
    """A mean of codes with halves away from zero, as integer division rounds them.

    `single_round` takes halves up. A multiplier slightly above 1/count moves halves of both signs
    away from zero, and nothing else: the next value is at least 1/(2·count) from a half, the nudge
    moves a mean of 128 by 2^-22. Codes are summed as they are, so the zero point plays no part.
    """
    plain = node.with_attrs(requant="single_round")
    values = scaling(plain, 1.0, (1 + NUDGE) / count, replace(y, scale=np.asarray(1, np.float32)))
    done = epilogue(plain, values, y, ctx.lanes, step=0)
    return replace(done, zero_point=0)


def even_mean(ctx: Context, node: Node, x: Quant, count: int, y: Quant) -> Epilogue:
    """A mean of codes with halves to the even code, whatever the zero point: XNNPACK's."""
    one = replace(y, scale=np.asarray(1, np.float32))
    done = epilogue(node, scaling(node, 1.0, 1.0 / count, one), y, ctx.lanes, step=0)
    return replace(done, zero_point=0)


def sum_of_codes(
    node: Node, quants: tuple[Quant, Quant, Quant], signs: Factors
) -> tuple[Node, Factors, Scaling]:
    """How the vector unit adds two tensors as the node's kernels do: factors, rounding, scale.

    The kernels' own factors have 20 bits, the unit's 15: pairs of nearly their ratio are compared
    with the kernel on all 65,536 pairs of codes, and the first one that never differs is taken;
    else the best. That happens where the scales have simple ratios, so that many sums lie halfway
    between two codes; the node's notes say how many pairs then differ, by one.
    """
    key = tuple((float(np.float32(q.scale)), q.zero_point) for q in quants)
    factors, scale, mode, wrong = _matched(str(node.attrs["kernels"]), key, signs)
    changed = node.with_attrs(requant=mode)
    if wrong:
        note = f"{wrong} of 65536 pairs of codes differ by one from the {node.attrs['kernels']}"
        changed = changed.with_attrs(notes=(f"{note} kernel",))
    return changed, factors, Scaling(np.asarray(scale), np.asarray(0, np.int64))


@lru_cache(maxsize=256)
def _matched(kernels: str, key: tuple[tuple[float, int], ...], signs: Factors) -> Found:
    a, b, y = (Quant(np.asarray(s, np.float32), z) for s, z in key)
    p, q = (v.reshape(-1) for v in np.meshgrid(tflite_kernels.CODES, tflite_kernels.CODES))
    if signs[0] < 0:  # subtraction with its operands the other way round
        wanted = tflite_kernels.add(kernels, q, p, (b, a, y), -1)
    else:
        wanted = tflite_kernels.add(kernels, p, q, (a, b, y), signs[1])
    x, z, tight = p - a.zero_point, q - b.zero_point, np.zeros(0, np.int64)
    best: Found | None = None
    for (f, g), scale, mode in _candidates(kernels, (a, b, y)):
        factors, code = (f * signs[0], g * signs[1]), encode(scale, mode)

        def differ(at: Any, factors: Factors = factors, code: Any = code, mode: str = mode) -> Any:
            """Which of the pairs `at` come out otherwise."""
            sums = factors[0] * x[at] + factors[1] * z[at]
            codes = requantize(sums, code[0], code[1], mode)
            return np.flatnonzero(np.clip(codes + y.zero_point, -128, 127) != wanted[at])

        if best is not None and len(differ(tight)) >= best[3]:
            continue  # no better on the pairs that others got wrong
        found = differ(slice(None))
        tight = np.union1d(tight, found)
        if best is None or len(found) < best[3]:
            best = factors, scale, mode, len(found)
        if not len(found):
            break
    assert best is not None, "there is a candidate"
    return best


def _candidates(
    kernels: str, quants: tuple[Quant, Quant, Quant]
) -> Iterator[tuple[Factors, float, str]]:
    """(factors, scale, rounding), the likeliest first."""
    a, b, y = (float(np.float32(q.scale)) for q in quants)
    if kernels == "xnnpack":
        left, right, shift = tflite_kernels.add_factors(a, b, y)
        first, second, unit = float(left), float(right), 2.0**-shift
        modes = ("single_round", "double_round")
    else:
        first, second, unit = a, b, 1 / y
        modes = ("double_round", "single_round")
    large, small = max(first, second), min(first, second)
    high = np.arange(LARGEST_FACTOR // 4, LARGEST_FACTOR + 1)
    low = np.rint(high * (small / large))
    nearest = np.argsort(np.abs(low / high - small / large), kind="stable")[:TRIES]
    for h, w in zip(high[nearest].tolist(), low[nearest].astype(int).tolist(), strict=True):
        for mode in modes:
            for nudge in NUDGES:
                yield (h, w) if first >= second else (w, h), large * unit / h * (1 + nudge), mode
