"""The C simulation as a device: its forms, its program image, several at once."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest

import kernel
from kernel import NANO, OVERLAYS, Code
from weft import build, isa
from weft.config import load_overlay
from weft.device import open_device
from weft.device.csim import Csim, image
from weft.errors import DeviceError, DeviceTimeout, UsageError
from weft.graph import Graph
from weft.program import HostSegment

OVERLAY = OVERLAYS["4x4"]


def test_the_image_is_a_table_and_the_instructions():
    short, long = Code(OVERLAY), Code(OVERLAY).add(isa.READ_HOST, words=1, chunks=1)
    one, three = short.program().segments[0], long.program().segments[0]
    host = HostSegment(Graph("host", {}, (), (), ()), "nothing to do")
    words, code, numbers = image(replace(short.program(), segments=(one, host, three)))
    assert words[:4].tolist() == [0, len(one.words), len(one.words), len(three.words)]
    assert code == 4
    assert numbers == {0: 0, 2: 1}
    np.testing.assert_array_equal(
        words[4:].reshape(-1, 32), np.concatenate([one.words, three.words])
    )
    assert words.dtype == np.int32


def test_unknown_forms_and_options_are_named():
    device = open_device("csim", form="cycles")
    with pytest.raises(UsageError, match="Did you mean 'cycle'"):
        device.load(Code(OVERLAY).program())
    with pytest.raises(UsageError, match="device 'csim'"):
        open_device("csim", shape="round")


def test_zero_seconds_are_a_limit():
    device = Csim()
    device.load(Code(OVERLAY).add(isa.READ_HOST, words=4, chunks=1).program())
    with pytest.raises(DeviceTimeout, match="segment 0 did not finish within 0 s"):
        device.run(0, 1, timeout_s=0)
    device.run(0, 1)


@pytest.mark.parametrize("form", build.FORMS)
def test_forms_run_side_by_side(form):
    """Threads with a device each; the exact form lets them take turns."""
    results: dict[int, list[int]] = {}
    overlay = NANO if form == "exact" else OVERLAY

    def work(seed: int) -> None:
        content = np.full((4, 4), seed, np.int8)
        q, s = np.full(4, 1 << 30), np.ones(4, int)  # together 1
        code = kernel.set_parameters(Code(overlay), (0, q, s, q, s))
        code.add(isa.READ_HOST, words=4, chunks=1)
        f = kernel.simple_window(1, 4) | kernel.strides("source", (1, 1, 4))
        code.add(isa.VECTOR, operation=1, blocks=1, **f)
        code.add(isa.ACTIVATE, target=4, target_col=1, low=-128, high=127)
        code.add(isa.WRITE_HOST, words=4, chunks=1, memory=4, buffer=4)
        device = open_device("csim", form=form)
        device.load(code.program(memory_rows=8))
        device.write(0, content)
        for _ in range(10):
            device.run(0, 1)
        results[seed] = device.read(4, 4).ravel().tolist()
        device.close()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (3, 5, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert results == {seed: [seed] * 16 for seed in (3, 5, 7)}


def test_overlays_side_by_side_in_one_process():
    """Each library has its own memories: symbols of one must not reach another."""
    devices = []
    for overlay in (OVERLAY, OVERLAYS["8x8"], load_overlay("lab")):
        code = Code(overlay).add(isa.READ_HOST, words=16, chunks=1)
        code.add(isa.WRITE_HOST, words=16, chunks=1, memory=16)
        device = Csim()
        device.load(code.program(memory_rows=32))
        device.write(0, np.full((16, overlay.lanes), overlay.lanes, np.int8))
        devices.append((device, overlay))
    for device, _ in devices:
        device.run(0, 1)
    for device, overlay in devices:
        assert (device.read(16, 16) == overlay.lanes).all()
        device.close()


def test_a_stream_that_the_exact_form_finds_full_or_empty():
    """More weight rows on the way than the FIFO holds: the process waits, nothing is lost."""
    depth = NANO.weight_tiles * NANO.rows
    code = Code(NANO)
    for _ in range(3):
        code.feed(np.arange(depth * 4).reshape(depth, 4) % 100)
    for _ in range(3):
        code.add(isa.SET_TABLE, target=1, count=depth)
    for _ in range(20):  # more instructions than the command FIFOs hold
        code.add(isa.READ_HOST, words=8, chunks=2, buffer_step=8)
        code.add(isa.WRITE_HOST, words=16, chunks=1, memory=64)
    kernel.check(code, forms=("exact", "functional"))


def test_nothing_is_left_loaded_after_a_failed_load(monkeypatch, tmp_path):
    device = Csim()
    monkeypatch.setenv("WEFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(build, "_compile", lambda *a: (_ for _ in ()).throw(DeviceError("broken")))
    with pytest.raises(DeviceError, match="broken"):
        device.load(Code(OVERLAY).program())
    with pytest.raises(DeviceError, match="no program is loaded"):
        device.run(0, 1)
