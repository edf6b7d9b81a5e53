"""Every command and every piece of Python in the documents runs.

The blocks of a document run one after another in one empty folder: ```python blocks share their
names, lines of ```console blocks that start with "$ " are commands. Lines behind a command are
what it prints: each must occur in its output, "..." standing for anything.
"""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path

import pytest

from weft import cli

REPO = Path(__file__).resolve().parents[1]
DOCUMENTS = [REPO / "README.md", *sorted((REPO / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(console|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(path: Path) -> list[tuple[str, str]]:
    return BLOCK.findall(path.read_text())


@pytest.mark.parametrize(
    "path", [p for p in DOCUMENTS if blocks(p)], ids=lambda p: str(p.relative_to(REPO))
)
def test_blocks_run(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for number, (language, text) in enumerate(blocks(path)):
        if language == "python":
            exec(compile(text, f"{path.name}, block {number}", "exec"), names)
        else:
            run_console(text, capsys)


def run_console(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    commands = re.split(r"^\$ ", text, flags=re.MULTILINE)
    assert commands[0] == "", "a console block starts with '$ '"
    for entry in commands[1:]:
        line, *shown = entry.replace("\\\n", " ").splitlines()
        words = shlex.split(line, comments=True)
        assert words[0] == "weft", f"only weft's own commands are run: {line}"
        capsys.readouterr()
        code = cli.run(words[1:])
        printed = capsys.readouterr()
        assert code == 0, f"{line}\n{printed.out}{printed.err}"
        for expected in filter(str.strip, shown):
            pattern = ".*".join(map(re.escape, squeezed(expected).split("...")))
            assert re.search(pattern, squeezed(printed.out)), f"{line}: {expected!r} not printed"


def squeezed(text: str) -> str:
    return re.sub(r"[^\S\n]+", " ", text).strip()


def test_overlay_example_runs(monkeypatch, capsys):
    path = REPO / "examples" / "which_overlay.py"
    monkeypatch.setattr("sys.argv", [str(path)])
    runpy.run_path(str(path), run_name="__main__")
    printed = capsys.readouterr().out
    for name in ("tiny", "edge", "lab", "KV260", "Pynq-Z2"):
        assert name in printed
    with pytest.raises(SystemExit):
        runpy.run_path(str(path))["main"](["one"])


def test_every_command_is_documented():
    text = (REPO / "docs" / "cli.md").read_text()
    for name in cli.COMMANDS:
        assert f"weft {name}" in text, name


def test_every_public_name_is_documented():
    import weft

    text = (REPO / "docs" / "python.md").read_text()
    for name in weft.__all__:
        assert re.search(rf"\b{name}\b", text), name
