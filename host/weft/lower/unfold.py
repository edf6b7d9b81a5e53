"""Shallow first convolutions: the host gathers taps into lanes (program.Unfold)."""

from __future__ import annotations

import math

import numpy as np

from weft.graph import Array
from weft.lower.context import Context
from weft.lower.geometry import Value, Window
from weft.program import Unfold


def unfold(ctx: Context, x: Value, w: Array, window: Window) -> tuple[Array, Window] | None:
    """Weights and window after the host has gathered taps into lanes; None where it won't help."""
    outputs, depth, kernel_h, kernel_w = w.shape
    if depth * kernel_w > ctx.lanes or window.taps == 1:
        return None
    rows = min(kernel_h, ctx.lanes // (depth * kernel_w))
    groups = -(-kernel_h // rows)
    jump = rows * window.dilation_y
    step = window.stride_y if groups == 1 else math.gcd(window.stride_y, jump)
    stride, dilation = window.stride_y // step, (jump // step if groups > 1 else 1)
    height = (window.out_h - 1) * stride + (groups - 1) * dilation + 1
    gathered = np.zeros((outputs, depth, groups * rows, kernel_w), w.dtype)
    gathered[:, :, :kernel_h] = w
    lanes_last = gathered.reshape(outputs, depth, groups, rows, kernel_w)
    taps = lanes_last.transpose(0, 3, 4, 1, 2).reshape(outputs, -1, groups, 1)
    ctx.unfold(
        x.root,
        Unfold(
            rows=rows,
            kernel_w=kernel_w,
            step_y=step,
            stride_x=window.stride_x,
            dilation_y=window.dilation_y,
            dilation_x=window.dilation_x,
            pad_y=window.pad_y,
            pad_x=window.pad_x,
            height=height,
            width=window.out_w,
        ),
    )
    return taps, Window(
        height, window.out_w, window.out_h, window.out_w, groups, 1, stride, 1, dilation, 1
    )
