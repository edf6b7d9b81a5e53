"""Checks that C++ is what a synthesis tool takes, without one: `weft lint`.

The source is preprocessed as the tool would (`__SYNTHESIS__`), so pragmas written through macros
stand where they will stand, and parsed with libclang; templates are checked as instantiated.
docs/synthesis.md lists the rules.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from weft import codegen
from weft.config import Overlay, data_root
from weft.lint import dataflow, interface, loops, ports, pragmas, rules
from weft.lint.findings import RULES, Finding
from weft.lint.parse import parse
from weft.lint.reach import reachable

CHECKS = (
    rules.check,
    loops.check,
    pragmas.check,
    interface.check,
    dataflow.check,
    ports.check,
)


def lint(overlay: Overlay) -> list[Finding]:
    """What a synthesis tool would refuse, ignore or slow down in the hardware of `overlay`.

    Raises MissingDependency without libclang, hls4ml or a C++ preprocessor.
    """
    hls = data_root() / "hls"
    with tempfile.TemporaryDirectory() as name:
        generated = Path(name)
        for file, text in codegen.headers(overlay).items():
            (generated / file).write_text(text)
        found = lint_source(hls / "weft" / "top.cpp", "weft_kernel", (generated, hls / "weft", hls))
        return [f.relative(hls.parent, generated) for f in found]


def lint_source(path: Path, top: str, includes: Sequence[Path] = ()) -> list[Finding]:
    """Findings in everything that the function `top` of the file reaches, by file and line.

    Raises WeftError where the file does not compile or has no such function.
    """
    source = parse(path, includes)
    program = reachable(source, top)
    found = {finding for check in CHECKS for finding in check(program)}
    return sorted(found, key=lambda f: (f.file, f.line, f.rule, f.what))


__all__ = ["RULES", "Finding", "lint", "lint_source"]
