"""A float graph dressed up as a quantized one, to ask where its nodes would run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from weft.activation import WIDE
from weft.graph import Graph, Quant, Tensor
from weft.passes.front import front_tokens
from weft.passes.stream import stream, with_copies


def provisional(graph: Graph) -> Graph:
    """`graph` itself if it is quantized; else with scales of 1 and integer weights of 0 or 1."""
    if any(t.quant is not None and t.data is None for t in graph.tensors.values()):
        return graph
    graph = front_tokens(graph)
    wide = stream(graph)
    graph = with_copies(graph, wide)
    weights = {n.inputs[1] for n in graph.nodes if n.op in ("Conv", "Linear")}
    tensors = {name: _dressed(t, name in weights) for name, t in graph.tensors.items()}
    for name in wide:
        quant = Quant(np.asarray(1.0, np.float32), format=WIDE)
        tensors[name] = replace(tensors[name], quant=quant)
    return graph.replace(tensors=tensors)


def _dressed(tensor: Tensor, weight: bool) -> Tensor:
    quant = Quant(np.asarray(1.0, np.float32))
    if tensor.data is None:
        return replace(tensor, quant=quant) if tensor.dtype.startswith("float") else tensor
    if not weight or tensor.data.dtype.kind != "f":
        return tensor
    return replace(tensor, data=np.sign(tensor.data).astype(np.int8), quant=quant)
