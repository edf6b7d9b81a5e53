"""Program: what the compiler makes and a device runs; one safetensors file on disk.

A program is a list of segments over named tensors. An accelerator segment is a run of encoded
instructions that ends with a Barrier; a host segment is a small graph that numpy evaluates.
Loading a file never executes anything in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weft import isa
from weft.config import Overlay
from weft.errors import ProgramError
from weft.graph import Graph, Quant, Shape

Rows = NDArray[np.int8]


@dataclass(frozen=True)
class Layout:
    """How a tensor lies in words: channels × height × width, channels in blocks of `lanes`.

    Word (block, y, x) is at index (block·height + y)·width + x of the sample; its lane l holds
    channel block·lanes + l, or 0 past the last channel. Codes of fewer than 8 `bits` share a byte,
    the lower channel in the low bits, so a block has more channels; codes of 16 bits take two rows
    of memory per word, low bytes then high bytes. `dims` says what the tensor's
    own dimensions are made of, the batch dimension first and empty: NCHW is ((), ("c",), ("h",),
    ("w",)); after a flatten ((), ("c", "h", "w")); NHWC ((), ("h",), ("w",), ("c",)). Fewer dims
    than the tensor has describe it flattened: an image that lies as a vector is ((), ("c",)).
    """

    channels: int
    height: int
    width: int
    dims: tuple[tuple[str, ...], ...]
    bits: int = 8

    def blocks(self, lanes: int) -> int:
        """Channel blocks."""
        return -(-self.channels // (lanes * 8 // min(self.bits, 8)))

    def words(self, lanes: int) -> int:
        """Rows of memory per sample."""
        return self.blocks(lanes) * self.height * self.width * max(1, self.bits // 8)


@dataclass(frozen=True)
class Unfold:
    """How the host gathers the taps of a shallow first convolution into the lanes of a word.

    Word (y, x) of the unfolded map holds, for `rows` kernel rows (dilation_y apart), `kernel_w`
    kernel columns and every channel, in this order (channel fastest), the input at
    (y·step_y + i·dilation_y − pad_y, x·stride_x + j·dilation_x − pad_x); the input's zero point
    outside. The unfolded map is `height` × `width` words.
    """

    rows: int
    kernel_w: int
    step_y: int
    stride_x: int
    dilation_y: int
    dilation_x: int
    pad_y: int
    pad_x: int
    height: int
    width: int


@dataclass(frozen=True)
class Region:
    """A tensor in activation memory: first row, layout, and the meaning of its codes."""

    row: int
    layout: Layout
    quant: Quant
    unfold: Unfold | None = None


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of the program: shape with the batch dimension as 1, numpy dtype."""

    name: str
    shape: Shape
    dtype: str


@dataclass(frozen=True)
class Layer:
    """What the reports say of one layer: its node, operator, engine, work and weights.

    `data_clocks`: clocks per sample, as predicted, that depend on the zeros in the data; `sparsity`
    tells what its zeros save, or why it runs dense. `tokens` are the inputs whose numbers of tokens
    its multiplications are in proportion to.
    """

    name: str
    op: str
    engine: str
    macs: int = 0
    weight_bytes: int = 0
    data_clocks: int = 0
    sparsity: str = ""
    tokens: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rule:
    """A field of an instruction that depends on the number of tokens of an input.

    value = ⌈min(most, tokens − offset) / unit⌉ · scale. Where one of its values is below 1, the
    instruction is left out; a rule with the name "" says no more than that.
    """

    segment: int
    instruction: int
    field: str
    input: str
    offset: int = 0
    most: int = (1 << 31) - 1
    unit: int = 1
    scale: int = 1

    def value(self, tokens: int) -> int:
        """The field's value."""
        return -(-min(self.most, tokens - self.offset) // self.unit) * self.scale


@dataclass(frozen=True)
class Cache:
    """What a decoder's program keeps from run to run: keys and values of up to `capacity` tokens,
    in the regions `names`, for each of `slots` texts. A run takes 1 to `tokens` new ones; how many,
    how many are there already, and the first row of the slot, are registers (`Device.run`). With an
    encoder, which reads up to `source` tokens, so is how many those are. With fewer `bits` than 8
    groups of tokens are packed, and no run may go beyond the end of one (`weft.text.packed_runs`).
    """

    tokens: int
    capacity: int
    names: tuple[str, ...]
    slots: int = 1
    source: int = 0
    bits: int = 8


@dataclass(frozen=True)
class AcceleratorSegment:
    """Instructions [n, 32] up to and including the Barrier; `layers[i]` indexes Program.layers."""

    words: isa.Words
    layers: NDArray[np.int32]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class HostSegment:
    """Operators that numpy evaluates; tensors cross as real values. `reason` is for the report."""

    graph: Graph
    reason: str


Segment = AcceleratorSegment | HostSegment


@dataclass(frozen=True)
class Program:
    """A compiled network.

    `batch` is the largest number of samples of one run; `weights` [rows, lanes] is weight memory;
    `memory_rows` is the size of activation memory; `regions` maps the tensors that cross between
    host and accelerator to their place in it. `model` are the bytes of the quantized graph it was
    compiled from (`weft.graph_file`), None in files of older versions. `assets` is what the host
    needs around it, by name: of a text encoder the tokenizer and embedding tables (`weft.text`).
    `states` names, for inputs and outputs that lie at one place, the state that they are: what a
    run leaves there the next one reads. `entries` are parts that run alone, by name: which segments
    (`weft.recurrent`). `tokens` names, for tensors whose dimension 1 counts the tokens of an input,
    that input; `rules` are what a run with fewer of them changes (`weft.tokens`). `cache` is that
    of a decoder. `lengths` is the input, if there is one, that holds how many tokens of a sample
    there are: each runs with as many (`weft.padding`).
    """

    name: str
    overlay: Overlay
    batch: int
    segments: tuple[Segment, ...]
    layers: tuple[Layer, ...]
    weights: Rows
    regions: Mapping[str, Region]
    memory_rows: int
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    notes: Mapping[str, Any]
    model: NDArray[np.uint8] | None = None
    tokens: Mapping[str, str] = field(default_factory=dict)
    rules: tuple[Rule, ...] = ()
    lengths: str = ""
    cache: Cache | None = None
    states: Mapping[str, str] = field(default_factory=dict)
    entries: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    assets: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    @property
    def overlay_digest(self) -> str:
        """Names the hardware that this program runs on."""
        return self.overlay.digest()

    def save(self, path: str | Path) -> None:
        """Writes one safetensors file; raises WeftError where that is not possible."""
        from weft import program_file

        program_file.save(self, path)

    @staticmethod
    def load(path: str | Path) -> Program:
        """Reads a program file; raises ProgramError for a damaged or foreign one."""
        from weft import program_file

        return program_file.load(path)

    def keeping(self, graph: Graph) -> Program:
        """The same program with the quantized graph it was made from, or the note why it can't."""
        from weft.graph_file import pack

        try:
            return replace(self, model=pack(graph))
        except ProgramError as error:
            return replace(self, model=None, notes={**self.notes, "model": str(error)})

    def graph(self) -> Graph:
        """The quantized graph. Raises ProgramError where the program has none, or damaged bytes."""
        from weft.graph_file import unpack

        if self.model is None:
            why = self.notes.get("model", "an older weft wrote it, or it was saved without")
            raise ProgramError(
                f"program {self.name!r} does not hold its quantized graph ({why}); compile the "
                "model again, with --export-qdq FILE.onnx if the reason stays"
            )
        return unpack(self.model)

    def verify(self) -> Program:
        """Returns itself; raises ProgramError naming the first inconsistency."""
        lanes = self.overlay.lanes
        if self.weights.ndim != 2 or self.weights.shape[1] != lanes:
            raise ProgramError(f"weights of shape {self.weights.shape}, expected [rows, {lanes}]")
        if not 1 <= self.batch <= self.overlay.accumulator_rows:
            raise ProgramError(f"batch {self.batch} outside 1..{self.overlay.accumulator_rows}")
        if not 0 <= self.memory_rows <= MAX_MEMORY_ROWS:
            raise ProgramError(
                f"{self.memory_rows} rows of activation memory; at most {MAX_MEMORY_ROWS}"
            )
        for name, region in self.regions.items():
            words = _region_words(region, lanes)
            if region.row < 0 or region.row + words * self.batch > self.memory_rows:
                raise ProgramError(
                    f"tensor {name!r}: rows {region.row}..{region.row + words * self.batch - 1} "
                    f"of {self.memory_rows} in activation memory"
                )
        for number, segment in enumerate(self.segments):
            if isinstance(segment, AcceleratorSegment):
                self._verify_segment(number, segment)
        if self.cache is not None:
            _check_cache(self, self.cache)
        if self.tokens or self.rules or self.lengths:
            from weft.tokens import check_rules

            check_rules(self)
        if self.states or self.entries:
            from weft.recurrent.states import check_states

            check_states(self)
        return self

    def at_tokens(self, tokens: int | Mapping[str, int]) -> Program:
        """The program of shorter sequences, which shares the weights; see `weft.tokens`."""
        from weft.tokens import at_tokens

        return at_tokens(self, tokens)

    def _verify_segment(self, number: int, segment: AcceleratorSegment) -> None:
        kinds = [isa.decode(words)[0] for words in segment.words]
        if not kinds or isa.BARRIER in kinds[:-1] or kinds[-1] is not isa.BARRIER:
            raise ProgramError(f"segment {number} does not end with its one Barrier")
        if len(segment.layers) != len(kinds):
            raise ProgramError(f"segment {number}: {len(segment.layers)} layers")
        if ((segment.layers < 0) | (segment.layers >= max(1, len(self.layers)))).any():
            raise ProgramError(f"segment {number} names a layer that is not there")
        for name in (*segment.inputs, *segment.outputs):
            if name not in self.regions:
                raise ProgramError(f"segment {number}: tensor {name!r} has no place in memory")

    def disassemble(self) -> str:
        """The program as text: segments, layers, one line per instruction."""
        lines = [
            f"program {self.name!r} for overlay {self.overlay.name!r} ({self.overlay_digest}), "
            f"batch {self.batch}, {self.weights.nbytes:,} bytes of weights"
        ]
        for number, segment in enumerate(self.segments):
            if isinstance(segment, HostSegment):
                lines.append(f"segment {number}: host ({segment.reason})")
                lines += [f"  {node.op:<11} {node.name}" for node in segment.graph]
                continue
            reads, writes = ", ".join(segment.inputs), ", ".join(segment.outputs)
            lines.append(f"segment {number}: accelerator, {reads} → {writes}")
            layer = -1
            for index, words in enumerate(segment.words):
                if segment.layers[index] != layer and self.layers:
                    layer = int(segment.layers[index])
                    lines.append(f"  ; {self.layers[layer].name} ({self.layers[layer].op})")
                lines.append(f"  {index:4d}  {isa.text(words)}")
        return "\n".join(lines)


MAX_MEMORY_ROWS = 1 << 26  # a limit against hostile files: 2 GiB at 32 lanes


def _check_cache(program: Program, cache: Cache) -> None:
    """Raises ProgramError for a cache that is not in the program's memory."""
    if not 1 <= cache.tokens <= cache.capacity or cache.slots < 1:
        raise ProgramError(f"a cache of {cache.capacity} tokens, {cache.tokens} at a time")
    for name in cache.names:
        region = program.regions.get(name)
        rows = region.layout.height if region else 0
        whole = rows % cache.slots == 0 if cache.bits < 8 else rows == cache.capacity * cache.slots
        if not rows or not whole:
            raise ProgramError(f"cache {name!r} is no region of {cache.capacity} tokens")


def _region_words(region: Region, lanes: int) -> int:
    """Words per sample that a tensor takes in activation memory."""
    if region.unfold:
        return region.unfold.height * region.unfold.width
    return region.layout.words(lanes)
