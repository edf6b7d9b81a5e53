"""Builds shared libraries once: the C simulation of an overlay, kernels that speed up the host.

Later runs find them by digest.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from weft import codegen
from weft.config import Overlay, data_root
from weft.errors import DeviceError, MissingDependency, UsageError, unknown

# name → what differs: "functional" computes MatMul as a matrix product (same integers, same
# clocks, tested equal), "cycle" moves every register of the array, "exact" does so in ap_int with
# the processes as threads on bounded streams.
FORMS: dict[str, tuple[str, ...]] = {
    # Rounding in float64 becomes vectors only where floating-point traps don't matter.
    "functional": ("-O3", "-fno-trapping-math", "-DWEFT_FUNCTIONAL"),
    "cycle": ("-O3",),
    "exact": ("-O1", "-DWEFT_EXACT", "-pthread", "-Wno-uninitialized"),
}
WARNINGS = ("-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Wno-unused-label")


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler: how to call it and what it calls itself."""

    command: tuple[str, ...]
    version: str
    native: tuple[str, ...]  # flags for this machine's instruction set

    @property
    def is_gcc(self) -> bool:
        """Whether it is GCC."""
        return "Free Software Foundation" in self.version or "g++" in self.version

    @property
    def is_zig(self) -> bool:
        """Whether it is the ziglang wheel's, which brings libc++."""
        return "ziglang" in self.command


def cache_dir() -> Path:
    """Folder of built simulations: $WEFT_CACHE, else the user's cache folder."""
    if os.environ.get("WEFT_CACHE"):
        return Path(os.environ["WEFT_CACHE"])
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "weft"


def candidates() -> list[tuple[str, ...]]:
    """Compiler commands in the order they are tried: $CXX, g++, clang++, the ziglang wheel."""
    commands: list[tuple[str, ...]] = []
    if os.environ.get("CXX"):
        commands.append(tuple(shlex.split(os.environ["CXX"])))
    commands += [(path,) for name in ("g++", "clang++") if (path := shutil.which(name))]
    if find_spec("ziglang"):
        commands.append((sys.executable, "-m", "ziglang", "c++"))
    return commands


@cache
def find_compiler() -> Compiler:
    """The first compiler that answers. Raises MissingDependency where there is none."""
    tried = candidates()
    for command in tried:
        try:
            version = subprocess.run(
                [*command, "--version"], capture_output=True, text=True, check=True, timeout=60
            ).stdout.splitlines()[0]
        except (OSError, subprocess.SubprocessError, IndexError):
            continue
        native = ("-mcpu=native",) if platform.machine() in ("aarch64", "arm64") else ()
        return Compiler(command, version, native or ("-march=native",))
    raise MissingDependency(
        f"no C++ compiler (tried {', '.join(' '.join(c) for c in tried) or 'g++, clang++'}); "
        "install g++ or clang++, or: pip install ziglang"
    )


def ap_types() -> Path:
    """Folder of ap_int.h in the installed hls4ml. Raises MissingDependency without it."""
    spec = find_spec("hls4ml")
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependency("the exact simulation needs ap_int.h: pip install hls4ml")
    return Path(spec.submodule_search_locations[0]) / "templates" / "vivado" / "ap_types"


def sources() -> dict[str, bytes]:
    """Relative path → content of every file of the hardware and its simulation."""
    root = data_root() / "hls"
    files = sorted(p for p in root.rglob("*") if p.suffix in (".hpp", ".cpp", ".j2"))
    return {str(p.relative_to(root)): p.read_bytes() for p in files}


@cache
def _source_digest() -> str:
    digest = hashlib.sha256()
    for name, content in sources().items():
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def library(overlay: Overlay, form: str) -> Path:
    """The simulation of `overlay` in one of FORMS, built if it is not in the cache.

    Raises UsageError for an unknown form, MissingDependency without a compiler, DeviceError with
    the compiler's words where it fails.
    """
    if form not in FORMS:
        raise UsageError(unknown("form of simulation", form, FORMS))
    compiler = find_compiler()
    flags = command_line(compiler, form, Path(), Path())
    facts = (overlay.digest(), flags, compiler.version, platform.node(), _source_digest())
    digest = hashlib.sha256(repr(facts).encode()).hexdigest()[:24]
    path = cache_dir() / f"{overlay.name}-{form}-{digest}.so"
    if not path.exists():
        _compile(overlay, form, compiler, path)
    return path


def command_line(compiler: Compiler, form: str, generated: Path, output: Path) -> list[str]:
    """The compiler call; `generated` holds config.hpp and isa.hpp."""
    hls = data_root() / "hls"
    flags = [*FORMS[form], "-std=c++14", *compiler.native, *WARNINGS, "-shared", "-fPIC"]
    flags.append("-fvisibility=hidden")
    if compiler.is_gcc:
        # GCC unrolls loops of up to 16 lanes before it could vectorise them.
        flags += ["--param", "max-completely-peel-times=7"]
    if form == "exact":
        flags += ["-isystem", str(ap_types())]
        if compiler.is_zig:
            # These headers forward-declare std::complex in a way that libc++ refuses.
            flags += ["-D__AP_INT_SPECIAL_H__", "-D__AP_FIXED_SPECIAL_H__"]
    if compiler.is_zig:
        flags.append("-fno-sanitize=all")  # zig turns the sanitizers on
    includes = [f"-I{generated}", f"-I{hls / 'weft'}", f"-I{hls}"]
    return [*compiler.command, *flags, *includes, str(hls / "sim" / "csim.cpp"), "-o", str(output)]


def host_kernel(source: Path) -> Path:
    """The shared library of a C++ file that speeds up the host, built if it is not in the cache.

    Raises MissingDependency without a compiler, DeviceError with its words where it fails.
    """
    compiler = find_compiler()
    flags = ["-O3", "-std=c++14", *compiler.native, *WARNINGS, "-shared", "-fPIC"]
    flags += ["-fvisibility=hidden", *(["-fno-sanitize=all"] if compiler.is_zig else [])]
    facts = (flags, compiler.version, platform.node(), source.read_bytes())
    path = cache_dir() / f"{source.stem}-{hashlib.sha256(repr(facts).encode()).hexdigest()[:24]}.so"
    if not path.exists():
        command = [*compiler.command, *flags, str(source), "-o"]
        _keep(
            path,
            lambda folder: [*command, str(folder / path.name)],
            f"{compiler.version} could not build {source.name}",
        )
    return path


def _compile(overlay: Overlay, form: str, compiler: Compiler, path: Path) -> None:
    def command(folder: Path) -> list[str]:
        for file, text in codegen.headers(overlay).items():
            (folder / file).write_text(text)
        return command_line(compiler, form, folder, folder / path.name)

    _keep(
        path,
        command,
        f"{compiler.version} could not build the {form} simulation of overlay {overlay.name!r}",
    )


def _keep(path: Path, command: Callable[[Path], list[str]], failure: str) -> None:
    """Compiles into a temporary folder beside the cache, then moves the result in one step."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as name:
            folder = Path(name)
            result = subprocess.run(command(folder), capture_output=True, text=True, check=False)
            if result.returncode:
                tail = "\n".join(result.stderr.splitlines()[-20:])
                raise DeviceError(f"{failure}:\n{tail}")
            (folder / path.name).replace(path)
    except OSError as error:
        raise DeviceError(
            f"{path.parent}: cannot keep what was built there ({error.strerror}); "
            "set WEFT_CACHE to a folder that can be written"
        ) from None
