"""The first TPU's workloads as networks of the published sizes, written as its programs are.

Jouppi et al., ISCA 2017, table 1: layers, weights, batch. What it doesn't say is chosen here: the
width of each layer, and what vector layers do. A TPU program places activations itself, so that
layers that read several maps find them side by side.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

import kernel
from kernel import Code
from weft import isa
from weft.config import Overlay
from weft.program import Program

WIDE = 2  # bytes of an activation of 16 bits: as many rows, and half the speed (systolic.md)


@dataclass
class Network:
    """A program that grows layer by layer; `scale` divides its channels, for smaller arrays."""

    overlay: Overlay
    rows: int
    scale: int = 1
    weights: int = 0
    connected: int = 0
    vectors: int = 0
    convolutions: int = 0
    code: Code = field(init=False)
    fed: int = 0
    used: int = 0

    def __post_init__(self) -> None:
        self.code = Code(self.overlay)

    def blocks(self, channels: int) -> int:
        return -(-channels // self.scale // self.overlay.lanes)

    def place(self, channels: int, rows: int | None = None) -> int:
        """Words for a map in the unified buffer."""
        start = self.used
        self.used += self.blocks(channels) * (rows or self.rows)
        return start

    def feed(self, rows: int) -> None:
        self.code.add(isa.READ_WEIGHTS, memory=self.fed, rows=rows)
        self.fed += rows

    def move(self, kind: isa.Instruction, channels: int, at: int) -> None:
        """A map from or to the host, sample by sample."""
        words = self.blocks(channels) * self.rows
        memory = 0 if kind is isa.READ_HOST else self.overlay.buffer_words
        samples = {"memory_sample": words, "buffer_sample": words}
        self.code.add(kind, buffer=at, words=words, chunks=1, memory=memory, **samples)

    def matmul(self, reads: tuple[int, ...], outputs: int, source: int, target: int) -> None:
        """A layer that is connected to maps of `reads` channels, which lie side by side."""
        blocks, tiles = sum(map(self.blocks, reads)), self.blocks(outputs)
        self.window(blocks, tiles, source, target, kernel.simple_window(1, self.rows))
        self.weights += sum(reads) * outputs
        self.connected += 1

    def conv(self, inputs: int, outputs: int, taps: int, size: int, places: list[int]) -> None:
        """A convolution that keeps the size of its map; `places`: from where, to where."""
        f = kernel.simple_window(size, size) | {"kernel_h": taps, "kernel_w": taps}
        f |= {"pad_y": taps // 2, "pad_x": taps // 2}
        self.window(self.blocks(inputs), self.blocks(outputs), *places, f)
        self.weights += inputs * outputs * taps * taps
        self.convolutions += 1

    def window(self, blocks: int, tiles: int, source: int, target: int, f: dict[str, int]) -> None:
        height, width = f["height"], f["width"]
        folds = blocks * tiles * f["kernel_h"] * f["kernel_w"]
        self.feed(isa.PARAMETER_ROWS * tiles)
        self.code.add(isa.SET_TABLE, target=0, index=0, count=tiles)
        self.feed(folds * self.overlay.rows)
        reads = kernel.strides("source", (blocks, height, width))
        ends = {"first": 1, "last": 1, "overlap": 1}
        self.code.add(
            isa.MAT_MUL, source=source, blocks=blocks, tiles=tiles, **f, **reads, **ends
        )  # fmt: skip
        where = kernel.strides("target", (tiles, height, width))
        self.code.add(isa.ACTIVATE, target=target, **where, low=0, high=127, parameter_step=1)

    def vector(self, channels: int, source: int, second: int, target: int) -> None:
        """A product of two maps, element by element."""
        shape = (self.blocks(channels), 1, self.rows)
        f = kernel.simple_window(1, self.rows) | kernel.strides("source", shape)
        f |= kernel.strides("second", shape) | {"blocks": shape[0]}
        self.code.add(isa.VECTOR, operation=3, source=source, second=second, **f)
        where = kernel.strides("target", shape)
        self.code.add(isa.ACTIVATE, target=target, **where, low=-128, high=127)
        self.vectors += 1

    def program(self, batch: int = 1) -> Program:
        assert self.used <= self.overlay.buffer_words
        self.code.weights = [np.zeros((self.fed, self.overlay.lanes), np.int8)]
        return self.code.program(batch)


def mlp(overlay: Overlay, widths: tuple[int, ...], batch: int, scale: int = 1) -> Network:
    """Fully connected layers."""
    n = Network(overlay, batch, scale)
    places = [n.place(max(widths)), n.place(max(widths))]
    n.move(isa.READ_HOST, widths[0], places[0])
    for reads, outputs in pairwise(widths):
        n.matmul((reads,), outputs, *places)
        places.reverse()
    n.move(isa.WRITE_HOST, widths[-1], places[0])
    return n


def lstm(
    overlay: Overlay,
    units: int,
    reads: tuple[int, ...],
    vectors: int,
    batch: int,
    scale: int = 1,
    output: bool = False,
    steps: int = 2,
) -> Network:
    """Recurrent steps of a stack of cells of `units` units, whose activations have 16 bits.

    Cell l reads as many maps as `reads` says: outputs of the cells below it and, last, its own of
    the step before. All of them lie side by side, so that nothing is copied. Its four gates are
    connected layers; the vector layers are spread over the cells. `output`: a connected layer of
    two maps behind the last cell.
    """
    n = Network(overlay, batch * WIDE, scale)
    below = max(reads) - 1
    chain = [n.place(units) for _ in range(below + len(reads))]
    gates = [n.place(units) for _ in range(4)]
    states = [n.place(units) for _ in reads]
    spare, out = n.place(units), n.place(units)
    for _ in range(steps):
        n.move(isa.READ_HOST, units, chain[below - 1])
        for cell, maps in enumerate(reads):
            for gate in gates:
                n.matmul((units,) * maps, units, chain[below + cell - maps + 1], gate)
            own = vectors * (cell + 1) // len(reads) - vectors * cell // len(reads)
            for i in range(own - 1):
                n.vector(units, gates[i % 4], states[cell], spare)
                states[cell], spare = spare, states[cell]
            n.vector(units, gates[3], states[cell], chain[below + cell])
        if output:
            n.matmul((units,) * 2, units, chain[-2], out)
        n.move(isa.WRITE_HOST, units, out if output else chain[-1])
    for name in ("weights", "connected", "vectors"):  # of one step
        setattr(n, name, getattr(n, name) // steps)
    return n


def convolutional(overlay: Overlay, batch: int, scale: int = 1) -> Network:
    """AlphaGo's kind: 361 points of 19 × 19, which with a batch of 8 are 2,888 MACs per byte."""
    size, wide = 19, 256
    n = Network(overlay, size * size, scale)
    places = [n.place(wide, batch * size * size), n.place(wide, batch * size * size)]
    n.move(isa.READ_HOST, 48, places[0])
    shapes = [(48, wide, 5), *[(wide, wide, 3)] * 13, (wide, wide, 1), (wide, 1, 1)]
    for inputs, outputs, taps in shapes:
        n.conv(inputs, outputs, taps, size, places)
        places.reverse()
    n.move(isa.WRITE_HOST, 1, places[0])
    return n


# Of LSTM1 the paper says that its matrices are 600 × 600 (recalled; 61 % of a tile are then used,
# as the table's 6.3 of 10.5 %): 94 of them are 34 M weights, five cells read three maps each.
def workload(name: str, overlay: Overlay, scale: int = 1, steps: int = 2) -> Network:
    """A workload of table 1, by its name there; batches are the published ones."""
    if name == "MLP0":
        return mlp(overlay, (2000,) * 6, 200, scale)
    if name == "MLP1":
        return mlp(overlay, (1000, 1250, 1000, 1250, 1000), 168, scale)
    if name == "LSTM0":
        return lstm(overlay, 1024, (2,) * 6, 34, 64, scale, steps=steps)
    if name == "LSTM1":
        return lstm(overlay, 600, (2,) * 4 + (3,) * 5, 19, 96, scale, output=True, steps=steps)
    assert name == "CNN0"
    return convolutional(overlay, 8, scale)


# Table 1: layers (connected, vector, convolution), weights in millions, MACs per weight byte.
PUBLISHED = {
    "MLP0": (5, 0, 0, 20, 200),
    "MLP1": (4, 0, 0, 5, 168),
    "LSTM0": (24, 34, 0, 52, 64),
    "LSTM1": (37, 19, 0, 34, 96),
    "CNN0": (0, 0, 16, 8, 2888),
}
