"""The preflight report: what a model consists of, what runs where, how large and how fast it is.

Nothing is compiled to disk and nothing runs. Cycles are those of the compiled program where that
takes no time, else the design space's formulas (weft.workload); time on a board is an estimate.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from weft import lower, workload
from weft.activation import WIDE
from weft.compiler import is_quantized, load_model
from weft.config import Board, Overlay, load_board, load_overlay, overlay_names
from weft.errors import WeftError
from weft.estimate import estimate
from weft.graph import Graph, Node, Tensor
from weft.lower import Placement
from weft.lower.layout import RELABELS
from weft.lower.provisional import provisional

EXACT_LIMIT = 1 << 20  # weights up to which every overlay's program is compiled for its cycles
WEIGHTED = ("Conv", "ConvTranspose", "Linear", "SequenceLstm", "SequenceLstm8")
CROSSING = {
    "DequantizeLinear": "takes codes, as the model's input is declared",
    "QuantizeLinear": "gives codes, as the model's output is declared",
}
ADVICE = {
    "Softmax": "cheap on the host; cut it off where only the largest score matters",
    "Softmax8": "cheap on the host; cut it off where only the largest score matters",
    "LogSoftmax": "cheap on the host; cut it off where only the largest score matters",
    "SequenceLstm": "with tanh and at most 1024 steps it runs on the accelerator, step by step",
    "SequenceLstm8": "TFLite's integers are the host's; the float model runs on the accelerator",
    "MatMul": "products of two activations run on the host; with constant weights it is a Linear",
    "ConvTranspose": "enlarge with nearest-neighbour Resize and a Conv behind it",
    "onnx.Resize": "enlarge by whole factors with nearest neighbours, which is a copy",
    "Mean8": "take the mean over rows and columns of a map, which the accelerator does",
    "Resize8": "enlarge by whole factors with nearest neighbours, which is a copy",
}
REASONS = {  # part of a reason → what helps
    "is not quantized": "quantize the model wholly, so that its neighbours have scales too",
    "computed at run time": "make the operand a constant before exporting",
    "cuts through the layout": "keep channels whole in reshapes, or flatten everything at once",
    "padding": "pad rows and columns with a constant",
    "broadcast": "make the smaller operand one number, or one number per channel",
    "batch": "keep the batch dimension first and untouched",
    "dimensions": "reshape to at most four dimensions, batch and channels included",
    "relabels a tensor that stays": "free anyway: it has no work of its own",
}
OTHERWISE = "runs in numpy with the same result; `weft list ops` names what the accelerator has"


@dataclass(frozen=True)
class OverlayEstimate:
    """One sample on one overlay: clocks, seconds per board, and what they were read from.

    `basis` is "program", the compiled one; "provisional", one with made-up scales, since the
    model is float; or "formula", for large models. `cycles` is None where the model does not fit;
    then `why` says what is too large.
    """

    overlay: str
    array: str
    cycles: int | None
    boards: Mapping[str, float]
    basis: str
    why: str = ""

    @property
    def remark(self) -> str:
        """What a table should say behind the figures."""
        return self.why or {"provisional": "before quantization", "formula": "by formula"}.get(
            self.basis, ""
        )


@dataclass(frozen=True)
class Inspection:
    """What `inspect` found, for the table, JSON and the page."""

    model: str
    overlay: str
    graph: Graph = field(repr=False)
    layers: tuple[Mapping[str, Any], ...] = ()
    precision: Mapping[str, Any] = field(default_factory=dict)
    memory: Mapping[str, int] = field(default_factory=dict)
    estimates: tuple[OverlayEstimate, ...] = ()

    @property
    def operators(self) -> dict[str, dict[str, int]]:
        """How many of each operator run where."""
        found: dict[str, Counter[str]] = {}
        for layer in self.layers:
            found.setdefault(layer["op"], Counter())[layer["where"]] += 1
        return {op: dict(counts) for op, counts in sorted(found.items())}

    def html(self) -> str:
        """The report as one page that opens offline, with the graph drawn."""
        from weft.page import page

        return page(self)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "model": self.model,
            "overlay": self.overlay,
            "inputs": _described(self.graph, self.graph.inputs),
            "outputs": _described(self.graph, self.graph.outputs),
            "precision": dict(self.precision),
            "memory": dict(self.memory),
            "macs": sum(layer["macs"] for layer in self.layers),
            "operators": self.operators,
            "estimates": [vars(e) | {"boards": dict(e.boards)} for e in self.estimates],
            "layers": [dict(layer) for layer in self.layers],
        }


def inspect(
    model: Graph | str | Path,
    overlay: Overlay | str | Path = "lab",
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> Inspection:
    """The report of a model: a file of any kind that weft reads, or a Graph.

    Raises as `weft.load_model` does, OverlayError for an overlay that is not there.
    """
    hardware = overlay if isinstance(overlay, Overlay) else load_overlay(overlay)
    graph = load_model(model, shapes)
    placements = lower.preflight(graph, hardware)
    dressed = provisional(graph)
    name = Path(model).name if isinstance(model, (str, Path)) else graph.name
    return Inspection(
        model=name,
        overlay=hardware.name,
        graph=graph,
        layers=tuple(_layer(graph, place) for place in placements),
        precision=_precision(graph),
        memory=_memory(dressed),
        estimates=_estimates(dressed, hardware, "program" if dressed is graph else "provisional"),
    )


def _described(graph: Graph, names: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {"name": n, "shape": ["n", *graph[n].shape[1:]], "dtype": graph[n].dtype} for n in names
    ]


def _layer(graph: Graph, place: Placement) -> dict[str, Any]:
    """One node: name, operator, where, engine and why; sizes; what to do about a host node."""
    node = place.node
    known = node.outputs[0] in graph.tensors
    return {
        "name": place.name,
        "op": _op(node),
        "where": place.where,
        "engine": place.engine,
        "why": CROSSING.get(place.op, place.why),
        "advice": advice(place),
        "precision": _node_precision(graph, node) if known else "",
        "shape": list(graph[node.outputs[0]].shape) if known else [],
        "macs": _macs(graph, node) if known else 0,
        "weight_bytes": sum(_made_of(graph, n).size for n in _weights(node)) if known else 0,
        "inputs": [n for n in node.inputs if n and n in graph.tensors and graph[n].data is None],
        "outputs": [n for n in node.outputs if n],
    }


def _op(node: Node) -> str:
    """The operator, and of which function a table is."""
    function = node.attrs.get("function")
    return f"{node.op} {function}" if node.op == "Lookup" and function else node.op


def _weights(node: Node) -> tuple[str, ...]:
    """The operands of a node that are weights: of an LSTM two."""
    count = 2 if node.op.startswith("SequenceLstm") else 1
    return node.inputs[1 : 1 + count] if node.op in WEIGHTED else ()


def _macs(graph: Graph, node: Node) -> int:
    """Multiply-accumulates of one sample; 0 for what is no matrix product."""
    if node.op not in (*WEIGHTED, "MatMul", "Attention"):
        return 0
    x, y = _made_of(graph, node.inputs[0]).shape, graph[node.outputs[0]].shape
    if node.op == "Attention":
        return x[1] * _made_of(graph, node.inputs[1]).shape[1] * (x[-1] + y[-1])
    if node.op == "MatMul":
        return prod(y) * x[-1]
    positions = {
        "Conv": y[1:2] if "front" in node.attrs else y[2:],
        "ConvTranspose": x[2:],
        "Linear": y[:-1],
    }.get(node.op, x[1:2])
    return prod(positions) * sum(_made_of(graph, name).size for name in _weights(node))


def advice(place: Placement) -> str:
    """The nearest thing a user can do about a node that the host runs; "" where nothing is due."""
    if place.where != "host" or place.op in (*RELABELS, *CROSSING):
        return ""
    if place.op in ADVICE:
        return ADVICE[place.op]
    found = (what for part, what in REASONS.items() if part in place.why)
    return next(found, OTHERWISE)


def _made_of(graph: Graph, name: str) -> Tensor:
    """A tensor of the model, or the one that the compiler made `name` of: NAME/int8, NAME/heads."""
    while name not in graph.tensors and "/" in name:
        name = name.rpartition("/")[0]
    return graph[name]


def _node_precision(graph: Graph, node: Node) -> str:
    """The numbers that a node works on: "int8", "int8, weights per channel", "float32"."""
    out = graph[node.outputs[0]]
    wide = out.quant is not None and out.quant.format == WIDE
    kind = WIDE if wide else "int8" if out.quant is not None else out.dtype
    weights = _made_of(graph, node.inputs[1]).quant if node.op in ("Conv", "Linear") else None
    if out.quant is None or weights is None:
        return kind
    return f"{kind}, weights per {'channel' if weights.axis is not None else 'tensor'}"


def _precision(graph: Graph) -> dict[str, Any]:
    """Activations, weights, and how sums are rounded."""
    if not is_quantized(graph):
        return {"activations": "float32", "weights": "float32", "rounding": []}
    weighted = [n for n in graph if n.op in ("Conv", "Linear")]
    quants = [graph[n.inputs[1]].quant for n in weighted]
    kinds = {
        "float32" if q is None else f"int8 per {'channel' if q.axis is not None else 'tensor'}"
        for q in quants
    }
    moving = [t for t in graph.tensors.values() if t.data is None]
    codes = sum(t.quant is not None for t in moving)
    modes = {str(n.attrs["requant"]) for n in graph if "requant" in n.attrs}
    return {
        "activations": f"int8 per tensor ({codes} of {len(moving)} tensors)",
        "weights": ", ".join(sorted(kinds)) or "none",
        "rounding": sorted(modes),
    }


def _memory(graph: Graph) -> dict[str, int]:
    """Bytes of weights (int8) and biases (int32), and of the activations alive at the worst."""
    weights = {name for n in graph for name in _weights(n)}
    biases = {n.inputs[2] for n in graph if n.op in ("Conv", "Linear") and len(n.inputs) > 2}
    other = {name for n in graph for name in n.inputs if name and graph[name].data is not None}
    last = {name: i for i, node in enumerate(graph.nodes) for name in node.inputs if name}
    live = {name: _nbytes(graph, name) for name in graph.inputs}
    peak = sum(live.values())
    for i, node in enumerate(graph.nodes):
        live.update((n, _nbytes(graph, n)) for n in node.outputs if n)
        peak = max(peak, sum(live.values()))
        live = {n: b for n, b in live.items() if last.get(n, -1) > i or n in graph.outputs}
    return {
        "weights": sum(graph[n].size for n in weights),
        "biases": 4 * sum(graph[n].size for n in biases if n),
        "other_constants": sum(_nbytes(graph, n) for n in other - weights - biases),
        "activations_peak": peak,
    }


def _nbytes(graph: Graph, name: str) -> int:
    tensor = graph[name]
    if tensor.data is not None:
        return int(tensor.data.nbytes)
    sizes = {"bool": 1, "int8": 1, "uint8": 1, "int64": 8, "int16": 2}
    if tensor.quant is not None:
        return tensor.size * (2 if tensor.quant.format == WIDE else 1)
    return tensor.size * sizes.get(tensor.dtype, 4)


def _estimates(graph: Graph, chosen: Overlay, basis: str) -> tuple[OverlayEstimate, ...]:
    """One per overlay, the chosen one first."""
    names = [name for name in overlay_names() if name != chosen.name]
    small = sum(t.size for t in graph.tensors.values() if t.data is not None) <= EXACT_LIMIT
    every = [chosen, *(load_overlay(name) for name in names)]
    if small:
        return tuple(_compiled(graph, overlay, basis) for overlay in every)
    layers = workload.of_graph(graph)
    return tuple(_by_formula(layers, overlay) for overlay in every)


def _by_formula(layers: workload.Layers, overlay: Overlay) -> OverlayEstimate:
    array, boards = _geometry(overlay)
    cycles = float(workload.cycles(layers, overlay)) if layers else 0.0
    if cycles == float("inf"):
        why = "a layer exceeds the unified buffer"
        return OverlayEstimate(overlay.name, array, None, {}, "formula", why)
    times = {n: float(workload.seconds(layers, overlay, b)) for n, b in boards.items()}
    return OverlayEstimate(overlay.name, array, int(cycles), times, "formula")


def _compiled(graph: Graph, overlay: Overlay, basis: str) -> OverlayEstimate:
    array, boards = _geometry(overlay)
    try:
        program = lower.lower(graph, overlay, batch=1)
    except WeftError as error:  # a layer too large, mostly
        return OverlayEstimate(overlay.name, array, None, {}, basis, str(error))
    times = {name: estimate(program, 1, board).wall_s or 0.0 for name, board in boards.items()}
    return OverlayEstimate(overlay.name, array, estimate(program).cycles, times, basis)


def _geometry(overlay: Overlay) -> tuple[str, dict[str, Board]]:
    boards = {name: load_board(name) for name in overlay.boards}
    return f"{overlay.rows}×{overlay.cols}", boards
