"""Activate that adds to words of the wide buffer in place: which strides it takes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests import kernel

from weft import isa
from weft.device import open_device
from weft.state import FaultError
from weft.units import requant, transfer, window

UNITS = ("requant", "vector", "lookup", "attention")
OVERLAY = replace(kernel.OVERLAYS["8x8"], name="8x8w", units=UNITS, wide_words=256)
DEVICES = (("golden", {}), ("csim", {"form": "functional"}), ("csim", {"form": "cycle"}))
AXES = ("sample", "block", "row", "col")
seeds = st.integers(0, 2**32 - 1)


def in_place(rng, sizes, strides):
    """A product whose outputs (samples, tiles, rows, columns) are added in place from word 3 on.

    Returns the code, what is in the unified and in the wide buffer, and the weights.
    """
    samples, tiles, height, width = sizes
    o, code = OVERLAY, kernel.Code(OVERLAY)
    q, s = requant.encode(np.ones(tiles * o.lanes), "single_round")
    kernel.set_parameters(code, (np.zeros(tiles * o.lanes, np.int32), q, s, q, s))
    x = kernel.codes(rng, samples * height * width, o.lanes)
    w = kernel.codes(rng, tiles, o.lanes, o.lanes) // 16
    code.feed(w)
    source = kernel.strides("source", (1, height, width)) | {"source_sample": height * width}
    code.add(
        isa.MAT_MUL, **kernel.simple_window(height, width), **source, blocks=1, tiles=tiles,
        first=1, last=1, overlap=1,
    )  # fmt: skip
    where = {f"{side}_{axis}": n for side in ("target", "residual")
             for axis, n in zip(AXES, strides, strict=True)}  # fmt: skip
    one = {"residual_multiplier": int(q[0]), "residual_shift": int(s[0])}
    code.add(
        isa.ACTIVATE, target=3, residual_base=3, **where, **one, space=2, residual=1,
        parameter_step=1,
    )  # fmt: skip
    wide = rng.integers(-9000, 9000, (o.wide_words, o.lanes)).astype(np.int16)
    return code, x, wide, w


def status_of(device, options, code, batch):
    """How a run ends: 0, or the status of its fault."""
    opened = open_device(device, **options)
    opened.load(code.program(batch))
    try:
        opened.run(0, batch)
    except FaultError as fault:
        return fault.status
    finally:
        opened.close()
    return 0


def places(sizes, strides):
    """The word of each output, in the hardware's order: tile by tile, then sample, row, column."""
    samples, tiles, height, width = sizes
    order = ((b, t, y, x) for t in range(tiles) for b, y, x in np.ndindex(samples, height, width))
    return [int(np.dot(index, strides)) for index in order]


@given(seed=seeds)
@kernel.examples(40)
def test_every_device_takes_or_refuses_the_same_strides(seed):
    """What is taken adds to each word once, in whatever order."""
    rng = np.random.default_rng(seed)
    sizes = tuple(int(n) for n in rng.integers(1, 4, 4))
    strides = tuple(int(n) for n in rng.choice([0, 1, 2, 3, 4, 6, 9, 12, 18, 27], 4))
    code, x, wide, w = in_place(rng, sizes, strides)
    found = {status_of(name, options, code, sizes[0]) for name, options in DEVICES}
    assert len(found) == 1, (sizes, strides)
    words = places(sizes, strides)
    if found != {0}:
        assert found == ({3} if 3 + max(words) >= OVERLAY.wide_words else {7})
        return
    assert len(set(words)) == len(words)
    memory = kernel.check(code, x, sizes[0], wide=wide)
    expected = wide.astype(np.int64)
    sums = (x.astype(np.int64) @ w.astype(np.int64)).reshape(-1, OVERLAY.lanes)
    for word, value in zip(words, sums, strict=True):
        expected[3 + word] = np.clip(expected[3 + word] + value, -32767, 32767)
    np.testing.assert_array_equal(transfer.joined(memory[OVERLAY.buffer_words :]), expected)


@pytest.mark.parametrize(
    ("sizes", "strides"),
    [
        ((1, 1, 1, 4), (0, 0, 0, 0)),  # columns share a word
        ((1, 1, 3, 2), (0, 0, 1, 1)),  # a row begins inside the one before
        ((1, 2, 2, 2), (0, 3, 2, 1)),  # the second tile inside the first
        ((2, 1, 1, 3), (2, 0, 0, 1)),  # the second sample inside the first
        ((1, 2, 1, 1), (0, 0, 0, 0)),  # both tiles in one word
    ],
)
def test_words_that_are_written_twice_are_refused(sizes, strides):
    code, *_ = in_place(np.random.default_rng(0), sizes, strides)
    assert len(set(places(sizes, strides))) < np.prod(sizes)
    assert [status_of(name, options, code, sizes[0]) for name, options in DEVICES] == [7] * 3


@given(seed=seeds)
@kernel.examples(300)
def test_distinct_never_takes_a_word_twice_and_takes_every_whole_layout(seed):
    rng = np.random.default_rng(seed)
    sizes = [int(n) for n in rng.integers(1, 5, 4)]
    strides = [int(n) for n in rng.integers(0, 40, 4)]
    steps = [n - 1 for n in sizes]
    words = [int(np.dot(index, strides)) for index in np.ndindex(*sizes)]
    if window.distinct(strides, steps):
        assert len(set(words)) == len(words)
    span = int(rng.integers(1, 3))
    for axis in rng.permutation(4):  # axes in any order, with gaps
        strides[axis], span = span, span * sizes[axis] + int(rng.integers(0, 3))
    assert window.distinct(strides, steps)
