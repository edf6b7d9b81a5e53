"""Layers as the design space sees them, and their clocks and bytes on many designs at once.

The clocks are those of weft.units (array_clocks and so on), written for numpy arrays of designs; a
test compares both. What depends on more than one layer, the plan of the unified buffer, is
simplified here: a layer whose input and output don't fit goes through memory, all others stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from weft import isa
from weft.config import Board
from weft.designs import Geometry
from weft.graph import Graph, Node
from weft.program import AcceleratorSegment, Program
from weft.state import ISSUE_CLOCKS
from weft.storage import ceil_div

INSTRUCTION_BYTES = 4 * isa.WORDS
MATRIX, VECTOR = "matrix", "vector"


@dataclass(frozen=True)
class Work:
    """One layer, per sample: channels in and out, the window, and the size of both maps.

    `reads` is how many words a vector operation reads per word it writes; `unfolds` tells that the
    host may gather taps into lanes (a first convolution with few channels); `copies` repeats the
    layer; `enters` and `leaves` that its input or output crosses to the host. `held` are maps,
    (channels, positions), that must stay in the unified buffer meanwhile: a shortcut's, say.
    """

    name: str
    kind: str
    inputs: int
    outputs: int
    out_h: int = 1
    out_w: int = 1
    kernel_h: int = 1
    kernel_w: int = 1
    in_h: int = 1
    in_w: int = 1
    group: int = 1
    reads: int = 1
    unfolds: bool = False
    enters: bool = False
    leaves: bool = False
    copies: int = 1
    held: tuple[tuple[int, int], ...] = ()

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one sample, in all copies; none for pooling and sums."""
        if self.kind == VECTOR and self.group == 1:
            return 0
        depth = 1 if self.kind == VECTOR else self.inputs // self.group
        taps = self.kernel_h * self.kernel_w
        return self.copies * self.out_h * self.out_w * self.outputs * depth * taps


Layers = Sequence[Work]


def seconds(layers: Layers, g: Geometry, board: Board, batch: int = 1) -> Any:
    """Seconds of one run of `batch` samples on each design; infinite where a layer can't run."""
    total = np.asarray(0.0)
    for work in layers:
        cycles, nbytes = cost(work, g, batch)
        compute = cycles / (board.clock_mhz * 1e6)
        total = total + work.copies * np.maximum(compute, nbytes / board.memory_bytes_per_s)
    return total


def cycles(layers: Layers, g: Geometry, batch: int = 1) -> Any:
    """Clocks of one run on each design."""
    return sum(work.copies * cost(work, g, batch)[0] for work in layers)


def cost(work: Work, g: Geometry, batch: int = 1) -> tuple[Any, Any]:
    """Clocks and memory bytes of one copy of a layer, on each design."""
    taken, rows = (_matrix if work.kind == MATRIX else _vector)(work, g, batch)
    lanes = np.asarray(g.rows)
    read, written = _map_words(work, lanes)
    held = sum(ceil_div(channels, lanes) * positions for channels, positions in work.held)
    whole = batch * (read + written + held) <= g.buffer_words
    crossing = np.where(whole, work.enters * read + work.leaves * written, read + written) * batch
    taken = taken + crossing * g.beats
    nbytes = (rows + crossing) * lanes + 4 * INSTRUCTION_BYTES
    row_h = min(work.kernel_h, work.in_h)
    least = ceil_div(read * row_h, work.in_h) + ceil_div(written, work.out_h)
    # The accumulators hold one row per sample at least, the buffer one band.
    possible = (least <= g.buffer_words) & (np.asarray(g.accumulator_rows) >= batch)
    return np.where(possible, taken, np.inf), nbytes


def _map_words(work: Work, lanes: Any) -> tuple[Any, Any]:
    """Words of the input and the output of one sample."""
    read = ceil_div(work.inputs, lanes) * work.in_h * work.in_w
    if work.unfolds:
        read = np.where(_unfolded(work, lanes) > 0, work.out_h * work.out_w, read)
    return read, ceil_div(work.outputs, lanes) * work.out_h * work.out_w


def _unfolded(work: Work, lanes: Any) -> Any:
    """Folds per tile after the host gathered taps; 0 where it doesn't (weft.lower.conv)."""
    width = work.inputs * work.kernel_w
    rows = np.minimum(work.kernel_h, np.asarray(lanes) // width)
    few = work.unfolds and work.kernel_h * work.kernel_w > 1
    return np.where((rows > 0) & few, ceil_div(work.kernel_h, np.maximum(rows, 1)), 0)


def _matrix(work: Work, g: Geometry, batch: int) -> tuple[Any, Any]:
    """Clocks, and rows of weight memory read."""
    lanes = np.asarray(g.rows)
    tiles = ceil_div(work.outputs, lanes)
    depth = work.inputs
    if work.group > 1:  # a tile reads only the channels of its own groups
        groups = np.minimum(work.group, ceil_div(lanes * work.group, work.outputs))
        depth = groups * (work.inputs // work.group)
    folds = ceil_div(depth, lanes) * work.kernel_h * work.kernel_w
    gathered = _unfolded(work, lanes)
    folds = np.where(gathered > 0, gathered, folds)
    limit = np.maximum(np.asarray(g.accumulator_rows) // batch, 1)
    bands = ceil_div(work.out_h, np.maximum(limit // work.out_w, 1))
    parts = bands * ceil_div(work.out_w, limit)
    rows = batch * work.out_h * work.out_w / parts
    calls = tiles if work.group > 1 else ceil_div(tiles, g.parameter_blocks)
    load = lanes * g.beats
    flush = lanes + g.column_groups - 2
    fixed = calls * (load + flush + 2 * ISSUE_CLOCKS + rows - np.maximum(rows, load))
    taken = parts * (fixed + tiles * folds * np.maximum(rows, load))
    table = tiles * isa.PARAMETER_ROWS
    return taken + table * g.beats + ISSUE_CLOCKS, parts * tiles * folds * lanes + table


def _vector(work: Work, g: Geometry, batch: int) -> tuple[Any, Any]:
    """Clocks, and rows of weight memory read."""
    blocks = ceil_div(work.outputs, g.rows)
    taps = work.kernel_h * work.kernel_w if work.group > 1 else 0
    table = blocks * (taps + isa.PARAMETER_ROWS)
    words = batch * work.out_h * work.out_w * blocks * work.reads
    taken = words + table * g.beats + 4 * ISSUE_CLOCKS
    return np.where(taps <= np.asarray(g.tap_words), taken, np.inf), table


def of_graph(graph: Graph) -> list[Work]:
    """Layers of a fused graph that take clocks; what runs on the host is left out."""
    made: list[Work] = []
    last = {name: i for i, node in enumerate(graph.nodes) for name in node.inputs}
    live: list[str] = []
    for i, node in enumerate(graph.nodes):
        work = _of_node(graph, node)
        live = [name for name in live if last.get(name, -1) >= i]
        if work is not None:
            enters = any(name in graph.inputs for name in node.inputs)
            leaves = any(name in graph.outputs for name in node.outputs)
            unfolds = enters and work.kind == MATRIX and work.group == 1
            held = tuple(_extent(graph, name) for name in live if name != node.inputs[0])
            made.append(replace(work, enters=enters, leaves=leaves, unfolds=unfolds, held=held))
        live += node.outputs
    if made:  # what the host does before and behind has no clocks, but its maps cross
        made[0], made[-1] = replace(made[0], enters=True), replace(made[-1], leaves=True)
    return made


def _extent(graph: Graph, name: str) -> tuple[int, int]:
    """Channels and positions of an activation."""
    shape = (1, 1, *graph[name].shape)[-max(len(graph[name].shape), 2) :]
    return shape[1], prod(shape[2:])


def _of_node(graph: Graph, node: Node) -> Work | None:
    x, y = graph[node.inputs[0]].shape, graph[node.outputs[0]].shape
    name = node.name or node.outputs[0]
    if node.op == "Linear":
        k, n = graph[node.inputs[1]].shape
        channels, height, width = _flattened(graph, node.inputs[0])
        if channels * height * width == k:  # a convolution that covers the map
            return Work(name, MATRIX, channels, n, 1, 1, height, width, height, width)
        rows = prod(y[1:-1])
        return Work(name, MATRIX, k, n, rows, 1, in_h=rows)
    if node.op not in ("Conv", "MaxPool", "AveragePool", "Add", "Sub", "Mul") and (
        not node.op.startswith("Global")
    ):
        return None
    (i, *space), (o, *out) = x[1:], y[1:]
    if len(space) > 2 or len(out) > 2:
        return None
    in_h, in_w = _plane(space)
    out_h, out_w = _plane(out)
    maps: dict[str, Any] = {"out_h": out_h, "out_w": out_w, "in_h": in_h, "in_w": in_w}
    if node.op == "Conv":
        kernel_h, kernel_w = _plane(graph[node.inputs[1]].shape[2:])
        group = int(node.attrs.get("group", 1))
        kind = VECTOR if group == i == o and o > 1 else MATRIX
        return Work(name, kind, i, o, kernel_h=kernel_h, kernel_w=kernel_w, group=group,
                    reads=kernel_h * kernel_w, **maps)  # fmt: skip
    if node.op in ("Add", "Sub", "Mul"):
        return Work(name, VECTOR, i, o, reads=2, **maps)
    window = node.attrs.get("kernel_shape") or space
    return Work(name, VECTOR, i, o, reads=prod(window), **maps)


def _flattened(graph: Graph, name: str) -> tuple[int, int, int]:
    """Channels, height and width of the map that a tensor is a reshape of."""
    shape = graph[graph.reshaped_from(name)].shape
    if not 2 <= len(shape) <= 4:
        return 0, 0, 0
    return shape[1], *_plane(shape[2:])


def _plane(shape: Iterable[int]) -> tuple[int, int]:
    """Height and width of 0 to 2 spatial axes; a single one is the width."""
    height, width = (1, 1, *shape)[-2:]
    return height, width


def of_program(program: Program) -> list[Work]:
    """Layers as a program's instructions show them: channels are full blocks of its overlay."""
    lanes = program.overlay.lanes
    made: dict[tuple[Any, ...], Work] = {}
    for number, segment in enumerate(program.segments):
        if not isinstance(segment, AcceleratorSegment):
            continue
        for words, layer in zip(segment.words, segment.layers, strict=True):
            kind, f = isa.decode(words)
            if kind not in (isa.MAT_MUL, isa.VECTOR):
                continue
            work = _of_instruction(program.layers[int(layer)].name, kind, f, lanes)
            key = (number, work.name, work.kind, work.inputs, work.outputs, work.out_w)
            before = made.get(key)
            if before:  # another part of the same map
                height = max(before.in_h, work.in_h)
                work = replace(work, out_h=before.out_h + work.out_h, in_h=height)
            made[key] = work
    layers = list(made.values())
    if layers:
        layers[0] = replace(layers[0], enters=True)
        layers[-1] = replace(layers[-1], leaves=True)
    return layers


def _of_instruction(name: str, kind: isa.Instruction, f: dict[str, int], lanes: int) -> Work:
    inputs = f["blocks"] * lanes
    maps: dict[str, Any] = {
        "out_h": f["out_h"],
        "out_w": f["out_w"],
        "in_h": f["height"],
        "in_w": f["width"],
    }
    window: dict[str, Any] = {"kernel_h": f["kernel_h"], "kernel_w": f["kernel_w"]}
    if kind is isa.MAT_MUL:
        return Work(name, MATRIX, inputs, f["tiles"] * lanes, **window, **maps)
    operation = isa.OPERATIONS[f["operation"]]
    reads = 2 if operation in ("add", "mul") else f["kernel_h"] * f["kernel_w"]
    if operation != "depthwise":
        return Work(name, VECTOR, inputs, inputs, reads=reads, **maps)
    return Work(name, VECTOR, inputs, inputs, group=inputs, reads=reads, **window, **maps)


def _conv(name: str, i: int, o: int, size: int, kernel: int = 3, stride: int = 1) -> Work:
    out = size // stride
    return Work(name, MATRIX, i, o, out, out, kernel, kernel, size, size)


def resnet8() -> list[Work]:
    """ResNet8 for CIFAR-10 as in MLPerf Tiny: 12.5 M multiply-accumulates."""
    layers = [replace(_conv("stem", 3, 16, 32), enters=True, unfolds=True)]
    before = 16
    for stack, (channels, size) in enumerate(((16, 32), (32, 32), (64, 16)), start=1):
        stride = 1 if channels == 16 else 2
        out = size // stride
        shortcut, done = ((before, size * size),), ((channels, out * out),)
        first = _conv(f"stack{stack}.1", before, channels, size, stride=stride)
        second = _conv(f"stack{stack}.2", channels, channels, out)
        layers += [first, replace(second, held=shortcut)]
        if stride == 2:
            skip = _conv(f"stack{stack}.skip", before, channels, size, 1, stride)
            layers.append(replace(skip, held=done))
        layers.append(Work(f"stack{stack}.add", VECTOR, channels, channels, out, out,
                           in_h=out, in_w=out, reads=2, held=done))  # fmt: skip
        before = channels
    layers.append(Work("pool", VECTOR, 64, 64, in_h=8, in_w=8, reads=64))
    return [*layers, Work("dense", MATRIX, 64, 10, leaves=True)]


def bert_base(tokens: int = 128) -> list[Work]:
    """Weight products of BERT-base's twelve encoder layers, one sequence being a sample.

    The products of attention run on the host until there is a unit for them.
    """
    shapes = (("qkvo", 768, 768, 4), ("up", 768, 3072, 1), ("down", 3072, 768, 1))
    layers = [
        Work(name, MATRIX, k, n, tokens, 1, in_h=tokens, copies=12 * count)
        for name, k, n, count in shapes
    ]
    return [*layers[:-1], replace(layers[-1], leaves=True)]


MIX = {"resnet8": resnet8, "bert_base": bert_base}
