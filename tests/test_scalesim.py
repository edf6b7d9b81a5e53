"""Clocks of weight-stationary matrix products against SCALE-Sim's, configuration by configuration.

SCALE-Sim reports the index of the last cycle; weft counts clocks, one more.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass

import numpy as np
import pytest

import kernel
from kernel import Code
from weft import isa
from weft.config import Overlay
from weft.units.systolic import array_clocks, gemm_folds

pytestmark = pytest.mark.oracle
MATRIX = ("matrix", "weight_shift", "drain")


@dataclass(frozen=True)
class Row:
    rows: int
    cols: int
    gemm: str
    m: int
    n: int
    k: int
    total_cycles: int

    def overlay(self) -> Overlay:
        """An overlay whose ports bring a row of weights per clock, as SCALE-Sim has it."""
        words = 1 << 15 if self.rows < 256 else 1 << 10
        bus = min(self.rows, 64)
        return Overlay(f"s{self.rows}", self.rows, self.cols, bus, words, 256, 4, 16)


@pytest.fixture(scope="module")
def published(shared_data) -> list[Row]:
    path = shared_data.parent / "spec" / "scalesim.csv"
    if not path.is_file():
        pytest.skip(f"no {path.name} beside the test data")
    with path.open() as file:
        return [
            Row(
                *(int(line[key]) for key in ("array_rows", "array_cols")),
                line["gemm"],
                *(int(line[key]) for key in ("M", "N", "K", "total_cycles")),
            )
            for line in csv.DictReader(file)
            if line["dataflow"] == "ws"
        ]


def expected_folds(row: Row) -> int:
    return -(-row.k // row.rows) * -(-row.n // row.cols)


def test_every_configuration(published):
    assert len(published) == 26
    for row in published:
        overlay = row.overlay()
        folds = gemm_folds(row.n, row.k, overlay)
        assert folds == expected_folds(row)
        clocks = array_clocks(row.m, folds, overlay, overlap=False)
        load = (overlay.beats - 1) * row.rows * folds  # a port narrower than a row takes longer
        assert clocks.total - load == row.total_cycles + 1, row


def test_shadow_weights_take_the_published_formula(published):
    for row in published:
        overlay, folds = row.overlay(), expected_folds(row)
        if overlay.beats > 1:
            continue
        period = max(row.m, row.rows)
        expected = row.rows + (folds - 1) * period + row.m + row.rows + row.cols - 2
        assert array_clocks(row.m, folds, overlay).total == expected, row


@pytest.mark.parametrize(
    ("m", "n", "k", "size", "plain", "shadow"),
    [
        (32, 16, 16, 16, 77, 78),
        (32, 32, 48, 16, 467, 238),
        (20, 20, 40, 16, 395, None),
    ],
)
def test_worked_examples(m, n, k, size, plain, shadow):
    overlay = Overlay("worked", size, size, size, 1 << 12, 256, 4, 16)
    folds = gemm_folds(n, k, overlay)
    assert array_clocks(m, folds, overlay, overlap=False).total - 1 == plain
    if shadow is not None:
        assert array_clocks(m, folds, overlay).total == shadow


def gemm(row: Row, overlap: int) -> Code:
    """M × N × K as one MatMul and its Activate; all rows read and write where there is room."""
    overlay = row.overlay()
    blocks, tiles = -(-row.k // row.rows), -(-row.n // row.cols)
    rng = np.random.default_rng(row.k)
    code = kernel.set_parameters(Code(overlay), kernel.parameters(rng, row.cols))
    code.feed(rng.integers(-128, 128, (blocks * tiles * row.rows, row.cols)))
    f = kernel.simple_window(1, row.m) | kernel.strides("source", (blocks, 1, row.m))
    code.add(isa.MAT_MUL, **f, blocks=blocks, tiles=tiles, first=1, last=1, overlap=overlap)
    where = kernel.strides("target", (tiles, 1, row.m)) | {"target": blocks * row.m}
    return code.add(isa.ACTIVATE, **where, low=-128, high=127)


def counted(row: Row, form: str, overlap: int) -> int:
    code = gemm(row, overlap)
    content = np.random.default_rng(0).integers(-128, 128, (row.m, row.rows)).astype(np.int8)
    _, result = kernel.run(code, "csim", content=content, form=form)
    return sum(result.counters[name] for name in MATRIX)


@pytest.mark.parametrize("size", [8, 16, 32])
def test_the_simulation_counts_the_same(published, size):
    """Clock by clock where a few seconds allow it, and by the fast form."""
    for row in published:
        if row.rows != size:
            continue
        small = row.total_cycles < 25_000
        for form in ("functional", "cycle") if small else ("functional",):
            assert counted(row, form, overlap=0) == row.total_cycles + 1, (row, form)
        if small:
            overlay = row.overlay()
            shadow = array_clocks(row.m, expected_folds(row), overlay).total
            assert counted(row, "cycle", overlap=1) == shadow, row
