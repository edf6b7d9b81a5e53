"""The gather engine: dense and masked products of a few rows, on golden and in every simulation."""

from __future__ import annotations

import numpy as np
import pytest
import wide
from hypothesis import given
from hypothesis import strategies as st

import kernel
from kernel import Code
from weft import isa
from weft.config import Overlay
from weft.lower.gather import GatherWeights
from weft.state import FaultError
from weft.units import gather

SIZES = (8, 8, 8, 1024, 64, 8, 64)
OVERLAYS = {
    "one beat": Overlay("gather8", *SIZES, engines=("gather",)),
    "two beats": Overlay("gather16", 16, 16, 8, 1024, 64, 8, 64, engines=("gather", "systolic")),
    "wide operands": Overlay("gather32", 32, 32, 32, 2048, 64, 8, 64, weight_bits=16,
                             engines=("gather",)),
}  # fmt: skip
NANO = Overlay("gathernano", 8, 8, 8, 64, 16, 2, 16, engines=("gather",))
seeds = st.integers(0, 2**32 - 1)
each_overlay = pytest.mark.parametrize("name", OVERLAYS)


def layer(rng, overlay, batch, *, dense=False, book=False, density=None, small=False):
    """A MatMul of a few rows, its weights and its input."""
    f = kernel.simple_window(1, 1) | {"pad_y": 0, "pad_x": 0}
    if not small:
        f = kernel.random_window(rng, overlay, batch) | {"kernel_h": 1, "kernel_w": 1}
        f |= {"out_h": 1, "out_w": int(rng.integers(1, gather.ROWS // batch + 1))}
    f |= {"blocks": 2 if small else int(rng.integers(1, 12)), "tiles": 1, "source": 3}
    f |= {"first": 1, "last": 1, "overlap": 1, "pad": int(rng.integers(-128, 128))}
    f |= kernel.strides("source", (f["blocks"], f["height"], f["width"]))
    f["source_block"] |= 1
    f["source_sample"] = f["blocks"] * f["source_block"]
    k = int(rng.integers(1, overlay.lanes + 1)) + (f["blocks"] - 1) * overlay.lanes
    values = rng.integers(-128, 128, 15) if book else np.arange(-128, 128)
    density = rng.choice([0, 0.02, 0.1, 0.25, 0.5, 0.9, 1]) if density is None else density
    shape = (int(rng.integers(1, overlay.lanes + 1)), k)
    w = rng.choice(values, shape) * (rng.random(shape) < density)
    weights = GatherWeights(w, overlay.lanes, dense)
    assert (weights.book is not None) or not book
    f |= weights.precision.fields() | {"pace": 1}
    return f, weights, kernel.codes(rng, batch * f["source_sample"], overlay.lanes)


def program(overlay, f, weights, batch, rows=None):
    code = kernel.set_parameters(Code(overlay), (0, 0, 0, 0, 0))
    rows = weights.packed(0, 1) if rows is None else rows
    if len(rows):
        code.feed(rows)
    code.add(isa.MAT_MUL, **f, rows=len(rows))
    m = batch * f["out_h"] * f["out_w"]
    target = overlay.buffer_words - 4 * m
    kernel.drain_raw(code, target, m, **kernel.strides("target", (1, f["out_h"], f["out_w"])))
    return code, target, m


def expected(f, weights, content, batch):
    """Sums [M, N] by a loop over positions."""
    found = []
    for b, oy, ox in np.ndindex(batch, f["out_h"], f["out_w"]):
        iy, ix = oy * f["stride_y"] - f["pad_y"], ox * f["stride_x"] - f["pad_x"]
        inside = 0 <= iy < f["height"] and 0 <= ix < f["width"]
        at = b * f["source_sample"] + iy * f["width"] + ix
        blocks = at + np.arange(f["blocks"]) * f["source_block"]
        lanes = content.shape[1]
        x = content[blocks] if inside else np.full((f["blocks"], lanes), f["pad"])
        w = weights.operands.astype(np.int64)
        found.append(w @ x.reshape(-1)[: w.shape[1]].astype(np.int64))
    return np.array(found)


def check(rng, overlay, batch=1, forms=kernel.FORMS, **options):
    f, weights, content = layer(rng, overlay, batch, **options)
    code, target, m = program(overlay, f, weights, batch)
    words = kernel.check(code, wide.placed(content), batch, forms)
    sums = kernel.raw_sums(words, target, m)
    n = len(weights.operands)
    np.testing.assert_array_equal(sums[:, :n], expected(f, weights, content, batch))
    assert not sums[:, n:].any()


@each_overlay
@kernel.examples(25)
@given(seeds, st.integers(1, 2), st.booleans(), st.booleans())
def test_sums_and_clocks(name, seed, batch, dense, book):
    check(np.random.default_rng(seed), OVERLAYS[name], batch, dense=dense, book=book)


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("book", [False, True])
def test_exact(dense, book):
    rng = np.random.default_rng(3)
    for density in (0, 0.3, 1):
        options = {"dense": dense, "book": book, "density": density}
        check(rng, NANO, forms=("exact",), small=True, **options)


def faults(code, batch=1):
    forms = [("csim", {"form": form}) for form in kernel.FORMS]
    return [ending(code, batch, *device) for device in [("golden", {}), *forms]]


def ending(code, batch, device, options):
    """Status and row of a fault; None where there is none."""
    try:
        kernel.run(code, device, batch=batch, **options)
    except FaultError as error:
        return error.status, str(error).split("row ")[-1].split(" ")[0]
    return None


@each_overlay
@kernel.examples(30)
@given(seeds, st.sampled_from(["bit", "cut", "more", "noise", "none"]), st.booleans())
def test_damaged_streams_end_alike(name, seed, damage, book):
    """Same status and row everywhere, or the same sums: nothing hangs or leaves its memories."""
    rng, overlay = np.random.default_rng(seed), OVERLAYS[name]
    f, weights, _ = layer(rng, overlay, 1, book=book)
    rows = weights.packed(0, 1).copy()
    if damage == "bit":
        rows.view(np.uint8)[rng.integers(len(rows)), rng.integers(overlay.lanes)] ^= 1 << int(
            rng.integers(8)
        )
    elif damage == "cut":
        rows = rows[: rng.integers(1, len(rows) + 1)]
    elif damage == "more":
        rows = np.concatenate([rows, kernel.codes(rng, 3, overlay.lanes)])
    elif damage == "noise":
        rows = kernel.codes(rng, int(rng.integers(1, 40)), overlay.lanes)
    elif damage == "none":
        rows = rows[:0]
    code, _, _ = program(overlay, f, weights, 1, rows)
    found = faults(code)
    assert len(set(found)) == 1
    assert damage not in ("none", "more") or found[0][0] == 10


@pytest.mark.parametrize(
    "change",
    [{"words": 1}, {"codes": 4}, {"kernel_w": 2}, {"first": 0}, {"last": 0}, {"shift": 1},
     {"out_h": 9}, {"source_block": 2}],
    ids=str,
)  # fmt: skip
def test_fields_that_the_engine_does_not_take(change):
    rng, overlay = np.random.default_rng(1), OVERLAYS["one beat"]
    f, weights, _ = layer(rng, overlay, 1, small=True)
    code, _, _ = program(overlay, f | change, weights, 1)
    assert {status for status, _ in faults(code)} == {2}


def test_dense_weights_keep_up_with_the_port():
    """One row of memory per clock, all but the first."""
    overlay = OVERLAYS["one beat"]
    f, _, content = layer(np.random.default_rng(2), overlay, 1, dense=True, small=True)
    weights = GatherWeights(np.arange(128).reshape(8, 16), overlay.lanes, dense=True)
    f |= weights.precision.fields()
    code, _, _ = program(overlay, f, weights, 1)
    _, result = kernel.run(code, content=wide.placed(content))
    rows = overlay.lanes * f["blocks"]
    assert (result.counters["matrix"], result.counters["weight_shift"]) == (rows, 1)


@pytest.mark.parametrize(("density", "share"), [(0.5, 0.55), (0.25, 0.3), (0.1, 0.27)])
def test_windows_save_clocks(density, share):
    """Up to four blocks per clock, no more weights than multipliers."""
    rng = np.random.default_rng(4)
    w = rng.integers(1, 128, (64, 1024)) * (rng.random((64, 1024)) < density)
    lanes = 32
    bits = np.packbits((w != 0).reshape(-1), bitorder="little").reshape(-1, lanes)
    made = gather.windows(bits, 64 * 32, 32, lanes, dense=False)
    assert max(map(max, made)) <= lanes
    assert sum(map(len, made)) <= share * 64 * 32 * 1.3
