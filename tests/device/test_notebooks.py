"""Every notebook runs, on the simulated board."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import weft

pytest.importorskip("pynq", reason="pynq wants numpy<2: `make test` runs these elsewhere")

NOTEBOOKS = sorted((Path(weft.__file__).parent / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_runs(path, tmp_path, monkeypatch):
    """Cell by cell in one namespace: what a kernel does, without its packages."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    cells = json.loads(path.read_text())["cells"]
    for number, cell in enumerate(cells):
        if cell["cell_type"] == "code":
            assert not cell["outputs"], "notebooks are kept without results"
            exec(compile("".join(cell["source"]), f"{path.name}, cell {number}", "exec"), names)


def test_there_is_one():
    assert NOTEBOOKS
