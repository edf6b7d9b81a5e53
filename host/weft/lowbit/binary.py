"""Binary weights and activations: BinaryBERT's splitting and BiT's elastic binarization.

sign(0) is +1 everywhere: a binary code has no zero.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from weft.errors import InputError
from weft.graph import Array
from weft.lowbit.ternary import THRESHOLD


def sign(x: Array) -> NDArray[np.int8]:
    """-1 below zero, +1 elsewhere."""
    return np.where(np.asarray(x) < 0, np.int8(-1), np.int8(1))


def binarize(
    w: Array, per_channel: bool = False, centred: bool = False
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Codes sign(w) and scale mean |w| (Rastegari et al., XNOR-Net, ECCV 2016; BinaryBERT).

    `centred` takes the sign of w less its mean, as BiT does (Liu et al., NeurIPS 2022). The scale
    is (), or (N,) with one scale and mean per index of the first axis.
    """
    x = np.asarray(w, np.float64)
    rows = x.reshape(len(x) if per_channel else 1, -1)
    scale = np.abs(rows).mean(1)
    codes = sign(rows - rows.mean(1, keepdims=True) if centred else rows).reshape(x.shape)
    return codes, np.asarray(scale if per_channel else scale[0], np.float32)


def split(w: Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """w1 and w2 with w1 + w2 = w whose binary forms add up to the ternary form of `w`.

    Ternary weight splitting of BinaryBERT (Bai et al., ACL 2021, section 3.2): a trained ternary
    layer becomes two binary ones that compute the same, from where training goes on. Raises
    InputError for weights of zero only.
    """
    x = np.asarray(w, np.float64)
    size = np.abs(x)
    kept = size > THRESHOLD * size.mean()
    if not kept.any():
        raise InputError(f"weights of shape {x.shape} are all zero: there is nothing to split")
    alpha, zeros = size[kept].mean(), int(np.count_nonzero(~kept))
    b = (alpha * x.size - size.sum()) / (2 * zeros) if zeros else 0.0
    first = np.where(x > 0, x + b, b)
    second = np.where(x > 0, -b, x - b)
    total = size[kept].sum()
    a = (total + np.abs(second[~kept]).sum() - np.abs(first[~kept]).sum()) / (2 * total)
    return np.where(kept, a * x, first), np.where(kept, (1 - a) * x, second)


def elastic(x: Array, alpha: float, beta: float, unit: bool = False) -> NDArray[np.float64]:
    """BiT's binary activations (Liu et al., NeurIPS 2022, section 3.2) as real values.

    sign(x - beta) alpha; with `unit`, what follows a ReLU or softmax:
    clip(round((x - beta) / alpha), 0, 1) alpha.
    """
    moved = np.asarray(x, np.float64) - beta
    if unit:
        return np.asarray(np.clip(np.rint(moved / alpha), 0, 1) * alpha)
    return np.asarray(sign(moved) * alpha)
