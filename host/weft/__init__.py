"""weft: quantized and sparse neural networks on FPGA boards, and on their bit-exact simulation.

    program = weft.compile("model.onnx", overlay="lab", calibration=samples)
    with weft.open(program) as session:
        y = session.run(x)

Names are loaded when they are first used: `import weft` imports nothing.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from weft.compare import Report as Report
    from weft.compare import check as check
    from weft.compiler import compile as compile
    from weft.compiler import load_model as load_model
    from weft.compiler import preflight as preflight
    from weft.config import Board as Board
    from weft.config import Overlay as Overlay
    from weft.config import load_board as load_board
    from weft.config import load_overlay as load_overlay
    from weft.decoder_compiler import open_decoder as open_decoder
    from weft.errors import WeftError as WeftError
    from weft.estimate import estimate as estimate
    from weft.evaluate import Accuracy as Accuracy
    from weft.evaluate import evaluate as evaluate
    from weft.graph import Graph as Graph
    from weft.inspection import Inspection as Inspection
    from weft.inspection import inspect as inspect
    from weft.program import Program as Program
    from weft.runtime import Run as Run
    from weft.runtime import Session as Session
    from weft.runtime import load as load
    from weft.runtime import open as open

    __version__: str

_HOMES = {
    "compare": ("Report", "check"),
    "compiler": ("compile", "load_model", "preflight"),
    "decoder_compiler": ("open_decoder",),
    "config": ("Board", "Overlay", "load_board", "load_overlay"),
    "errors": ("WeftError",),
    "estimate": ("estimate",),
    "evaluate": ("Accuracy", "evaluate"),
    "graph": ("Graph",),
    "inspection": ("Inspection", "inspect"),
    "program": ("Program",),
    "runtime": ("Run", "Session", "load", "open"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("weft")
    if name not in _HOME:
        raise AttributeError(f"module 'weft' has no attribute {name!r}")
    value = getattr(import_module(f"weft.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME, "__version__"})


class _Package(ModuleType):
    """Keeps `weft.estimate` the function when Python binds the submodule of the same name."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (isinstance(value, ModuleType) and name in _HOME):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
