"""Rules of the house that no other tool checks."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import weft

REPO = Path(__file__).resolve().parents[2]
PACKAGE = REPO / "host" / "weft"
PYTHON = sorted(PACKAGE.rglob("*.py"))


def ids(path: Path) -> str:
    return str(path.relative_to(REPO))


def test_import_is_quick():
    code = (
        "import sys, time; start = time.perf_counter(); import weft; "
        "took = time.perf_counter() - start; "
        "heavy = {'numpy', 'onnx', 'scipy', 'rich', 'click', 'pydantic'} & set(sys.modules); "
        "print(took, *heavy)"
    )
    # -I -S would hide the editable install; the minimum of three forgives a busy machine.
    times = []
    for _ in range(3):
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        took, *heavy = out.stdout.split()
        assert heavy == []
        times.append(float(took))
    assert min(times) < 0.3


def test_runtime_imports_no_compiler():
    code = (
        "import sys, weft; weft.open; weft.Session; "
        "print(*({'onnx', 'scipy', 'hls4ml', 'matplotlib', 'jinja2'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == []


def test_public_names_are_there():
    for name in weft.__all__:
        assert name in dir(weft)
        assert getattr(weft, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        weft.nothing  # noqa: B018
    assert re.fullmatch(r"\d+\.\d+\.\d+", weft.__version__)


def test_functions_win_over_submodules_of_their_name():
    code = (
        "import weft.evaluate, weft.estimate, weft; "
        "assert callable(weft.evaluate) and callable(weft.estimate)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("path", PYTHON, ids=ids)
def test_files_and_functions_are_small(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[0]
            says = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
            # The docstring and the signature are not what makes a function long.
            body = node.body[1:] if says and len(node.body) > 1 else node.body
            length = body[-1].end_lineno - body[0].lineno + 1
            assert length <= 40, f"{path.name}: {node.name} has {length} lines"


@pytest.mark.parametrize("path", sorted((REPO / "hls").rglob("*.hpp")), ids=ids)
def test_headers_are_small(path):
    assert len(path.read_text().splitlines()) <= 300


def test_package_is_typed():
    assert (PACKAGE / "py.typed").is_file()
    assert not list(PACKAGE.rglob("utils.py"))


def test_changelog_speaks_of_this_version():
    text = (REPO / "CHANGELOG.md").read_text()
    assert f"## {weft.__version__}" in text


def test_make_says_what_it_can():
    text = (REPO / "Makefile").read_text()
    for target in ("demo", "test", "setup", "bench", "lint", "clean"):
        assert re.search(rf"^{target}:", text, re.MULTILINE), target


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "ARCHITECTURE.md"])
def test_links_between_documents_lead_somewhere(name):
    for target in re.findall(r"\]\(([^)#:]+)\)", (REPO / name).read_text()):
        assert (REPO / target).exists(), f"{name} links to {target}"
