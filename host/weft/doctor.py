"""What weft finds on this machine: `weft doctor`."""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from weft.config import board_names, overlay_names

PACKAGES = {
    "numpy": "the core",
    "onnx": "reads models: pip install 'weft[compile]'",
    "scipy": "calibrators: pip install 'weft[compile]'",
    "hls4ml": "ap_* headers for the exact simulation: pip install 'weft[compile]'",
    "matplotlib": "figures: pip install 'weft[plot]'",
    "ziglang": "a C++ compiler as a wheel: pip install 'weft[cxx]'",
    "pynq": "boards; on one, its image's Python has it. Elsewhere: pip install 'weft[board]'",
}
OPTIONAL = frozenset(("matplotlib", "ziglang", "pynq"))


@dataclass(frozen=True)
class Finding:
    """One thing looked for: what, whether weft can do without trouble, and what was found."""

    name: str
    ok: bool
    found: str


def examine() -> list[Finding]:
    """Everything that weft's commands depend on."""
    python = ".".join(map(str, sys.version_info[:3]))
    return [
        Finding("weft", True, version("weft")),
        Finding("python", sys.version_info >= (3, 10), f"{python} ({sys.executable})"),
        Finding("machine", True, f"{platform.machine()}, {os.cpu_count()} CPUs"),
        *(_package(name, purpose) for name, purpose in PACKAGES.items()),
        _compiler(),
        _cache(),
        Finding("overlays", bool(overlay_names()), _list(overlay_names())),
        Finding("boards", bool(board_names()), _list(board_names())),
    ]


def _package(name: str, purpose: str) -> Finding:
    if importlib.util.find_spec(name) is None:
        return Finding(name, name in OPTIONAL, f"not installed ({purpose})")
    try:
        return Finding(name, True, version(name))
    except PackageNotFoundError:
        return Finding(name, True, "installed, version unknown")


def _compiler() -> Finding:
    from weft.build import find_compiler
    from weft.errors import MissingDependency

    try:
        compiler = find_compiler()
    except MissingDependency as error:
        return Finding("C++ compiler", False, str(error))
    return Finding("C++ compiler", True, f"{compiler.version} ({' '.join(compiler.command)})")


def _cache() -> Finding:
    from weft.build import cache_dir

    folder = cache_dir()
    parent = next(p for p in (folder, *folder.parents) if p.exists())
    writable = os.access(parent, os.W_OK)
    return Finding("cache folder", writable, f"{folder}{'' if writable else ' (not writable)'}")


def _list(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
