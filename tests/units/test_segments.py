"""Segments: PLAN as published, networks against their lines, training, greedy fits."""

from __future__ import annotations

import numpy as np
import pytest

from weft.nonlinear import FUNCTIONS, METHODS, nnlut
from weft.nonlinear.fit import Curve, shift_segments
from weft.units.segments import FLAT, Segments, ShiftSegments
from weft.units.table import GUARD

SIGMOID = FUNCTIONS["sigmoid"]


def plan() -> ShiftSegments:
    """PLAN, 12 fraction bits in and 14 out: |x| < 1, < 2.375, < 5, else 1; 1 - y below 0."""
    right = [(0.0, 0.5, 0.25), (1.0, 0.75, 0.125), (2.375, 0.91796875, 0.03125), (5.0, 1.0, 0.0)]
    left = [(-8.0, 0.0, 0.0), (-5.0, 0.0, 0.03125), (-2.375, 0.078125, 0.125), (-1.0, 0.25, 0.25)]
    rows = [*left, *right]
    start = [round(x * 4096) for x, _, _ in rows] + [(1 << 17) - 1] * 8
    value = [(round(y * 16384) << GUARD) + (1 << (GUARD - 1)) for _, y, _ in rows]
    shift = [FLAT if s == 0 else round(np.log2(s * 4)) + GUARD for _, _, s in rows]
    columns = (start, value + value[-1:] * 8, shift + [FLAT] * 8, [1] * 16)
    return ShiftSegments((0, 16384), 32767, *(np.array(c, np.int64) for c in columns))


def test_plan_has_its_published_error() -> None:
    x = SIGMOID.codes
    y = SIGMOID.output.decode(plan()(x))
    error = np.abs(y - SIGMOID.real(SIGMOID.input.decode(x)))
    assert error.max() == pytest.approx(0.01894, abs=5e-5)
    assert error[x == 4096] >= error.max() - 2.0**-13  # at x = 1, but for a step of the output
    assert error.mean() == pytest.approx(0.0059, abs=1e-4)
    plain = np.abs(x / 4096)
    expected = np.select(
        [plain < 1, plain < 2.375, plain < 5],
        [0.25 * plain + 0.5, 0.125 * plain + 0.625, 0.03125 * plain + 0.84375],
        1.0,
    )
    off = np.abs(y - np.where(x < 0, 1 - expected, expected)) > 2.0**-14
    assert x[off].tolist() == [-9728]  # -2.375, where PLAN jumps: segments own their left end


def test_sixteen_fitted_lines_are_four_times_better_than_plan() -> None:
    assert METHODS["sigmoid", "pwl2"].error < 0.01894 / 4
    unit = METHODS["sigmoid", "pwl2"].unit
    assert isinstance(unit, ShiftSegments)
    assert set(unit.sign.tolist()) <= {-1, 0, 1}
    fewer = shift_segments(Curve.from_function(SIGMOID), 8)
    y = SIGMOID.output.decode(fewer(SIGMOID.codes))
    assert np.abs(y - SIGMOID.real(SIGMOID.input.decode(SIGMOID.codes))).max() < 0.01894


def test_lines_are_the_network() -> None:
    """Units that turn right, turn left, and never turn; 10,000 points."""
    rng = np.random.default_rng(0)
    n, b, m = rng.normal(size=(3, 24))
    n[:3] = 0
    network = nnlut.Network(n, b, m)
    start, slope, intercept = network.lines(-3.0, 3.0)
    assert len(start) <= 22
    x = rng.uniform(-3, 3, 10_000)
    i = np.searchsorted(start, x, side="right") - 1
    assert np.abs(slope[i] * x + intercept[i] - network(x)).max() < 1e-9


@pytest.mark.parametrize("name", nnlut.trained())
def test_trained_networks_give_sixteen_segments(name: str) -> None:
    network = nnlut.trained()[name]
    assert len(network.lines(-1, 1)[0]) <= nnlut.SEGMENTS
    unit = nnlut.to_segments(name, network)
    assert isinstance(unit, Segments)
    assert (np.diff(unit.start) >= 0).all()


def test_training_reaches_what_is_stored() -> None:
    method = METHODS["sigmoid", "nnlut"]
    unit = nnlut.to_segments("sigmoid", nnlut.train("sigmoid", steps=800))
    y = SIGMOID.output.decode(unit(SIGMOID.codes))
    assert np.abs(y - SIGMOID.real(SIGMOID.input.decode(SIGMOID.codes))).max() < 1.5 * method.error


def test_training_writes_its_file(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(nnlut, "FILE", tmp_path / "nnlut.json")
    nnlut.main(["exp2"], steps=2)
    nnlut.trained.cache_clear()
    try:
        assert list(nnlut.trained()) == ["exp2"]
    finally:
        nnlut.trained.cache_clear()
