"""Rotations between linear layers: no channel of the activation stands out any more.

QuaRot (Ashkboos et al., NeurIPS 2024) folds an orthogonal matrix Q into the weights on both sides
of an activation: W1 <- W1 Q, b1 <- b1 Q, W2 <- Q^T W2. Here between two Linear nodes with nothing
in between. Q is a Hadamard matrix divided by sqrt(n); where n is not a power of two, one of the
largest power that divides n per block.
"""

from __future__ import annotations

import numpy as np

from weft.graph import Graph, Node
from weft.quantization.codec import Real
from weft.quantization.fold import put_constant


def rotation(n: int) -> Real:
    """The orthogonal matrix [n, n]."""
    from scipy.linalg import block_diag, hadamard

    size = n & -n
    block = hadamard(size) / np.sqrt(size)
    return np.asarray(block_diag(*[block] * (n // size)), np.float64)


def rotate(graph: Graph) -> Graph:
    """The same function with rotated activations between linear layers."""
    for name in [node.outputs[0] for node in graph]:
        first = graph.producers()[name]
        readers = graph.consumers().get(name, [])
        if not _plain(graph, first) or first.attrs.get("activation") or name in graph.outputs:
            continue
        if not readers or not all(_plain(graph, r) and r.inputs[0] == name for r in readers):
            continue
        q = rotation(graph[name].shape[-1])
        outputs = [name, *(reader.outputs[0] for reader in readers)]
        for output in outputs:
            graph = _rotated(graph, graph.producers()[output], q, behind=output == name)
    return graph


def _plain(graph: Graph, node: Node) -> bool:
    """Whether the node is a Linear with float constants."""
    if node.op != "Linear":
        return False
    constants = [graph[name] for name in node.inputs[1:] if name]
    return all(t.data is not None and t.quant is None and t.dtype == "float32" for t in constants)


def _rotated(graph: Graph, node: Node, q: Real, behind: bool) -> Graph:
    """The graph in which `node` turns its output (`behind`), or takes a turned input."""
    tensors, new = dict(graph.tensors), node
    for index in (1, 2) if behind else (1,):
        if len(node.inputs) > index and node.inputs[index]:
            data = graph[node.inputs[index]].data
            assert data is not None, "checked by _plain"
            wide = data.astype(np.float64)
            turned = (wide @ q if behind else q.T @ wide).astype(np.float32)
            new = put_constant(graph, tensors, new, index, turned)
    nodes = tuple(new if n is node else n for n in graph.nodes)
    return graph.replace(nodes=nodes, tensors=tensors)
