"""weft sparsity: forms of a network side by side, as a table, JSON and a picture."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from weft import cli
from weft.compiler import load_model
from weft.config import load_overlay
from weft.demo import MODELS, load_data
from weft.sparse_study import Task, Trained, program_of, study, trained_table

BOARDS = ("KV260", "ZCU104")
FORMS = ("2:4", "csc:0.9", "bitmask:0.5", "snap:0.9")


@pytest.fixture(scope="module")
def task():
    data = load_data()
    graph = load_model(MODELS / "digits.onnx")
    name = graph.inputs[0]
    held = {name: data.images[:100]}
    calibration = {name: data.calibration}
    return Task(graph, load_overlay("lab"), calibration, held, data.labels[:100])


@pytest.fixture(scope="module")
def forms(task):
    return study(task, FORMS)


def test_dense_comes_first_and_agrees_with_itself(forms):
    dense = forms[0]
    assert (dense.sparsity, dense.agreement, dense.sparse_layers) == ("dense", 1.0, 0)
    assert dense.density > 0.99
    assert dense.top1 > 0.95


def test_densities_are_those_of_the_patterns(forms):
    for form in forms[1:]:
        kept = 0.5 if form.sparsity == "2:4" else 1 - float(form.sparsity.split(":")[1])
        assert form.density < kept + 0.15  # layers with few channels stay dense


def test_layers_on_sparse_engines_take_fewer_clocks(forms):
    dense = {layer["name"]: layer["cycles"] for layer in forms[0].layers}
    found = 0
    for form in forms[1:]:
        for layer in form.layers:
            if layer["engine"] in ("nm", "eie", "snap", "gather"):
                found += 1
                assert layer["cycles"] < dense[layer["name"]], (form.sparsity, layer)
    assert found >= 3


def test_boards_have_times(forms):
    assert all(set(form.board_s) == {"KV260", "ZCU104"} for form in forms)
    assert all(seconds > 0 for form in forms for seconds in form.board_s.values())


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = load_data()
    shutil.copy(MODELS / "digits.onnx", "digits.onnx")
    np.savez("calibration.npz", x=data.calibration[:64])
    np.savez("test.npz", x=data.images[:40], y=data.labels[:40])
    return tmp_path


COMMAND = ["sparsity", "digits.onnx", "--calibrate", "calibration.npz"]


def test_json(files, capsys):
    assert cli.run([*COMMAND, "--eval", "test.npz", "--forms", "2:4, bitmask:0.5", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [form["sparsity"] for form in found["forms"]] == ["dense", "2:4", "bitmask:0.5"]
    assert {"weight_bytes", "cycles", "top1", "layers", "board_s"} <= set(found["forms"][1])


def test_table_layers_and_picture(files, capsys):
    assert cli.run([*COMMAND, "--forms", "bitmask:0.5", "--layers", "--plot", "zeros.png"]) == 0
    printed = capsys.readouterr().out
    assert "same class" in printed
    assert "clocks instead of" in printed.replace("\n", " ")
    assert (files / "zeros.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        (["--forms", "2:5:9"], 2, "2:5:9"),
        (["--forms", "nm"], 2, "nm"),
        (["--criterion", "wands"], 2, "wanda"),
        (["--overlay", "labs"], 2, "lab"),
    ],
)
def test_mistakes_are_one_message(files, capsys, options, code, text):
    assert cli.run([*COMMAND, *options]) == code
    printed = capsys.readouterr().err
    assert text in printed
    assert "Traceback" not in printed


def test_trained_forms_side_by_side(task, forms):
    dense = Trained.of(
        "dense", program_of(task, "dense", task.graph), (97.5, 97.25), 1234.4, BOARDS
    )
    assert dense.weight_bytes == forms[0].weight_bytes
    assert dense.board_s == tuple(forms[0].board_s[name] for name in BOARDS)
    assert set(dense.engines) == {"systolic"}
    heading, line = trained_table([dense], BOARDS).splitlines()
    assert heading.split() == ["form", "float", "int8", "bytes", "clocks", *BOARDS, "engines"]
    times = [f"{s * 1e6:.1f}us" for s in dense.board_s]
    numbers = ["97.50", "97.25", f"{dense.weight_bytes:,}", "1,234"]
    assert line.split("  systolic")[0].split() == ["dense", *numbers, *times]
    assert line.endswith(", ".join(dense.engines))
