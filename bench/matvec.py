"""Engine matvec: what share of its ports' bandwidth a product of one row uses, and the simulation.

The product is one MatMul of overlay `decoder` with random weights. Of its clocks, those of the
weights' bytes are what the ports need to bring them: the share is theirs. Clocks are the cycle
model's, and the C simulation must count the same. The simulation's time stands beside that of a
copy of as many bytes as the packed weights are, in the same run and thread.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from weft import isa
from weft.config import Overlay, load_overlay
from weft.device import open_device
from weft.estimate import estimate
from weft.formats import parse
from weft.lower.weights import PLAIN, Weights
from weft.program import AcceleratorSegment, Layer, Program
from weft.units import matvec, systolic

from .row import Row, at_least, interleaved

SIZES = (2048, 4096)
FORMATS = ("int8", "int4:g32", "int4:g64", "int4:g128", "flint4", "ternary", "ternary2")
# Of 4 bits and more the ports are the limit, of fewer the multipliers: 128 weights a clock.
LEAST_SHARE = 0.97
NARROW = ("ternary", "ternary2")
SIMULATED = ("int8", "int4:g128", "ternary2")


def weights_of(name: str, size: int, lanes: int) -> Weights:
    """Random square weights in a format; `:gN` names its groups."""
    fmt, _, group = name.partition(":g")
    rng = np.random.default_rng(0)
    if fmt == "int8":
        codes = rng.integers(-128, 128, (size, 1, 1, size)).astype(np.int8).view(np.uint8)
        return Weights(codes, PLAIN, parse("int8"), lanes)
    found = parse(name)
    count = 3 if found.per_byte else 1 << found.bits
    codes = rng.integers(0, count, (size, 1, 1, size)).astype(np.uint8)
    quant = replace(PLAIN, format=name)
    if group:
        groups = rng.integers(1, 256, (size, 1, 1, size // int(group))).astype(np.uint8)
        quant = replace(quant, groups=groups)
    return Weights(codes, quant, found, lanes)


def program_of(weights: Weights, overlay: Overlay, engine: str = "matvec") -> Program:
    """One row of the unified buffer through the weights, to the buffer's other end."""
    blocks, step = weights.blocks, overlay.parameter_blocks
    rows = [weights.packed(tile, tile + step) for tile in range(0, weights.tiles, step)]
    words, start = [], 0
    for number, packed in enumerate(rows):
        first = number * step
        last = min(first + step, weights.tiles)
        read = weights.fields(first, last) | {"memory": start, "memory_rows": len(packed)}
        ones = ("height", "width", "kernel_h", "kernel_w", "out_h", "out_w", "stride_y",
                "stride_x", "dilation_y", "dilation_x", "first", "last", "overlap",
                "source_block")  # fmt: skip
        f = dict.fromkeys(ones, 1) | {"blocks": blocks, "tiles": last - first}
        f |= systolic.plain(overlay) | {"pace": weights.pace(overlay)}
        if engine == "matvec":
            read["matvec"] = 1
            f |= {"engine": matvec.NUMBER}
            f |= matvec.arrival(read["rows"], len(packed), overlay)
        words.append(isa.READ_WEIGHTS.encode(**read))
        words.append(isa.MAT_MUL.encode(**f))
        words.append(isa.ACTIVATE.encode(target=blocks + first, target_block=1))
        start += len(packed)
    words.append(isa.BARRIER.encode())
    segment = AcceleratorSegment(np.stack(words), np.zeros(len(words), np.int32), (), ())
    return Program(
        name="product",
        overlay=overlay,
        batch=1,
        segments=(segment,),
        layers=(Layer("product", "Linear", engine),),
        weights=np.concatenate(rows),
        regions={},
        memory_rows=1,
        inputs=(),
        outputs=(),
        notes={},
    )


def share(program: Program) -> float:
    """Clocks in which the ports bring the weights, of all."""
    o = program.overlay
    return len(program.weights) * o.beats / o.weight_ports / estimate(program).cycles


def rows(folder, data) -> list[Row]:
    """Shares by format and size, then the speed of the simulation."""
    overlay = load_overlay("decoder")
    made, timed = [], {}
    for size in SIZES:
        for name in FORMATS:
            program = program_of(weights_of(name, size, overlay.lanes), overlay)
            device = open_device("csim", form="functional")
            device.load(program)
            counted = device.run(0, 1).cycles
            expected = estimate(program).cycles
            assert counted == expected, f"{counted} clocks on csim, not {expected}"
            metric = f"{name} {size}²: share of the ports' bandwidth, {counted:,} clocks"
            if name in NARROW:
                peer = "128 weights a clock are the limit"
                made.append(Row(metric, 100 * share(program), peer, "%"))
            else:
                made.append(at_least(metric, 100 * share(program), 100 * LEAST_SHARE, "%"))
            if size == SIZES[-1] and name in SIMULATED:
                timed[name] = (device, program)
    return made + [_speed(name, *pair) for name, pair in timed.items()]


def _speed(name: str, device, program: Program) -> Row:
    """Bytes of packed weights per second, beside a copy of as many."""
    source = program.weights.reshape(-1).copy()
    target = np.empty_like(source)
    ours, copied = interleaved(
        lambda: device.run(0, 1), lambda: np.copyto(target, source), seconds=3.0
    )
    gigabytes = source.nbytes / 1e9
    metric = f"{name} {SIZES[-1]}² on csim: packed weights read (peer: memcpy)"
    return Row(metric, gigabytes / ours, gigabytes / copied, "GB/s")
