"""Bad programs: every status, the same on every device, and never a hang or a crash."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest

import kernel
from kernel import NANO, OVERLAYS, Code
from weft import isa
from weft.device import open_device
from weft.errors import DeviceError, DeviceTimeout
from weft.state import FaultError

DEVICES = {
    "golden": ("golden", {}),
    "functional": ("csim", {"form": "functional"}),
    "cycle": ("csim", {"form": "cycle"}),
}
EXACT = {"exact": ("csim", {"form": "exact"})}
OVERLAY = OVERLAYS["4x4"]
MATMUL = kernel.simple_window(1, 2) | kernel.strides("source", (1, 1, 2))
MATMUL |= {"blocks": 1, "tiles": 1, "first": 1, "last": 1, "overlap": 1}
ACTIVATE = {"target": 100, "target_col": 1, "low": -128, "high": 127}
VECTOR = kernel.simple_window(1, 2) | kernel.strides("source", (1, 1, 2)) | {"blocks": 1}
MOVE = {"words": 2, "chunks": 1}


def bad(code: Code, kind: isa.Instruction, field: str, value: int) -> Code:
    """An instruction with a field that encoding would refuse."""
    words = kind.encode()
    words[1 + [f.name for f in kind.fields].index(field)] = value
    code.words.append(words)
    return code


def opcode(value: int) -> Code:
    words = isa.BARRIER.encode()
    words[0] = value
    return Code(OVERLAY, [words])


def start(tiles: int = 1) -> Code:
    return Code(OVERLAY).feed(np.ones((4 * tiles, 4)))


def matmul(**changes: int) -> Code:
    return start(changes.get("tiles", 1) or 1).add(isa.MAT_MUL, **{**MATMUL, **changes})


def vector(**changes: int) -> Code:
    return Code(OVERLAY).add(isa.VECTOR, **{**VECTOR, **changes})


def table(**changes: int) -> Code:
    return start(20).add(isa.SET_TABLE, **{"target": 1, "count": 1, **changes})


def activated(code: Code, **changes: int) -> Code:
    return code.add(isa.ACTIVATE, **{**ACTIVATE, **changes})


def many(count: int) -> Code:
    code = Code(OVERLAY)
    for _ in range(count):
        code.feed(np.ones((1, 4)))
    return code.add(isa.SET_TABLE, target=1, count=count)


# name: (status, number of the instruction at fault, code)
FAULTS = {
    "opcode 0": (1, 0, opcode(0)),
    "opcode 9": (1, 0, opcode(9)),
    "opcode -1": (1, 0, opcode(-1)),
    "no words": (2, 0, Code(OVERLAY).add(isa.READ_HOST, words=0, chunks=1)),
    "no chunks": (2, 0, Code(OVERLAY).add(isa.WRITE_HOST, words=1, chunks=0)),
    "too many words": (2, 0, Code(OVERLAY).add(isa.READ_HOST, words=65535, chunks=65535)),
    "field above": (2, 0, bad(Code(OVERLAY), isa.READ_HOST, "buffer", 1 << 24)),
    "field below": (2, 0, bad(Code(OVERLAY), isa.READ_HOST, "words", -1)),
    "signed field": (2, 0, bad(Code(OVERLAY), isa.VECTOR, "zero", 128)),
    "no rows": (2, 0, Code(OVERLAY).add(isa.READ_WEIGHTS)),
    "no kernel": (2, 1, matmul(kernel_h=0)),
    "no tiles": (2, 1, matmul(tiles=0)),
    "tiles left open": (2, 1, matmul(tiles=2, last=0)),
    "far window": (2, 1, matmul(kernel_h=65535, dilation_y=65535)),
    "operation 5": (2, 0, vector(operation=5)),
    "window of an add": (2, 0, vector(operation=2, kernel_w=2)),
    "stride of an add": (2, 0, vector(operation=2, stride_x=2)),
    "large vector": (2, 0, vector(out_h=65535, out_w=65535)),
    "many taps": (2, 0, vector(kernel_h=30, kernel_w=30)),
    "mode 3": (2, 2, activated(matmul(), mode=3)),
    "table 3": (2, 1, table(target=3)),
    "no entries": (2, 1, table(count=0)),
    "read behind the buffer": (3, 0, Code(OVERLAY).add(isa.READ_HOST, buffer=511, **MOVE)),
    "source behind the buffer": (3, 1, matmul(source=511)),
    "second behind the buffer": (3, 0, vector(operation=3, second=512)),
    "target behind the buffer": (3, 2, activated(matmul(), target=511)),
    "rows": (4, 1, matmul(out_h=33)),
    "parameter table": (5, 1, table(target=0, index=8)),
    "tap table": (5, 1, table(index=60, count=5)),
    "lookup table": (5, 1, table(target=2, index=256)),
    "parameter": (5, 2, activated(matmul(), parameter=8)),
    "parameter of the last tile": (
        5,
        2,
        activated(matmul(tiles=2), parameter=7, parameter_step=1),
    ),
    "taps": (5, 0, vector(operation=4, tap=64)),
    "lone activate": (6, 0, activated(Code(OVERLAY))),
    "matmul alone": (6, 2, matmul()),
    "vector alone": (6, 1, vector()),
    "move before activate": (6, 2, matmul().add(isa.READ_HOST, **MOVE)),
    "drained twice": (6, 2, activated(activated(vector()), target=200)),
    "two tiles drained twice": (6, 3, activated(activated(matmul(tiles=2)))),
    "nothing to go on with": (6, 1, matmul(first=0)),
    "other rows to go on with": (
        6,
        3,
        matmul(last=0).feed(np.ones((4, 4))).add(isa.MAT_MUL, **{**MATMUL, "first": 0, "out_w": 1}),
    ),
    "onto its input": (7, 2, activated(matmul(), target=1)),
    "onto its second": (7, 1, activated(vector(operation=2, second=100))),
    "read outside memory": (8, 0, Code(OVERLAY).add(isa.READ_HOST, memory=1023, **MOVE)),
    "write outside memory": (8, 0, Code(OVERLAY).add(isa.WRITE_HOST, memory=2**32 - 1, **MOVE)),
    "weights outside memory": (8, 0, Code(OVERLAY).add(isa.READ_WEIGHTS, memory=2**32 - 1, rows=1)),
    "stream too short": (9, 1, matmul(kernel_w=2)),
    "huge product": (
        9,
        1,
        matmul(tiles=46000, blocks=46000, kernel_h=46000, kernel_w=46000, source_block=0),
    ),
    "table from nothing": (9, 0, Code(OVERLAY).add(isa.SET_TABLE, count=1)),
    "rows left over": (9, 1, start()),
    "queue": (9, 8, many(9)),
}


def outcome(device, code: Code, batch: int = 1):
    """The status of a run, or its counters."""
    device.load(code.program(batch))
    try:
        return dict(device.run(0, batch, 20).counters)
    except FaultError as fault:
        return fault.status


@pytest.mark.parametrize("where", DEVICES)
@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_has_its_status_and_place(where, fault):
    status, number, code = FAULTS[fault]
    name, options = DEVICES[where]
    device = open_device(name, **options)
    device.load(code.program())
    with pytest.raises(
        FaultError, match=rf"instruction {number} \(.*\(status {status}\)"
    ) as caught:
        device.run(0, 1)
    assert caught.value.status == status
    good = activated(kernel.set_parameters(matmul(), (0, 0, 0, 0, 0)))
    good.words = [*good.words[2:4], *good.words[:2], good.words[4]]  # parameters first
    good.weights = good.weights[::-1]
    good.words[0][1], good.words[2][1] = 0, isa.PARAMETER_ROWS
    assert isinstance(outcome(device, good), dict)
    device.close()


def test_every_status_of_the_manual_is_provoked():
    assert {status for status, _, _ in FAULTS.values()} == set(range(1, 10))


@pytest.mark.parametrize(
    "fault", ["opcode 9", "matmul alone", "stream too short", "rows left over", "queue", "rows"]
)
def test_broken_programs_end_in_the_exact_form(fault):
    """With processes as threads on streams of their real depth, nothing may wait for ever."""
    status, _, code = FAULTS[fault]
    device = open_device("csim", form="exact")
    assert outcome(device, replace(code, overlay=NANO)) == status
    assert isinstance(outcome(device, Code(NANO)), dict)
    device.close()


@pytest.mark.parametrize("where", DEVICES)
def test_a_fault_leaves_nothing_behind(where):
    """Weights that a broken run left in the stream, sums, rows to go on with: all are gone."""
    name, options = DEVICES[where]
    device = open_device(name, **options)
    for fault in ("rows left over", "stream too short", "matmul alone"):
        words = [FAULTS[fault][2].program().segments[0], activated(Code(OVERLAY)).program()]
        code = FAULTS[fault][2].program()
        device.load(replace(code, segments=(words[0], words[1].segments[0])))
        with pytest.raises(FaultError):
            device.run(0, 1)
        with pytest.raises(FaultError) as caught:
            device.run(1, 1)
        assert caught.value.status == 6
    device.close()


@pytest.mark.parametrize("where", DEVICES)
@pytest.mark.parametrize("batch", [0, -1, 65])
def test_an_impossible_batch_is_a_fault(where, batch):
    name, options = DEVICES[where]
    device = open_device(name, **options)
    device.load(Code(OVERLAY).add(isa.READ_HOST, **MOVE).program())
    with pytest.raises(FaultError, match="status 2"):
        device.run(0, batch)
    device.close()


@pytest.mark.parametrize("where", DEVICES)
def test_a_segment_needs_its_barrier(where):
    name, options = DEVICES[where]
    device = open_device(name, **options)
    program = Code(OVERLAY).add(isa.READ_HOST, **MOVE).program()
    segment = program.segments[0]
    short = replace(segment, words=segment.words[:-1], layers=segment.layers[:-1])
    device.load(replace(program, segments=(short,)))
    with pytest.raises(FaultError, match=r"segment 0, end: .*Barrier.*\(status 6\)"):
        device.run(0, 1)
    device.close()


@pytest.mark.parametrize("where", {**DEVICES, **EXACT})
def test_memory_read_where_it_is_written_is_a_hazard(where):
    name, options = {**DEVICES, **EXACT}[where]
    device = open_device(name, **options)
    code = Code(NANO if where == "exact" else OVERLAY)
    code.add(isa.WRITE_HOST, memory=10, words=4, chunks=1)
    code.add(isa.READ_HOST, memory=5, words=2, chunks=2, memory_step=7)
    device.load(code.program())
    with pytest.raises(DeviceError, match=r"memory rows 12\.\.13 are read in the segment that"):
        device.run(0, 1)
    device.load(Code(code.overlay, code.words[:1]).program())
    device.run(0, 1)
    device.close()


@pytest.mark.parametrize("where", {**DEVICES, **EXACT})
def test_what_was_read_may_be_written_behind(where):
    """A state that a step reads and leaves for the next one has one place."""
    name, options = {**DEVICES, **EXACT}[where]
    device = open_device(name, **options)
    code = Code(NANO if where == "exact" else OVERLAY)
    lanes = code.overlay.lanes
    code.add(isa.READ_HOST, memory=8, words=4, chunks=1, buffer=1)
    code.add(isa.WRITE_HOST, memory=9, words=4, chunks=1, buffer=1)
    device.load(code.program())
    content = np.arange(4 * lanes, dtype=np.int8).reshape(4, lanes)
    device.write(8, content)
    device.run(0, 1)
    np.testing.assert_array_equal(device.read(9, 4), content)
    code.add(isa.READ_HOST, memory=12, words=1, chunks=1)
    device.load(code.program())
    with pytest.raises(DeviceError, match=r"memory rows 12\.\.12 are read in the segment that has"):
        device.run(0, 1)
    device.close()


@pytest.mark.parametrize("where", {**DEVICES, **EXACT})
def test_a_long_program_runs_out_of_time(where):
    name, options = {**DEVICES, **EXACT}[where]
    device = open_device(name, **options)
    overlay = NANO if where == "exact" else OVERLAY
    code = Code(overlay)
    for _ in range(3000):
        code.add(isa.READ_HOST, words=overlay.buffer_words, chunks=1)
    device.load(code.program())
    with pytest.raises(DeviceTimeout, match=r"0\.001 s"):
        device.run(0, 1, timeout_s=0.001)
    device.load(Code(overlay).add(isa.READ_HOST, words=4, chunks=1).program())
    device.run(0, 1, timeout_s=30)
    device.close()


SIZES = {*MOVE, *kernel.simple_window(1, 1), "rows", "count", "blocks", "tiles"}
LIMITS = (0, 1, 2, 3, 4, 7, 8, 15, 64, 255, 511, 512, 65535)


def random_instruction(rng, kind: isa.Instruction) -> isa.Words:
    """Fields that may work, one or two of which may be anything."""
    words = kind.encode()
    plain = {**MATMUL, **VECTOR, **ACTIVATE, **MOVE, "rows": 4, "count": 1, "out_w": 2}
    for index, field in enumerate(kind.fields, start=1):
        words[index] = plain.get(field.name, 0)
        if rng.integers(0, 4) == 0:
            words[index] = min(int(rng.integers(field.name in SIZES, 4)), field.high)
    if kind.fields and rng.integers(0, 5) == 0:
        index = int(rng.integers(0, len(kind.fields))) + 1
        field = kind.fields[index - 1]
        edges = (field.low, field.high, field.high + 1, field.low - 1, *LIMITS)
        value = int(rng.choice(np.array(edges, np.int64))) & 0xFFFFFFFF
        words[index] = np.uint32(value).astype(np.int32)
    return words


def random_code(rng) -> Code:
    """A random list; it starts by filling the tables, so that both devices see the same ones."""
    code = kernel.set_parameters(Code(OVERLAY), kernel.parameters(rng, 8 * 4))
    for target, rows in ((1, 64), (2, 256)):
        code.feed(rng.integers(-128, 128, (rows, 4)))
        code.add(isa.SET_TABLE, target=target, count=rows)
    code.words.append(isa.READ_HOST.encode(words=512, chunks=1))
    kinds = (isa.READ_HOST, isa.WRITE_HOST, isa.SET_TABLE, isa.MAT_MUL, isa.VECTOR)
    for _ in range(int(rng.integers(1, 7))):
        kind = kinds[int(rng.integers(0, len(kinds)))]
        need = {isa.MAT_MUL: 4, isa.SET_TABLE: 14}.get(kind, 0)
        if need:
            code.words.append(isa.READ_WEIGHTS.encode(memory=0, rows=need, memory_rows=need))
        code.words.append(random_instruction(rng, kind))
        if kind in (isa.MAT_MUL, isa.VECTOR) and rng.integers(0, 10):
            code.words.append(random_instruction(rng, isa.ACTIVATE))
    if rng.integers(0, 8) == 0:
        rng.shuffle(code.words[-3:])
    return code


def result(device, code: Code, content, batch: int):
    """What a run leaves: (status, None) or (0, all of memory), or ("hazard", None)."""
    device.load(code.program(batch, 1024))
    device.write(0, content)
    try:
        device.run(0, batch, 20)
    except FaultError as fault:
        return fault.status, None
    except DeviceError as error:
        return "hazard" if "are read in the segment" in str(error) else str(error), None
    return 0, device.read(0, 1024)


def test_random_programs_end_alike():
    """No list of instructions, however odd, makes two devices differ, crash or hang."""
    rng = np.random.default_rng(20)
    golden, csim = open_device("golden"), open_device("csim")
    seen: dict[object, int] = {}
    for number in range(400):
        code, batch = random_code(rng), int(rng.integers(1, 4))
        content = rng.integers(-128, 128, (1024, 4)).astype(np.int8)
        status, rows = result(golden, code, content, batch)
        again, simulated = result(csim, code, content, batch)
        assert again == status, f"program {number}"
        seen[status] = seen.get(status, 0) + 1
        if rows is not None:
            np.testing.assert_array_equal(simulated, rows, err_msg=f"program {number}")
    assert seen[0] >= 20, seen  # enough of them work
    assert len(seen) >= 7, seen  # and the others break in many ways
    golden.close()
    csim.close()


def test_random_words_are_no_program():
    """Whatever lies in program memory, both devices refuse it for the same reason."""
    rng = np.random.default_rng(21)
    golden, csim = open_device("golden"), open_device("csim")
    content = np.zeros((1024, 4), np.int8)
    for _ in range(100):
        words = rng.integers(-(2**31), 2**31, (3, isa.WORDS)).astype(np.int32)
        words[:, 0] = rng.integers(0, 10, 3)
        code = Code(OVERLAY, list(words))
        assert result(golden, code, content, 1)[0] == result(csim, code, content, 1)[0]
    golden.close()
    csim.close()


def test_faults_in_two_threads_keep_their_own_words():
    """Each thread reads the message of its own run."""
    found: dict[str, str] = {}

    def work(name: str, code: Code) -> None:
        device = open_device("csim")
        device.load(code.program())
        for _ in range(20):
            with pytest.raises(DeviceError) as caught:
                device.run(0, 1)
            found[name] = str(caught.value)
        device.close()

    hazard = (
        Code(OVERLAY).add(isa.WRITE_HOST, memory=3, **MOVE).add(isa.READ_HOST, memory=3, **MOVE)
    )
    threads = [
        threading.Thread(target=work, args=("hazard", hazard)),
        threading.Thread(target=work, args=("opcode", opcode(9))),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert "memory rows 3..4" in found["hazard"]
    assert "status 1" in found["opcode"]
