"""Exported units stand alone: they compile, agree with the golden models, and are lint-clean."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pytest

from weft import build, cli, export
from weft.errors import CapacityError, OverlayError, UsageError, WeftError
from weft.lint import lint_source
from weft.unit_vectors import EXPORTS

SETTINGS = [(), ("rows=8", "multiplier=packed", "weight_bits=8")]
# The headers of ap_int copy numbers that nobody set; everything else of -Wextra must be silent.
FLAGS = ("-std=c++14", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-Wno-unknown-pragmas")
QUIET = ("-Wno-unused-label", "-Wno-uninitialized", "-Wno-maybe-uninitialized")


def exported(unit, folder, settings=()):
    export.write(unit, export.geometry(export.settings(settings), unit), folder)
    return folder


def run(folder, unit, compiler, *more):
    """Output of the test bench, built with nothing but the folder and the headers of ap_int."""
    command = [*compiler, *FLAGS, *QUIET, *more, "-I.", "-isystem", str(build.ap_types())]
    sources = ["testbench.cpp", f"{unit}.cpp", "-o", "testbench"]
    built = subprocess.run([*command, *sources], cwd=folder, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return subprocess.run(["./testbench"], cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(SETTINGS[0], id="4x4"),
        pytest.param(SETTINGS[1], id="8x8p", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("unit", EXPORTS)
def test_unit_agrees_with_golden_and_is_clean(unit, settings, tmp_path):
    folder = exported(unit, tmp_path / "out", settings)
    result = run(folder, unit, build.find_compiler().command, "-O1")
    assert result.returncode == 0, result.stdout
    assert " 0 wrong" in result.stdout
    found = lint_source(folder / f"{unit}.cpp", f"{unit}_words", (folder,))
    assert [str(f) for f in found] == []


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ziglang") is None, reason="needs ziglang for a clang++")
@pytest.mark.parametrize("unit", ["requant", "memory", "decode", "fusion", "shift", "binary"])
def test_clang_agrees(unit, tmp_path):
    folder = exported(unit, tmp_path / "out")
    special = ("-D__AP_INT_SPECIAL_H__", "-D__AP_FIXED_SPECIAL_H__")
    special += ("-fno-sanitize=all", "-Wno-unknown-warning-option")
    result = run(folder, unit, (sys.executable, "-m", "ziglang", "c++"), *special)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("unit", "right", "wrong"),
    [
        ("window", "at_x += step_x", "at_x += 2"),
        ("matmul", "fold == 0 && f.first != 0", "fold == 0"),
        ("matmul", "++counters.drain", "++counters.matrix"),
        ("transfer", "counters.table += Int<64>(rows)", "counters.table += Int<64>(rows + 1)"),
        ("memory", "memory[first + beat] = part", "memory[first] = part"),
        ("decode", "rest % 3", "rest & 1"),
        ("fusion", "2 * (i + k)", "2 * i"),
        ("shift", "- 1, 2 + (low & 1)", "- 1, 2"),
        ("binary", "- popcount(plus) + popcount(minus)", "- popcount(plus)"),
    ],
)
def test_the_bench_finds_a_wrong_word(unit, right, wrong, tmp_path):
    folder = exported(unit, tmp_path / "out")
    own = {"transfer": "set_table", "memory": "transfer"}.get(unit, unit)
    path = folder / "units" / f"{own}.hpp"
    source = path.read_text()
    assert right in source
    path.write_text(source.replace(right, wrong))
    result = run(folder, unit, build.find_compiler().command)
    assert result.returncode == 1
    assert "expected" in result.stdout


@pytest.mark.parametrize("unit", EXPORTS)
def test_same_settings_same_bytes(unit):
    overlay = export.geometry({}, unit)
    files = export.files(unit, overlay)
    assert files == export.files(unit, overlay)
    assert not any("sim/" in name or name.startswith(("/", "..")) for name in files)
    assert f"{unit}_words" in files["README.md"]


@pytest.mark.parametrize(
    ("error", "settings", "text"),
    [
        (UsageError, ["row=8"], "Did you mean 'rows'"),
        (UsageError, ["rows"], "NAME=VALUE"),
        (UsageError, ["rows=many"], "whole number"),
        (UsageError, ["name=x"], "no setting 'name'"),
        (OverlayError, ["rows=6"], "power of two"),
        (OverlayError, ["multiplier=double"], "single"),
    ],
)
def test_bad_settings(error, settings, text):
    with pytest.raises(error, match=text):
        export.geometry(export.settings(settings))


def test_refused_exports_leave_nothing(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(UsageError, match="Did you mean 'systolic'"):
        export.write("sistolic", export.SMALL, out)
    with pytest.raises(CapacityError, match="buffer_words"):
        export.write("vector", export.geometry({"buffer_words": "64"}), out)
    with pytest.raises(CapacityError, match="accumulator_rows = 24, the overlay has 16"):
        export.write("matmul", export.geometry({"accumulator_rows": "16"}), out)
    with pytest.raises(CapacityError, match="--set buffer_words=64"):
        export.write("transfer", export.geometry({"buffer_words": "32"}), out)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    with pytest.raises(WeftError, match="not an empty folder"):
        export.write("window", export.SMALL, tmp_path / "full")
    (tmp_path / "file").touch()
    with pytest.raises(WeftError, match="not an empty folder"):
        export.write("window", export.SMALL, tmp_path / "file")
    with pytest.raises(WeftError, match="cannot write"):
        export.write("window", export.SMALL, tmp_path / "file" / "below")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "full"]


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "out").mkdir()
    assert (exported("window", tmp_path / "out") / "window.cpp").exists()


def test_command(tmp_path, capsys):
    out = str(tmp_path / "out")
    assert cli.run(["export-unit", "multiplier", "--set", "rows=8", "-o", out]) == 0
    assert "multiplier.cpp" in capsys.readouterr().out
    assert cli.run(["export-unit", "adder", "-o", out]) == 2
    assert (
        "no unit 'adder'. Known: activate, attention, binary, decode, eie, fusion"
        in capsys.readouterr().err
    )
