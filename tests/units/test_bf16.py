"""bf16 products and float32 sums in a fixed order: golden, all forms, and plain float32 loops."""

from __future__ import annotations

import ctypes

import ml_dtypes
import numpy as np
import pytest
import wide
from hypothesis import given
from hypothesis import strategies as st

import kernel
from kernel import Code
from weft import isa
from weft.units import bf16

seeds = st.integers(0, 2**32 - 1)

SCALARS = r"""
#include "units/bf16.hpp"
using namespace weft;
extern "C" void scalars(int count, const int *a, const int *b, int *found) {
  for (int i = 0; i < count; ++i) {
    const int values[4] = {int(float_sum(Int<32>(a[i]), Int<32>(b[i]))),
                           int(float_product(Int<32>(a[i]), Int<32>(b[i]))),
                           int(rounded_integer(Int<32>(a[i]))), int(rounded_bf16(Int<32>(a[i])))};
    for (int k = 0; k < 4; ++k) found[4 * i + k] = values[k];
  }
}
"""


def bits_of(x) -> np.ndarray:
    return np.ascontiguousarray(x, np.float32).view(np.int32)


def test_rounding_is_that_of_ml_dtypes():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 2**32, 100_000, dtype=np.uint64).astype(np.uint32).view(np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        expected = x.astype(ml_dtypes.bfloat16)
    kept = np.isfinite(expected.astype(np.float32))
    np.testing.assert_array_equal(bf16.rounded(x)[kept], expected.view(np.uint16)[kept])
    vectors = np.array([1.00390625, 1.01171875, 3.3895314e38], np.float32)
    assert bf16.rounded(vectors).tolist() == [0x3F80, 0x3F82, 0x7F7F]


@pytest.mark.parametrize("form", ["cycle", "exact"])
def test_scalar_operations_agree_with_golden(form):
    rng = np.random.default_rng(1)
    edges = [0.0, -0.0, 1.0, -1.5, 2.5, 2.0**-126, 2.0**-130, 3e38, -3e38, 2.0**31, 0.5, 1e-45]
    pairs = np.stack(np.meshgrid(edges, edges), -1).reshape(-1, 2).astype(np.float32)
    scale = 2.0 ** rng.integers(-30, 33, (4000, 2))
    pairs = np.concatenate([pairs, (rng.normal(size=(4000, 2)) * scale).astype(np.float32)])
    a, b = bits_of(pairs[:, 0]), bits_of(pairs[:, 1])
    found = np.zeros((len(a), 4), np.int32)
    library = kernel.unit_library(SCALARS, wide.NANO, form)
    library.scalars(len(a), *(ctypes.c_void_p(v.ctypes.data) for v in (a, b, found)))
    x, y = bf16.from_bits(a), bf16.from_bits(b)
    np.testing.assert_array_equal(found[:, 0], bf16.to_bits(bf16.add(x, y)))
    np.testing.assert_array_equal(found[:, 1], bf16.to_bits(bf16.multiply(x, y)))
    whole = np.clip(np.rint(x.astype(np.float64)), -(2.0**31), 2.0**31 - 1).astype(np.int32)
    np.testing.assert_array_equal(found[:, 2], whole)
    np.testing.assert_array_equal(found[:, 3].astype(np.uint16), bf16.rounded(pairs[:, 0]))


def random_bf16(rng, *shape) -> np.ndarray:
    """Bits of numbers over a wide range, some of them 0."""
    x = rng.normal(size=shape) * 2.0 ** rng.integers(-12, 12, shape)
    x[rng.random(shape) < 0.1] = 0
    return bf16.rounded(x.astype(np.float32))


def run(rng, overlay, activation_bits, batch=1, forms=kernel.FORMS, small=False):
    """A random MatMul; its float32 sums, and those of float32 loops in the stated order."""
    words = activation_bits // 8
    engine = {"engine": isa.ENGINES.index("bf16"), "words": words, "codes": 0}
    engine |= {"activation_bits": activation_bits, "weight_bits": 16}
    f = wide.random_fields(rng, overlay, batch, engine)
    f["blocks"] += f["blocks"] % 2  # a low and a high byte
    if activation_bits == 16:
        f["pad"] = 0
    if small:
        f |= kernel.simple_window(1, 2) | {"blocks": 2, "source_block": 3, "pad_x": 0, "pad_y": 0}
    f["source_sample"] = f["blocks"] * f["source_block"]
    content = kernel.codes(rng, batch * f["source_sample"], overlay.lanes)
    if activation_bits == 16:  # bytes of numbers of a sane size
        bits = random_bf16(rng, *content.shape)
        blocks = content.reshape(batch, f["blocks"] // 2, 2, f["source_block"], -1)
        numbers = bits.reshape(blocks.shape)[:, :, 0]
        blocks[:, :, 0] = (numbers & 255).astype(np.uint8).view(np.int8)
        blocks[:, :, 1] = (numbers >> 8).astype(np.uint8).view(np.int8)
    weights = random_bf16(rng, wide.stream_rows(f, overlay.lanes), overlay.lanes)
    m, target = batch * f["out_h"] * f["out_w"], 3 + len(content)
    code = kernel.set_parameters(Code(overlay), (0, 0, 0, 0, 0))
    planes = np.stack([weights & 255, weights >> 8], 1).astype(np.uint8).view(np.int8)
    folds = wide.folds_per_tile(f)
    start = sum(map(len, code.weights))
    code.weights.append(planes.reshape(-1, overlay.lanes))
    from weft.formats import NUMBERS

    read = {"format": NUMBERS["bf16"], "runs": folds, "blocks": 1, "memory": start}
    code.add(isa.READ_WEIGHTS, rows=len(weights), memory_rows=2 * len(weights), **read)
    code.add(isa.MAT_MUL, **f)
    kernel.drain_raw(code, target, m, **kernel.strides("target", (1, f["out_h"], f["out_w"])))
    words_ = kernel.check(code, wide.placed(content), batch, forms)
    return kernel.raw_sums(words_, target, m)


@pytest.mark.parametrize("activation_bits", [8, 16])
@given(seed=seeds, batch=st.integers(1, 2))
@kernel.examples(12)
def test_every_form_computes_and_counts_alike(activation_bits, seed, batch):
    run(np.random.default_rng(seed), wide.OVERLAYS["wide16"], activation_bits, batch)


@pytest.mark.parametrize("activation_bits", [8, 16])
def test_the_exact_form_agrees(activation_bits):
    forms = ("exact", *kernel.FORMS)
    run(np.random.default_rng(4), wide.NANO, activation_bits, forms=forms, small=True)


def test_sums_are_those_of_float32_loops():
    rng = np.random.default_rng(5)
    x, w = random_bf16(rng, 3, 4, 8), random_bf16(rng, 4, 8, 5)
    found = bf16.products(x.astype(np.int64), w.astype(np.int64)).view(np.float32)
    a, b = (bf16.from_bits(v.astype(np.int64) << 16) for v in (x, w))
    for m, n in np.ndindex(3, 5):
        total = np.float32(0)
        for fold in range(4):
            column = np.float32(0)
            for r in range(8):
                column = np.float32(column + np.float32(a[m, fold, r] * b[fold, r, n]))
            total = np.float32(total + column)
        assert found[m, n] == total
