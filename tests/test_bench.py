"""The benchmark's table: its form, and that its peers compute the same networks."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import models

REPO = Path(__file__).resolve().parents[1]
KEYS = {"group", "metric", "ours", "peer", "unit", "target", "met"}


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    monkeypatch.syspath_prepend(str(REPO))
    return importlib.import_module("bench")


def module(bench: ModuleType, name: str) -> ModuleType:
    return importlib.import_module(f"{bench.__name__}.{name}")


def run_bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments], cwd=REPO, capture_output=True, text=True
    )


def test_cycles_group_meets_its_targets(shared_data: Path, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    done = run_bench("cycles", "--output", str(path))
    assert done.returncode == 0, done.stderr
    rows = json.loads(path.read_text())
    assert [set(row) for row in rows] == [KEYS] * 4
    missed = [row["metric"] for row in rows if row["met"] is False and "time" not in row["metric"]]
    assert not missed
    for row in rows:
        assert row["metric"].split()[0] in done.stdout


def test_a_run_of_one_group_keeps_the_rows_of_others(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    others = [
        {"group": g, "metric": f"{g} {n}", "ours": n} for g in ("qat", "gemm") for n in (1, 2)
    ]
    gone = {"group": "tflite", "metric": "of an earlier run", "ours": 3}
    path.write_text(json.dumps([*others, gone]))
    empty = {**os.environ, "WEFT_TEST_DATA": str(tmp_path / "nothing")}
    command = [sys.executable, "-m", "bench", "tflite", "--output", str(path)]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, env=empty)
    assert done.returncode == 0, done.stderr
    rows = json.loads(path.read_text())
    assert [row["group"] for row in rows] == ["gemm", "gemm", *["tflite"] * 3, "qat", "qat"]
    assert [row for row in rows if row["group"] != "tflite"] == [*others[2:], *others[:2]]
    assert all(set(row) == KEYS for row in rows[2:5])
    assert gone not in rows


@pytest.mark.parametrize("text", ["{", "[1]", '[{"metric": "a"}]'])
def test_a_file_that_is_no_table_is_not_overwritten(tmp_path: Path, text: str) -> None:
    path = tmp_path / "notes.json"
    path.write_text(text)
    done = run_bench("tflite", "--output", str(path))
    assert done.returncode == 1
    assert "move it away" in done.stderr
    assert path.read_text() == text


def test_unknown_group_names_the_known_ones() -> None:
    done = run_bench("gem")
    assert done.returncode == 2
    assert "no group 'gem'" in done.stderr
    assert "gemm" in done.stderr


def test_targets_decide_whether_they_are_met(bench: ModuleType) -> None:
    row = module(bench, "row")
    assert row.at_most("a", 0.3, 0.3, "ns").met is True
    assert row.at_most("a", 0.31, 0.3, "ns").met is False
    assert row.at_least("a", 89.9, 90, "%").met is False
    assert row.absent("a", "no data").as_dict() == {
        "metric": "a",
        "ours": None,
        "peer": "no data",
        "unit": "",
        "target": "",
        "met": None,
    }


def test_interleaved_calls_take_turns(bench: ModuleType) -> None:
    order: list[str] = []
    calls = (lambda: order.append("a"), lambda: order.append("b"))
    times = module(bench, "row").interleaved(*calls, seconds=0.0, least=3)
    assert order == ["a", "b"] * 4
    assert all(0 <= t < 1 for t in times)


def test_tflite_without_data_says_so(bench: ModuleType, tmp_path: Path) -> None:
    rows = module(bench, "tflite").rows(tmp_path, None)
    assert [row.ours for row in rows] == [None] * 3
    assert {row.peer for row in rows} == {"the data sets are not here"}


def test_accuracy_without_data_says_so(bench: ModuleType, tmp_path: Path) -> None:
    rows = module(bench, "accuracy").rows(tmp_path, None)
    assert [row.ours for row in rows] == [None] * 3
    assert all("not here" in row.peer and row.met is None for row in rows)


def test_hls4ml_layers_keep_the_meaning_of_the_flattened_weights(bench: ModuleType) -> None:
    """The rows of the matrix behind the flatten are reordered, none is lost."""
    model, _ = module(bench, "networks").digits()
    layers = {layer["name"]: layer for layer in module(bench, "hls4ml_peer").layer_list(model)}
    from onnx import numpy_helper

    weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    made = layers["fc"]["weight_data"].reshape(2, 2, 16, 10)
    np.testing.assert_array_equal(made[1, 0, 5], weights["w3"].T.reshape(16, 2, 2, 10)[5, 1, 0])
    assert layers["conv2"]["weight_data"].shape == (3, 3, 8, 16)


@pytest.mark.slow
@pytest.mark.oracle
def test_hls4ml_computes_the_same_network(bench: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("hls4ml")
    peer = module(bench, "hls4ml_peer")
    model, x = module(bench, "networks").digits()
    made, seconds = peer.compiled(model, tmp_path / "digits")
    assert seconds > 0
    found = made.predict(peer.channels_last(x[:100])).argmax(1)
    expected = models.run_ort(model, x[:100])[0].argmax(1)
    assert np.mean(found == expected) >= 0.97


def test_without_hls4ml_a_row_says_so(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks = module(bench, "networks")
    monkeypatch.setattr(networks, "find_spec", lambda name: None)
    monkeypatch.setattr(networks, "first_sample_s", lambda model, calibration, cache: 0.1)
    rows = networks.network_rows("digits", 23_680, *networks.digits(), tmp_path)
    assert rows[0].peer == "hls4ml is not installed"
    assert rows[0].met is None
    assert rows[1].ours > 0
    assert [row.met for row in rows[2:]] == [None, True]


def test_embedding_without_the_model_says_so(bench: ModuleType, tmp_path: Path) -> None:
    (row,) = module(bench, "embedding").rows(tmp_path, None)
    assert row.ours is None
    assert row.peer
