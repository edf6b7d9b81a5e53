"""What a decoder makes of new tokens: by a program on a device, or in float on the host.

Both keep keys and values of the tokens before, in `slots` caches of `capacity` tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from weft import ops
from weft.device.base import Device, RunResult
from weft.errors import ProgramError
from weft.frontend.decoder import INPUT, OUTPUT, Decoder
from weft.graph import Array, Graph, Node
from weft.pack import Packer
from weft.program import AcceleratorSegment, Program, Region
from weft.text import packed_runs
from weft.text.decoder_assets import DecoderAssets
from weft.transformer_ops import attention, by_distance, rotated, window


class Forward(Protocol):
    """Scores of words behind each of some tokens."""

    tokens: int
    capacity: int
    slots: int
    results: list[RunResult]

    def run(
        self, tokens: Sequence[int], position: int, slot: int, timeout_s: float | None = None
    ) -> Array:
        """Logits [n, V] of n tokens that stand behind `position` others in a slot."""

    def reload(self) -> None:
        """Forgets all caches, and what an aborted run has left."""

    def close(self) -> None:
        """Gives the device back."""


@dataclass(frozen=True)
class _Views:
    """Places of embeddings and logits for a number of tokens."""

    inputs: Packer
    outputs: Packer


class ProgramForward:
    """A decoder's program on an open device. Raises ProgramError for a program that is none."""

    def __init__(self, program: Program, device: Device, assets: DecoderAssets) -> None:
        if program.cache is None:
            raise ProgramError(f"program {program.name!r} is no decoder: it has no cache")
        self.program, self.device, self.assets = program, device, assets
        self.tokens, self.capacity = program.cache.tokens, program.cache.capacity
        self.slots = program.cache.slots
        self.results: list[RunResult] = []
        self._views: dict[int, _Views] = {}
        self._segments = [
            i for i, s in enumerate(program.segments) if isinstance(s, AcceleratorSegment)
        ]
        device.load(program)

    def run(
        self, tokens: Sequence[int], position: int, slot: int, timeout_s: float | None = None
    ) -> Array:
        """Logits [n, V]."""
        assert self.program.cache is not None, "it has been looked for"
        results: list[RunResult] = []
        found = []
        for part, at in packed_runs.parts(tokens, position, self.program.cache):
            found.append(self._part(part, at, slot, timeout_s))
            results += self.results
        self.results = results
        return np.concatenate(found) if len(found) > 1 else found[0]

    def _part(
        self, tokens: Sequence[int], position: int, slot: int, timeout_s: float | None
    ) -> Array:
        """Logits [n, V] of one run."""
        count, regions = len(tokens), self.program.regions
        if count not in self._views:
            made = [self._packer(regions[name], count) for name in (INPUT, OUTPUT)]
            self._views[count] = _Views(*made)
        views = self._views[count]
        x = self.assets.rows(tokens, position)
        self.device.write(regions[INPUT].row, views.inputs.pack(x[None]))
        registers = self.registers(count, position, slot)
        self.results = [
            self.device.run(segment, 1, timeout_s, registers) for segment in self._segments
        ]
        rows = self.device.read(regions[OUTPUT].row, views.outputs.words)
        shape = (1, count, len(self.assets.embedding))
        codes = views.outputs.unpack(rows, 1, shape)
        return np.asarray(regions[OUTPUT].quant.dequantize(codes)[0])

    def registers(self, tokens: int, position: int, slot: int) -> tuple[int, ...]:
        """Those of a run."""
        assert self.program.cache is not None, "it has been looked for"
        return packed_runs.registers(tokens, position, slot, self.program.cache)

    def packed(self, region: Region, count: int, x: Array) -> Array:
        """Rows of memory of inputs [n, D] of `count` tokens."""
        return self._packer(region, count).pack(x[None])

    def _packer(self, region: Region, count: int) -> Packer:
        """How so many tokens lie where there is room for more."""
        layout = replace(region.layout, height=count)
        return Packer(replace(region, layout=layout), self.program.overlay.lanes)

    def reload(self) -> None:
        """Loads the program again; caches are empty."""
        self.device.load(self.program)

    def close(self) -> None:
        """Closes the device."""
        self.device.close()


class FloatForward:
    """A decoder's graph in float on the host: the reference."""

    def __init__(self, decoder: Decoder, capacity: int | None = None, slots: int = 1) -> None:
        size = capacity or decoder.limit
        self._set(decoder.graph(1, size), DecoderAssets.of(decoder), size, slots)

    def _set(self, graph: Graph, assets: DecoderAssets, capacity: int, slots: int) -> None:
        self.assets = assets
        self.capacity = self.tokens = capacity
        self.slots = slots
        self.results: list[RunResult] = []
        self._graph = graph
        self._caches: dict[tuple[int, str], tuple[Array, Array]] = {}

    def run(
        self, tokens: Sequence[int], position: int, slot: int, timeout_s: float | None = None
    ) -> Array:
        """Logits [n, V]."""
        feeds = self.feeds(tokens, position, slot)
        return np.asarray(self._values(self._graph, feeds, position, slot)[OUTPUT][0])

    def feeds(self, tokens: Sequence[int], position: int, slot: int) -> Mapping[str, Array]:
        """Inputs of the graph."""
        return {INPUT: self.assets.rows(tokens, position)[None]}

    def _values(
        self, graph: Graph, feeds: Mapping[str, Array], position: int, slot: int
    ) -> dict[str, Array]:
        """All tensors of a graph."""
        values = {n: t.real() for n, t in graph.tensors.items() if t.data is not None}
        values |= feeds
        for node in graph:
            inputs = [values[name] for name in node.inputs if name]
            values[node.outputs[0]] = self._step(node, inputs, position, slot)
        return values

    def _step(self, node: Node, inputs: list[Array], position: int, slot: int) -> Array:
        if node.op == "Rope":
            return rotated(inputs[0], inputs[1], int(node.attrs["heads"]), position)
        if node.op != "Attention":
            return np.asarray(ops.spec_of(node).reference(node, inputs)[0])
        q, k, v, *bias = inputs
        if not node.attrs.get("cache"):
            bias = [b[:, : q.shape[1], : k.shape[1]] for b in bias]  # of the longest source
            return np.asarray(attention(node, [q, k, v, *bias])[0])
        new = [k, v]
        key = (slot, node.outputs[0])
        if position:
            old = self._caches[key]
            new = [
                np.concatenate([o[:, :position], n], axis=1) for o, n in zip(old, new, strict=True)
            ]
        self._caches[key] = (new[0], new[1])
        new = self.attended(node, new)
        left, right = window(node)
        moved = node.with_attrs(causal=0, left=left + position, right=right + position)
        sizes = q.shape[1], new[0].shape[1], position
        bias = [by_distance(b, *sizes) for b in bias]
        return np.asarray(attention(moved, [q, *new, *bias])[0])

    def attended(self, node: Node, kept: list[Array]) -> list[Array]:
        """What queries see of keys and values: studies of their formats make it something else."""
        return kept

    def reload(self) -> None:
        """Forgets all keys and values."""
        self._caches.clear()

    def close(self) -> None:
        """Nothing to give back."""
