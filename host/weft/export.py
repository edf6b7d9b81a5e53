"""One hardware unit as a folder that stands alone, for any HLS tool: `weft export-unit`."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from weft import codegen
from weft.config import Overlay, data_root
from weft.errors import MissingDependency, UsageError, WeftError, unknown

if TYPE_CHECKING:
    from weft.unit_words import Run

SMALL = Overlay("unit", 4, 4, 4, 256, 64, 4, 64)  # what a unit is exported for unless told
_SEED = 1
_INCLUDE = re.compile(r'^#include "(.+)"$', re.MULTILINE)
_PER_LINE = 8


def settings(texts: Iterable[str]) -> dict[str, str]:
    """{"rows": "8"} from ["rows=8"]. Raises UsageError for a text without "="."""
    pairs = [text.partition("=") for text in texts]
    for name, equals, value in pairs:
        if not (name and equals and value):
            raise UsageError(f"--set {name}{equals}{value}: NAME=VALUE expected, as in rows=8")
    return {name: value for name, _, value in pairs}


def geometry(values: Mapping[str, str], unit: str = "") -> Overlay:
    """SMALL with these settings changed; `rows` changes cols and bus_bytes along.

    `unit` is what it is for: some are exported larger unless told.

    Raises UsageError for an unknown name or what is no number, OverlayError for impossible sizes.
    """
    from weft.unit_vectors import EXPORTS

    exported = EXPORTS.get(unit)
    if exported is not None:
        values = {**exported.settings, **values}
    known = {f.name: f.type for f in fields(Overlay) if f.type == "int" or f.name == "multiplier"}
    changed: dict[str, int | str] = {}
    for name, value in values.items():
        if name not in known:
            raise UsageError(unknown("setting", name, known))
        if known[name] == "int" and not value.isdecimal():
            raise UsageError(f"--set {name}={value}: a whole number expected")
        changed[name] = int(value) if known[name] == "int" else value
    if "rows" in changed:
        rows = int(changed["rows"])
        changed = {"cols": rows, "bus_bytes": min(rows, SMALL.bus_bytes), **changed}
    parts = {"engines": exported.engines, **exported.parts} if exported is not None else {}
    return replace(SMALL, **parts, **changed).verify()  # type: ignore[arg-type]


def files(unit: str, overlay: Overlay) -> dict[str, str]:
    """Relative path → text of everything that the unit needs, its test bench and vectors.

    Raises UsageError for an unknown unit, CapacityError where its vectors don't fit the overlay.
    """
    import numpy as np

    from weft.formats import FORMATS
    from weft.unit_vectors import EXPORTS

    if unit not in EXPORTS:
        raise UsageError(unknown("unit", unit, EXPORTS))
    exported = EXPORTS[unit]
    overlay = replace(overlay, engines=exported.engines, **exported.parts).verify()  # type: ignore[arg-type]
    if exported.formats:
        overlay = replace(overlay, formats=tuple(FORMATS))
    runs = exported.runs(overlay, np.random.default_rng(_SEED))
    facts = {"unit": unit, "overlay": overlay, "title": exported.title, "runs": len(runs)}
    facts["memory_rows"] = exported.memory_rows
    written = {
        **codegen.headers(overlay),
        "vectors.hpp": _vectors(runs),
        "testbench.cpp": _render("testbench.cpp.j2", facts),
        "README.md": _render("README.md.j2", facts),
    }
    return {**written, **_sources(f"{unit}.cpp", written)}


def write(unit: str, overlay: Overlay, folder: Path) -> list[str]:
    """Makes the folder; names of the files in it. Either all of them are there or no folder is.

    Raises WeftError where it can't be made, or has something in it already.
    """
    content = files(unit, overlay)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise WeftError(f"{folder}: exists and is not an empty folder; name another one")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise WeftError(f"{folder}: cannot write there ({error.strerror})") from None
    try:
        for name, text in content.items():
            path = temporary / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        temporary.chmod(0o755)
        temporary.replace(folder)
    except OSError as error:
        raise WeftError(f"{folder}: cannot write ({error.strerror})") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return sorted(content)


def _render(name: str, facts: Mapping[str, object]) -> str:
    try:
        from jinja2 import Template
    except ImportError:
        raise MissingDependency("exporting needs jinja2: pip install 'weft[compile]'") from None
    text = (data_root() / "hls" / "templates" / "units" / name).read_text()
    return str(Template(text, keep_trailing_newline=True, autoescape=False).render(**facts))


def _sources(first: str, generated: Mapping[str, str]) -> dict[str, str]:
    """A source of hls/templates/units and all headers that it includes, as they are found there."""
    hls = data_root() / "hls"
    found: dict[str, str] = {}
    seen: set[str] = set()
    waiting = [first]
    while waiting:
        name = waiting.pop()
        if name in seen or name.startswith("sim/"):  # what only a simulation includes stays behind
            continue
        seen.add(name)
        if name not in generated:
            places = (hls / "templates" / "units" / name, hls / "weft" / name)
            found[name] = next(path for path in places if path.exists()).read_text()
        waiting += _INCLUDE.findall(found.get(name) or generated[name])
    return found


def _vectors(runs: list[Run]) -> str:
    """vectors.hpp: all words in a row, and where each run begins."""
    lines = [
        "/// Inputs, and what the golden model makes of them; written by weft export-unit.",
        "#pragma once",
        "",
        f"constexpr int kRuns = {len(runs)};",
    ]
    for index, name in enumerate(("Operands", "Results")):
        begins, values = [0], []
        for run in runs:
            values += [f"0x{int(word):x}u" for word in run[index]]
            begins.append(len(values))
        lines.append(f"const int k{name}From[] = {{{', '.join(map(str, begins))}}};")
        lines.append(f"const unsigned k{name}[] = {{")
        starts = range(0, len(values), _PER_LINE)
        lines += [f"    {', '.join(values[at : at + _PER_LINE])}," for at in starts]
        lines.append("};")
    return "\n".join(lines) + "\n"
