"""Source → text as the synthesis tool reads it → syntax tree with types.

libclang hides pragmas that it does not know, and those that macros write. So the text is
preprocessed first, by the C++ compiler that is there; pragmas are then lines of their own, and the
tree of that text has their coordinates. System headers are included again, not expanded: they are
libclang's own business.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from weft import build
from weft.errors import MissingDependency, WeftError
from weft.lint.findings import Finding

STANDARD = "-std=c++14"
STUBS = ("ap_int.h", "ap_fixed.h", "hls_stream.h")
UNIT = "/weft-lint/unit.cpp"
_MARKER = re.compile(r'^# (\d+) "((?:[^"\\]|\\.)*)"((?: \d)*)$')
_PRAGMA = re.compile(r"^\s*#pragma\s+(.*?)\s*$")


@dataclass(frozen=True)
class Pragma:
    """A pragma line; `line` and `offset` are those of the preprocessed text."""

    line: int
    offset: int
    text: str  # without "#pragma"


class Node:
    """A cursor of libclang with its facts kept: asking again is what makes walks slow."""

    def __init__(self, cursor: Any, parent: Node | None = None) -> None:
        self.cursor = cursor
        self.parent = parent
        self.kind: str = cursor.kind.name
        self.name: str = cursor.spelling

    @cached_property
    def children(self) -> tuple[Node, ...]:
        """Children in source order."""
        return tuple(Node(child, self) for child in self.cursor.get_children())

    @cached_property
    def span(self) -> tuple[int, int]:
        """Offsets of its first byte and of the one behind its last."""
        extent = self.cursor.extent
        return extent.start.offset, extent.end.offset

    @cached_property
    def line(self) -> int:
        """Line of the preprocessed text."""
        return int(self.cursor.location.line)

    @cached_property
    def referenced(self) -> Any:
        """The declaration that it names, as a cursor; None where there is none."""
        return self.cursor.referenced

    @cached_property
    def type(self) -> Any:
        """Its canonical type."""
        return self.cursor.type.get_canonical()

    def walk(self) -> Iterator[Node]:
        """Itself and everything below."""
        yield self
        for child in self.children:
            yield from child.walk()

    def up(self) -> Iterator[Node]:
        """What encloses it, innermost first."""
        node = self.parent
        while node is not None:
            yield node
            node = node.parent


@dataclass
class Source:
    """A preprocessed, parsed file."""

    text: bytes
    origin: list[tuple[str, int]]  # of each line of the text
    pragmas: list[Pragma]
    root: Any
    unit: Any  # keeps the tree alive
    kept: dict[str, Any] = field(default_factory=dict)  # facts about it, found once

    def where(self, line: int) -> tuple[str, int]:
        """File and line of a line of the preprocessed text."""
        return self.origin[min(max(line, 1), len(self.origin)) - 1]

    def finding(self, line: int, rule: str, what: str) -> Finding:
        """A broken rule at that line."""
        return Finding(*self.where(line), rule, what)

    def slice(self, start: int, end: int) -> str:
        """Text between two offsets."""
        return self.text[start:end].decode()

    def owns(self, cursor: Any) -> bool:
        """Whether a declaration stands in this source, not in a system header."""
        file = cursor.location.file
        return file is not None and file.name == UNIT


def parse(path: Path, includes: Sequence[Path]) -> Source:
    """The file as the synthesis tool would read it.

    Raises WeftError with the compiler's words where it does not compile.
    """
    index = libclang()
    text, origin = _expand(_preprocess(path, includes))
    arguments = [STANDARD, "-xc++", "-w", "-nostdinc", "-nostdinc++", "-D__AP_INT_SPECIAL_H__"]
    arguments += ["-isystem", str(build.ap_types())]
    for folder in _system_folders():
        arguments += ["-isystem", folder]
    unit = index.Index.create().parse(UNIT, arguments, unsaved_files=[(UNIT, text)])
    errors = [d for d in unit.diagnostics if d.severity >= index.Diagnostic.Error]
    if errors:
        file, line = str(errors[0].location.file), errors[0].location.line
        if file == UNIT:
            file, line = origin[line - 1]
        raise WeftError(f"{file}:{line}: {errors[0].spelling}")
    return Source(text.encode(), origin, _pragmas(text), unit.cursor, unit)


@cache
def libclang() -> Any:
    """The bindings, once they are known to load."""
    try:
        from clang import cindex

        cindex.Index.create()
    except (ImportError, OSError):
        raise MissingDependency("lint needs libclang: pip install 'weft[lint]'") from None
    return cindex


def _preprocess(path: Path, includes: Sequence[Path]) -> str:
    compiler = build.find_compiler()
    with tempfile.TemporaryDirectory() as stubs:
        for name in STUBS:
            (Path(stubs) / name).touch()
        flags = [STANDARD, "-E", "-D__SYNTHESIS__", *(f"-I{folder}" for folder in includes)]
        command = [*compiler.command, *flags, "-isystem", stubs, str(path)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise WeftError(f"{path} does not compile:\n{result.stderr.strip()}")
    return result.stdout


def _expand(preprocessed: str) -> tuple[str, list[tuple[str, int]]]:
    """The text with system headers as includes again, and where each of its lines comes from."""
    lines: list[str] = []
    origin: list[tuple[str, int]] = []
    file, number, system = "", 1, False
    for line in preprocessed.splitlines():
        marker = _MARKER.match(line)
        kept = "" if system else line
        if marker:
            entered, was = "3" in marker[3], system
            file, number, system = marker[2], int(marker[1]), entered
            kept = ""
            if entered and not was and "1" in marker[3]:
                kept = f"#include <{_include(file)}>"
        lines.append(kept)
        origin.append((file, number))
        if not marker:
            number += 1
    return "\n".join(lines) + "\n", origin


def _include(file: str) -> str:
    name = Path(file).name
    return name if name in STUBS else file


def _pragmas(text: str) -> list[Pragma]:
    found, offset = [], 0
    for number, line in enumerate(text.split("\n"), 1):
        match = _PRAGMA.match(line)
        if match:
            found.append(Pragma(number, offset, match[1]))
        offset += len(line.encode()) + 1
    return found


@cache
def _system_folders() -> tuple[str, ...]:
    """Where the compiler looks for <...>: libclang's wheel has no headers of its own."""
    command = [*build.find_compiler().command, "-E", "-v", "-xc++", "-"]
    result = subprocess.run(command, capture_output=True, text=True, input="", check=False)
    listed = result.stderr.partition("#include <...> search starts here:\n")[2]
    return tuple(line.strip() for line in listed.partition("End of search")[0].splitlines())
