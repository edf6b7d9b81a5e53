"""What sparsity saves on a network: pruned, compiled and run in several forms, against dense.

Each form is a pattern of zeros (weft.pruning.spec), which names the engine: "2:4", "csc:0.9",
"bitmask:0.5", "snap:0.8". Programs hold one sample: that is where weights decide on the time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from weft.config import Overlay, load_board
from weft.eie_load import Load, loads
from weft.graph import Array, Graph
from weft.program import Program

FORMS = ("2:4", "csc:0.9", "bitmask:0.5", "snap:0.8")
BOARDS = ("KV260", "ZCU104")
MEASURED = 16  # samples whose clocks are counted
SPARSE = ("nm", "eie", "snap", "gather")
WORTH = 0.01  # share of the clocks that the zeros of a layer save at least

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Form:
    """One form of a network: `density` of the weights in products, clocks per sample as counted by
    the simulation, `board_s` predicted; `top1` where labels are known; `eie`, what goes on in the
    layers of that engine, for the same samples.
    """

    sparsity: str
    density: float
    weight_bytes: int
    cycles: float
    board_s: Mapping[str, float]
    agreement: float
    top1: float | None
    layers: tuple[Mapping[str, Any], ...]
    eie: tuple[Load, ...] = ()

    @property
    def sparse_layers(self) -> int:
        """Layers on an engine of sparse weights."""
        return sum(layer["engine"] in SPARSE for layer in self.layers)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        plain = {"board_s": dict(self.board_s), "layers": list(self.layers)}
        return vars(self) | plain | {"eie": [load.as_dict() for load in self.eie]}


@dataclass(frozen=True)
class Trained:
    """A form of a network that was trained: top-1 in percent, in float and as int8 program, bytes,
    clocks of an image, seconds on boards.
    """

    form: str
    float_top1: float
    top1: float
    weight_bytes: int
    clocks: float
    board_s: tuple[float, ...]
    engines: tuple[str, ...]

    @staticmethod
    def of(
        form: str, program: Program, top1: tuple[float, float], clocks: float, boards: Sequence[str]
    ) -> Trained:
        """What is known of a program, with what was measured: top-1 (float, int8) and clocks."""
        from weft.estimate import estimate

        products = [layer for layer in program.layers if layer.macs]
        return Trained(
            form,
            *top1,
            sum(layer.weight_bytes for layer in products),
            clocks,
            tuple(estimate(program, 1, load_board(name)).wall_s or 0.0 for name in boards),
            tuple(layer.engine for layer in products),
        )


def trained_table(found: Sequence[Trained], boards: Sequence[str]) -> str:
    """A line per form under a heading."""
    width = max((len(r.form) for r in found), default=0) + 4
    names = "".join(f"{board:>10}" for board in boards)
    lines = [f"{'form':<{width}}{'float':>8}{'int8':>8}{'bytes':>10}{'clocks':>9}{names}  engines"]
    for r in found:
        times = "".join(f"{s * 1e6:8.1f}us" for s in r.board_s)
        tops, sizes = f"{r.float_top1:8.2f}{r.top1:8.2f}", f"{r.weight_bytes:10,}{r.clocks:9,.0f}"
        lines.append(f"{r.form:<{width}}{tops}{sizes}{times}  {', '.join(r.engines)}")
    return "\n".join(lines)


@dataclass(frozen=True, eq=False)
class Task:
    """A float network, the inputs that calibrate and judge it, and how it is pruned."""

    graph: Graph
    overlay: Overlay
    calibration: Mapping[str, Array]
    inputs: Mapping[str, Array]
    labels: Array | None = None
    criterion: str = "magnitude"


def study(
    task: Task, forms: Sequence[str] = FORMS, progress: Progress = lambda done, total: None
) -> list[Form]:
    """The dense network, then its forms. Raises as weft.passes.prune.prune and weft.lower."""
    names = ("dense", *forms)
    graphs = [_pruned(task, form) for form in names]
    # All programs before any runs: a mistake shows at once.
    programs = [program_of(task, *pair) for pair in zip(names, graphs, strict=True)]
    made: list[Form] = []
    reference = None
    for number, form in enumerate(names):
        density = _density(graphs[number])
        found, outputs = _measured(task, form, density, programs[number], reference)
        reference = outputs if reference is None else reference
        made.append(found)
        progress(number + 1, len(names))
    return made


def _pruned(task: Task, form: str) -> Graph:
    """The float network with the zeros of a form."""
    from weft.passes.prune import prune

    if form == "dense":
        return task.graph
    return prune(task.graph, form, criterion=task.criterion, calibration=task.calibration)


def unpaid(task: Task, form: str, least: float = WORTH) -> dict[str, str]:
    """Layers whose zeros would save less than `least` of the network's clocks, {name: "dense"}.

    Pruning them costs accuracy for little: shortcuts and classifiers are small, and where channels
    are few the array saves no fold. `layers` of weft.passes.prune.prune, and plans, leave what is
    named here dense. Clocks are predicted, on the task's overlay.
    """
    from weft.estimate import estimate

    magnitude = replace(task, criterion="magnitude")  # which weights go changes no clock
    graphs = {name: _pruned(magnitude, name) for name in ("dense", form)}
    dense, sparse = (estimate(program_of(task, *pair)) for pair in graphs.items())
    whole = sum(layer.cycles for layer in dense.layers)
    return {
        ours.name: "dense"
        for ours, theirs in zip(sparse.layers, dense.layers, strict=True)
        if ours.macs and theirs.cycles - ours.cycles < least * whole
    }


def program_of(task: Task, form: str, graph: Graph) -> Program:
    """A pruned network as a program for one sample."""
    from weft.lower import lower
    from weft.passes.quantize import quantize

    return lower(quantize(graph, task.calibration), task.overlay, batch=1, name=form)


def _measured(
    task: Task, form: str, density: float, program: Program, reference: Any
) -> tuple[Form, Any]:
    import weft
    from weft.estimate import estimate

    with weft.open(program, "csim") as session:
        first = {name: array[:MEASURED] for name, array in task.inputs.items()}
        _, run = session.run(first, detail=True)
        classes = _classes(session.run(dict(task.inputs)))
    counted = run.cycles / len(next(iter(first.values())))
    boards = {name: estimate(program, 1, load_board(name)).wall_s or 0.0 for name in BOARDS}
    layers: tuple[dict[str, Any], ...] = tuple(
        {"name": r.name, "op": r.op, "engine": r.engine, "weight_bytes": p.weight_bytes,
         "cycles": r.cycles, "bytes": r.bytes, "sparsity": p.sparsity}
        for r, p in zip(estimate(program).layers, program.layers, strict=True)
        if r.macs
    )  # fmt: skip
    found = Form(
        form,
        density,
        sum(int(layer["weight_bytes"]) for layer in layers),
        counted,
        boards,
        float(np.mean(classes == (classes if reference is None else reference))),
        None if task.labels is None else float(np.mean(classes == task.labels)),
        layers,
        loads(program, first) if any(layer["engine"] == "eie" for layer in layers) else (),
    )
    return found, classes


def _density(graph: Graph) -> float:
    """Share of weights of products that are not zero."""
    from weft.passes.prune import weighted

    weights = [graph[node.inputs[1]].real() for node in weighted(graph)]
    return sum(int(np.count_nonzero(w)) for w in weights) / max(1, sum(w.size for w in weights))


def _classes(outputs: Any) -> Array:
    """The class of each sample, by the first output."""
    array = next(iter(outputs.values())) if isinstance(outputs, dict) else outputs
    flat = np.asarray(array).reshape(len(array), -1)
    return np.asarray(flat.argmax(axis=1))
