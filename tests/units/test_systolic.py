"""MatMul: golden, functional and clock-by-clock simulation agree; plain loops say the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kernel
from kernel import NANO, OVERLAYS, Code
from weft import isa
from weft.config import load_overlay
from weft.units import systolic

seeds = st.integers(0, 2**32 - 1)


def convolution(content, tiles, f, batch, lanes):
    """Sums [tile, M, lanes] by the definition's loops, in Python's integers."""
    size = f["height"] * f["width"]
    shape = (f["kernel_h"], f["kernel_w"], f["blocks"])
    weights = tiles.reshape(f["tiles"], *shape, lanes, lanes).astype(object)
    maps = content.reshape(batch, f["blocks"], size, lanes).astype(object)
    sums = np.zeros((f["tiles"], batch * f["out_h"] * f["out_w"], lanes), object)
    for m, (b, oy, ox) in enumerate(np.ndindex(batch, f["out_h"], f["out_w"])):
        for ky, kx, block in np.ndindex(*shape):
            iy = oy * f["stride_y"] + ky * f["dilation_y"] - f["pad_y"]
            ix = ox * f["stride_x"] + kx * f["dilation_x"] - f["pad_x"]
            word = np.full(lanes, f["pad"], object)
            if 0 <= iy < f["height"] and 0 <= ix < f["width"]:
                word = maps[b, block, iy * f["width"] + ix]
            for tile in range(f["tiles"]):
                sums[tile, m] += word @ weights[tile, ky, kx, block]
    return sums


def random_matmul(rng, overlay, batch, tiles=None):
    """Fields of a MatMul on contiguous maps from word 3 on, that map, and its weight tiles."""
    f = kernel.random_window(rng, overlay, batch)
    f |= {"blocks": int(rng.integers(1, 3)), "tiles": tiles or int(rng.integers(1, 4))}
    f |= kernel.strides("source", (f["blocks"], f["height"], f["width"])) | {"source": 3}
    f |= {"pad": int(rng.integers(-128, 128)), "first": 1, "last": 1}
    f["overlap"] = int(rng.integers(0, 2))
    words = batch * f["source_sample"]
    folds = f["tiles"] * f["blocks"] * f["kernel_h"] * f["kernel_w"]
    content = kernel.codes(rng, words, overlay.lanes)
    return f, content, kernel.codes(rng, folds * overlay.rows, overlay.lanes)


def placed(content):
    """The map behind the three words that a source of 3 leaves free."""
    return np.concatenate([np.full((3, content.shape[1]), 77, np.int8), content])


def activated(rng, overlay, batch):
    """A program of one MatMul with requantization, and what is in its buffer before."""
    f, content, tiles = random_matmul(rng, overlay, batch)
    mode = int(rng.integers(0, 3))
    code = kernel.set_parameters(
        Code(overlay), kernel.parameters(rng, f["tiles"] * overlay.lanes, mode)
    )
    code.feed(tiles).add(isa.MAT_MUL, **f)
    where = kernel.strides("target", (f["tiles"], f["out_h"], f["out_w"]))
    low, high = sorted(rng.integers(-128, 128, 2).tolist())
    zero = int(rng.integers(-128, 128))
    clamp = {"mode": mode, "zero_point": zero, "low": low, "high": high, "parameter_step": 1}
    code.add(isa.ACTIVATE, target=3 + len(content), **where, **clamp)
    return code, placed(content)


@pytest.mark.parametrize("name", OVERLAYS)
@given(seed=seeds, batch=st.integers(1, 3))
@kernel.examples(15)
def test_every_form_computes_and_counts_alike(name, seed, batch):
    code, content = activated(np.random.default_rng(seed), OVERLAYS[name], batch)
    kernel.check(code, content, batch)


@given(seed=seeds)
@kernel.examples(4)
def test_the_exact_form_agrees(seed):
    rng = np.random.default_rng(seed)
    f, _, tiles = random_matmul(rng, NANO, 1, tiles=2)
    f |= kernel.simple_window(2, 2) | kernel.strides("source", (1, 2, 2))
    f |= {"blocks": 1, "source": 0, "kernel_w": 2, "pad_y": 0, "pad_x": 0}
    code = kernel.set_parameters(Code(NANO), kernel.parameters(rng, 8))
    code.feed(tiles[: 4 * 4] if len(tiles) >= 16 else kernel.codes(rng, 16, 4))
    code.add(isa.MAT_MUL, **f)
    where = kernel.strides("target", (2, 2, 2))
    code.add(isa.ACTIVATE, target=8, **where, parameter_step=1, low=-128, high=127)
    kernel.check(code, kernel.codes(rng, 4, 4), forms=("exact", *kernel.FORMS))


@pytest.mark.parametrize("name", OVERLAYS)
@given(seed=seeds, batch=st.integers(1, 2))
@kernel.examples(6)
def test_sums_are_those_of_plain_loops(name, seed, batch):
    rng, overlay = np.random.default_rng(seed), OVERLAYS[name]
    f, content, tiles = random_matmul(rng, overlay, batch, tiles=1)
    m, target = batch * f["out_h"] * f["out_w"], 3 + len(content)
    code = kernel.set_parameters(Code(overlay), (0, 0, 0, 0, 0))
    code.feed(tiles).add(isa.MAT_MUL, **f)
    where = kernel.strides("target", (1, f["out_h"], f["out_w"]))
    kernel.drain_raw(code, target, m, **where)
    words = kernel.check(code, placed(content), batch, forms=("cycle",))
    expected = convolution(content, tiles, f, batch, overlay.lanes)[0]
    np.testing.assert_array_equal(kernel.raw_sums(words, target, m), expected.astype(np.int64))


@pytest.mark.parametrize("overlap", [0, 1])
@pytest.mark.parametrize("name", OVERLAYS)
def test_tiles_of_few_rows_and_one_fold_follow_closely(name, overlap):
    """Each tile's sums must have left the accumulators before the next tile's arrive."""
    rng, overlay = np.random.default_rng(7), OVERLAYS[name]
    for m in (1, 2, 3, 4, 5, 9):
        f = kernel.simple_window(1, m) | kernel.strides("source", (1, 1, m))
        f |= {"blocks": 1, "tiles": 5, "first": 1, "last": 1, "overlap": overlap}
        code = kernel.set_parameters(Code(overlay), kernel.parameters(rng, 5 * overlay.lanes))
        code.feed(kernel.codes(rng, 5 * overlay.rows, overlay.lanes)).add(isa.MAT_MUL, **f)
        where = kernel.strides("target", (5, 1, m))
        code.add(isa.ACTIVATE, target=m, **where, parameter_step=1, low=-128, high=127)
        kernel.check(code, kernel.codes(rng, m, overlay.lanes))


@pytest.mark.parametrize("name", OVERLAYS)
@given(seed=seeds, parts=st.integers(2, 4))
@kernel.examples(8)
def test_k_split_over_several_matmuls_is_one_sum(name, seed, parts):
    rng, overlay = np.random.default_rng(seed), OVERLAYS[name]
    f, content, _ = random_matmul(rng, overlay, 1, tiles=1)
    m, target = f["out_h"] * f["out_w"], 3 + len(content)
    split = kernel.set_parameters(Code(overlay), (0, 0, 0, 0, 0))
    expected = np.zeros((m, overlay.lanes), object)
    rows = f["blocks"] * f["kernel_h"] * f["kernel_w"] * overlay.rows
    for part in range(parts):
        tiles = kernel.codes(rng, rows, overlay.lanes)
        expected += convolution(content, tiles, f, 1, overlay.lanes)[0]
        ends = {"first": int(part == 0), "last": int(part == parts - 1)}
        split.feed(tiles).add(isa.MAT_MUL, **{**f, **ends})
    kernel.drain_raw(split, target, m, **kernel.strides("target", (1, f["out_h"], f["out_w"])))
    words = kernel.check(split, placed(content))
    np.testing.assert_array_equal(kernel.raw_sums(words, target, m), expected.astype(np.int64))


def test_accumulators_wrap_at_32_bits():
    """-128 · -128 · 2^17 is 2^31: one more than int32 holds."""
    overlay = OVERLAYS["8x8"]
    f = kernel.simple_window(1, 1) | {"tiles": 1, "overlap": 1}
    code = kernel.set_parameters(Code(overlay), (0, 0, 0, 0, 0))
    chunk = 128  # blocks of one MatMul, all of which read the same word
    low = np.full((chunk * overlay.rows, overlay.lanes), -128, np.int8)
    count = (1 << 17) // len(low)
    for part in range(count):
        ends = {"first": int(part == 0), "last": int(part == count - 1)}
        code.feed(low).add(isa.MAT_MUL, blocks=chunk, **f, **ends)
    kernel.drain_raw(code, 1, 1)
    words = kernel.check(code, low[:1])
    assert (kernel.raw_sums(words, 1, 1) == -(1 << 31)).all()


def test_lab_agrees():
    code, content = activated(np.random.default_rng(3), load_overlay("lab"), 3)
    kernel.check(code, content, 3)


@pytest.mark.parametrize("overlap", [False, True])
def test_clock_formulas(overlap):
    overlay = OVERLAYS["8x8"]  # two beats per row: 16 clocks to load a tile
    clocks = systolic.array_clocks(10, 3, overlay, overlap)
    assert clocks.matrix == 30
    assert clocks.drain == (14 if overlap else 3 * 14)
    assert clocks.weight_shift == (16 + 2 * 6 if overlap else 3 * 16)


CLOCKS = r"""
#include "units/matmul.hpp"
extern "C" long long clocks(int tiles, int blocks, int taps, int rows, int overlap) {
  weft::MatMul f = {};
  f.tiles = tiles; f.blocks = blocks; f.out_h = 1; f.out_w = rows; f.overlap = overlap;
  f.kernel_h = 1; f.kernel_w = taps; f.words = 1; f.pace = weft::kBeats;
  weft::Walk<weft::MatMul> walk;
  walk.begin(f, 1);
  weft::MatMulClocks c;
  c.begin(f, 1, walk, weft::SystolicArray<weft::IntegerCell>::kFlushClocks, 0);
  return (long long)c.total;
}
"""


@pytest.mark.parametrize("name", ["4x4", "8x8p"])
def test_clocks_of_large_layers_do_not_wrap(name):
    import ctypes

    overlay = OVERLAYS[name]
    library = kernel.unit_library(CLOCKS, overlay, "cycle")
    library.clocks.restype = ctypes.c_longlong
    for tiles, blocks, taps, rows in [(1, 1, 1, 1), (3, 5, 9, 17), (1024, 3136, 1, 4096)]:
        for overlap in (0, 1):
            expected = systolic.array_clocks(rows, tiles * blocks * taps, overlay, bool(overlap))
            assert library.clocks(tiles, blocks, taps, rows, overlap) == expected.total
