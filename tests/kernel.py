"""Runs hand-made instruction lists on any device: what the tests of the hardware units share."""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import settings
from numpy.random import Generator
from numpy.typing import NDArray

from weft import build, codegen, isa
from weft.config import Overlay
from weft.device import RunResult, open_device
from weft.program import AcceleratorSegment, Layer, Program
from weft.units import requant, systolic, transfer

FORMS = ("functional", "cycle")

# Small arrays, to reach every corner: a row per port beat, two beats per row, packed products.
OVERLAYS = {
    "4x4": Overlay("4x4", 4, 4, 4, 512, 64, 8, 64),
    "8x8": Overlay("8x8", 8, 8, 4, 512, 64, 8, 64),
    "8x8p": Overlay("8x8p", 8, 8, 8, 512, 64, 8, 64, "packed"),
}
# For the exact form, where every word passes a lock: as small as an overlay gets.
NANO = Overlay("nano", 4, 4, 4, 64, 16, 2, 16)


@dataclass
class Code:
    """An instruction list with its weight memory, grown instruction by instruction."""

    overlay: Overlay
    words: list[isa.Words] = field(default_factory=list)
    weights: list[NDArray[np.int8]] = field(default_factory=list)

    def add(self, instruction: isa.Instruction, **fields: int) -> Code:
        """Without more words: a MatMul in int8, a ReadWeights of plain rows."""
        if instruction is isa.MAT_MUL:
            fields = systolic.plain(self.overlay) | fields
        if instruction is isa.READ_WEIGHTS and not fields.get("format"):
            fields = {"memory_rows": fields.get("rows", 0)} | fields
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
    wide: NDArray[np.int16] | None = None,
    batch: int = 1,
    timeout_s: float | None = None,
    registers: tuple[int, int] = (0, 0),
    bare: bool = False,
    **options: str,
) -> tuple[NDArray[np.int8], RunResult]:
    """The unified buffer after the instructions, which find `content` at its start.

    Behind it, where there is one, the wide buffer, two rows per word, which held `wide` before.
    `bare` leaves these transfers out, so that instructions have the numbers of `code`.
    """
    o = code.overlay
    chunk = min(o.buffer_words, 1 << 12)
    move = {"words": chunk, "chunks": o.buffer_words // chunk, "memory_step": chunk}
    move["buffer_step"] = chunk
    whole = Code(o, weights=list(code.weights))
    whole.add(isa.READ_HOST, **move)
    after = 2 * o.buffer_words  # of the wide buffer: two rows per word
    wide_move = {"memory": after, "words": o.words_of("wide"), "chunks": 1, "space": 2}
    wide_rows = 2 * o.words_of("wide")
    if wide_rows:
        whole.add(isa.READ_HOST, **wide_move)
    whole.words += code.words
    whole.add(isa.WRITE_HOST, memory=o.buffer_words, **move)
    if wide_rows:
        whole.add(isa.WRITE_HOST, **{**wide_move, "memory": after + wide_rows})
    opened = open_device(device, **options)
    opened.load((code if bare else whole).program(batch, after + 2 * wide_rows))
    rows = np.zeros((o.buffer_words, o.lanes), np.int8)
    if content is not None:
        rows[: len(content)] = content
    opened.write(0, rows)
    if wide is not None:
        opened.write(after, transfer.halves(wide))
    result = opened.run(0, batch, timeout_s, registers)
    words = opened.read(o.buffer_words, o.buffer_words)
    if wide_rows:
        words = np.concatenate([words, opened.read(after + wide_rows, wide_rows)])
    opened.close()
    return words, result


def examples(count: int) -> settings:
    """So many of them, without a time limit each: the first one may build a simulation."""
    return settings(max_examples=count, deadline=None)


def check(
    code: Code,
    content: NDArray[np.int8] | None = None,
    batch: int = 1,
    forms: Sequence[str] = FORMS,
    wide: NDArray[np.int16] | None = None,
    registers: tuple[int, int] = (0, 0),
) -> NDArray[np.int8]:
    """The golden device's buffers; every form of simulation gives the same words and counters."""
    given: dict[str, Any] = {"content": content, "wide": wide, "batch": batch}
    given["registers"] = registers
    expected, golden = run(code, **given)
    for form in forms:
        words, simulated = run(code, "csim", **given, form=form)
        np.testing.assert_array_equal(words, expected, err_msg=form)
        assert dict(simulated.counters) == dict(golden.counters), form
        assert simulated.cycles == golden.cycles, form
    return expected


def codes(rng: Generator, *shape: int) -> NDArray[np.int8]:
    """Random int8, now and then nothing but extremes."""
    kind = rng.integers(0, 6)
    if kind == 0:
        return np.full(shape, -128, np.int8)
    if kind == 1:
        return rng.choice(np.array([-128, 127], np.int8), shape)
    return rng.integers(-128, 128, shape).astype(np.int8)


def parameters(rng: Generator, channels: int, mode: int = 0) -> tuple[NDArray[Any], ...]:
    """Random bias, multiplier, shift and their negative twins [channels]; PReLU's for a half."""
    name = isa.MODES[mode] if mode < len(isa.MODES) else isa.MODES[0]
    scale = 2.0 ** rng.uniform(-18, -4, channels) * rng.choice([1, 1, 1, -1], channels)
    positive = requant.encode(scale, name)
    negative = requant.encode(scale * rng.choice([1, 1, 0.1, -0.25], channels), name)
    bias = rng.integers(-(1 << 14), 1 << 14, channels).astype(np.int32)
    if rng.integers(0, 4) == 0:
        bias = rng.choice(np.array([-(1 << 31), (1 << 31) - 1], np.int32), channels)
    return (bias, *positive, *negative)


def set_parameters(code: Code, values: tuple[NDArray[Any], ...], index: int = 0) -> Code:
    """Feeds and sets parameter blocks from `index` on."""
    rows = requant.pack_parameters(*values, code.overlay.lanes)
    code.feed(rows)
    count = len(rows) // isa.PARAMETER_ROWS
    return code.add(isa.SET_TABLE, target=0, index=index, count=count)


def random_window(rng: Generator, overlay: Overlay, batch: int) -> dict[str, int]:
    """A window over a map of a few positions, whose output fits the accumulators."""
    f = {"height": rng.integers(1, 6), "width": rng.integers(1, 6)}
    f |= {"kernel_h": rng.integers(1, 4), "kernel_w": rng.integers(1, 4)}
    for name in ("stride_y", "stride_x", "dilation_y", "dilation_x"):
        f[name] = rng.integers(1, 4)
    f |= {"pad_y": rng.integers(-1, 3), "pad_x": rng.integers(-1, 3)}
    f |= {"out_h": rng.integers(1, 5), "out_w": rng.integers(1, 5)}
    while batch * f["out_h"] * f["out_w"] > overlay.accumulator_rows:
        f["out_h"] -= 1
    return {name: int(value) for name, value in f.items()}


def strides(prefix: str, sizes: tuple[int, int, int]) -> dict[str, int]:
    """Contiguous strides of a map of (blocks, height, width) words, in instruction fields."""
    blocks, height, width = sizes
    return {
        f"{prefix}_sample": blocks * height * width,
        f"{prefix}_block": height * width,
        f"{prefix}_row": width,
        f"{prefix}_col": 1,
    }


def simple_window(height: int, width: int) -> dict[str, int]:
    """A 1×1 window over a whole map."""
    ones = ("kernel_h", "kernel_w", "stride_y", "stride_x", "dilation_y", "dilation_x")
    sizes = {"height": height, "width": width, "out_h": height, "out_w": width}
    return dict.fromkeys(ones, 1) | sizes


def raw_sums(words: NDArray[np.int8], first: int, count: int) -> NDArray[np.int32]:
    """int32 sums [count, lanes] of which the words from `first` on hold byte planes 0..3."""
    planes = words[first : first + 4 * count].view(np.uint8).astype(np.uint32)
    planes = planes.reshape(4, count, -1)
    total = sum(planes[i] << np.uint32(8 * i) for i in range(4))
    return np.asarray(total, np.uint32).view(np.int32)


def drain_raw(code: Code, target: int, count: int, **where: int) -> Code:
    """Four Activates that write the sums of one tile as byte planes from `target` on."""
    for byte in range(4):
        code.add(isa.ACTIVATE, target=target + byte * count, mode=isa.RAW_BYTE + byte, **where)
    return code


@cache
def unit_library(source: str, overlay: Overlay, form: str) -> ctypes.CDLL:
    """A few lines of C++ around a hardware unit, built as a form of the simulation is."""
    compiler = build.find_compiler()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, text in codegen.headers(overlay).items():
            (folder / file).write_text(text)
        (folder / "unit.cpp").write_text(source)
        command = build.command_line(compiler, form, folder, folder / "unit.so")
        command = [str(folder / "unit.cpp") if "csim.cpp" in c else c for c in command]
        subprocess.run([*command, "-fvisibility=default"], check=True, capture_output=True)
        return ctypes.CDLL(str(folder / "unit.so"))
