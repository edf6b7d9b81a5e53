"""A small program and what the golden model makes of it: the vectors of the generated test bench.

Two segments, so that one reads from memory what the other wrote: a padded 2×2 convolution over two
channel blocks, requantized per channel (and mapped through a lookup table), then 2×2 max pooling.
Data come from a hash, not a random generator, whose streams numpy may change: same overlay, same
bytes, forever.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weft import codegen, isa
from weft.config import Overlay
from weft.device.csim import image
from weft.device.golden import Golden
from weft.errors import CapacityError
from weft.program import AcceleratorSegment, Layer, Program, Rows
from weft.state import COUNTERS
from weft.units import requant, systolic

BATCH, WIDTH, BLOCKS, TAPS = 2, 2, 2, 4
Words = isa.Words


def vectors(overlay: Overlay, depth: int) -> str:
    """Text of vectors.hpp; `depth` is how many elements the bench has behind each m_axi port.

    Raises CapacityError where that does not hold the program.
    """
    program = _program(overlay)
    words, code, numbers = image(program)
    rows = max(len(program.weights), program.memory_rows)
    elements = max(len(words), rows * overlay.beats)
    if elements > depth:
        raise CapacityError(
            f"overlay {overlay.name!r}: the test bench needs {elements} elements behind a port, "
            f"the m_axi ports of top.cpp declare a depth of {depth}; raise it there"
        )
    device = Golden()
    device.load(program)
    memory = _codes("input", program.memory_rows, overlay.lanes)
    device.write(0, memory)
    expected, clocks = [], []
    for segment in numbers:
        result = device.run(segment, BATCH)
        expected.append(device.read(0, program.memory_rows).reshape(-1))
        clocks.append([result.counters[name] for name in COUNTERS])
    facts = {
        "depth": depth,
        "code": code,
        "batch": BATCH,
        "memory_rows": program.memory_rows,
        "weight_rows": len(program.weights),
        "program": words,
        "weights": program.weights.reshape(-1),
        "memory": memory.reshape(-1),
        "expected": expected,
        "clocks": clocks,
        "listed": _listed,
    }
    return codegen.render("hls/templates/vectors.hpp.j2", facts)


def _listed(values: Sequence[int] | NDArray[Any]) -> str:
    """Numbers as C++ initializers, in lines below 100 columns."""
    texts = [str(int(v)) for v in values]
    lines, line = [], ""
    for text in texts:
        if len(line) + len(text) > 96:
            lines.append(line)
            line = ""
        line += f"{text},"
    return "\n".join([*lines, line]).rstrip(",")


def _codes(what: str, *shape: int) -> Rows:
    """int8 of a shape, the same for the same words."""
    count = int(np.prod(shape))
    parts = (hashlib.sha256(f"{what} {i}".encode()).digest() for i in range(-(-count // 32)))
    return np.frombuffer(b"".join(parts), np.int8)[:count].reshape(shape)


def _program(overlay: Overlay) -> Program:
    lanes, lookup = overlay.lanes, "lookup" in overlay.units
    height = 4 if overlay.buffer_words >= 48 and overlay.accumulator_rows >= 16 else 2
    words = BATCH * height * WIDTH
    parts = {
        "pooling": _requantization("pooling", 2.0 ** -(np.arange(lanes) % 2), lanes),
        "convolution": _requantization("convolution", 2.0 ** (-9 - np.arange(lanes) % 3), lanes),
        "lookup": _codes("lookup", isa.LOOKUP_ENTRIES if lookup else 0, lanes),
        "tiles": _codes("weights", BLOCKS * TAPS * lanes, lanes),
    }
    starts = np.cumsum([0, *map(len, parts.values())]).tolist()
    first = _convolution(overlay, height, words, starts)
    second = _pooling(height, words, starts) if "vector" in overlay.units else None
    segments = [np.stack(s) for s in (first, second) if s]
    return Program(
        name="testbench",
        overlay=overlay,
        batch=BATCH,
        segments=tuple(AcceleratorSegment(s, np.zeros(len(s), np.int32), (), ()) for s in segments),
        layers=(Layer("testbench", "Conv", "systolic"),),
        weights=np.concatenate(list(parts.values())),
        regions={},
        memory_rows=BLOCKS * words + 2 * words,
        inputs=(),
        outputs=(),
        notes={},
    ).verify()


def _requantization(name: str, scale: NDArray[np.floating[Any]], lanes: int) -> Rows:
    """A parameter block of per-channel scales, with small biases."""
    encoded = requant.encode(scale, "single_round")
    bias = _codes(f"bias {name}", lanes).astype(np.int32) // 8
    return requant.pack_parameters(bias, *encoded, *encoded, lanes)


def _read(memory: int, rows: int) -> Words:
    return isa.READ_WEIGHTS.encode(memory=memory, rows=rows, memory_rows=rows)


def _parameters(memory: int) -> list[Words]:
    return [
        _read(memory, isa.PARAMETER_ROWS),
        isa.SET_TABLE.encode(target=isa.TABLES.index("parameters"), count=1),
    ]


def _move(words: int, memory: int, buffer: int) -> dict[str, int]:
    return {"words": words, "chunks": 1, "memory": memory, "buffer": buffer}


def _per_sample(words: int) -> dict[str, int]:
    return {"memory_sample": words, "buffer_sample": words}


def _convolution(overlay: Overlay, height: int, words: int, starts: Sequence[int]) -> list[Words]:
    """Input at buffer 0 (both blocks of a sample, then the next sample), output behind it."""
    lookup = "lookup" in overlay.units
    size, sample = height * WIDTH, BLOCKS * height * WIDTH
    code = _parameters(starts[1])
    if lookup:
        code += [
            _read(starts[2], starts[3] - starts[2]),
            isa.SET_TABLE.encode(target=isa.TABLES.index("lookup"), count=isa.LOOKUP_ENTRIES),
        ]
    return [
        *code,
        isa.READ_HOST.encode(**_move(sample, 0, 0), **_per_sample(sample)),
        _read(starts[3], starts[4] - starts[3]),
        isa.MAT_MUL.encode(
            source=0,
            source_sample=sample,
            source_block=size,
            source_row=WIDTH,
            source_col=1,
            **_window(height, WIDTH, stride=1, pad=1, out=(height, WIDTH)),
            blocks=BLOCKS,
            tiles=1,
            pad=-3,
            first=1,
            last=1,
            overlap=1,
            **systolic.plain(overlay),
        ),
        _activate(BLOCKS * words, size, WIDTH, lookup),
        isa.WRITE_HOST.encode(**_move(size, BLOCKS * words, BLOCKS * words), **_per_sample(size)),
        isa.BARRIER.encode(),
    ]


def _pooling(height: int, words: int, starts: Sequence[int]) -> list[Words]:
    """Reads what the convolution wrote to memory."""
    size, out = height * WIDTH, (height // 2, WIDTH // 2)
    pooled = out[0] * out[1]
    return [
        *_parameters(starts[0]),
        isa.READ_HOST.encode(**_move(size, BLOCKS * words, 0), **_per_sample(size)),
        isa.VECTOR.encode(
            operation=isa.OPERATIONS.index("max"),
            source_sample=size,
            source_row=WIDTH,
            source_col=1,
            **_window(height, WIDTH, stride=2, pad=0, out=out),
            blocks=1,
            zero=5,
        ),
        _activate(words, pooled, out[1], lookup=False),
        isa.WRITE_HOST.encode(**_move(pooled, (BLOCKS + 1) * words, words), **_per_sample(pooled)),
        isa.BARRIER.encode(),
    ]


def _window(height: int, width: int, stride: int, pad: int, out: tuple[int, int]) -> dict[str, int]:
    sizes = {"height": height, "width": width, "out_h": out[0], "out_w": out[1]}
    ones = dict.fromkeys(("dilation_y", "dilation_x"), 1)
    steps = {"stride_y": stride, "stride_x": stride, "pad_y": pad, "pad_x": pad}
    return {**sizes, **ones, **steps, "kernel_h": 2, "kernel_w": 2}


def _activate(target: int, size: int, width: int, lookup: bool) -> Words:
    return isa.ACTIVATE.encode(
        target=target,
        target_sample=size,
        target_row=width,
        target_col=1,
        mode=isa.MODES.index("single_round"),
        zero_point=-7,
        low=-128,
        high=120,
        lookup=int(lookup),
    )
