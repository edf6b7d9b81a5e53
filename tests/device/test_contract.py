"""What every device promises, whatever it is."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest

import kernel
from kernel import OVERLAYS, Code
from weft import isa
from weft.device import DEVICES, RunResult, open_device
from weft.errors import DeviceError, MissingDependency, UsageError
from weft.graph import Graph
from weft.program import HostSegment
from weft.state import COUNTERS

pytestmark = pytest.mark.parametrize("name", DEVICES)
OVERLAY = OVERLAYS["8x8"]
ROWS = 24
ALWAYS = ("golden", "csim")  # need nothing but what the tests need


@pytest.fixture(autouse=True)
def present(name):
    """Skips a device whose packages are not installed here."""
    try:
        device = open_device(name)
        device.load(Code(OVERLAY).program())
        device.close()
    except MissingDependency as error:
        if name in ALWAYS:
            raise
        pytest.skip(str(error))


def scaled(seed: int, tiles: int = 2):
    """(program, content, expected): rows 0..5 through a random matrix to rows 6 and on."""
    rng = np.random.default_rng(seed)
    content = kernel.codes(rng, 6, 8)
    code = kernel.set_parameters(Code(OVERLAY), kernel.parameters(rng, 8 * tiles))
    code.add(isa.READ_HOST, words=6, chunks=1, memory=0, buffer=0)
    code.feed(kernel.codes(rng, 8 * tiles, 8))
    f = kernel.simple_window(1, 6) | kernel.strides("source", (1, 1, 6))
    code.add(isa.MAT_MUL, **f, blocks=1, tiles=tiles, first=1, last=1, overlap=1)
    where = kernel.strides("target", (tiles, 1, 6)) | {"target": 6}
    code.add(isa.ACTIVATE, **where, parameter_step=1, low=-128, high=127)
    code.add(isa.WRITE_HOST, words=6 * tiles, chunks=1, memory=6, buffer=6)
    program = code.program(memory_rows=ROWS)
    device = open_device("golden")
    device.load(program)
    return program, content, run(device, content)


def run(device, content):
    device.write(0, content)
    device.run(0, 1)
    return device.read(6, 12)


def test_load_write_run_read_close(name):
    program, content, expected = scaled(1)
    device = open_device(name)
    assert device.name == name
    device.load(program)
    device.write(0, content)
    result = device.run(0, 1)
    assert isinstance(result, RunResult)
    assert tuple(result.counters) == COUNTERS
    assert result.cycles == sum(result.counters.values()) > 0
    assert result.wall_s > 0
    rows = device.read(6, 12)
    assert rows.shape == (12, 8)
    assert rows.dtype == np.int8
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_array_equal(device.read(0, 6), content)
    assert device.run(0, 1).counters == result.counters
    device.close()


def test_what_is_read_is_a_copy(name):
    program, content, _ = scaled(2)
    device = open_device(name)
    device.load(program)
    device.write(0, content)
    first = device.read(0, 6)
    content[:] = 0
    first[:] = 1
    assert not (device.read(0, 6) == first).all()
    assert device.read(0, 6).any()
    device.close()


def test_loading_forgets_the_program_before(name):
    device = open_device(name)
    for seed in (3, 4, 3):
        program, content, expected = scaled(seed)
        device.load(program)
        assert not device.read(0, ROWS).any()
        np.testing.assert_array_equal(run(device, content), expected)
    device.close()


@pytest.mark.parametrize(
    "call",
    [
        lambda d: d.run(0, 1),
        lambda d: d.read(0, 1),
        lambda d: d.write(0, np.zeros((1, 8), np.int8)),
    ],
    ids=["run", "read", "write"],
)
def test_nothing_works_before_load_and_after_close(name, call):
    device = open_device(name)
    with pytest.raises(DeviceError, match=f"{name}: no program is loaded"):
        call(device)
    device.load(scaled(5)[0])
    device.close()
    with pytest.raises(DeviceError, match=f"{name}: no program is loaded"):
        call(device)
    device.close()  # once more does no harm


@pytest.mark.parametrize(("row", "rows"), [(ROWS, 1), (ROWS - 1, 2), (-1, 1), (0, ROWS + 1)])
def test_memory_ends_where_the_program_says(name, row, rows):
    device = open_device(name)
    device.load(scaled(6)[0])
    with pytest.raises(DeviceError, match=f"rows {row}..{row + rows - 1} lie outside"):
        device.read(row, rows)
    with pytest.raises(DeviceError, match=f"which has {ROWS}"):
        device.write(row, np.zeros((rows, 8), np.int8))
    device.close()


def test_only_segments_of_the_accelerator_run(name):
    program = scaled(7)[0]
    host = HostSegment(Graph("host", {}, (), (), ()), "nothing to do")
    device = open_device(name)
    device.load(replace(program, segments=(*program.segments, host)))
    with pytest.raises(DeviceError, match="segment 1 of 'test' runs on the host"):
        device.run(1, 1)
    for number in (-1, 2):
        with pytest.raises(DeviceError, match=f"no segment {number}"):
            device.run(number, 1)
    device.close()


def test_segments_run_by_their_number(name):
    one, two = scaled(8), scaled(9)
    shift = len(one[0].weights)
    words = two[0].segments[0].words.copy()
    words[words[:, 0] == isa.READ_WEIGHTS.opcode, 1] += shift
    second = replace(two[0].segments[0], words=words)
    host = HostSegment(Graph("host", {}, (), (), ()), "nothing to do")
    weights = np.concatenate([one[0].weights, two[0].weights])
    device = open_device(name)
    segments = (*one[0].segments, host, second)
    device.load(replace(one[0], segments=segments, weights=weights))
    for number, (_, content, expected) in ((2, two), (0, one), (2, two)):
        device.write(0, content)
        device.run(number, 1)
        np.testing.assert_array_equal(device.read(6, 12), expected)
    device.close()


def test_two_devices_take_turns(name):
    loads = [scaled(10), scaled(11)]
    devices = [open_device(name) for _ in loads]
    for device, (program, content, _) in zip(devices, loads, strict=True):
        device.load(program)
        device.write(0, content)
    for _ in range(2):
        for device, (_, content, expected) in zip(devices, loads, strict=True):
            np.testing.assert_array_equal(run(device, content), expected)
    devices[0].close()
    np.testing.assert_array_equal(run(devices[1], loads[1][1]), loads[1][2])
    devices[1].close()


def test_two_threads_run_a_device_each(name):
    failures = []

    def work(seed: int) -> None:
        program, content, expected = scaled(seed)
        device = open_device(name)
        device.load(program)
        same = [np.array_equal(run(device, content), expected) for _ in range(25)]
        failures.extend([seed] * same.count(False))
        device.close()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (12, 13)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert failures == []


def test_a_device_may_move_between_threads(name):
    program, content, expected = scaled(14)
    device = open_device(name)
    device.load(program)
    found = []
    for _ in range(3):
        thread = threading.Thread(target=lambda: found.append(run(device, content)))
        thread.start()
        thread.join(60)
    device.close()
    for rows in found:
        np.testing.assert_array_equal(rows, expected)
    assert len(found) == 3


def test_unknown_names_and_options_are_told(name):
    with pytest.raises(UsageError, match=f"Did you mean '{name}'"):
        open_device(name + "x")
    with pytest.raises(UsageError, match=f"device '{name}'"):
        open_device(name, colour="red")
