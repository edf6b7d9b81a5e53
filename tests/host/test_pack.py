"""Words of activation memory: where every element lies, quantized as `Quant` says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quantized import codes
from quantized import scale as quant

from weft.errors import ShapeError
from weft.pack import pack, unpack, words
from weft.program import Layout, Region, Unfold

LETTERS = ("c", "h", "w")


@st.composite
def layouts(draw: Any) -> Layout:
    """Channels, height and width in any order, split over any number of dimensions."""
    size = [draw(st.integers(1, 20)), draw(st.integers(1, 5)), draw(st.integers(1, 5))]
    order = draw(st.permutations(LETTERS))
    first = draw(st.integers(1, 3))
    second = draw(st.integers(first, 3))
    parts = (tuple(order[:first]), tuple(order[first:second]), tuple(order[second:]))
    return Layout(*size, ((), *(p for p in parts if p)))


@settings(deadline=None)
@given(layouts(), st.integers(1, 3), st.sampled_from([4, 8, 16]))
def test_every_element_is_where_the_layout_says(layout: Layout, n: int, lanes: int) -> None:
    size = {"c": layout.channels, "h": layout.height, "w": layout.width}
    shape = [int(np.prod([size[c] for c in dim])) for dim in layout.dims[1:]]
    x = codes(n, *shape)
    region = Region(0, layout, quant(0.1, 5))
    rows = pack(x, region, lanes)
    assert rows.shape == (n * layout.words(lanes), lanes)
    assert rows.dtype == np.int8
    order = [letter for dim in layout.dims for letter in dim]
    cube = x.reshape(n, *(size[c] for c in order))
    blocks = rows.reshape(n, layout.blocks(lanes), layout.height, layout.width, lanes)
    for index in np.ndindex(cube.shape):
        at = dict(zip(order, index[1:], strict=True))
        word = blocks[index[0], at["c"] // lanes, at["h"], at["w"]]
        assert word[at["c"] % lanes] == cube[index]
    used = np.zeros(layout.blocks(lanes) * lanes, bool)
    used[: layout.channels] = True
    assert not blocks.transpose(0, 2, 3, 1, 4).reshape(-1, used.size)[:, ~used].any()
    np.testing.assert_array_equal(unpack(rows, region, n, (1, *shape)), x)


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=16), st.integers(-128, 127))
def test_real_values_become_the_codes_of_the_quantization(values: list[float], zero: int) -> None:
    x = np.asarray(values, np.float32).reshape(1, -1)
    q = quant(0.37, zero)
    region = Region(0, Layout(x.shape[1], 1, 1, ((), ("c",))), q)
    rows = pack(x, region, 16)
    np.testing.assert_array_equal(rows[0, : x.shape[1]], q.quantize(x)[0])


@settings(deadline=None)
@given(layouts(), st.integers(1, 3), st.sampled_from([4, 8, 16]))
def test_int16_take_two_rows_a_word(layout: Layout, n: int, lanes: int) -> None:
    """Low bytes, then high bytes, of the words that int8 codes of this layout would lie in."""
    layout = replace(layout, bits=16)
    size = {"c": layout.channels, "h": layout.height, "w": layout.width}
    shape = [int(np.prod([size[c] for c in dim])) for dim in layout.dims[1:]]
    x = np.random.default_rng(n).integers(-32768, 32768, (n, *shape)).astype(np.int16)
    wide = Region(0, layout, replace(quant(0.1), format="int16"))
    rows = pack(x, wide, lanes)
    assert rows.shape == (n * layout.words(lanes), lanes)
    narrow = Region(0, replace(layout, bits=8), quant(0.1))
    low, high = (pack(part.astype(np.int8), narrow, lanes) for part in (x & 255, x >> 8))
    np.testing.assert_array_equal(rows[::2], low)
    np.testing.assert_array_equal(rows[1::2], high)
    np.testing.assert_array_equal(unpack(rows, wide, n, (1, *shape)), x)


def test_integers_are_real_values_unless_they_are_codes() -> None:
    region = Region(0, Layout(4, 1, 1, ((), ("c",))), quant(2.0, 0))
    np.testing.assert_array_equal(pack(np.array([[2, 4, 6, 8]]), region, 4), [[1, 2, 3, 4]])
    same = np.array([[2, 4, 6, 8]], np.int8)
    np.testing.assert_array_equal(pack(same, region, 4), same)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_unfold_gathers_the_taps_that_it_names(data: Any) -> None:
    draw = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    layout = Layout(draw(1, 2), draw(3, 8), draw(3, 8), ((), ("c",), ("h",), ("w",)))
    unfold = Unfold(
        rows=draw(1, 3),
        kernel_w=draw(1, 2),
        step_y=draw(1, 2),
        stride_x=draw(1, 2),
        dilation_y=draw(1, 2),
        dilation_x=draw(1, 2),
        pad_y=draw(-2, 2),
        pad_x=draw(-2, 2),
        height=draw(1, 6),
        width=draw(1, 6),
    )
    region = Region(0, layout, quant(0.1, 9), unfold)
    x = codes(2, layout.channels, layout.height, layout.width)
    rows = pack(x, region, 16).reshape(2, unfold.height, unfold.width, 16)
    assert words(region, 16) == unfold.height * unfold.width
    for b, y, column in np.ndindex(rows.shape[:3]):
        expected = np.zeros(16, np.int8)
        taps = np.ndindex(unfold.rows, unfold.kernel_w, layout.channels)
        for lane, (i, j, c) in enumerate(taps):
            iy = y * unfold.step_y + i * unfold.dilation_y - unfold.pad_y
            ix = column * unfold.stride_x + j * unfold.dilation_x - unfold.pad_x
            inside = 0 <= iy < layout.height and 0 <= ix < layout.width
            expected[lane] = x[b, c, iy, ix] if inside else 9
        np.testing.assert_array_equal(rows[b, y, column], expected)


def test_flattened_description_takes_the_whole_shape() -> None:
    region = Region(0, Layout(12, 1, 1, ((), ("c",))), quant(0.1))
    x = codes(2, 1, 3, 4)
    np.testing.assert_array_equal(pack(x, region, 4).reshape(2, 12), x.reshape(2, 12))


def test_samples_of_another_size_are_refused() -> None:
    region = Region(0, Layout(12, 1, 1, ((), ("c",))), quant(0.1))
    with pytest.raises(ShapeError, match=r"\(3, 3\).*9 elements.*12"):
        pack(np.zeros((2, 3, 3), np.float32), region, 4)
