"""Estimates: the simulation's own cycles, utilization of real layers, time on a board."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import kernel
import weft
from kernel import OVERLAYS, Code
from weft import demo, isa
from weft.config import Overlay, load_board
from weft.device import open_device
from weft.errors import InputError, UsageError
from weft.estimate import estimate, instructions
from weft.state import COUNTERS


def random_code(rng, overlay: Overlay) -> Code:
    """A list of every kind of instruction that runs without a fault."""
    code = kernel.set_parameters(Code(overlay), kernel.parameters(rng, 2 * overlay.lanes))
    code.add(isa.READ_HOST, words=overlay.buffer_words // 8, chunks=2, memory_step=64)
    for _ in range(int(rng.integers(1, 6))):
        f = kernel.random_window(rng, overlay, 3) | {"blocks": int(rng.integers(1, 3))}
        f |= kernel.strides("source", (f["blocks"], f["height"], f["width"]))
        where = {"target": 256, "target_col": 1, "low": -128, "high": 127}
        if rng.integers(0, 2):
            code.add(isa.VECTOR, operation=int(rng.choice([0, 1, 4])), **f)
            code.add(isa.ACTIVATE, **where)
            continue
        tiles = int(rng.integers(1, 4))
        folds = tiles * f["blocks"] * f["kernel_h"] * f["kernel_w"]
        code.feed(kernel.codes(rng, folds * overlay.rows, overlay.lanes))
        ends = {"first": 1, "last": 1, "overlap": int(rng.integers(0, 2))}
        code.add(isa.MAT_MUL, tiles=tiles, **f, **ends).add(isa.ACTIVATE, **where)
        if tiles == 1:
            code.add(isa.ACTIVATE, **where)
    write = {"words": 5, "chunks": 3, "memory": 600, "memory_step": 9, "memory_sample": 40}
    return code.add(isa.WRITE_HOST, **write)


@pytest.mark.parametrize("name", OVERLAYS)
def test_cycles_are_what_the_devices_count(name):
    rng, overlay = np.random.default_rng(3), OVERLAYS[name]
    for _ in range(8):
        program = random_code(rng, overlay).program(batch=3, memory_rows=1024)
        for batch in (1, 3):
            expected = estimate(program, batch)
            for device in (open_device("golden"), open_device("csim")):
                device.load(program)
                result = device.run(0, batch)
                device.close()
                assert expected.cycles == result.cycles
                assert expected.counters == dict(result.counters)


@pytest.fixture(scope="module")
def digits() -> weft.Program:
    data = demo.load_data()
    return weft.compile(demo.MODELS / "digits.onnx", "tiny", calibration=data.calibration)


def test_cycles_of_a_compiled_model(digits):
    x = np.zeros((digits.batch, *digits.inputs[0].shape[1:]), np.float32)
    with weft.open(digits, "csim") as session:
        _, run = session.run(x, detail=True)
    expected = estimate(digits, digits.batch)
    assert run.cycles == expected.cycles
    assert dict(run.counters) == expected.counters
    assert run.bytes == expected.bytes


def test_layers_add_up(digits):
    whole = estimate(digits, 2)
    assert sum(layer.cycles for layer in whole.layers) == whole.cycles
    assert sum(layer.bytes for layer in whole.layers) == whole.bytes
    assert whole.macs == 2 * sum(layer.macs for layer in digits.layers)
    for layer in whole.layers:
        assert sum(layer.counters.values()) == layer.cycles
        assert 0 <= layer.utilization <= 1
    assert 0 < whole.utilization < 1
    single = list(instructions(digits, 2))
    assert sum(item.clocks.total for item in single) == whole.cycles
    assert [item.number for item in single] == list(range(len(digits.segments[0].words)))


def test_bytes_are_rows_moved_and_instructions():
    overlay = OVERLAYS["8x8"]
    code = Code(overlay).add(isa.READ_HOST, words=3, chunks=2, memory_sample=6, buffer_sample=6)
    code.feed(np.ones((14, 8))).add(isa.SET_TABLE, count=1)
    code.add(isa.WRITE_HOST, words=1, chunks=1, memory=600)
    program = code.program(batch=4)
    moved = 4 * 3 * 2 + 14 + 4
    assert estimate(program, 4).bytes == moved * 8 + 5 * 4 * isa.WORDS


WIDE = Overlay("wide", 32, 32, 32, 1 << 15, 256, 64, 64)


@pytest.mark.parametrize(
    ("m", "k", "n"),
    [(128, 768, 768), (128, 768, 3072), (128, 3072, 768), (128, 64, 128), (128, 128, 64)],
    ids=["projection", "ffn1", "ffn2", "scores", "values"],
)
def test_matrix_products_of_bert_base_fill_the_array(m, k, n):
    """Clocks of MatMul that multiply, where tiles hide behind the rows of the one before."""
    blocks, tiles = k // 32, n // 32
    f = kernel.simple_window(1, m) | kernel.strides("source", (blocks, 1, m))
    code = Code(WIDE).feed(np.ones((blocks * tiles * 32, 32)))
    code.add(isa.MAT_MUL, **f, blocks=blocks, tiles=tiles, first=1, last=1, overlap=1)
    where = kernel.strides("target", (tiles, 1, m)) | {"target": blocks * m}
    code.add(isa.ACTIVATE, **where, low=-128, high=127)
    counters = estimate(code.program()).counters
    clocks = counters["matrix"] + counters["weight_shift"] + counters["drain"]
    assert m * k * n / (clocks * 32 * 32) >= 0.9


def test_a_board_adds_time_and_its_roof(digits):
    board = load_board("Pynq-Z2")
    plain, placed = estimate(digits, 4), estimate(digits, 4, "Pynq-Z2")
    assert plain.wall_s is None
    assert placed.board == board
    assert placed.cycles == plain.cycles
    for layer in placed.layers:
        compute = layer.cycles / (board.clock_mhz * 1e6)
        least = layer.bytes / board.ddr_bytes_per_s
        assert layer.wall_s >= max(compute, least) * (1 - 1e-9)
        if layer.bound == "compute":
            assert layer.wall_s == pytest.approx(compute)
        else:
            assert layer.wall_s > compute
    assert placed.wall_s == pytest.approx(sum(layer.wall_s for layer in placed.layers))


def test_slower_memory_moves_the_roof(digits):
    board = load_board("Pynq-Z2")
    slow, slower = (estimate(digits, 4, replace(board, ddr_bytes_per_s=r)) for r in (2e3, 1e3))
    assert {layer.bound for layer in slower.layers if layer.bytes} == {"memory"}
    assert slower.wall_s == pytest.approx(2 * slow.wall_s)
    assert slower.wall_s >= slower.bytes / 1e3 * (1 - 1e-9)
    quick = estimate(digits, 4, replace(board, clock_mhz=board.clock_mhz / 1000))
    assert {layer.bound for layer in quick.layers} == {"compute"}
    assert quick.wall_s == pytest.approx(quick.cycles / (board.clock_mhz * 1e3))


@pytest.mark.parametrize("batch", [0, -1, 10_000])
def test_an_impossible_batch_is_named(digits, batch):
    with pytest.raises(InputError, match=f"batch {batch} is outside 1..{digits.batch}"):
        estimate(digits, batch)


def test_an_unknown_board_is_named(digits):
    with pytest.raises(UsageError, match=r"Did you mean .*'Pynq-Z2'"):
        estimate(digits, 1, "pynq-z2")


def test_counters_have_the_devices_names(digits):
    assert tuple(estimate(digits).counters) == COUNTERS
