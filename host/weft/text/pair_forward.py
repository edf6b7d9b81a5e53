"""What an encoder-decoder makes of a source and of new tokens: by a program, or in float."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from weft.device.base import Device
from weft.errors import ProgramError
from weft.frontend.seq2seq import SOURCE, Seq2Seq
from weft.graph import Array
from weft.passes.two_parts import DECODER, ENCODER, KEPT, two_parts
from weft.program import Program
from weft.text.forward import FloatForward, Forward, ProgramForward
from weft.text.seq2seq_assets import SourceAssets


class PairForward(Forward, Protocol):
    """Scores of words, behind a source that has been read."""

    source: int

    def read(self, tokens: Sequence[int], slot: int, timeout_s: float | None = None) -> None:
        """The encoder's run: what targets of that slot attend to from now on."""


class ProgramPair(ProgramForward):
    """An encoder-decoder's program on an open device. Raises ProgramError for one that is none."""

    def __init__(self, program: Program, device: Device, assets: SourceAssets) -> None:
        if program.cache is None or set(program.entries) != {ENCODER, DECODER}:
            raise ProgramError(f"program {program.name!r} is no encoder-decoder")
        super().__init__(program, device, assets.target)
        self.sources, self.source = assets, program.cache.source
        self._segments = list(program.entries[DECODER])
        self._encoder = list(program.entries[ENCODER])
        self._lengths = [0] * self.slots

    def read(self, tokens: Sequence[int], slot: int, timeout_s: float | None = None) -> None:
        """Runs the encoder; keys and values stay on the device."""
        region, count = self.program.regions[SOURCE], len(tokens)
        rows = self.packed(region, count, self.sources.rows(tokens))
        self.device.write(region.row, rows)
        registers = (count, 0, slot * self.capacity, count)
        self.results = [
            self.device.run(segment, 1, timeout_s, registers) for segment in self._encoder
        ]
        self._lengths[slot] = count

    def registers(self, tokens: int, position: int, slot: int) -> tuple[int, ...]:
        """Those of a run of the decoder."""
        return (*super().registers(tokens, position, slot), self._lengths[slot])

    def reload(self) -> None:
        """Loads the program again; caches are empty, and no source has been read."""
        super().reload()
        self._lengths = [0] * self.slots


class FloatPair(FloatForward):
    """An encoder-decoder's graph in float on the host: the reference."""

    def __init__(
        self, model: Seq2Seq, assets: SourceAssets, capacity: int | None = None, slots: int = 1
    ) -> None:
        size = min(capacity or model.limits[1], model.limits[1])
        parts = two_parts(model.graph(assets.longest, 1, size))
        self._set(parts.part(DECODER), assets.target, size, slots)
        self.sources, self.source = assets, assets.longest
        self._encoder, self._kept = parts.part(ENCODER), parts.entries[ENCODER]
        self._given: dict[int, dict[str, Array]] = {}

    def read(self, tokens: Sequence[int], slot: int, timeout_s: float | None = None) -> None:
        """Computes keys and values of a source."""
        feeds = {SOURCE: self.sources.rows(tokens)[None]}
        values = self._values(self._encoder, feeds, 0, slot)
        self._given[slot] = {name + KEPT: values[name] for name in self._kept}

    def feeds(self, tokens: Sequence[int], position: int, slot: int) -> Mapping[str, Array]:
        """Inputs of the decoder's graph."""
        return {**super().feeds(tokens, position, slot), **self._given[slot]}

    def reload(self) -> None:
        """Forgets all keys and values."""
        super().reload()
        self._given.clear()
