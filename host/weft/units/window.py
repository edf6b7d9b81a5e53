"""The window walk that MatMul and Vector share: addresses of a convolution, made on the fly.

No im2col is ever stored: the hardware (hls/weft/units/window.hpp) counts (b, oy, ox) in the inner
loop of every fold and adds strides.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from weft import isa
from weft.state import FaultError, Fields, State

Index = NDArray[np.int64]
MAX_REACH = 1 << 30  # positions from the window's first to its last: what the counters hold


def positions(f: Fields, batch: int) -> int:
    """M: rows of the output, batch·out_h·out_w."""
    return batch * f["out_h"] * f["out_w"]


def taps(f: Fields) -> int:
    """Taps of the window."""
    return f["kernel_h"] * f["kernel_w"]


def walk(f: Fields, batch: int) -> tuple[Index, NDArray[np.bool_]]:
    """Word addresses [taps, M] for channel block 0, and which of them lie inside the map."""
    iy = _axis(f["out_h"], f["stride_y"], f["kernel_h"], f["dilation_y"], f["pad_y"])
    ix = _axis(f["out_w"], f["stride_x"], f["kernel_w"], f["dilation_x"], f["pad_x"])
    inside_y = (iy >= 0) & (iy < f["height"])
    inside_x = (ix >= 0) & (ix < f["width"])
    # [kernel_h, kernel_w, batch, out_h, out_w]
    shape = (f["kernel_h"], f["kernel_w"], batch, f["out_h"], f["out_w"])
    inside = inside_y[:, None, None, :, None] & inside_x[None, :, None, None, :]
    address = (
        f["source"]
        + (iy * f["source_row"])[:, None, None, :, None]
        + (ix * f["source_col"])[None, :, None, None, :]
        + (np.arange(batch) * f["source_sample"])[None, None, :, None, None]
    )
    count = taps(f)
    return (
        np.broadcast_to(address, shape).reshape(count, -1),
        np.broadcast_to(inside, shape).reshape(count, -1),
    )


def _axis(out: int, stride: int, kernel: int, dilation: int, pad: int) -> Index:
    """Input positions [kernel, out] along one axis."""
    return np.arange(kernel)[:, None] * dilation + np.arange(out) * stride - pad


def reach(f: Fields, size: str, axis: str) -> int:
    """Positions from the window's first to its last: reach(f, "h", "y") or reach(f, "w", "x")."""
    steps = (f[f"out_{size}"] - 1) * f[f"stride_{axis}"]
    return steps + (f[f"kernel_{size}"] - 1) * f[f"dilation_{axis}"]


def output_words(f: Fields, batch: int, out_h: int, out_w: int) -> Index:
    """Words [M] that Activate writes for channel block 0."""
    b, y, x = np.ogrid[:batch, :out_h, :out_w]
    words = b * f["target_sample"] + y * f["target_row"] + x * f["target_col"]
    return f["target"] + np.asarray(words, np.int64).reshape(-1)


def distinct(strides: Sequence[int], steps: Sequence[int]) -> bool:
    """Whether no two words of a walk are the same one, taking each stride up to so many steps.

    Each stride that is taken must reach further than all shorter ones together.
    """
    axes = [pair for pair in zip(strides, steps, strict=True) if pair[1]]
    for index, (stride, _) in enumerate(axes):
        others = axes[:index] + axes[index + 1 :]
        if stride <= sum(s * n for s, n in others if s <= stride):
            return False
    return True


def source_range(f: Fields, batch: int) -> tuple[int, int]:
    """First and last word of the input that can be touched."""
    last = (
        f["source"]
        + (batch - 1) * f["source_sample"]
        + (f["blocks"] - 1) * f["source_block"]
        + (f["height"] - 1) * f["source_row"]
        + (f["width"] - 1) * f["source_col"]
    )
    return f["source"], last


def check(state: State, f: Fields, batch: int, space: int = isa.UNIFIED) -> None:
    """Raises FaultError for sizes of 0, an input outside its buffer, or too many rows."""
    sizes = ("height", "width", "kernel_h", "kernel_w", "out_h", "out_w", "blocks")
    if min(f[name] for name in sizes) == 0:
        raise FaultError(2, ", ".join(name for name in sizes if f[name] == 0) + " = 0")
    if max(reach(f, "h", "y"), reach(f, "w", "x")) > MAX_REACH:
        raise FaultError(2, f"the window reaches further than {MAX_REACH} positions")
    last = source_range(f, batch)[1]
    if last >= len(state.space(space)):
        raise FaultError(3, f"word {last} of {len(state.space(space))}")
