"""Quantized graphs made by hand, run on the golden device, and what numpy says of them.

The references here work on codes with plain integer loops over taps; they share nothing with
`weft.lower` but the requantization formula.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weft.config import Overlay
from weft.device.golden import Golden
from weft.graph import Graph, Node, Quant, Tensor
from weft.lower import lower
from weft.ops import evaluate
from weft.pack import Packer
from weft.program import AcceleratorSegment, Program
from weft.units import requant

Codes = NDArray[np.int8]
# So small that tables, accumulators and the buffer overflow at once.
SMALL = Overlay("4x4", 4, 4, 4, 512, 64, 8, 64)
WIDE = Overlay("16x16", 16, 16, 16, 4096, 256, 32, 256)
OVERLAYS = (SMALL, WIDE)
RNG = np.random.default_rng(2024)


def scale(value: float, zero_point: int = 0) -> Quant:
    return Quant(np.asarray(value, np.float32), zero_point)


def codes(*shape: int) -> Codes:
    return RNG.integers(-128, 128, shape).astype(np.int8)


@dataclass
class Net:
    """A graph under construction; activations carry `quant`."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)

    def input(self, name: str, shape: Sequence[int], quant: Quant) -> str:
        self.inputs.append(name)
        self.tensors[name] = Tensor(name, tuple(shape), quant=quant)
        return name

    def constant(self, name: str, data: Any, quant: Quant | None = None) -> str:
        array = np.asarray(data)
        self.tensors[name] = Tensor(name, array.shape, array.dtype.name, array, quant)
        return name

    def node(
        self,
        op: str,
        inputs: Sequence[str],
        shape: Sequence[int],
        quant: Quant | None,
        /,
        **attrs: Any,
    ) -> str:
        name = f"t{len(self.nodes)}"
        self.tensors[name] = Tensor(name, tuple(shape), quant=quant)
        self.nodes.append(Node(op, f"{op}_{len(self.nodes)}", tuple(inputs), (name,), attrs))
        return name

    def graph(self, *outputs: str) -> Graph:
        return Graph("net", self.tensors, tuple(self.nodes), tuple(self.inputs), outputs).verify()


def run(program: Program, feeds: dict[str, Codes]) -> dict[str, Codes]:
    """Codes of the outputs for codes of the inputs, through all segments."""
    lanes, device = program.overlay.lanes, Golden()
    device.load(program)
    known = dict(feeds)
    count = len(next(iter(feeds.values())))
    written: set[str] = set()
    for number, segment in enumerate(program.segments):
        if not isinstance(segment, AcceleratorSegment):
            graph = segment.graph
            reals = {}
            for n in graph.inputs:
                quant = graph[n].quant
                reals[n] = known[n] if quant is None else quant.dequantize(known[n])
            for n, y in evaluate(graph, reals).items():
                quant = graph[n].quant
                known[n] = y if quant is None else quant.quantize(y)
            continue
        for name in segment.inputs:
            if name not in written:
                region = program.regions[name]
                device.write(region.row, Packer(region, lanes).pack(known[name]))
        device.run(number, count)
        for name in segment.outputs:
            region = program.regions[name]
            packer = Packer(region, lanes)
            rows = device.read(region.row, count * packer.words)
            layout = region.layout
            size = {"c": layout.channels, "h": layout.height, "w": layout.width}
            shape = [1, *(int(np.prod([size[c] for c in d])) for d in layout.dims[1:])]
            known[name] = packer.unpack(rows, count, tuple(shape))
        written.update(segment.inputs, segment.outputs)
    return known


def outputs(
    graph: Graph,
    overlay: Overlay,
    feeds: dict[str, Codes],
    batch: int | None = None,
    **options: Any,
) -> tuple[list[Codes], Program]:
    """Output codes of a graph on an overlay, and its program."""
    program = lower(graph, overlay, batch=batch, **options)
    parts = []
    count = len(next(iter(feeds.values())))
    for start in range(0, count, program.batch):
        part = {n: x[start : start + program.batch] for n, x in feeds.items()}
        parts.append(run(program, part))
    return [np.concatenate([p[n] for p in parts]) for n in graph.outputs], program


def on_accelerator(program: Program) -> bool:
    return all(isinstance(segment, AcceleratorSegment) for segment in program.segments)


def convolve(
    x: Codes,
    zero: int,
    w: NDArray[Any],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    group: int = 1,
) -> NDArray[np.int64]:
    """Sums [n, O, out_h, out_w] of a 2-D convolution of (x − zero), padding adding nothing."""
    (top, left, bottom, right), (kernel_h, kernel_w) = pads, w.shape[2:]
    padded = np.pad(x.astype(np.int64) - zero, ((0, 0), (0, 0), (top, bottom), (left, right)))
    n, _, height, width = padded.shape
    out_h = (height - (kernel_h - 1) * dilations[0] - 1) // strides[0] + 1
    out_w = (width - (kernel_w - 1) * dilations[1] - 1) // strides[1] + 1
    outputs, depth = w.shape[:2]
    total = np.zeros((n, outputs, out_h, out_w), np.int64)
    for ky in range(kernel_h):
        for kx in range(kernel_w):
            y0, x0 = ky * dilations[0], kx * dilations[1]
            tap = padded[:, :, y0:, x0:][:, :, :: strides[0], :: strides[1]][:, :, :out_h, :out_w]
            for g in range(group):
                ins = slice(g * depth, (g + 1) * depth)
                outs = slice(g * outputs // group, (g + 1) * outputs // group)
                part = w[outs, :, ky, kx].astype(np.int64)
                total[:, outs] += np.einsum("oi,nihw->nohw", part, tap[:, ins])
    return total


def finish(
    sums: NDArray[np.int64],
    real_scale: Any,
    y: Quant,
    mode: str = "single_round",
    low: int = -128,
    high: int = 127,
    slope: Any = None,
) -> Codes:
    """Codes of sums [n, channels, ...]: requantize per channel, zero point, clamp."""
    last = np.moveaxis(sums, 1, -1)
    z = requant.requantize(last, *requant.encode(np.asarray(real_scale), mode), mode)
    if slope is not None:
        below = requant.encode(np.asarray(real_scale) * np.asarray(slope, np.float64), mode)
        z = np.where(last < 0, requant.requantize(last, *below, mode), z)
    return np.moveaxis(np.clip(z + y.zero_point, low, high), -1, 1).astype(np.int8)
