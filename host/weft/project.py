"""Overlay + board → BuildPlan: every file of a Vitis and Vivado project, and what runs on it.

A plan is a value: files in memory, steps, products. `weft.vendor.run.run` writes it to a folder
and starts the tools.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from weft import codegen, testbench
from weft.config import Board, Overlay, data_root, load_board, load_overlay
from weft.device import registers
from weft.errors import BuildError
from weft.vendor import routed, targets

_PORT = re.compile(r"INTERFACE mode = m_axi port = (\w+) bundle = (\w+)[^#]* depth = (\d+)")
_FURTHER = re.compile(r"port = (\w+)##p bundle = (\w+)##p[^#]* depth = (\d+)")
_CACHED = re.compile(r"port = (\w+)##p bundle = memory_bundle[^#]* depth = (\d+)")
_TOP = re.compile(r'extern "C" void (\w+)\(')
_INCLUDE = re.compile(r'^\s*#include "([^"]+)"', re.MULTILINE)


@dataclass(frozen=True)
class Step:
    """One run of a tool: which (a key of vendor.tools.TOOLS), with what, and what it leaves."""

    name: str
    tool: str
    arguments: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class BuildPlan:
    """Everything that building a bitstream takes; paths are relative to the project's folder.

    `products` maps results to their final names, which they get once timing is met.
    """

    name: str
    overlay: Overlay
    board: Board
    files: Mapping[str, bytes]
    commands: tuple[Step, ...]
    products: Mapping[str, str]

    def digest(self) -> str:
        """Sixty-four hex digits over all files and commands."""
        facts = [self.name, [asdict(step) for step in self.commands], dict(self.products)]
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
        for name in sorted(self.files):
            digest.update(f"\0{name}\0{len(self.files[name])}\0".encode() + self.files[name])
        return digest.hexdigest()


@dataclass(frozen=True)
class Kernel:
    """What the synthesized source says of itself: top function, memory ports, files it includes."""

    top: str
    ports: tuple[targets.Port, ...]
    sources: Mapping[str, bytes]


def plan(overlay: Overlay | str, board: Board | str, *, force: bool = False) -> BuildPlan:
    """The plan for an overlay on a board; same inputs, same bytes. Touches no disk.

    Raises UsageError for unknown names, OverlayError for an overlay that does not fit the board by
    estimate (unless `force`), MissingDependency without jinja2.
    """
    from weft import resources

    overlay = load_overlay(overlay) if isinstance(overlay, str) else overlay
    board = load_board(board) if isinstance(board, str) else board
    if not force:
        resources.check(overlay, board)
    found = kernel(overlay.weight_ports, overlay.cached)
    facts = _facts(overlay, board, found)
    files = {**_sources(overlay, found), **_scripts(board.family, facts)}
    return BuildPlan(
        name=f"{overlay.name}-{board.name}",
        overlay=overlay,
        board=board,
        files={name: files[name] for name in sorted(files)},
        commands=_steps(board.family, facts),
        products=facts["products"],
    )


@cache
def kernel(weight_ports: int = 1, cached: bool = False) -> Kernel:
    """The kernel's source: top.cpp and all that it includes, simulation left out."""
    root = data_root() / "hls" / "weft"
    sources = _reached(["top.cpp"])
    text = sources["top.cpp"].decode().replace("\\\n", " ")
    text = re.sub(r"  +", " ", text)
    top, ports = _TOP.search(text), _PORT.findall(text)
    for number in range(1, weight_ports):
        ports += [(f"{name}{number}", f"{of}{number}", d) for name, of, d in _FURTHER.findall(text)]
    of_weights = [bundle for name, bundle, _ in ports if name.startswith("weight")]
    for number, bundle in enumerate(of_weights if cached else ()):
        ports += [(f"{name}{number}", bundle, d) for name, d in _CACHED.findall(text)]
    if not top or not ports:
        raise BuildError(f"{root / 'top.cpp'}: no top function, or no m_axi port with a depth")
    bundles = list(dict.fromkeys(bundle for _, bundle, _ in ports))
    found = [
        targets.Port(
            bundle,
            tuple(name for name, of, _ in ports if of == bundle),
            min(int(depth) for _, of, depth in ports if of == bundle),
        )
        for bundle in bundles
    ]
    return Kernel(top[1], tuple(found), sources)


def _reached(names: list[str]) -> dict[str, bytes]:
    """Files of hls/weft of these names, and all that they include."""
    root = data_root() / "hls" / "weft"
    sources: dict[str, bytes] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        path = root / name
        if name in sources or not path.is_file():  # generated, or the simulation's
            continue
        sources[name] = path.read_bytes()
        waiting += _INCLUDE.findall(path.read_text())
    return sources


def _sources(overlay: Overlay, found: Kernel) -> dict[str, bytes]:
    depth = min(port.depth for port in found.ports)
    headers = codegen.headers(overlay)  # they include the decoders of this overlay's formats
    texts = {**headers, "vectors.hpp": testbench.vectors(overlay, depth)}
    chosen = _reached([name for text in headers.values() for name in _INCLUDE.findall(text)])
    files = {f"src/{name}": content for name, content in {**found.sources, **chosen}.items()}
    files["src/tb.cpp"] = (data_root() / "hls" / "sim" / "tb.cpp").read_bytes()
    return files | {f"src/{name}": text.encode() for name, text in texts.items()}


def _facts(overlay: Overlay, board: Board, found: Kernel) -> dict[str, Any]:
    """What the templates need."""
    card = board.family == "alveo"
    stem = f"{overlay.name}-{overlay.digest()}"
    ends = ("xclbin",) if card else ("bit", "hwh")
    facts: dict[str, Any] = {
        "overlay": overlay,
        "board": board,
        "family": board.family,
        "top": found.top,
        "period_ns": f"{1000 / board.clock_mhz:.3f}",
        "flow_target": "vitis" if card else "vivado",
        "vlnv": registers.VLNV.split(":"),
        "kernel": registers.KERNEL,
        "controller": registers.CONTROLLER,
        "needs": "Vitis (Vitis HLS and v++)" if card else "Vitis HLS and Vivado",
        "products": {f"results/weft.{end}": f"{stem}.{end}" for end in ends},
        "met": routed.MET,
        "failed": routed.FAILED,
        "board_files": board.vendor_name,
    }
    if card:
        facts |= {
            "link": _link(board, found),
            "banks": targets.banks(board, found.ports, overlay.own_memories),
        }
    else:
        groups = targets.groups(board, found.ports)
        facts |= {"groups": groups, "ps": targets.processing_system(board, groups)}
    return facts


def _link(board: Board, found: Kernel) -> tuple[str, ...]:
    """Arguments of v++."""
    if not board.vendor_name:
        raise BuildError(
            f"board {board.name!r}: no vendor_name, the platform that v++ links for; add it"
        )
    folders = ("--temp_dir", "work/link", "--report_dir", "results/reports", "--log_dir", "logs")
    return (
        *("-l", "-t", "hw", "--platform", board.vendor_name, "--config", "alveo/link.cfg"),
        *("--kernel_frequency", f"{board.clock_mhz:g}", "--report_level", "2", *folders),
        *("-o", "results/weft.xclbin", f"results/{found.top}.xo"),
    )


def _scripts(family: str, facts: dict[str, Any]) -> dict[str, bytes]:
    templates = {"Makefile": "overlays/templates", "README.md": "overlays/templates"}
    templates |= dict.fromkeys(
        ("hls/project.tcl", "hls/run_hls.tcl", "hls/csim.tcl", "hls/cosim.tcl"), "hls/templates"
    )
    vivado = ("vivado/block_design.tcl", "vivado/bitstream.tcl")
    names = vivado if family != "alveo" else ("alveo/link.cfg",)
    templates |= dict.fromkeys(names, "overlays/templates")
    return {
        name: codegen.render(f"{folder}/{name.rpartition('/')[2]}.j2", facts).encode()
        for name, folder in templates.items()
    }


def _steps(family: str, facts: dict[str, Any]) -> tuple[Step, ...]:
    summary = f"results/{facts['top']}_csynth.xml"
    if family == "alveo":
        return (
            Step("hls_ip", "hls", ("hls/run_hls.tcl",), (summary, f"results/{facts['top']}.xo")),
            Step("bitstream", "v++", facts["link"], tuple(facts["products"])),
        )
    left = ("results/timing.rpt", "results/utilization.rpt", *facts["products"])
    return (
        Step("hls_ip", "hls", ("hls/run_hls.tcl",), (summary,)),
        Step("block_design", "vivado", ("vivado/block_design.tcl",), ()),
        Step("bitstream", "vivado", ("vivado/bitstream.tcl",), left),
    )
