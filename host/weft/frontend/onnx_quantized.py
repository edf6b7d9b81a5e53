"""Quantized ONNX models: placeholders until the real thing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from weft.frontend.build import Builder
from weft.frontend.onnx_nodes import Handler
from weft.graph import Graph

if TYPE_CHECKING:
    from weft.frontend.onnx import OnnxNode

HANDLERS: dict[tuple[str, str], Handler] = {}


def absorb(graph: Graph) -> Graph:
    """The graph itself."""
    return graph


def fold(b: Builder, n: OnnxNode) -> bool:
    """Nothing is folded."""
    return False
