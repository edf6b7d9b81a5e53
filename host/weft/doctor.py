"""What weft finds on this machine: `weft doctor`."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
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
}
OPTIONAL = frozenset(("matplotlib", "ziglang"))


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


def compilers() -> list[str]:
    """C++ compilers in the order in which they are taken: $CXX, g++, clang++, the ziglang wheel."""
    names = dict.fromkeys(n for n in (os.environ.get("CXX"), "g++", "clang++") if n)
    found = [path for name in names if (path := shutil.which(name.split()[0]))]
    if importlib.util.find_spec("ziglang"):
        found.append("ziglang")
    return found


def _compiler() -> Finding:
    found = compilers()
    if found:
        return Finding("C++ compiler", True, _list(found))
    return Finding("C++ compiler", False, "none: install g++ or clang++, or weft[cxx]")


def _cache() -> Finding:
    from weft.codegen import cache_folder

    folder = cache_folder()
    parent = next(p for p in (folder, *folder.parents) if p.exists())
    writable = os.access(parent, os.W_OK)
    return Finding("cache folder", writable, f"{folder}{'' if writable else ' (not writable)'}")


def _list(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
