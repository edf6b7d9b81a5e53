"""What a layer costs with weights in a format: bytes of memory, or clocks on an overlay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

from weft import activation, workload
from weft.config import Overlay
from weft.formats import parse
from weft.graph import Graph, Node
from weft.passes.choices import layers
from weft.passes.weights import is_depthwise
from weft.quantization import ant, codec
from weft.storage import ceil_div
from weft.workload import Work, of_graph


@dataclass(frozen=True)
class Layer:
    """A layer as costs see it: canonical shape [N, taps, I], and its work on an overlay.

    `depthwise` layers take the vector unit, which reads a byte per tap whatever the format.
    """

    name: str
    shape: tuple[int, int, int]
    work: Work | None
    depthwise: bool = False


Cost = Callable[[Layer, str, str, Overlay | None], float]


def of_layers(graph: Graph) -> dict[str, Layer]:
    """The layers with weights, by the name of their output."""
    works = {work.name: work for work in of_graph(graph)}
    return {node.outputs[0]: _layer(graph, node, works) for node in layers(graph)}


def _layer(graph: Graph, node: Node, works: dict[str, Work]) -> Layer:
    name = node.name or node.outputs[0]
    shape = graph[node.inputs[1]].shape
    if node.op == "Linear":
        canonical = (shape[1], 1, shape[0])
    else:
        canonical = (shape[0], prod(shape[2:]), shape[1])
    return Layer(name, canonical, works.get(name), is_depthwise(graph, node))


def cost(layer: Layer, weights: str, activations: str, overlay: Overlay | None = None) -> float:
    """Bytes of the weights; with an overlay the clocks of the layer for one sample.

    Fewer bits of a weight take as much less of the load, which is hidden behind the rows of a
    fold where there are enough of them. Activations are bytes in the buffer in any format.
    """
    activation.check(activations)
    name = "int8" if layer.depthwise else ("int4" if weights == ant.NAME else weights)
    nbytes = float(codec.packed_bytes(layer.shape, parse(name)))
    if overlay is None:
        return nbytes
    if layer.work is None:
        return 0.0
    return clocks(layer.work, overlay, nbytes / prod(layer.shape))


def clocks(work: Work, overlay: Overlay, weight_bytes: float = 1.0) -> float:
    """Clocks of a layer whose weights take `weight_bytes` each in memory (int8: 1)."""
    taken = float(workload.cost(work, overlay)[0])
    if work.kind != workload.MATRIX or work.group > 1 or work.unfolds:
        return taken  # few folds; how many is the compiler's affair
    lanes, load = overlay.lanes, overlay.lanes * overlay.beats
    folds = ceil_div(work.inputs, lanes) * work.kernel_h * work.kernel_w
    tiles = ceil_div(work.outputs, lanes)
    rows = min(work.out_h * work.out_w, overlay.accumulator_rows)
    # Each fold waits for its rows or its load, whichever takes longer.
    return taken - float(folds * tiles * (max(rows, load) - max(rows, load * weight_bytes)))
