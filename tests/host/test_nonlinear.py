"""The registry of nonlinear units: complete, held to its bounds, its errors, pictures, commands."""

from __future__ import annotations

import importlib
import json
import sys

import click
import numpy as np
import pytest
from click.testing import CliRunner

from weft.cli.nonlinear import units_command
from weft.errors import MissingDependency, UsageError
from weft.nonlinear import (
    FUNCTIONS,
    METHOD_NAMES,
    METHODS,
    NOT_APPLICABLE,
    Fixed,
    method,
    methods_of,
)
from weft.nonlinear.plot import plot

ELEMENTS = [m for m in METHODS.values() if not m.of.row]


def name_of(m):
    return f"{m.function}-{m.name}"


def test_every_pair_is_a_method_or_has_a_reason():
    pairs = {(f, m) for f in FUNCTIONS for m in METHOD_NAMES}
    assert set(METHODS) | set(NOT_APPLICABLE) == pairs
    assert not set(METHODS) & set(NOT_APPLICABLE)
    assert all(len(reason) > 20 for reason in NOT_APPLICABLE.values())
    assert all((f, "host") in METHODS for f in FUNCTIONS)


@pytest.mark.parametrize("m", ELEMENTS, ids=name_of)
def test_error_over_the_whole_domain(m):
    """The bound holds, and is not far above what is there."""
    codes = m.of.codes
    y = m.golden(codes)
    error = np.abs(m.output.decode(y) - m.of.real(m.input.decode(codes)))
    assert 0.9 * m.error <= error.max() <= m.error
    assert error.mean() <= m.error
    assert y.min() >= m.output.low
    assert y.max() <= m.of.top


@pytest.mark.parametrize("m", [m for m in ELEMENTS if m.input.signed], ids=name_of)
def test_inputs_beyond_the_domain_give_its_end(m):
    low, high = m.golden(np.array([m.of.low, m.of.high]))
    if m.function == "exp":
        codes = np.array([-(1 << 15), m.of.low - 1, 1, (1 << 15) - 1])
        if m.cpp:  # the host's exp goes on
            assert m.golden(codes).tolist() == [low, low, high, high]
    assert m.golden(np.zeros(0, np.int64)).shape == (0,)


@pytest.mark.parametrize("m", METHODS.values(), ids=name_of)
def test_a_method_says_where_its_hardware_is(m, request):
    root = request.config.rootpath / "hls" / "weft"
    assert bool(m.cpp) == bool(m.hpp) == (m.name != "host")
    text = "".join((root / header).read_text() for header in m.headers if header)
    if m.cpp:
        assert f"struct {m.cpp.partition('<')[0]}" in text
        assert all(-(1 << 31) <= word < 1 << 31 for word in m.unit.words())
        assert (m.luts > 0) == (m.name != "host")


def test_the_document_has_the_registrys_errors(request):
    text = (request.config.rootpath / "docs" / "nonlinear.md").read_text()
    names = [n for n in METHOD_NAMES if n != "host"]
    found = set()
    for line in text.splitlines():
        name, *cells = [cell.strip() for cell in line.strip("|").split("|")]
        if name in FUNCTIONS and len(cells) == len(names):
            found.add(name)
            for m, cell in zip(names, cells, strict=True):
                known = METHODS.get((name, m))
                assert (cell == "–") == (known is None), (name, m)
                assert known is None or float(cell) == known.error, (name, m)
    assert found == set(FUNCTIONS)


def test_real_values_go_through():
    y = method("gelu", "dlc")(np.array([-100.0, -1.0, 0.0, 1.0, 100.0]))
    np.testing.assert_allclose(y, [0, -0.158655, 0, 0.841345, 8], atol=4e-4)
    assert method("sigmoid", "pwl").domain == (-8.0, 8 - 2.0**-12)


def test_formats_say_what_they_are():
    assert str(Fixed(16, 12)) == "Q3.12"
    assert str(Fixed(16, 15, signed=False)) == "UQ1.15"
    assert Fixed(8, 4).encode([100.0, -100.0, 0.03125, 0.09375]).tolist() == [127, -128, 0, 2]


def test_unknown_names_and_pairs_that_do_not_apply():
    with pytest.raises(UsageError, match="Did you mean 'gelu'"):
        method("gelo", "lut")
    with pytest.raises(UsageError, match="Did you mean 'lut' or 'nnlut'"):
        method("gelu", "nlut")
    with pytest.raises(UsageError, match=r"gelu by shift: .*multiplier.*Methods of gelu: lut"):
        method("gelu", "shift")
    with pytest.raises(UsageError, match="no nonlinear function 'erf'"):
        methods_of("erf")


@pytest.mark.parametrize("name", ["gelu", "softmax", "rmsnorm"])
def test_pictures(name, tmp_path):
    pytest.importorskip("matplotlib")
    several = plot([m for m in methods_of(name) if m.cpp], tmp_path / "all.svg").read_text()
    for m in methods_of(name):
        assert (f"<!-- {m.name}, ≤" in several) == bool(m.cpp)
    one = plot(method(name, "nnlut"), tmp_path / "one.png")
    assert one.read_bytes().startswith(b"\x89PNG")


def test_pictures_that_cannot_be_drawn(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match=r"\.png, \.svg, \.pdf"):
        plot(method("gelu", "lut"), tmp_path / "x.txt")
    with pytest.raises(UsageError, match="one function, not 2"):
        plot([method("gelu", "lut"), method("silu", "lut")], tmp_path / "x.png")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependency, match=r"weft\[plot\]"):
        plot(method("gelu", "lut"), tmp_path / "x.png")
    assert list(tmp_path.iterdir()) == []


def run(*words):
    result = CliRunner().invoke(units_command, list(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_command_lists_methods():
    assert isinstance(units_command, click.Group)
    text = run("list", "softmax")
    for m in methods_of("softmax"):
        assert m.name in text
    made = json.loads(run("list", "--json"))["methods"]
    assert len(made) == len(METHODS)
    assert {row["function"] for row in made} == set(FUNCTIONS)


def test_command_draws(tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "tanh.png"
    assert f"picture: {path}" in run("plot", "tanh", "--method", "pwl", "-o", str(path))
    assert path.stat().st_size > 10_000
    with pytest.raises(UsageError, match="tanh by ibert"):
        run("plot", "tanh", "--method", "ibert", "-o", str(path))


def test_benchmark_runs_one_method_against_its_peer(tmp_path, monkeypatch):
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    from test_bench import REPO

    monkeypatch.syspath_prepend(str(REPO))
    module = importlib.import_module("bench.nonlinear")
    monkeypatch.setattr(module, "SHOWN", {"softmax": ("shift",)})
    monkeypatch.setattr(module, "ROWS", 16)
    row, *passes = module.rows(tmp_path)
    assert row.ours > 0
    assert row.peer > 0
    assert row.metric.startswith("softmax by shift")
    assert [part.metric.split(",")[0] for part in passes] == ["Norm"] * 2
    assert all(part.ours > 0 for part in passes)
