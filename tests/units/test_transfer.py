"""What moves data: strides and samples between memory and buffer, the tables, the stream."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kernel
from kernel import NANO, OVERLAYS, Code
from weft import isa
from weft.config import load_overlay
from weft.device import open_device
from weft.units.requant import legal_shifts, pack_parameters, unpack_parameters

seeds = st.integers(0, 2**32 - 1)


def moves(rng, overlay, batch):
    """Random strides of a transfer that fit a buffer's half and two samples' memory."""
    words, chunks = int(rng.integers(1, 6)), int(rng.integers(1, 5))
    f = {"words": words, "chunks": chunks}
    f["memory_step"] = words + int(rng.integers(0, 4))
    f["buffer_step"] = words + int(rng.integers(0, 3))
    f["memory_sample"] = chunks * f["memory_step"] + int(rng.integers(0, 9))
    f["buffer_sample"] = chunks * f["buffer_step"] + int(rng.integers(0, 4))
    f["buffer"] = int(rng.integers(0, overlay.buffer_words - batch * f["buffer_sample"]))
    return f


def through(overlay, batch, read, write, memory, devices):
    """Activation memory after ReadHost and WriteHost, on each device; all the same."""
    code = Code(overlay).add(isa.READ_HOST, **read).add(isa.WRITE_HOST, **write)
    results = []
    for name, options in devices:
        device = open_device(name, **options)
        device.load(code.program(batch, len(memory)))
        device.write(0, memory)
        result = device.run(0, batch)
        results.append((device.read(0, len(memory)), dict(result.counters)))
        device.close()
    for rows, counters in results[1:]:
        np.testing.assert_array_equal(rows, results[0][0])
        assert counters == results[0][1]
    return results[0]


GOLDEN = ("golden", {})
CSIM = [("csim", {"form": form}) for form in kernel.FORMS]


def plain(f, batch):
    """(memory row, buffer word) of each row that moves, in order."""
    for b in range(batch):
        for c in range(f["chunks"]):
            for w in range(f["words"]):
                row = f["memory"] + b * f["memory_sample"] + c * f["memory_step"] + w
                yield row, f["buffer"] + b * f["buffer_sample"] + c * f["buffer_step"] + w


@pytest.mark.parametrize("name", OVERLAYS)
@given(seed=seeds, batch=st.integers(1, 3))
@kernel.examples(10)
def test_rows_go_where_the_strides_say(name, seed, batch):
    rng, overlay = np.random.default_rng(seed), OVERLAYS[name]
    read = moves(rng, overlay, batch) | {"memory": 2}
    write = read | {"memory": 300, "memory_step": read["words"] + int(rng.integers(0, 9))}
    write["memory_sample"] = write["chunks"] * write["memory_step"]
    memory = rng.integers(-128, 128, (600, overlay.lanes)).astype(np.int8)
    rows, counters = through(overlay, batch, read, write, memory, [GOLDEN, *CSIM])
    buffer = {word: memory[row] for row, word in plain(read, batch)}
    expected = memory.copy()
    for row, word in plain(write, batch):
        expected[row] = buffer[word]
    np.testing.assert_array_equal(rows, expected)
    moved = batch * read["words"] * read["chunks"]
    assert counters["transfer"] == 2 * moved * overlay.beats


def test_the_exact_form_agrees():
    rng = np.random.default_rng(4)
    f = {"words": 3, "chunks": 2, "memory_step": 4, "buffer_step": 3}
    f |= {"memory_sample": 10, "buffer_sample": 8, "buffer": 5}
    memory = rng.integers(-128, 128, (80, 4)).astype(np.int8)
    devices = [GOLDEN, ("csim", {"form": "exact"})]
    through(NANO, 2, f, {**f, "memory": 40}, memory, devices)


@pytest.mark.parametrize("name", OVERLAYS)
@given(seed=seeds)
@kernel.examples(4)
def test_tables_are_set_in_parts(name, seed):
    """Each table is filled by two SetTables; later use shows what it holds."""
    rng, overlay = np.random.default_rng(seed), OVERLAYS[name]
    lanes, code = overlay.lanes, Code(overlay)
    for index in (0, 2):
        kernel.set_parameters(code, kernel.parameters(rng, 2 * lanes), index)
    for start, count in ((0, 100), (100, 156)):
        code.feed(rng.integers(-128, 128, (count, lanes)))
        code.add(isa.SET_TABLE, target=2, index=start, count=count)
    for start, count in ((0, 5), (5, 7)):
        code.feed(rng.integers(-128, 128, (count, lanes)))
        code.add(isa.SET_TABLE, target=1, index=start, count=count)
    f = kernel.simple_window(1, 4) | kernel.strides("source", (3, 1, 4))
    f |= {"operation": 4, "kernel_w": 4, "pad_x": 1, "blocks": 3}
    code.add(isa.VECTOR, **f)
    where = kernel.strides("target", (3, 1, 4)) | {"target": 12, "parameter": 1}
    code.add(isa.ACTIVATE, **where, parameter_step=1, low=-128, high=127, lookup=1)
    kernel.check(code, kernel.codes(rng, 12, lanes))


def test_lab_agrees():
    rng, overlay = np.random.default_rng(1), load_overlay("lab")
    read = moves(rng, overlay, 2)
    memory = rng.integers(-128, 128, (600, overlay.lanes)).astype(np.int8)
    through(overlay, 2, read, {**read, "memory": 300}, memory, [GOLDEN, CSIM[0]])


def test_shifts_of_a_table_stay_in_their_range():
    rows = pack_parameters(1, 2, [-128, -32, -31, 0, 30, 31, 127, 5], 3, [127] * 8, 8)
    kept = legal_shifts(rows.reshape(1, isa.PARAMETER_ROWS, 8))
    bias, q, shift, negative_q, negative_shift = unpack_parameters(kept[0])
    assert shift.tolist() == [-31, -31, -31, 0, 30, 30, 30, 5]
    assert negative_shift.tolist() == [30] * 8
    assert (bias[0], q[0], negative_q[0]) == (1, 2, 3)
