"""device/pynq.py under unmodified pynq, on a simulated board."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

pynq = pytest.importorskip("pynq", reason="pynq wants numpy<2: `make test` runs these elsewhere")

from programs import scaling  # noqa: E402

import kernel  # noqa: E402
import models  # noqa: E402
import weft  # noqa: E402
from weft import cli, isa  # noqa: E402
from weft.config import load_board, load_overlay  # noqa: E402
from weft.demo import MODELS, load_data  # noqa: E402
from weft.device import banks, bitfile, open_device  # noqa: E402
from weft.device.pynq import Pynq  # noqa: E402
from weft.device.simboard import Simboard  # noqa: E402
from weft.errors import DeviceError, UsageError  # noqa: E402
from weft.simboard.board import Board, write_bitstream  # noqa: E402
from weft.state import FaultError  # noqa: E402

PYNQ4 = version("pynq").startswith("4.")
DATA = load_data()


@pytest.fixture(scope="module")
def digits():
    return weft.compile(MODELS / "digits.onnx", "tiny", calibration=DATA.calibration)


@pytest.fixture(scope="module")
def residual(tmp_path_factory):
    """A small residual network with random weights, and its inputs."""
    import onnx

    rng = np.random.default_rng(5)

    def weights(*shape):
        return (rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    net = models.Layers((3, 12, 12))
    net.add("Conv", weights(8, 3, 3, 3), weights(8), pads=[1, 1, 1, 1])
    block = net.add("Relu")
    net.add("Conv", weights(8, 1, 3, 3), pads=[1, 1, 1, 1], group=8)
    net.add("Conv", weights(8, 8, 1, 1), weights(8))
    net.add("Add", also=block)
    net.add("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
    net.add("Softmax", axis=1)  # on the host, between two segments
    net.add("Conv", weights(4, 8, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1])
    net.add("Flatten")
    net.add("Gemm", weights(36, 5), weights(5))
    path = tmp_path_factory.mktemp("model") / "cnn.onnx"
    onnx.save(net.model("cnn", 5), str(path))
    x = rng.normal(size=(12, 3, 12, 12)).astype(np.float32)
    return weft.compile(path, "tiny", calibration=x), x


def results(program, x, device, **options):
    with weft.open(program, device, **options) as session:
        return session.run(x), session.last.counters


@pytest.mark.parametrize("wait", ["auto", "poll", "interrupt"])
def test_digits_are_the_same_everywhere(digits, wait):
    expected, counters = results(digits, DATA.images, "golden")
    for device, options in (("csim", {}), ("simboard", {"wait": wait}), ("pynq", {"wait": wait})):
        got, counted = results(digits, DATA.images, device, **options)
        np.testing.assert_array_equal(got, expected)
        assert counted == counters


def test_a_random_network_is_the_same_everywhere(residual):
    program, x = residual
    expected, counters = results(program, x, "golden")
    for device in ("csim", "simboard"):
        got, counted = results(program, x, device)
        np.testing.assert_array_equal(got, expected)
        assert counted == counters


def test_check_compares_every_layer(digits):
    report = weft.check(digits, DATA.images[:20], "simboard")
    assert report.equal
    assert report.layers >= 4


@pytest.mark.parametrize("interrupt", [True, False])
def test_without_an_interrupt_it_polls(interrupt, digits):
    expected, _ = results(digits, DATA.images[:40], "csim")
    got, _ = results(digits, DATA.images[:40], "simboard", wait="interrupt", interrupt=interrupt)
    np.testing.assert_array_equal(got, expected)


def test_an_inference_writes_one_register(digits):
    with weft.open(digits, "simboard") as session:
        session.run(DATA.images[:1])
        board = session.device.board
        writes, reads = board.writes, board.reads
        for image in DATA.images[:10]:
            session.run(image[None])
        assert board.writes - writes == 10  # start: everything else is in the registers already
        assert board.reads - reads <= 10 * 40
        assert session.device.kernel.writes == board.writes
        session.run(DATA.images[:2])
        assert board.writes - writes == 12  # another batch, and start


def test_another_token_writes_two_registers():
    """Where a text stands is a register of the kernel; nothing else is written between tokens."""
    overlay = kernel.OVERLAYS["8x8"]
    memory = 1 + [f.name for f in isa.WRITE_HOST.fields].index("memory")
    code = kernel.Code(overlay).add(isa.READ_HOST, words=1, chunks=1, memory=0)
    code.add(isa.ADJUST, field_0=memory, register_0=4, most_0=99, scale_0=1, base_0=50)
    code.add(isa.ADJUST, register_0=0, most_0=9, drop_0=1)
    code.add(isa.WRITE_HOST, words=1, chunks=1, buffer=0)
    row = np.arange(8, dtype=np.int8)[None]
    with contextlib.closing(open_device("simboard")) as device:
        device.load(code.program(memory_rows=200))
        device.write(0, row)
        device.run(0, 1, None, (1, 0, 0))
        for position in range(1, 10):
            writes = device.board.writes
            device.run(0, 1, None, (1, position, 0))
            assert device.board.writes - writes == 2  # the position, and start
        device.run(0, 1, None, (0, 20, 0))  # no token: nothing is written
        device.run(0, 1, None, (1, 3, 30))
        written = np.flatnonzero(device.read(0, 200).any(1))
        assert written.tolist() == [0, *range(50, 60), 83]
        np.testing.assert_array_equal(device.read(83, 1), row)
        with pytest.raises(FaultError, match="status 2"):
            device.run(0, 1, None, (0, -1, 0))


def test_long_runs_leave_the_host_free(digits):
    """A run of more than a millisecond goes on in the board's own thread."""
    from weft.simboard import logic

    expected, _ = results(digits, DATA.images, "csim")
    before, logic._INLINE_S = logic._INLINE_S, 0.0
    try:
        for wait in ("auto", "interrupt"):
            got, _ = results(digits, DATA.images, "simboard", wait=wait)
            np.testing.assert_array_equal(got, expected)
    finally:
        logic._INLINE_S = before


class TestAsync:
    program = scaling(batch=4)

    def run(self, device):
        device.write(0, np.full((4, 8), 40, np.int8))

        async def both():
            ticks = 0

            async def tick():
                nonlocal ticks
                while True:
                    ticks += 1
                    await asyncio.sleep(0)

            ticking = asyncio.create_task(tick())
            result = await device.run_async(0, 4, timeout_s=5)
            ticking.cancel()
            return result, ticks

        return both()

    def test_equals_run(self):
        device = Simboard()
        device.load(self.program)
        result, _ = asyncio.run(self.run(device))
        out = device.read(4, 4)
        assert result.counters == device.run(0, 4).counters
        np.testing.assert_array_equal(device.read(4, 4), out)
        device.close()

    def test_opened_in_a_loop_it_waits_for_the_interrupt(self):
        from weft.simboard import logic

        async def main():
            device = Simboard()
            device.load(self.program)
            assert not device.kernel.interrupts()  # a blocking wait would stop the loop
            result, _ = await self.run(device)
            device.close()
            return result, device

        before, logic._INLINE_S = logic._INLINE_S, 0.0
        try:
            result, device = asyncio.run(main())
        finally:
            logic._INLINE_S = before
        assert result.cycles > 0
        assert device.board.writes > 20  # the interrupt was switched on and acknowledged

    def test_a_second_task_is_refused(self):
        device = Simboard(faults=["hang_middle"])
        device.load(self.program)

        async def main():
            first = asyncio.create_task(device.run_async(0, 4, timeout_s=0.3))
            await asyncio.sleep(0.05)
            with pytest.raises(DeviceError, match="busy with another task's run"):
                await device.run_async(0, 4)
            with pytest.raises(DeviceError, match="did not end within"):
                await first

        asyncio.run(main())
        device.close()


class TestSharing:
    """Sessions on one board."""

    def test_two_programs_take_turns(self):
        board = Board(load_board("KV260"))
        one, two = scaling(0.5), scaling(0.25)
        x = np.random.default_rng(1).uniform(-30, 30, (9, 5)).astype(np.float32)
        expected = [results(p, x, "csim")[0] for p in (one, two)]
        with (
            weft.open(one, "simboard", board=board, bitfile=self.bit(one, board)) as a,
            weft.open(two, "simboard", board=board, bitfile=self.bit(two, board)) as b,
        ):
            kernel = a.device.kernel
            for _ in range(3):
                np.testing.assert_array_equal(a.run(x), expected[0])
                np.testing.assert_array_equal(b.run(x), expected[1])
            assert a.device.kernel is b.device.kernel is kernel  # loaded once
        assert board.memory.buffers == 0
        board.close()

    def test_another_overlay_takes_the_board_and_gives_it_back(self, tmp_path, digits):
        facts = load_board("KV260")
        board = Board(facts)
        lab = weft.compile(MODELS / "digits.onnx", "lab", calibration=DATA.calibration)
        x = DATA.images[:20]
        paths = [write_bitstream(tmp_path, p.overlay, facts) for p in (digits, lab)]
        with (
            weft.open(digits, "simboard", board=board, bitfile=paths[0]) as a,
            weft.open(lab, "simboard", board=board, bitfile=paths[1]) as b,
        ):
            for session, program in ((a, digits), (b, lab), (a, digits)):
                np.testing.assert_array_equal(session.run(x), results(program, x, "csim")[0])
        board.close()

    @staticmethod
    def bit(program, board) -> Path:
        folder = Path(tempfile.gettempdir()) / "weft-test-bitstreams"
        return write_bitstream(folder, program.overlay, load_board("KV260"))


def test_several_boards_serve_in_parallel(digits):
    from weft.device.pool import Pool

    expected, _ = results(digits, DATA.images, "csim")
    with Pool(digits, ["simboard", "simboard"]) as pool:
        np.testing.assert_array_equal(pool.run(DATA.images), expected)


class TestClock:
    program = scaling()

    def test_is_read_back(self):
        with weft.open(self.program, "simboard") as session:
            assert session.device.clock_mhz == pytest.approx(300, rel=0.001)

    def test_can_be_set(self):
        with weft.open(self.program, "simboard", clock_mhz=150.0) as session:
            assert session.device.clock_mhz == pytest.approx(150, rel=0.001)

    def test_must_be_positive(self):
        with pytest.raises(UsageError, match="clock_mhz = 0"):
            open_device("simboard", clock_mhz=0)


OWN = replace(load_overlay("tiny"), name="tiny_own", weight_ports=4, own_memories=True)


@pytest.fixture(scope="module")
def own():
    """The digits for an overlay whose four weight ports have memories of their own."""
    return weft.compile(MODELS / "digits.onnx", OWN, calibration=DATA.calibration)


class TestMemoriesOfPorts:
    """Weights in a memory of each of four ports: sections of one, or banks of a card's."""

    @pytest.mark.parametrize("board", ["KV260", "Alveo-U55C", "Alveo-U250"])
    def test_digits_are_those_of_golden(self, own, board):
        x = DATA.images[:3]
        (found, clocks), (expected, golden) = (
            results(own, x, device, **options)
            for device, options in (("simboard", {"plays": board}), ("golden", {}))
        )
        np.testing.assert_array_equal(found, expected)
        assert clocks == golden

    def test_each_lies_in_its_bank(self, own):
        with contextlib.closing(open_device("simboard", plays="Alveo-U55C")) as device:
            device.load(own)
            at = device._arena.addresses
            banks = {name: device.board.memory.bank_of(address) for name, address in at.items()}
            ports = {f"weight_port_{p}": p for p in (1, 2, 3)}
            assert banks == {"program": 0, "weights": 0, **ports, "memory": 4}

    def test_a_pointer_to_another_bank_is_an_address_that_nothing_answers(self, own):
        with contextlib.closing(open_device("simboard", plays="Alveo-U55C")) as device:
            device.load(own)
            device._arguments["weight_port_2"] = device._arguments["weight_port_3"]
            with pytest.raises(DeviceError, match="did not end within"):
                device.run(0, 1, 1.0)
            assert "weight_port_2 reaches banks 2 to 2" in device.board.logic.reason

    def test_a_bank_that_is_full_says_so(self, own):
        with (
            contextlib.closing(
                open_device("simboard", plays="Alveo-U55C", memory_bytes=32 << 12)
            ) as device,
            pytest.raises(DeviceError, match=r"bank HBM\[\d\] of the board has no"),
        ):
            device.load(own)


def test_a_design_linked_otherwise_says_what_it_lacks():
    class Card:
        def __init__(self):
            self.mem_dict = {
                f"HBM{i}": {"tag": f"HBM[{i}]", "used": i < 2, "streaming": False}
                for i in range(32)
            }

    with pytest.raises(DeviceError, match=r"no memory bank HBM\[2\], where weight_port_2"):
        banks.card_banks(Card(), OWN)


def test_zynq_7000_needs_pynq_3(digits):
    if PYNQ4:
        with pytest.raises(DeviceError, match=r"can't load a design for Zynq-7000.*pynq==3\.1\.2"):
            weft.open(digits, "simboard", plays="Pynq-Z2")
        return
    expected, _ = results(digits, DATA.images[:20], "csim")
    with weft.open(digits, "simboard", plays="Pynq-Z2") as session:
        np.testing.assert_array_equal(session.run(DATA.images[:20]), expected)
        mhz = load_board("Pynq-Z2").clock_mhz
        assert session.device.clock_mhz == pytest.approx(mhz, rel=0.02)


class TestDesigns:
    """.hwh files of other designs."""

    program = scaling()

    def write(self, tmp_path, old: str, new: str) -> Path:
        path = write_bitstream(tmp_path, load_overlay("tiny"), load_board("KV260"))
        handoff = path.with_suffix(".hwh")
        handoff.write_text(handoff.read_text().replace(old, new))
        return path

    @pytest.mark.parametrize(
        ("old", "new", "words"),
        [
            ("xilinx.com:hls:weft_kernel:1.0", "xilinx.com:hls:vadd:1.0", "describes no xilinx"),
            ("weft_kernel:1.0", "weft_kernel:9.0", "weft_kernel:9.0 with registers.*drives"),
            ('"weight_rows"', '"columns"', "with registers .*columns"),
        ],
    )
    def test_are_refused(self, tmp_path, old, new, words):
        path = self.write(tmp_path, old, new)
        with pytest.raises(DeviceError, match=words):
            weft.open(self.program, "simboard", bitfile=path)

    def test_of_no_kind_are_refused(self, tmp_path):
        path = self.write(tmp_path, "<", "")
        with pytest.raises(DeviceError, match="loading tiny"):
            weft.open(self.program, "simboard", bitfile=path)

    def test_renamed_registers_are_found(self, tmp_path):
        """Vitis HLS appends _r to names that clash with a word of HDL."""
        path = self.write(tmp_path, 'NAME="batch"', 'NAME="batch_r"')
        x = np.ones((3, 5), np.float32)
        expected, _ = results(self.program, x, "csim")
        got, _ = results(self.program, x, "simboard", bitfile=path)
        np.testing.assert_array_equal(got, expected)


def test_plain_pynq_gets_the_driver(tmp_path):
    from weft.device.driver import Kernel

    path = write_bitstream(tmp_path, load_overlay("tiny"), load_board("KV260"))
    board = Board(load_board("KV260"))
    before, pynq.Device.active_device = pynq.Device.active_device, board
    try:
        overlay = pynq.Overlay(str(path))
        assert isinstance(overlay.weft_kernel_0, Kernel)
        with pytest.warns(UserWarning, match="register size"):  # of the report, a memory
            assert overlay.weft_kernel_0.register_map.CTRL.AP_IDLE == 1
    finally:
        pynq.Device.active_device = before
        board.close()


def test_options_are_checked():
    with pytest.raises(UsageError, match="no way to wait 'slep'"):
        open_device("simboard", wait="slep")
    with pytest.raises(UsageError, match=r"no fault 'hang'.*hang_start"):
        open_device("simboard", faults=["hang"])
    with pytest.raises(UsageError, match="unexpected keyword"):
        open_device("pynq", color="red")


def test_a_device_without_a_program_says_so():
    device = open_device("simboard")
    for call in (lambda: device.run(0, 1), lambda: device.read(0, 1), lambda: device.kernel):
        with pytest.raises(DeviceError, match="no program is loaded"):
            call()
    device.close()
    device.close()


def test_missing_bitstream_says_where_it_was_looked_for(monkeypatch, tmp_path):
    monkeypatch.setenv("WEFT_BITSTREAMS", str(tmp_path))
    with pytest.raises(DeviceError, match=bitfile.file_name(scaling().overlay)):
        weft.open(scaling(), "pynq", board=Board(load_board("KV260")))


def test_command_line(digits, tmp_path, capsys):
    program, data = tmp_path / "digits.weft", tmp_path / "x.npz"
    digits.save(program)
    np.savez(data, image=DATA.images[:30], y=DATA.labels[:30])
    np.savez(tmp_path / "in.npz", image=DATA.images[:30])
    out = tmp_path / "out.npz"
    given = [str(program), str(tmp_path / "in.npz"), "--device", "simboard"]
    assert cli.run(["run", *given, "-o", str(out)]) == 0
    with np.load(out) as file:
        np.testing.assert_array_equal(
            next(iter(file.values())), results(digits, DATA.images[:30], "csim")[0]
        )
    assert cli.run(["check", *given]) == 0
    assert "Equal: 30 samples" in capsys.readouterr().out
    assert cli.run(["eval", str(program), str(data), "--device", "simboard"]) == 0
    assert cli.run(["bench", str(program), "--device", "simboard", "--runs", "20"]) == 0
    assert "samples/s" in capsys.readouterr().out


def test_no_device_says_what_to_do(monkeypatch):
    from pynq.pl_server.device import DeviceMeta

    monkeypatch.delattr(DeviceMeta, "_active_device", raising=False)
    monkeypatch.delattr(pynq.Device, "_active_device", raising=False)
    monkeypatch.setattr(pynq.Device, "_devices", [], raising=False)
    with pytest.raises(DeviceError, match=r"no PYNQ board here.*simboard"):
        Pynq()
