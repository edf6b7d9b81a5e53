"""The SNAP engine: against the dense product, golden and every simulation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import wide
from hypothesis import given
from hypothesis import strategies as st

import kernel
from kernel import Code
from weft import isa
from weft.config import Overlay
from weft.errors import OverlayError
from weft.lower.snap import SnapWeights, fits
from weft.state import FaultError
from weft.units import snap_stream
from weft.units.snap_plan import Plan

ENGINES = ("systolic", "snap")
SMALL = Overlay("snap4", 4, 4, 4, 512, 64, 8, 64, engines=ENGINES, snap_cores=2, snap_rows=3,
                snap_cols=2, snap_macs=2, snap_bundle=8, snap_depth=12)  # fmt: skip
PAPER = Overlay("snap8", 8, 8, 8, 1024, 128, 8, 64, engines=ENGINES, snap_cores=1, snap_depth=32)
WIDE = Overlay("snap16", 16, 16, 8, 1024, 128, 8, 64, engines=(*ENGINES, "nm"), snap_cores=4,
               snap_rows=7, snap_macs=4, snap_bundle=16, snap_depth=64)  # fmt: skip
NANO = Overlay("snapnano", 4, 4, 4, 64, 16, 2, 16, engines=("snap",), snap_rows=2, snap_cols=2,
               snap_bundle=8, snap_depth=6)  # fmt: skip
seeds = st.integers(0, 2**32 - 1)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


def sparse(rng, shape, density, values=None):
    """Integers of which about `density` are not 0, now and then none or all of a bundle."""
    low, high = (-128, 128) if rng.integers(0, 3) else (127, 128)
    w = rng.integers(low, high, shape) if values is None else rng.choice(values, shape)
    keep = rng.random(shape) < density
    if rng.integers(0, 3) == 0:
        keep &= rng.random((*shape[:3], 1)) < 0.5
    return np.where(keep, w, 0)


def layer(rng, overlay, batch, small=False):
    """A MatMul, its weights and the map."""
    tiles = 1 if small else int(rng.integers(1, 3))
    limited = replace(overlay, accumulator_rows=overlay.accumulator_rows // tiles)
    f = kernel.simple_window(1, 2) if small else kernel.random_window(rng, limited, batch)
    f |= {"pad_y": f.get("pad_y", 0), "pad_x": f.get("pad_x", 0)}
    words = overlay.snap_bundle // overlay.rows
    most = overlay.snap_cols * overlay.snap_depth // (f["kernel_h"] * f["kernel_w"]) * words
    f |= {"blocks": 2 if small else int(rng.integers(1, min(most, 6) + 1)), "tiles": tiles}
    f |= {"source": 3, "first": 1, "last": 1}
    f |= kernel.strides("source", (f["blocks"], f["height"], f["width"]))
    channels = int(rng.integers(1, overlay.lanes)) + (f["blocks"] - 1) * overlay.lanes
    outputs = int(rng.integers(1, overlay.lanes)) + (f["tiles"] - 1) * overlay.lanes
    shape = (outputs, f["kernel_h"], f["kernel_w"], channels)
    few = rng.integers(-(1 << 15), 1 << 15, 15) if rng.integers(0, 2) else None
    w = SnapWeights(sparse(rng, shape, rng.choice([0, 0.1, 0.3, 0.5, 1]), few), overlay)
    f |= w.precision.fields() | {"pad": int(rng.choice([-128, 127, 0, 5])), "pace": 1}
    f["rows"] = w.rows(0, f["tiles"])
    content = kernel.codes(rng, 3 + batch * f["source_sample"], overlay.lanes)
    zero = rng.random(content.shape) >= rng.choice([0, 0.1, 0.3, 0.5, 1])
    return f, w, np.where(zero, f["pad"], content).astype(np.int8)


def program(overlay, f, rows, batch=1, planes=4):
    """The MatMul once for every byte of its sums, which its Activate writes."""
    code = kernel.set_parameters(Code(overlay), (0, 0, 0, 0, 0))
    start = sum(map(len, code.weights))
    code.weights.append(rows)
    count = f["tiles"] * batch * f["out_h"] * f["out_w"]
    target = overlay.buffer_words - planes * count
    where = kernel.strides("target", (f["tiles"], f["out_h"], f["out_w"]))
    where["target_sample"], where["target_block"] = f["out_h"] * f["out_w"], count // f["tiles"]
    for byte in range(planes):
        code.add(isa.READ_WEIGHTS, memory=start, rows=len(rows))
        code.add(isa.MAT_MUL, **f)
        code.add(isa.ACTIVATE, target=target + byte * count, mode=isa.RAW_BYTE + byte, **where)
    return code, target


@given(seed=seeds, overlay=st.sampled_from([SMALL, PAPER, WIDE]), batch=st.integers(1, 3))
@kernel.examples(60)
def test_it_is_the_dense_product_on_every_device(seed, overlay, batch):
    rng = np.random.default_rng(seed)
    f, w, content = layer(rng, overlay, batch)
    assert fits(w.operands, overlay) is None
    code, target = program(overlay, f, w.packed(0, f["tiles"]), batch)
    words = kernel.check(code, content, batch)
    there = content[f["source"] :]
    expected = wide.dense_sums(f, w.operands, there, batch, f["pad"])
    found = kernel.raw_sums(words, target, expected.shape[0] * expected.shape[1])
    same = expected.astype(np.uint32).astype(np.int32)
    np.testing.assert_array_equal(found.reshape(same.shape), same)


@given(seed=seeds)
@kernel.examples(8)
def test_exact_arithmetic_agrees(seed):
    rng = np.random.default_rng(seed)
    f, w, content = layer(rng, NANO, 1, small=True)
    code, _ = program(NANO, f, w.packed(0, 1), planes=1)
    kernel.check(code, content, forms=("cycle", "exact"))


def outcome(code, content, device, **options):
    """What a run leaves, or its status and the row of the weights."""
    try:
        words, result = kernel.run(code, device, content=content, **options)
    except FaultError as error:
        return error.status, error.detail
    return words.tobytes(), dict(result.counters)


def corrupted(rng, rows, f):
    """Rows [rows, lanes] with a few bytes changed, cut or grown, and the MatMul that takes them."""
    rows = rows.copy()
    kind = rng.integers(0, 4)
    if kind == 0:
        rows = rows[: max(1, rng.integers(0, len(rows)))]
    elif kind == 1:
        more = rng.integers(-128, 128, (rng.integers(1, 4), rows.shape[1]))
        rows = np.concatenate([rows, more.astype(np.int8)])
    elif kind == 2:
        rows = rng.integers(-128, 128, rows.shape).astype(np.int8)
    for _ in range(rng.integers(0, 4)):
        rows.reshape(-1)[rng.integers(0, rows.size)] = rng.integers(-128, 128)
    return np.ascontiguousarray(rows), f | {"rows": len(rows)}


@given(seed=seeds, overlay=st.sampled_from([SMALL, PAPER]))
@kernel.examples(80)
def test_corrupted_streams_end_alike_on_every_device(seed, overlay):
    rng = np.random.default_rng(seed)
    f, w, content = layer(rng, overlay, 1)
    rows, f = corrupted(rng, w.packed(0, f["tiles"]), f)
    code, _ = program(overlay, f, rows, planes=1)
    expected = outcome(code, content, "golden")
    for form in kernel.FORMS:
        assert outcome(code, content, "csim", form=form) == expected, form


@given(seed=seeds)
@kernel.examples(6)
def test_corrupted_streams_end_alike_in_exact_arithmetic(seed):
    rng = np.random.default_rng(seed)
    f, w, content = layer(rng, NANO, 1, small=True)
    rows, f = corrupted(rng, w.packed(0, 1), f)
    code, _ = program(NANO, f, rows, planes=1)
    assert outcome(code, content, "csim", form="exact") == outcome(code, content, "golden")


def point(overlay, rows, blocks=1, **more):
    """A 1 × 1 MatMul over two positions."""
    f = kernel.simple_window(1, 2) | {"blocks": blocks, "tiles": 1, "first": 1, "last": 1}
    f |= kernel.strides("source", (blocks, 1, 2)) | {"activation_bits": 8, "words": 1}
    return f | {"engine": isa.ENGINES.index("snap"), "pace": 1, "rows": rows} | more


def test_each_contradiction_names_its_row(rng):
    w = SnapWeights(rng.integers(-128, 0, (4, 1, 1, 8)), NANO)
    good = w.packed(0, 1).view(np.uint8)
    assert good[0, :4].view("<u4") == len(good)  # one block of all rows
    content = kernel.codes(rng, 4, 4)

    def end(rows, **more):
        code, _ = program(NANO, point(NANO, len(rows), 2, **more), rows.view(np.int8), planes=1)
        found = {str(outcome(code, content, "csim", form=form)) for form in kernel.FORMS}
        found.add(str(outcome(code, content, "golden")))
        assert len(found) == 1
        return found.pop()

    def changed(at, value):
        rows = good.copy()
        rows.reshape(-1)[at] = value
        return rows

    last = len(good)
    assert end(changed(0, 0)) == "(10, 'row 0 of its weights')"  # a block without rows
    assert (
        end(changed(0, last + 1)) == "(10, 'row 0 of its weights')"
    )  # or with more than there are
    assert end(changed(4, 1 | snap_stream.LAST)) == "(10, 'row 1 of its weights')"  # bundle 1 of 1
    assert end(good[:-1]) == "(10, 'row 0 of its weights')"
    cut = changed(0, last - 1)[:-1]
    assert end(cut) == f"(10, 'row {last - 1} of its weights')"  # a record without its end
    grown = np.concatenate([good, good[:1]])
    assert end(grown) == f"(10, 'row {last} of its weights')"  # rows that nobody needs
    grown[0, 0] += 1
    assert end(grown) == f"(10, 'row {last} of its weights')"  # also inside the block
    assert end(good[:3], codes=1) == "(10, 'row 3 of its weights')"  # half a codebook


@pytest.mark.parametrize("field", [{"words": 2}, {"activation_bits": 4}, {"codes": 2}])
def test_other_precisions_are_refused(rng, field):
    rows = np.zeros((1, 4), np.int8)
    code, _ = program(NANO, point(NANO, 1) | field, rows, planes=1)
    for device in ("golden", "csim"):
        assert outcome(code, None, device)[0] == 2


def test_bundles_that_do_not_fit_are_refused(rng):
    most = NANO.snap_cols * NANO.snap_depth
    w = rng.integers(1, 5, (4, 1, most + 1, 3))
    assert f"{most + 1} bundles per output exceed the {most}" in fits(w, NANO)
    rows = np.zeros((1, 4), np.int8)
    code, _ = program(NANO, point(NANO, 1, kernel_w=most + 1), rows, planes=1)
    for device in ("golden", "csim"):
        assert outcome(code, None, device)[0] == 2
    assert fits(w[:, :, :most], NANO) is None


def test_weights_say_why_they_do_not_fit(rng):
    wide = rng.integers(-300, 300, (4, 1, 1, 40))
    assert "neither int8 nor at most 15 values" in fits(wide, NANO)
    assert "no engine snap" in fits(wide, kernel.NANO)
    assert "exceed 16 bits" in fits(np.full((1, 1, 1, 1), 1 << 20), NANO)
    assert fits(np.clip(wide, -128, 127), NANO) is None
    with pytest.raises(OverlayError, match="snap_bundle = 8 is not a multiple"):
        replace(PAPER, rows=16, cols=16, snap_bundle=8).verify()


@given(seed=seeds, overlay=st.sampled_from([SMALL, PAPER, WIDE, NANO]))
@kernel.examples(60)
def test_packed_weights_are_read_as_they_were(seed, overlay):
    """Also with gaps of more than 128 bundles, which take records of their own."""
    rng = np.random.default_rng(seed)
    taps = int(rng.integers(1, overlay.snap_cols * overlay.snap_depth + 1))
    w = sparse(rng, (int(rng.integers(1, 20)), 1, taps, 5), rng.choice([0, 0.002, 0.1, 1]))
    packed = SnapWeights(w, overlay)
    plan = Plan.make(3, packed.blocks, taps, packed.tiles, overlay)
    if plan.per_tap > 1 and plan.bundles > overlay.snap_cols * overlay.snap_depth:
        return
    rows = packed.packed(0, packed.tiles).view(np.uint8)
    records = snap_stream.parse(rows, plan, overlay, packed.coded)
    dense, there = records.dense(plan, overlay)
    found = dense.reshape(plan.outputs, taps, -1)
    np.testing.assert_array_equal(found[: len(w), :, :5], w[:, 0])
    assert there.sum() == np.count_nonzero(w)
    assert not found[len(w) :].any()
    assert not found[:, :, 5:].any()
