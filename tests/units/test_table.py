"""Tables and lines: published errors, the index at and beyond its ends, what does not fit."""

from __future__ import annotations

import numpy as np
import pytest

from weft.errors import InputError
from weft.nonlinear import FUNCTIONS
from weft.nonlinear.fit import Curve, lut, pwl
from weft.units.table import Lut, Pwl, TableIndex

# Of midpoint tables with 16, 64 and 256 entries; of chords with as many segments (spec figures).
MIDPOINT = {
    "sigmoid": (0.122, 0.0312, 0.0078),
    "gelu": (0.558, 0.141, 0.0353),
    "silu": (0.549, 0.137, 0.0344),
    "reciprocal": (0.0303, 0.00775, 0.00195),
}
CHORD = {
    "sigmoid": (0.0116, 7.5e-4, 4.7e-5),
    "gelu": (0.0755, 6.1e-3, 3.9e-4),
    "silu": (0.0544, 3.9e-3, 2.4e-4),
    "reciprocal": (8.9e-4, 6.0e-5, 3.8e-6),
}


def error(name: str, unit: Lut | Pwl) -> float:
    f = FUNCTIONS[name]
    return float(np.abs(f.output.decode(unit(f.codes)) - f.real(f.input.decode(f.codes))).max())


@pytest.mark.parametrize("name", MIDPOINT)
@pytest.mark.parametrize("which", range(3))
def test_tables_have_the_published_errors(name: str, which: int) -> None:
    step = FUNCTIONS[name].output.step
    made = error(name, lut(Curve.from_function(FUNCTIONS[name]), (16, 64, 256)[which]))
    assert made == pytest.approx(MIDPOINT[name][which], rel=0.03, abs=step)


@pytest.mark.parametrize("name", CHORD)
@pytest.mark.parametrize("which", range(3))
def test_best_lines_halve_the_error_of_chords(name: str, which: int) -> None:
    step = FUNCTIONS[name].output.step
    made = error(name, pwl(Curve.from_function(FUNCTIONS[name]), (16, 64, 256)[which]))
    # The largest curvature may lie across a bin's ends, where the halves are not equal.
    assert made <= 0.62 * CHORD[name][which] + 0.75 * step


def test_index_is_clamped_at_both_ends() -> None:
    index = TableIndex(bias=100, bound=3, shift=4)
    x = np.array([-10_000, -101, -100, -85, -84, -37, -36, 10_000])
    np.testing.assert_array_equal(index(x), [0, 0, 0, 0, 1, 3, 3, 3])
    np.testing.assert_array_equal(index(x), np.clip((x + 100) >> 4, 0, 3))


def test_eight_bit_inputs_have_a_table_without_any_error() -> None:
    """256 codes, 256 entries: every code is the middle of its own bin."""
    f = FUNCTIONS["gelu"]
    curve = Curve(-128, 127, lambda c: f.real(c / 16) / f.output.step, (-(1 << 15), (1 << 15) - 1))
    unit, codes = lut(curve, 256), np.arange(-128, 128)
    np.testing.assert_array_equal(unit(codes), np.rint(curve.at(codes)).clip(*curve.limits))


def test_what_does_not_fit_is_named() -> None:
    index = TableIndex(0, 1, 0)
    with pytest.raises(InputError, match="table has 3 entries where its index has 2"):
        Lut(index, np.array([1, 2, 3]))
    with pytest.raises(InputError, match="table entry 131072 does not fit 18 bits"):
        Lut(index, np.array([1, 1 << 17]))
    with pytest.raises(InputError, match=r"a slope of .* does not fit 18 bits"):
        pwl(Curve(0, 63, lambda c: c * 100.0, (0, 1 << 16)), 4)
