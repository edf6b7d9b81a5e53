"""Packing speed: float32 weights to int8 tiles of the weight stream, against plain numpy."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from weft.formats import int8

SIZE, LANES, REPEATS = 4096, 32, 7
TARGET_GB_PER_S = 4.0


def naive(x: np.ndarray, scale: np.ndarray | None = None) -> np.ndarray:
    """The same computation in a few lines of numpy on whole matrices."""
    if scale is None:
        scale = np.abs(x).max(axis=0) / np.float32(127)
    codes = np.clip(np.rint(x / scale), -127, 127).astype(np.int8)
    tiles = codes.reshape(SIZE // LANES, LANES, SIZE // LANES, LANES).transpose(2, 0, 1, 3)
    return np.ascontiguousarray(tiles)


def seconds(*calls: Callable[[], object]) -> list[float]:
    """Least time of each call, taken in turns so that all meet the same load."""
    best = [float("inf")] * len(calls)
    for _ in range(REPEATS):
        for index, call in enumerate(calls):
            start = time.perf_counter()
            call()
            best[index] = min(best[index], time.perf_counter() - start)
    return best


def rows() -> list[dict[str, object]]:
    """One row per metric: {metric, ours, peer, unit, target, met}; rates of float32 input."""
    x = np.random.default_rng(0).standard_normal((SIZE, SIZE), np.float32)
    tiles, quant = int8.quantize_and_pack(x, LANES)
    np.testing.assert_array_equal(tiles, naive(x))
    codes = int8.quantize(x, quant)
    known, plain_known, found, plain_found, quantizing, packing, copying = seconds(
        lambda: int8.quantize_and_pack(x, LANES, quant),
        lambda: naive(x, quant.scale),
        lambda: int8.quantize_and_pack(x, LANES),
        lambda: naive(x),
        lambda: int8.quantize(x, quant),
        lambda: int8.pack(codes, LANES),
        lambda: x.copy(),
    )
    gigabytes = x.nbytes / 1e9
    facts = (
        ("int8 quantize + pack", known, plain_known, TARGET_GB_PER_S),
        ("int8 find scales + quantize + pack", found, plain_found, TARGET_GB_PER_S),
        ("int8 quantize only", quantizing, None, None),
        ("int8 pack only", packing, None, None),
        ("memory copy, for comparison", copying, None, None),
    )
    return [
        {
            "metric": f"{metric}, {SIZE}x{SIZE}",
            "ours": round(gigabytes / ours, 2),
            "peer": None if peer is None else round(gigabytes / peer, 2),
            "unit": "GB/s of float32",
            "target": target,
            "met": None if target is None else gigabytes / ours >= target,
        }
        for metric, ours, peer, target in facts
    ]


if __name__ == "__main__":
    for row in rows():
        print("  ".join(f"{key}={value}" for key, value in row.items()))
