"""The golden device: the living definition, one instruction after another."""

from __future__ import annotations

import numpy as np
import pytest

import kernel
from kernel import OVERLAYS, Code
from weft import isa
from weft.device.golden import Golden
from weft.errors import DeviceTimeout
from weft.state import COUNTERS, ISSUE_CLOCKS, STATUS, FaultError

OVERLAY = OVERLAYS["4x4"]


def loaded(code: Code, **options: int) -> Golden:
    device = Golden()
    device.load(code.program(**options))
    return device


def test_an_empty_segment_takes_the_issue_of_its_barrier():
    result = loaded(Code(OVERLAY)).run(0, 1)
    assert dict(result.counters) == {**dict.fromkeys(COUNTERS, 0), "issue": ISSUE_CLOCKS}
    assert result.cycles == ISSUE_CLOCKS


def test_what_follows_the_barrier_does_not_run():
    code = Code(OVERLAY, [isa.BARRIER.encode()])
    code.add(isa.READ_HOST, words=0, chunks=0)  # would be a fault
    assert loaded(code).run(0, 1).cycles == ISSUE_CLOCKS


def test_memory_starts_as_zeros_and_keeps_what_is_written():
    device = loaded(Code(OVERLAY), memory_rows=8)
    assert not device.read(0, 8).any()
    device.write(3, np.ones((2, 4), np.int8))
    assert device.read(0, 8).sum() == 8
    device.run(0, 1)
    assert device.read(3, 2).all()


def test_a_fault_names_segment_instruction_layer_and_values():
    code = Code(OVERLAY).add(isa.READ_HOST, words=4, chunks=1)
    code.add(isa.WRITE_HOST, words=4, chunks=1, buffer=510)
    with pytest.raises(FaultError) as caught:
        loaded(code).run(0, 1)
    assert str(caught.value) == (
        "segment 0, instruction 1 (WriteHost, layer 'layer'): a unified-buffer address outside "
        "the buffer (status 3): word 513 of 512"
    )
    assert caught.value.detail == "word 513 of 512"


def test_statuses_are_those_of_the_manual():
    from weft.config import data_root

    manual = data_root() / "docs" / "isa.md"
    if not manual.is_file():
        pytest.skip("the manual is not installed")
    table = manual.read_text().split("| status | meaning |")[1]
    rows = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| ")]
    assert [int(row) for row in rows] == [0, *STATUS]


def test_the_time_limit_is_looked_at_after_each_instruction():
    code = Code(OVERLAY)
    for _ in range(3):
        code.add(isa.READ_HOST, words=4, chunks=1)
    with pytest.raises(DeviceTimeout, match="golden: 1 of 4 instructions in 0 s"):
        loaded(code).run(0, 1, timeout_s=0)
    assert loaded(code).run(0, 1, timeout_s=60).counters["transfer"] == 12


def test_an_open_sum_does_not_outlive_its_segment():
    f = kernel.simple_window(1, 2) | kernel.strides("source", (1, 1, 2))
    f |= {"blocks": 1, "tiles": 1}
    code = Code(OVERLAY).feed(np.ones((4, 4))).add(isa.MAT_MUL, **f, first=1)
    device = loaded(code)
    device.run(0, 1)
    goes_on = Code(OVERLAY).feed(np.ones((4, 4))).add(isa.MAT_MUL, **f)
    goes_on = goes_on.add(isa.ACTIVATE, target=9, target_col=1)
    with pytest.raises(FaultError, match="status 6"):
        loaded(goes_on).run(0, 1)
