"""What goes wrong on boards: the stated error, in time, memory given back, the next run works."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("pynq", reason="pynq wants numpy<2: `make test` runs these elsewhere")

from programs import scaling

import weft
from weft.config import load_board, load_overlay
from weft.device.bitfile import Bitstream, file_name
from weft.errors import DeviceError, DeviceTimeout
from weft.simboard.board import Board, write_bitstream
from weft.simboard.faults import FAULTS
from weft.simboard.memory import Memory

PROGRAM = scaling(batch=4)
X = np.random.default_rng(1).uniform(-30, 30, (10, 5)).astype(np.float32)
TIMEOUT_S = 0.2


@pytest.fixture(scope="module")
def expected():
    with weft.open(PROGRAM, "golden") as session:
        return session.run(X)


@pytest.fixture
def board():
    made = Board(load_board("KV260"))
    yield made
    made.close()


@pytest.fixture
def bit(tmp_path):
    return write_bitstream(tmp_path, PROGRAM.overlay, load_board("KV260"))


WHILE_OPENING = {
    "design_id": (DeviceError, r"design id on the board [0-9a-f]{16}, expected [0-9a-f]{16}"),
    "hang_start": (DeviceTimeout, r"did not answer.*did not take its start \(start=1, done=0"),
    "clock": (DeviceError, r"clock runs at 100\.0 MHz; 300\.0 MHz expected"),
    "allocation": (DeviceError, r"no [0-9,]+ bytes of contiguous memory: free is [0-9,]+ bytes"),
    "cma": (DeviceError, r"no [0-9,]+ bytes of contiguous memory: free is 4,096 bytes"),
    "gone": (DeviceError, r"OSError.*does not answer"),
}
WHILE_RUNNING = {
    "hang_start": (DeviceTimeout, r"within 0\.2 s: the kernel did not take its start"),
    "hang_middle": (
        DeviceTimeout,
        r"the kernel runs .*stands at segment 0, instruction \d+ \(.*of",
    ),
    "status": (DeviceError, r"status 1|unknown opcode"),
    "overrun": (DeviceError, "wrote behind activation memory"),
    "stray": (DeviceTimeout, r"the kernel runs \(start=1, done=0, idle=0\)"),
    "gone": (DeviceError, r"OSError.*does not answer"),
}


@pytest.mark.parametrize("fault", WHILE_OPENING)
def test_faults_while_opening(fault, board, bit, expected):
    kind, words = WHILE_OPENING[fault]
    board.faults.add(fault)
    start = time.perf_counter()
    with pytest.raises(kind, match=words):
        weft.open(PROGRAM, "simboard", board=board, bitfile=bit)
    assert time.perf_counter() - start < 4
    assert board.memory.buffers == 0
    board.faults.clear()
    with weft.open(PROGRAM, "simboard", board=board, bitfile=bit) as session:
        np.testing.assert_array_equal(session.run(X), expected)
    assert board.memory.buffers == 0


@pytest.mark.parametrize("wait", ["auto", "poll", "interrupt"])
@pytest.mark.parametrize("fault", WHILE_RUNNING)
def test_faults_while_running(fault, wait, board, bit, expected):
    kind, words = WHILE_RUNNING[fault]
    with weft.open(PROGRAM, "simboard", board=board, bitfile=bit, wait=wait) as session:
        np.testing.assert_array_equal(session.run(X), expected)
        board.faults.add(fault)
        start = time.perf_counter()
        with pytest.raises(kind, match=words):
            session.run(X, timeout_s=TIMEOUT_S)
        assert time.perf_counter() - start < TIMEOUT_S + 1
        board.faults.clear()
        np.testing.assert_array_equal(session.run(X), expected)
        assert board.memory.buffers == 1
    assert board.memory.buffers == 0


def test_a_lost_interrupt_is_told(board, bit, expected):
    with weft.open(PROGRAM, "simboard", board=board, bitfile=bit, wait="interrupt") as session:
        board.faults.add("interrupt")
        start = time.perf_counter()
        with pytest.raises(DeviceTimeout, match=r"done, but its interrupt.*wait='poll'"):
            session.run(X, timeout_s=TIMEOUT_S)
        assert TIMEOUT_S <= time.perf_counter() - start < TIMEOUT_S + 1
        board.faults.clear()
        np.testing.assert_array_equal(session.run(X), expected)
    assert board.memory.buffers == 0


def test_an_interrupt_comes_once_per_run(board, bit, expected):
    """It is acknowledged before the controller looks again, and nothing is left for the next."""
    from weft.simboard import logic

    with weft.open(PROGRAM, "simboard", board=board, bitfile=bit, wait="interrupt") as session:
        session.run(X[:4])
        kernel, rung = session.device.kernel, []
        ring = kernel.set
        kernel.set = lambda: rung.append(True) or ring()
        before, logic._INLINE_S = logic._INLINE_S, 0.0  # runs end while the host sleeps
        try:
            for _ in range(20):
                writes, reads = board.writes, board.reads
                np.testing.assert_array_equal(session.run(X[:4]), expected[:4])
                assert board.writes - writes == 2  # start, acknowledge
                assert board.reads - reads <= 2 + 20  # pending, done; the report
        finally:
            logic._INLINE_S = before
        assert len(rung) == 20


def test_ways_to_wait_take_turns(board, bit, expected):
    """One kernel: what one session armed is switched off for the other."""
    options = {"board": board, "bitfile": bit}
    with (
        weft.open(PROGRAM, "simboard", wait="interrupt", **options) as one,
        weft.open(PROGRAM, "simboard", wait="poll", **options) as two,
    ):
        assert one.device.kernel is two.device.kernel
        for session in (one, two, two, one, one, two):
            np.testing.assert_array_equal(session.run(X), expected)
    assert board.memory.buffers == 0


def test_a_lost_interrupt_costs_a_heartbeat(board, bit, expected, monkeypatch):
    """Who polls first does not depend on interrupts."""
    from weft.device import driver

    monkeypatch.setattr(driver, "SPIN_S", 0.0)
    board.faults.add("interrupt")
    with weft.open(PROGRAM, "simboard", board=board, bitfile=bit) as session:
        np.testing.assert_array_equal(session.run(X), expected)


def test_corrupted_results_are_found_by_check(board, bit):
    options = {"board": board, "bitfile": bit}
    assert weft.check(PROGRAM, X, "simboard", **options).equal
    board.faults.add("output")
    report = weft.check(PROGRAM, X, "simboard", **options)
    assert not report.equal
    assert report.first_difference.layer.startswith("scale_")
    board.faults.clear()
    assert weft.check(PROGRAM, X, "simboard", **options).equal
    assert board.memory.buffers == 0


def test_every_fault_is_tested():
    tested = {*WHILE_OPENING, *WHILE_RUNNING, "interrupt", "output"}
    assert tested == set(FAULTS)


def test_a_truncated_bitstream_is_not_loaded(board, bit, expected):
    content = bit.read_bytes()
    bit.write_bytes(content[:-100])
    start = time.perf_counter()
    with pytest.raises(DeviceError, match="truncated: its header announces"):
        weft.open(PROGRAM, "simboard", board=board, bitfile=bit)
    assert time.perf_counter() - start < 1
    assert board.logic is None
    assert board.memory.buffers == 0
    bit.write_bytes(content)
    with weft.open(PROGRAM, "simboard", board=board, bitfile=bit) as session:
        np.testing.assert_array_equal(session.run(X), expected)


def test_a_bitstream_of_other_hardware_is_found_out(board, bit, tmp_path):
    """A lab design under tiny's name."""
    lab = write_bitstream(tmp_path / "lab", load_overlay("lab"), load_board("KV260"))
    bit.write_bytes(lab.read_bytes())
    with pytest.raises(DeviceError, match="holds other hardware than its name says"):
        weft.open(PROGRAM, "simboard", board=board, bitfile=bit)
    with pytest.raises(DeviceError, match=rf"the program needs {PROGRAM.overlay_digest}"):
        weft.open(PROGRAM, "simboard", board=board, bitfile=lab)
    assert lab.name == file_name(load_overlay("lab"))


def test_configuration_data_of_no_design_is_refused(board, bit):
    bit.write_bytes(Bitstream("tiny", "xck26", "2000/01/01", b"\xff" * 64).encode())
    with pytest.raises(DeviceError, match=r"loading .*was not configured"):
        weft.open(PROGRAM, "simboard", board=board, bitfile=bit)


def test_contiguous_memory_runs_out(bit):
    small = Board(load_board("KV260"), memory_bytes=3 * 4096 * 3)
    options = {"board": small, "bitfile": bit}
    with weft.open(PROGRAM, "simboard", **options) as session:
        others = [weft.open(PROGRAM, "simboard", **options) for _ in range(2)]
        with pytest.raises(DeviceError, match=r"free is [\d,]+ bytes \(CmaFree\). Close other"):
            weft.open(PROGRAM, "simboard", **options)
        for other in others:
            other.close()
        session.run(X)
        weft.open(PROGRAM, "simboard", **options).close()
    assert small.memory.buffers == 0
    small.close()


def test_an_interrupted_run_leaves_the_board_usable(board, bit, expected):
    """Ctrl-C while the kernel hangs."""
    with weft.open(PROGRAM, "simboard", board=board, bitfile=bit) as session:
        board.faults.add("hang_middle")
        before = signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        try:
            with pytest.raises(KeyboardInterrupt):
                session.run(X, timeout_s=10)
        finally:
            signal.signal(signal.SIGALRM, before)
        board.faults.clear()
        np.testing.assert_array_equal(session.run(X), expected)


def test_a_killed_process_leaves_nothing_behind(tmp_path, expected):
    script = (
        "import sys; sys.path[:0] = sys.argv[1:]\n"
        "import numpy as np, weft\n"
        "from programs import scaling\n"
        "session = weft.open(scaling(batch=4), 'simboard')\n"
        "x = np.zeros((4, 5), np.float32)\n"
        "session.run(x)\n"
        "print('running', flush=True)\n"
        "while True: session.run(x)\n"
    )
    paths = [p for p in sys.path if p.endswith("tests/host") or p.endswith("tests")]
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", script, *paths], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "running\n"
    process.kill()
    assert process.wait(timeout=5) == -signal.SIGKILL
    process.stdout.close()
    with weft.open(PROGRAM, "simboard") as session:
        np.testing.assert_array_equal(session.run(X), expected)


class TestMemory:
    """What makes a forgotten flush show."""

    def test_sides_differ_until_they_are_synchronised(self, board):
        buffer = board.allocate((4096,), np.int8)
        buffer[:] = 3
        seen = board.memory.view(buffer.device_address, 4096)
        assert not (seen == 3).any()
        buffer.flush()
        assert (seen == 3).all()
        seen[100:200] = 9
        assert (buffer == 3).all()
        buffer[100:150].invalidate()
        assert (buffer[100:150] == 9).all()
        assert (buffer[150:] == 3).all()
        buffer.freebuffer()
        buffer.freebuffer()
        assert board.memory.buffers == 0

    def test_a_run_without_flush_is_wrong(self, board, bit, expected, monkeypatch):
        with weft.open(PROGRAM, "simboard", board=board, bitfile=bit) as session:
            with monkeypatch.context() as patch:
                patch.setattr(Board, "flush", lambda *arguments: None)
                assert not np.array_equal(session.run(X), expected)
            with monkeypatch.context() as patch:
                patch.setattr(Board, "invalidate", lambda *arguments: None)
                assert not np.array_equal(session.run(X[::-1]), expected[::-1])
            np.testing.assert_array_equal(session.run(X), expected)

    def test_freed_room_is_used_again(self):
        memory = Memory(16 * 4096)
        first, second = memory.allocate(4 * 4096), memory.allocate(4 * 4096)
        memory.free(first)
        assert memory.allocate(4096) == first
        assert memory.allocate(8 * 4096) == second + 4 * 4096
        with pytest.raises(RuntimeError, match="Allocate failed: 12"):
            memory.allocate(4 * 4096)
        assert memory.free_bytes == 3 * 4096
