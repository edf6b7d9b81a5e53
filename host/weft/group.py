"""Bytes that groups of input channels share, brought to the shape of the weights."""

from __future__ import annotations

import numpy as np

from weft.graph import Array


def count(channels: int, group: int) -> int:
    """Groups of a tap; the last one may be partial."""
    return -(-channels // group)


def split(x: Array, group: int) -> Array:
    """[..., groups, group] of [..., I], padded with zeros."""
    channels = x.shape[-1]
    missing = -channels % group
    if missing:
        x = np.concatenate([x, np.zeros((*x.shape[:-1], missing), x.dtype)], axis=-1)
    return x.reshape(*x.shape[:-1], -1, group)


def joined(x: Array, channels: int) -> Array:
    """[..., I] of [..., groups, group]: the inverse of `split`."""
    return x.reshape(*x.shape[:-2], -1)[..., :channels]


def spread(record: Array, group: int, channels: int) -> Array:
    """[..., I] of one number per group, [..., groups]."""
    return np.repeat(record, group, axis=-1)[..., :channels]
