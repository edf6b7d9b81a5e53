"""The cell of N:M sparse weights: a position beside each weight picks one of M activations.

Sparse tensor cores (Mishra et al., 2021) have 2:4; here N < M ≤ the overlay's, M a power of two. A
fold takes `words` channel blocks, the largest power of two up to 4 with N · words ≤ M: half the
folds of the dense array for 2:4, a quarter for 1:4.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from weft.config import Overlay
from weft.engine import Bytes, Engine, Values
from weft.state import FaultError, Fields

LARGEST_WORDS = 4


def words_of(kept: int, group: int) -> int:
    """Channel blocks that a clock reads for N = kept of M = group."""
    return 1 << min(group // kept, LARGEST_WORDS).bit_length() - 1


def codes(kept: int, group: int) -> int:
    """MatMul.codes of a pattern."""
    return kept | (group.bit_length() - 1) << 4


def pattern(f: Fields) -> tuple[int, int]:
    """N and M of a MatMul."""
    return f["codes"] & 15, 1 << (f["codes"] >> 4 & 7)


def used_rows(f: Fields, lanes: int) -> int:
    """Rows of the array that hold weights."""
    kept, group = pattern(f)
    return kept * f["words"] * lanes // group


def index_rows(f: Fields, lanes: int) -> int:
    """Stream rows of the positions in front of a tile."""
    return lanes // 8 * (f["codes"] >> 4 & 7)


def legal(f: Fields, overlay: Overlay) -> bool:
    """N < M, M a power of two that the overlay has, and the words that follow."""
    kept, group = pattern(f)
    if f["activation_bits"] != 8 or not 2 <= group <= overlay.nm_group or not 0 < kept < group:
        return False
    return f["words"] == words_of(kept, group) and group <= f["words"] * overlay.lanes


def activations(words: Bytes, f: Fields) -> Values:
    """Numbers [M, folds, lanes, words]: all channels of the blocks of a clock."""
    return np.moveaxis(words, -2, -1).view(np.int8).astype(np.int64)


def weights(rows: NDArray[np.int16], f: Fields) -> Values:
    """Numbers [tiles, folds, lanes, words, columns] of rows [tiles, folds, rows, 1, columns].

    Raises FaultError 10 where the positions of a group don't ascend.
    """
    lanes = rows.shape[-1]
    tiles, folds = rows.shape[:2]
    head = index_rows(f, lanes)
    bits, used = f["codes"] >> 4 & 7, used_rows(f, lanes)
    kept, group = pattern(f)
    flat = rows.reshape(tiles, folds, -1, lanes)
    position = positions(flat[:, :, :head].astype(np.uint8), bits)[:, :, :used]
    _check(position, kept, head + lanes, head)
    channel = (np.arange(used) // kept * group)[:, None] + position
    dense = np.zeros((tiles, folds, f["words"] * lanes, lanes), np.int64)
    np.put_along_axis(dense, channel, flat[:, :, head : head + used].astype(np.int64), axis=2)
    ordered = dense.reshape(tiles, folds, f["words"], lanes, lanes)
    return np.asarray(ordered.transpose(0, 1, 3, 2, 4))


def positions(packed: Bytes, bits: int) -> NDArray[np.int64]:
    """Positions [..., rows, columns] of packed rows [..., rows · bits / 8, columns]."""
    from weft.tiles import unpacked_planes

    lead, lanes = packed.shape[:-2], packed.shape[-1]
    flat = np.ascontiguousarray(packed).reshape(-1, packed.shape[-2], lanes)
    return unpacked_planes(flat, bits).reshape(*lead, -1, lanes).astype(np.int64)


def _check(position: NDArray[np.int64], kept: int, tile_rows: int, head: int) -> None:
    """Raises FaultError 10 for the first row, in the order of the stream, that does not ascend."""
    row = np.arange(1, position.shape[2])
    inner = (row % kept != 0)[:, None]
    bad = ((position[:, :, 1:] <= position[:, :, :-1]) & inner).any(axis=-1)
    if bad.any():
        tile, fold, at = (int(i) for i in np.argwhere(bad)[0])
        stream_row = (tile * position.shape[1] + fold) * tile_rows + head + at + 1
        raise FaultError(10, f"row {stream_row} of its weights: positions of a group do not ascend")


ENGINE = Engine(
    "nm", legal, activations, weights, "N of M consecutive channels, by position", index=index_rows
)
