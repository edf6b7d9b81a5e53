"""Calibrators: their rules on data where the answer is known, and onnxruntime's."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from weft.calibrate import CALIBRATORS, HALF, Calibrator, Entropy, Histogram, MeanError, Percentile
from weft.errors import InputError
from weft.formats import int8

each_calibrator = pytest.mark.parametrize("name", CALIBRATORS)

float32s = st.floats(width=32, allow_nan=False, allow_infinity=False)
batches = st.lists(
    hnp.arrays(np.float32, hnp.array_shapes(max_dims=2, max_side=8), elements=float32s),
    min_size=1,
    max_size=4,
)

SAMPLES = {
    "normal": lambda rng, n: rng.normal(size=n),
    "laplace": lambda rng, n: rng.laplace(size=n),
    "student": lambda rng, n: rng.standard_t(4, size=n),
    "gamma": lambda rng, n: rng.gamma(2.0, size=n),
    "shifted": lambda rng, n: rng.normal(3.0, size=n),
}


def fed(calibrator: Calibrator, *parts: np.ndarray) -> Calibrator:
    for part in parts:
        calibrator.observe(part)
    return calibrator


def sample(name: str, n: int = 200_000) -> np.ndarray:
    return SAMPLES[name](np.random.default_rng(7), n).astype(np.float32)


@each_calibrator
@settings(deadline=None)
@given(parts=batches)
def test_range_lies_within_the_data(name: str, parts: list[np.ndarray]) -> None:
    low, high = fed(CALIBRATORS[name](), *parts).range()
    values = np.concatenate([p.reshape(-1) for p in parts])
    assert min(values.min(), 0) <= low <= high <= max(values.max(), 0)
    int8.affine(low, high)  # every range that comes out can be quantized with
    if name == "minmax":
        assert (low, high) == (values.min(), values.max())


@each_calibrator
@settings(deadline=None)
@given(parts=batches, seed=st.integers(0, 99))
def test_batches_and_their_order_do_not_matter(
    name: str, parts: list[np.ndarray], seed: int
) -> None:
    together = np.concatenate([p.reshape(-1) for p in parts])
    shuffled = np.random.default_rng(seed).permutation(together)
    assert fed(CALIBRATORS[name](), *parts).range() == fed(CALIBRATORS[name](), shuffled).range()


@settings(deadline=None)
@given(batches)
def test_histogram_counts_every_value_in_its_bin(parts: list[np.ndarray]) -> None:
    histogram = Histogram()
    fed(histogram, *parts)
    values = np.concatenate([p.reshape(-1) for p in parts]).astype(np.float64)
    inner, _ = np.histogram(values, histogram.edges)
    np.testing.assert_array_equal(histogram.counts, inner)
    assert histogram.zeros == np.count_nonzero(values == 0)
    largest = np.abs(values).max()
    assert largest == 0 or largest >= histogram.edges[-1] / 2  # half of the bins are of use


@pytest.mark.parametrize("percentile", [90.0, 99.0, 99.9, 100.0])
@pytest.mark.parametrize("distribution", SAMPLES)
def test_percentile_keeps_its_share(percentile: float, distribution: str) -> None:
    x = sample(distribution)
    collected = Percentile(percentile)
    low, high = fed(collected, x).range()
    assert np.mean((x >= low) & (x <= high)) >= percentile / 100 - 1e-9
    tail = (100 - percentile) / 2
    width = collected.edges[1] - collected.edges[0]
    for cut, share in ((low, tail), (high, 100 - tail)):
        below, above = (np.percentile(x, share, method=m) for m in ("lower", "higher"))
        assert below - width <= cut <= above + width


@pytest.mark.parametrize("distribution", SAMPLES)
def test_mse_is_the_best_of_its_grid(distribution: str) -> None:
    """On the data itself instead of the histogram: nothing of the grid is 1 % better."""
    x = sample(distribution, 20_000)
    low, high = float(x.min()), float(x.max())

    def error(bounds: tuple[float, float]) -> float:
        quant = int8.affine(*bounds)
        distance = np.abs(quant.dequantize(int8.quantize(x, quant)).astype(np.float64) - x)
        return float(np.sum(distance**2.4))

    grid = [(low * p, high * p) for p in (1 - i / 100 for i in range(80))]
    assert error(fed(MeanError(), x).range()) <= 1.01 * min(map(error, grid))


def test_outliers_are_cut_and_uniform_data_is_not() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=400_000).astype(np.float32)
    x[0] = 50
    for name in ("percentile", "entropy"):
        assert fed(CALIBRATORS[name](), x).range()[1] < 12, name
    flat = rng.uniform(-1, 1, 100_000).astype(np.float32)
    for name in CALIBRATORS:
        low, high = fed(CALIBRATORS[name](), flat).range()
        assert low < -0.95, name
        assert high > 0.95, name


@each_calibrator
def test_zeros_and_constants(name: str) -> None:
    assert fed(CALIBRATORS[name](), np.zeros((2, 3), np.float32)).range() == (0, 0)
    low, high = fed(CALIBRATORS[name](), np.full(9, 2.5, np.float32)).range()
    assert low <= high == 2.5
    sparse = np.zeros(100_000, np.float32)
    sparse[:100] = np.linspace(0.01, 1, 100)  # as after a ReLU: the zeros must not win
    assert fed(CALIBRATORS[name](), sparse).range()[1] > 0.9


@each_calibrator
def test_values_that_are_not_finite_are_counted(name: str) -> None:
    x = np.ones((3, 4), np.float32)
    x[0, 0], x[2, 1] = np.nan, -np.inf
    with pytest.raises(InputError, match="2 of 12 values"):
        CALIBRATORS[name]().observe(x)
    with pytest.raises(InputError, match="no values"):
        CALIBRATORS[name]().range()


def test_percentiles_that_make_no_sense_are_refused() -> None:
    for bad in (0, -1, 100.5):
        with pytest.raises(InputError, match="outside"):
            Percentile(bad)


def onnxruntime_range(method: str, parts: list[np.ndarray]) -> tuple[float, float]:
    calibrate = pytest.importorskip("onnxruntime.quantization.calibrate")
    collector = calibrate.HistogramCollector(method, False, 2048, 128, 99.999, "same")
    with contextlib.redirect_stdout(io.StringIO()):
        for part in parts:
            collector.collect({"x": part})
        low, high = collector.compute_collection_result()["x"][:2]
    return float(low), float(high)


@pytest.mark.oracle
@pytest.mark.parametrize("distribution", SAMPLES)
def test_percentile_agrees_with_onnxruntime(distribution: str) -> None:
    """Both cut at a bin's edge: they differ by their two bins at most."""
    parts = np.split(sample(distribution), 4)
    expected = onnxruntime_range("percentile", parts)
    step = 2 * max(float(np.abs(p).max()) for p in parts) / HALF
    assert fed(Percentile(), *parts).range() == pytest.approx(expected, abs=2 * step)


@pytest.mark.oracle
@pytest.mark.parametrize("distribution", ["normal", "laplace", "student"])
def test_entropy_is_near_onnxruntimes(distribution: str) -> None:
    """Its divergence is flat around the minimum: a quarter apart is agreement."""
    parts = np.split(sample(distribution), 4)
    expected = onnxruntime_range("entropy", parts)
    assert fed(Entropy(), *parts).range() == pytest.approx(expected, rel=0.25)
