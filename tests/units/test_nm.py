"""N:M sparse weights in the array: against the dense product, golden and every simulation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import wide
from hypothesis import given
from hypothesis import strategies as st

import kernel
from kernel import Code
from weft import isa
from weft.config import Overlay
from weft.errors import DeviceError
from weft.formats import FORMATS
from weft.graph import Quant
from weft.lower.nm import NmWeights, densest, fits
from weft.state import FaultError
from weft.units import nm, systolic

SIZES = (8, 8, 8, 1024, 64, 8, 64)
VALUES = ("int8", "int4", "flint4", "ternary2", "codebook16", "int16")
WIDE = Overlay("nm16", *SIZES, weight_bits=16, nm_group=16, engines=("systolic", "nm"),
               formats=VALUES)  # fmt: skip
NARROW = Overlay("nm4", 16, 16, 8, 1024, 64, 8, 64, nm_group=4, engines=("nm",))
NANO = Overlay("nmnano", 8, 8, 8, 64, 16, 2, 16, nm_group=4, engines=("nm",))
PATTERNS = [(n, m) for m in (2, 4, 8, 16) for n in range(1, m)]
seeds = st.integers(0, 2**32 - 1)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


def patterns(overlay: Overlay) -> list[tuple[int, int]]:
    """Those that an overlay takes."""
    lanes = overlay.lanes
    return [(n, m) for n, m in PATTERNS if m <= overlay.nm_group and m <= nm.words_of(n, m) * lanes]


def quant_of(name: str, rng: np.random.Generator) -> tuple[Quant, np.ndarray[Any, Any]]:
    """How values of a format are kept, and the operands that there are besides 0."""
    if name == "codebook16":
        book = np.array([0, *rng.choice(np.arange(1, 128), 15, replace=False)], np.int16)
        return Quant(np.float32(1), format=name, codebook=book), book[1:]
    if name in ("int8", "int16"):
        limit = 128 if name == "int8" else 1 << 15
        return Quant(np.float32(1), format=name), np.array([-limit, -1, 1, 5, limit - 1])
    grid = np.asarray(FORMATS[name].grid)
    grid = grid[(np.nan_to_num(grid) != 0) & (grid != -8)]
    return Quant(np.float32(1), format=name), grid.astype(np.int64)


def sparse(rng, shape, kept, group, values) -> np.ndarray[Any, Any]:
    """Operands [N, kernel_h, kernel_w, I] with up to `kept` in every `group` channels."""
    n, height, width, channels = shape
    w = rng.choice(values, (n, height, width, -(-channels // group), group))
    rank = rng.permuted(np.broadcast_to(np.arange(group), w.shape), axis=-1)
    limit = rng.integers(0, kept + 1, w.shape[:-1])[..., None]
    return np.where(rank < limit, w, 0).reshape(n, height, width, -1)[..., :channels]


def layer(rng, overlay, batch, kept, group, name="int8", small=False):
    """A MatMul, its weights, the map and what the dense product of both is."""
    simple = kernel.simple_window(1, 2) | {"pad_y": 0, "pad_x": 0}
    f = simple if small else kernel.random_window(rng, overlay, batch)
    f |= {"blocks": 2 if small else int(rng.integers(1, 10)), "tiles": 1 if small else 2}
    f |= {"source": 3, "first": 1, "last": 1, "overlap": int(rng.integers(0, 2))}
    f |= kernel.strides("source", (f["blocks"], f["height"], f["width"]))
    f["source_block"] |= 1
    f["source_sample"] = f["blocks"] * f["source_block"]
    channels = int(rng.integers(1, overlay.lanes)) + (f["blocks"] - 1) * overlay.lanes
    outputs = int(rng.integers(1, overlay.lanes)) + (f["tiles"] - 1) * overlay.lanes
    shape = (outputs, f["kernel_h"], f["kernel_w"], channels)
    quant, values = quant_of(name, rng)
    w = NmWeights(sparse(rng, shape, kept, group, values), quant, kept, group, overlay.lanes)
    f |= w.precision.fields() | {"pad": int(rng.integers(-128, 128)), "pace": w.pace(overlay)}
    content = kernel.codes(rng, batch * f["source_sample"], overlay.lanes)
    return f, w, content


def program(overlay, f, w, rows=None, batch=1):
    """One MatMul tile by tile, so that its raw sums can be read."""
    code = kernel.set_parameters(Code(overlay), (0, 0, 0, 0, 0))
    targets = []
    for tile in range(f["tiles"]):
        packed = w.packed(tile, tile + 1) if rows is None else rows
        start = sum(map(len, code.weights))
        code.weights.append(packed)
        read = {"memory": start, "memory_rows": len(packed)} | w.fields(tile, tile + 1)
        code.add(isa.READ_WEIGHTS, **read)
        code.add(isa.MAT_MUL, **(f | {"tiles": 1}))
        m = batch * f["out_h"] * f["out_w"]
        targets.append(overlay.buffer_words - (tile + 1) * 4 * m)
        where = kernel.strides("target", (1, f["out_h"], f["out_w"]))
        kernel.drain_raw(code, targets[-1], m, **where)
    return code, targets


def check(rng, overlay, kept, group, batch=1, name="int8", forms=kernel.FORMS, small=False):
    f, w, content = layer(rng, overlay, batch, kept, group, name, small)
    code, targets = program(overlay, f, w, batch=batch)
    words = kernel.check(code, wide.placed(content), batch, forms)
    m = batch * f["out_h"] * f["out_w"]
    found = [kernel.raw_sums(words, target, m) for target in targets]
    np.testing.assert_array_equal(
        found, wide.dense_sums(f, w.operands, content, batch).astype(np.int32)
    )


@kernel.examples(40)
@given(seeds, st.sampled_from(patterns(WIDE)), st.integers(1, 2))
def test_sums_are_those_of_the_dense_product(seed, pattern, batch):
    check(np.random.default_rng(seed), WIDE, *pattern, batch)


@kernel.examples(20)
@given(seeds, st.sampled_from(patterns(NARROW)), st.integers(1, 2))
def test_two_beats_per_row(seed, pattern, batch):
    check(np.random.default_rng(seed), NARROW, *pattern, batch)


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("pattern", [(2, 4), (1, 4), (4, 8), (1, 2)], ids=str)
def test_values_of_other_formats(name, pattern, rng):
    check(rng, WIDE, *pattern, name=name)


@pytest.mark.parametrize("pattern", patterns(NANO), ids=str)
def test_exact(pattern, rng):
    check(rng, NANO, *pattern, forms=("exact",), small=True)


def test_every_group_all_zero_and_all_full(rng):
    for value in (0, -128, 127):
        f, w, content = layer(rng, WIDE, 1, 2, 4, small=True)
        full = np.zeros_like(w.operands)
        full[..., 1::2] = value
        w = NmWeights(full, w.quant, 2, 4, WIDE.lanes)
        content[:] = -128
        code, targets = program(WIDE, f, w)
        words = kernel.check(code, wide.placed(content))
        expected = wide.dense_sums(f, w.operands, content, 1)[0]
        np.testing.assert_array_equal(kernel.raw_sums(words, targets[0], 2), expected)


def faults(overlay, code, forms=("functional", "cycle")):
    """(status, detail) on golden and in simulations."""
    found = []
    for device, options in [("golden", {}), *(("csim", {"form": form}) for form in forms)]:
        with pytest.raises(DeviceError) as caught:
            kernel.run(code, device, **options)
        assert isinstance(caught.value, FaultError)
        found.append((caught.value.status, str(caught.value).split("row ")[-1].split(" ")[0]))
    return found


@kernel.examples(20)
@given(seeds)
def test_positions_that_do_not_ascend_are_a_fault(seed):
    rng = np.random.default_rng(seed)
    f, w, _ = layer(rng, WIDE, 1, 2, 4, small=True)
    rows = w.packed(0, 1)
    at, lane = rng.integers(0, w.index_rows), rng.integers(0, WIDE.lanes)
    rows[at, lane] = 0  # two slots of a group name the same channel
    code, _ = program(WIDE, f, w, rows)
    found = faults(WIDE, code)
    assert found[0][0] == 10
    assert len(set(found)) == 1


@pytest.mark.parametrize(
    "change",
    [{"codes": 0}, {"codes": nm.codes(2, 4) + 1}, {"codes": nm.codes(4, 8)}, {"words": 1},
     {"words": 4}, {"activation_bits": 4}, {"rows": 5}, {"codes": nm.codes(2, 4) | 64}],
    ids=str,
)  # fmt: skip
def test_patterns_that_the_array_does_not_take(change, rng):
    f, w, _ = layer(rng, NARROW, 1, 2, 4, small=True)
    code, _ = program(NARROW, f | change, w)
    assert {status for status, _ in faults(NARROW, code)} == {2}


def test_folds_are_half_and_a_quarter():
    """Of 16 channel blocks: 2:4 takes half the folds of the dense array, 1:4 a quarter."""
    rows = 64 * WIDE.lanes
    dense = systolic.clocks(_fields(WIDE, {}), WIDE, 1, {})
    half = systolic.clocks(_fields(WIDE, NmWeights(*_empty(2, 4)).precision.fields()), WIDE, 1, {})
    less = systolic.clocks(_fields(WIDE, NmWeights(*_empty(1, 4)).precision.fields()), WIDE, 1, {})
    assert (half.matrix, less.matrix) == (dense.matrix // 2, dense.matrix // 4)
    assert dense.matrix == 16 * rows // WIDE.lanes


def _empty(kept, group):
    return np.zeros((8, 1, 1, 128), np.int64), Quant(np.float32(1)), kept, group, WIDE.lanes


def _fields(overlay, precision):
    f = {"tiles": 1, "blocks": 16, "overlap": 1, "first": 1, "last": 1, "rows": 0}
    return systolic.plain(overlay) | kernel.simple_window(1, 64) | f | {"engine": 0} | precision


@pytest.mark.parametrize(
    ("kept", "group", "value", "why"),
    [(2, 4, 0, None), (2, 4, 1, "more than 2"), (3, 4, 0, "more than half"),
     (1, 3, 0, "powers of two"), (4, 32, 0, "powers of two")],
)  # fmt: skip
def test_fits_says_why_not(kept, group, value, why):
    found = fits(np.full((4, 1, 1, 16), value), kept, group, WIDE)
    assert found is None if why is None else why in found
    assert "no engine" in fits(np.zeros((1, 1, 1, 4)), 2, 4, kernel.NANO)


def test_densest_counts_the_last_short_group():
    w = np.zeros((1, 1, 1, 6))
    w[..., 3:] = 1
    np.testing.assert_array_equal(densest(w, 4), [[[1, 2]]])
