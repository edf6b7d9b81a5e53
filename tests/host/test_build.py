"""Building the simulation: which compiler, what it says when it fails, and what the cache keeps."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import numpy as np
import pytest

import kernel
from kernel import NANO, OVERLAYS, Code
from weft import build, isa
from weft.errors import DeviceError, MissingDependency, UsageError


@pytest.fixture(autouse=True)
def forgetful():
    """Each test finds its compiler anew."""
    build.find_compiler.cache_clear()
    yield
    build.find_compiler.cache_clear()


def program(folder: Path, name: str, says: str = "", code: int = 0) -> Path:
    """An executable that prints a version, or fails."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{says}'\nexit {code}\n")
    path.chmod(0o755)
    return path


def only(monkeypatch, folder: Path, *, cxx: str | None = None, zig: bool = False) -> None:
    """Leaves these compilers alone to be found."""
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("CXX", raising=False)
    if cxx is not None:
        monkeypatch.setenv("CXX", cxx)
    if not zig:
        found = build.find_spec
        monkeypatch.setattr(build, "find_spec", lambda n: None if n == "ziglang" else found(n))


def test_order_of_search(monkeypatch, tmp_path):
    mine = program(tmp_path / "mine", "my c++", "mine 1.0")
    for name in ("g++", "clang++"):
        program(tmp_path / "bin", name, f"{name} 1.0")
    only(monkeypatch, tmp_path / "bin", cxx=f"'{mine}' -flto")
    bin_ = tmp_path / "bin"
    assert build.candidates() == [
        (str(mine), "-flto"),
        (str(bin_ / "g++"),),
        (str(bin_ / "clang++"),),
    ]
    found = build.find_compiler()
    assert (found.command, found.version) == ((str(mine), "-flto"), "mine 1.0")
    assert not found.is_zig


def test_what_does_not_answer_is_passed_over(monkeypatch, tmp_path):
    program(tmp_path, "g++", "broken", code=1)
    program(tmp_path, "clang++", "clang version 99")
    only(monkeypatch, tmp_path, cxx=str(tmp_path / "absent"))
    assert build.find_compiler().version == "clang version 99"


def test_ziglang_comes_last(monkeypatch, tmp_path):
    pytest.importorskip("ziglang")
    only(monkeypatch, tmp_path, zig=True)
    assert build.candidates() == [(sys.executable, "-m", "ziglang", "c++")]


def test_no_compiler_says_what_to_install(monkeypatch, tmp_path):
    program(tmp_path, "g++", code=1)
    only(monkeypatch, tmp_path)
    with pytest.raises(MissingDependency, match=r"no C\+\+ compiler \(tried .*pip install ziglang"):
        build.find_compiler()
    with pytest.raises(MissingDependency):
        build.library(OVERLAYS["4x4"], "functional")


def test_an_unknown_form_is_named():
    with pytest.raises(UsageError, match="Did you mean 'functional'"):
        build.library(OVERLAYS["4x4"], "functionl")


def test_a_failing_compiler_is_quoted(monkeypatch, tmp_path):
    script = tmp_path / "c++"
    script.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo mock 3 && exit\n'
        "echo csim.cpp:1: error: no such thing >&2; exit 1\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    monkeypatch.setenv("WEFT_CACHE", str(tmp_path / "cache"))
    with pytest.raises(
        DeviceError,
        match=r"mock 3 could not build the cycle simulation of overlay "
        r"'4x4':\ncsim\.cpp:1: error: no such thing",
    ):
        build.library(OVERLAYS["4x4"], "cycle")
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_cache_is_found_again_by_digest(monkeypatch, tmp_path):
    """Another overlay, form or compiler flag is another library; the same one is built once."""
    calls = tmp_path / "calls"
    script = tmp_path / "c++"
    script.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo mock 3 && exit\n'
        f'echo "$@" >> "{calls}"\nfor last; do :; done\necho library > "$last"\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    monkeypatch.setenv("WEFT_CACHE", str(tmp_path / "cache"))
    path = build.library(OVERLAYS["4x4"], "cycle")
    before = path.stat().st_mtime_ns
    assert build.library(OVERLAYS["4x4"], "cycle") == path
    assert path.stat().st_mtime_ns == before
    assert len(calls.read_text().splitlines()) == 1
    others = [build.library(OVERLAYS["8x8"], "cycle"), build.library(OVERLAYS["4x4"], "functional")]
    monkeypatch.setitem(build.FORMS, "cycle", ("-O2",))
    others.append(build.library(OVERLAYS["4x4"], "cycle"))
    assert len({path, *others}) == 4
    assert sorted(p.name for p in (tmp_path / "cache").iterdir()) == sorted(
        p.name for p in (path, *others)
    )
    lines = calls.read_text().splitlines()
    assert "-DWEFT_FUNCTIONAL" in lines[2]
    assert "-std=c++14" in lines[0]


def test_the_cache_must_be_writable(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("WEFT_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(DeviceError, match="set WEFT_CACHE to a folder that can be written"):
        build.library(OVERLAYS["4x4"], "cycle")


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.delenv("WEFT_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert build.cache_dir() == tmp_path / "weft"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert build.cache_dir() == Path.home() / ".cache" / "weft"
    monkeypatch.setenv("WEFT_CACHE", str(tmp_path / "mine"))
    assert build.cache_dir() == tmp_path / "mine"


def test_ap_types_come_with_hls4ml(monkeypatch):
    assert (build.ap_types() / "ap_int.h").is_file()
    monkeypatch.setattr(build, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match="pip install hls4ml"):
        build.ap_types()


def test_libraries_export_two_functions():
    library = ctypes.CDLL(str(build.library(OVERLAYS["4x4"], "functional")))
    assert library.weft_run
    assert library.weft_message
    assert not hasattr(library, "weft_kernel")


@pytest.mark.slow
def test_ziglang_builds_the_same_simulation(monkeypatch, tmp_path):
    """Without any other compiler, the wheel's makes a library with the same results."""
    pytest.importorskip("ziglang")
    if not any((Path.home() / ".cache" / "zig").glob("o/*/libc++.a")):
        pytest.skip("zig would first build its C++ library, which takes more than a minute")
    only(monkeypatch, tmp_path, zig=True)
    monkeypatch.setenv("WEFT_CACHE", str(tmp_path / "cache"))
    assert build.find_compiler().is_zig
    code = kernel.set_parameters(Code(NANO), (5, 1 << 30, -3, 1 << 30, -3))
    f = kernel.simple_window(1, 2) | kernel.strides("source", (1, 1, 2))
    code.add(isa.VECTOR, operation=1, blocks=1, **f)
    code.add(isa.ACTIVATE, target=4, target_col=1, low=-128, high=127)
    kernel.check(code, np.arange(8, dtype=np.int8).reshape(2, 4), forms=("functional",))
