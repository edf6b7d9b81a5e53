"""Every notebook runs on the simulated board; without pynq, those that can on the simulation."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

import weft

DEVICE = 'DEVICE = "simboard"'
NOTEBOOKS = sorted((Path(weft.__file__).parent / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_runs(path, tmp_path, monkeypatch):
    """Cell by cell in one namespace: what a kernel does, without its packages."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    cells = json.loads(path.read_text())["cells"]
    sources = ["".join(cell["source"]) for cell in cells]
    assert sum(DEVICE in source for source in sources) == 1
    if not find_spec("pynq"):
        if path.stem == "first_inference":
            pytest.skip("pynq wants numpy<2: `make test` runs this elsewhere")
        sources = [source.replace(DEVICE, 'DEVICE = "csim"') for source in sources]
    for number, cell in enumerate(cells):
        if cell["cell_type"] == "code":
            assert not cell["outputs"], "notebooks are kept without results"
            exec(compile(sources[number], f"{path.name}, cell {number}", "exec"), names)


def test_they_are_there():
    assert [path.stem for path in NOTEBOOKS] == [
        "estimates",
        "first_inference",
        "formats",
        "sparsity",
    ]
