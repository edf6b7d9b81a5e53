"""Runs hand-made instruction lists on any device: what the tests of the hardware units share."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from weft import isa
from weft.config import Overlay
from weft.device import RunResult, open_device
from weft.program import AcceleratorSegment, Layer, Program

# Small arrays, to reach every corner: a row per port beat, two beats per row, packed products.
OVERLAYS = {
    "4x4": Overlay("4x4", 4, 4, 4, 512, 64, 8, 64),
    "8x8": Overlay("8x8", 8, 8, 4, 512, 64, 8, 64),
    "8x8p": Overlay("8x8p", 8, 8, 8, 512, 64, 8, 64, "packed"),
}


@dataclass
class Code:
    """An instruction list with its weight memory, grown instruction by instruction."""

    overlay: Overlay
    words: list[isa.Words] = field(default_factory=list)
    weights: list[NDArray[np.int8]] = field(default_factory=list)

    def add(self, instruction: isa.Instruction, **fields: int) -> Code:
        self.words.append(instruction.encode(**fields))
        return self

    def feed(self, rows: NDArray[np.int8]) -> Code:
        """ReadWeights of these rows."""
        start = sum(map(len, self.weights))
        self.weights.append(np.asarray(rows, np.int8).reshape(-1, self.overlay.lanes))
        return self.add(isa.READ_WEIGHTS, memory=start, rows=len(self.weights[-1]))

    def program(self, batch: int = 1, memory_rows: int | None = None) -> Program:
        words = np.stack([*self.words, isa.BARRIER.encode()])
        empty = np.zeros((0, self.overlay.lanes), np.int8)
        return Program(
            name="test",
            overlay=self.overlay,
            batch=batch,
            segments=(AcceleratorSegment(words, np.zeros(len(words), np.int32), (), ()),),
            layers=(Layer("layer", "Test", "systolic"),),
            weights=np.concatenate([empty, *self.weights]),
            regions={},
            memory_rows=memory_rows or 2 * self.overlay.buffer_words,
            inputs=(),
            outputs=(),
            notes={},
        )


def run(
    code: Code,
    device: str = "golden",
    *,
    content: NDArray[np.int8] | None = None,
    batch: int = 1,
    timeout_s: float | None = None,
    **options: str,
) -> tuple[NDArray[np.int8], RunResult]:
    """The unified buffer after the instructions, which find `content` at its start."""
    o = code.overlay
    chunk = min(o.buffer_words, 1 << 12)
    move = {"words": chunk, "chunks": o.buffer_words // chunk, "memory_step": chunk}
    move["buffer_step"] = chunk
    whole = Code(o, weights=list(code.weights))
    whole.add(isa.READ_HOST, **move)
    whole.words += code.words
    whole.add(isa.WRITE_HOST, memory=o.buffer_words, **move)
    opened = open_device(device, **options)
    opened.load(whole.program(batch))
    rows = np.zeros((o.buffer_words, o.lanes), np.int8)
    if content is not None:
        rows[: len(content)] = content
    opened.write(0, rows)
    result = opened.run(0, batch, timeout_s)
    words = opened.read(o.buffer_words, o.buffer_words)
    opened.close()
    return words, result
