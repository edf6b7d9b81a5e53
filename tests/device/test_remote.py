"""Boards over the network: unmodified pynq against the stand-in server."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

pytest.importorskip("pynq", reason="pynq wants numpy<2: `make test` runs these elsewhere")

from programs import scaling

import weft
from weft.config import load_board
from weft.demo import MODELS, load_data
from weft.device import remote
from weft.errors import DeviceError, UsageError
from weft.simboard.board import Board, write_bitstream
from weft.simboard.server import Server

DATA = load_data()
SCALING = scaling(batch=4)
X = np.random.default_rng(1).uniform(-30, 30, (10, 5)).astype(np.float32)


@pytest.fixture
def bit(tmp_path):
    return write_bitstream(tmp_path, SCALING.overlay, load_board("KV260"))


@pytest.fixture(scope="module")
def expected():
    with weft.open(SCALING, "golden") as session:
        return session.run(X)


def test_digits_are_the_same_over_the_network(server, bit):
    program = weft.compile(MODELS / "digits.onnx", "tiny", calibration=DATA.calibration)
    with weft.open(program, "csim") as session:
        expected = session.run(DATA.images)
        cycles = session.last.cycles
    with weft.open(program, "pynq", address=server.address, bitfile=bit) as session:
        np.testing.assert_array_equal(session.run(DATA.images), expected)
        assert session.last.cycles == cycles
        assert session.device.clock_mhz == pytest.approx(300, rel=0.001)
    assert server.board.memory.buffers == 0


def test_an_inference_is_one_start(server, bit, expected):
    options = {"address": server.address, "bitfile": bit, "counters": False}
    with weft.open(SCALING, "pynq", **options) as session:
        session.run(X[:4])
        server.calls.clear()
        np.testing.assert_array_equal(session.run(X[:4]), expected[:4])
        calls = {
            name.rpartition("/")[0] + "/" + name.rpartition("/")[2]: n
            for name, n in server.calls.items()
        }
    assert calls["Mmio/write"] == 1  # start
    assert calls["Mmio/read"] <= 8  # done, status
    assert sum(n for name, n in calls.items() if name.startswith("RemoteBuffer")) == 4


def test_nobody_there(monkeypatch):
    with pytest.raises(DeviceError, match=r"board at 127\.0\.0\.1:9: .*Failed to connect"):
        remote.connect("127.0.0.1:9")
    for address in ("", ":80", "host:port"):
        with pytest.raises(UsageError, match="expected a host, or host:port"):
            remote.connect(address)


def test_a_cut_connection_is_an_error_and_the_next_server_works(bit, expected):
    first = Server(Board(load_board("KV260")))
    session = weft.open(SCALING, "pynq", address=first.address, bitfile=bit)
    np.testing.assert_array_equal(session.run(X), expected)
    first.board.faults.add("hang_middle")
    cut = threading.Timer(0.3, first.stop)
    cut.start()
    start = time.perf_counter()
    with pytest.raises(DeviceError, match="connection to the board is lost"):
        session.run(X, timeout_s=5)
    assert time.perf_counter() - start < 4
    cut.join()
    with pytest.raises(DeviceError):
        session.close()
    second = Server(Board(load_board("KV260")))
    with weft.open(SCALING, "pynq", address=second.address, bitfile=bit) as other:
        np.testing.assert_array_equal(other.run(X), expected)
    assert second.board.memory.buffers == 0
    second.stop()
    for board in (first.board, second.board):
        board.close()


def test_silence_ends_with_the_deadline(server, bit):
    """A cable that is pulled: nothing is refused, and nothing comes."""
    device = remote.connect(server.address, call_s=0.3)
    session = weft.open(SCALING, "pynq", board=device, bitfile=bit)
    original = server.board.read_registers
    server.board.read_registers = lambda *a: time.sleep(1.5) or original(*a)
    start = time.perf_counter()
    with pytest.raises(DeviceError, match=r"connection to the board is lost.*Deadline"):
        session.run(X)
    assert time.perf_counter() - start < 2
    server.board.read_registers = original
    assert session.run(X).shape == X.shape
    session.close()


def test_faults_of_a_remote_board(server, bit, expected):
    options = {"address": server.address, "bitfile": bit}
    for fault, words in (
        ("allocation", "contiguous memory"),
        ("cma", "free is 4,096 bytes"),
        ("design_id", "design id on the board"),
        ("gone", "does not answer"),
    ):
        server.board.faults.add(fault)
        with pytest.raises(DeviceError, match=words):
            weft.open(SCALING, "pynq", **options)
        server.board.faults.clear()
        with weft.open(SCALING, "pynq", **options) as session:
            np.testing.assert_array_equal(session.run(X), expected)
    assert server.board.memory.buffers == 0


def test_a_killed_client_does_not_stop_the_next(server, bit, expected):
    script = (
        "import sys; sys.path[:0] = sys.argv[3:]\n"
        "import numpy as np, weft\n"
        "from programs import scaling\n"
        "s = weft.open(scaling(batch=4), 'pynq', address=sys.argv[1], bitfile=sys.argv[2])\n"
        "print('running', flush=True)\n"
        "while True: s.run(np.zeros((4, 5), np.float32))\n"
    )
    paths = [p for p in sys.path if p.endswith("tests/host") or p.endswith("tests")]
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", script, server.address, str(bit), *paths],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "running\n"
    time.sleep(0.1)
    process.kill()
    assert process.wait(timeout=5) == -signal.SIGKILL
    process.stdout.close()
    with weft.open(SCALING, "pynq", address=server.address, bitfile=bit) as session:
        np.testing.assert_array_equal(session.run(X), expected)
