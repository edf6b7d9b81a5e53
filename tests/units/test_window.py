"""The window walk: addresses and borders against a loop over positions and taps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kernel
from weft.state import FaultError, State
from weft.units import window

OVERLAY = kernel.OVERLAYS["4x4"]


@given(seed=st.integers(0, 2**32 - 1))
@kernel.examples(60)
def test_walk_is_the_loop_of_the_definition(seed):
    rng = np.random.default_rng(seed)
    batch = int(rng.integers(1, 4))
    f = kernel.random_window(rng, OVERLAY, batch) | {"source": int(rng.integers(0, 9))}
    f |= {f"source_{name}": int(rng.integers(0, 40)) for name in ("sample", "row", "col")}
    address, inside = window.walk(f, batch)
    assert address.shape == inside.shape == (window.taps(f), window.positions(f, batch))
    for ky, kx in np.ndindex(f["kernel_h"], f["kernel_w"]):
        for m, (b, oy, ox) in enumerate(np.ndindex(batch, f["out_h"], f["out_w"])):
            iy = oy * f["stride_y"] + ky * f["dilation_y"] - f["pad_y"]
            ix = ox * f["stride_x"] + kx * f["dilation_x"] - f["pad_x"]
            tap = ky * f["kernel_w"] + kx
            assert inside[tap, m] == (0 <= iy < f["height"] and 0 <= ix < f["width"])
            word = f["source"] + b * f["source_sample"]
            assert address[tap, m] == word + iy * f["source_row"] + ix * f["source_col"]


@given(seed=st.integers(0, 2**32 - 1))
@kernel.examples(30)
def test_source_range_is_what_the_walk_touches_at_most(seed):
    rng = np.random.default_rng(seed)
    batch, blocks = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    f = kernel.random_window(rng, OVERLAY, batch) | {"source": 5, "blocks": blocks}
    f |= kernel.strides("source", (blocks, f["height"], f["width"]))
    first, last = window.source_range(f, batch)
    assert (first, last) == (5, 5 + batch * blocks * f["height"] * f["width"] - 1)
    address, inside = window.walk(f, batch)
    touched = address[inside]
    assert ((touched >= first) & (touched + (blocks - 1) * f["source_block"] <= last)).all()


def test_output_words_count_samples_rows_columns():
    f = {"target": 3, "target_sample": 100, "target_row": 10, "target_col": 2}
    words = window.output_words(f, 2, 2, 3)
    assert words.tolist() == [3, 5, 7, 13, 15, 17, 103, 105, 107, 113, 115, 117]


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"kernel_w": 0}, 2),
        ({"height": 0}, 2),
        ({"blocks": 0}, 2),
        ({"kernel_h": 65535, "dilation_y": 65535}, 2),
        ({"out_w": 65535, "stride_x": 65535}, 2),
        ({"source": 512}, 3),
        ({"source_row": 600, "height": 2}, 3),
        ({}, 0),
    ],
)
def test_check_names_what_is_out_of_range(change, status):
    state = State(OVERLAY, np.zeros((1, 4), np.int8), np.zeros((0, 4), np.int8))
    f = kernel.simple_window(1, 1) | kernel.strides("source", (1, 1, 1))
    f |= {"source": 0, "blocks": 1, "pad_y": 0, "pad_x": 0} | change
    if not status:
        window.check(state, f, 1)
        return
    with pytest.raises(FaultError) as caught:
        window.check(state, f, 1)
    assert caught.value.status == status
