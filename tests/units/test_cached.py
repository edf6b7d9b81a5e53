"""Keys and values of earlier tokens through the weight ports, into the operand buffer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kernel
from kernel import Code
from weft import isa
from weft.adjust import Registers
from weft.config import Overlay
from weft.device import open_device
from weft.errors import DeviceError
from weft.units import requant

S4P4 = Overlay(
    "s4p4c", 8, 8, 8, 1024, 64, 8, 64, engines=("systolic", "matvec"), stream_rows=4,
    weight_ports=4, units=("requant", "vector", "lookup", "attention"), wide_words=32,
    operand_words=128,
)  # fmt: skip
OVERLAYS = {
    o.name: o
    for o in (
        S4P4,
        replace(S4P4, name="s8p2c", stream_rows=8, weight_ports=2, weight_bits=16),
        replace(S4P4, name="s2p4c", stream_rows=2),  # fewer rows in an element than in a packet
        replace(S4P4, name="s4p4h", bus_bytes=4),  # two beats per row
        replace(
            S4P4, name="s16p8c", rows=16, cols=16, bus_bytes=16, stream_rows=16, weight_ports=8
        ),
        replace(S4P4, name="s2p1c", stream_rows=2, weight_ports=1),
    )
}
each_overlay = pytest.mark.parametrize("name", OVERLAYS)
OPERANDS = isa.TABLES.index("operands")
IDENTITY, FIRST, TOKENS = 1000, 128, 860  # in the unified buffer, and of memory what is a cache


def filled(rows: int, o: Overlay) -> int:
    """Rows of the stream that a run of `rows` becomes."""
    unit = max(o.stream_rows, o.weight_ports)
    return (rows + unit - 1) // unit * unit


def started(o: Overlay) -> Code:
    """The operand buffer holds the first words of memory; plain parameters."""
    code = Code(o)
    zero, one = np.zeros(o.lanes, np.int32), requant.encode(np.ones(o.lanes), "single_round")
    kernel.set_parameters(code, (zero, *one, *one))
    return code.add(isa.READ_HOST, words=o.operand_words, chunks=1, space=1)


def read_cache(code: Code, **fields: int) -> Code:
    """A ReadWeights of runs of rows."""
    rows = fields["runs"] * filled(fields["memory_rows"], code.overlay)
    return code.add(isa.READ_WEIGHTS, **{"rows": rows, "matvec": 1, "cached": 1, **fields})


def shown(code: Code) -> Code:
    """All of the operand buffer, as products with ones, in the unified buffer from word 0 on."""
    lanes = code.overlay.lanes
    for first in range(0, code.overlay.operand_words, lanes):
        code.add(
            isa.ATTEND, source=IDENTITY, source_block=lanes, source_col=1, rows=lanes, blocks=1,
            tiles=1, operand=first, overlap=1,
        )  # fmt: skip
        code.add(isa.ACTIVATE, target=first, target_col=1, mode=isa.RAW_BYTE)
    return code


def content(rng: np.random.Generator, o: Overlay) -> np.ndarray[Any, Any]:
    """Random rows, and a matrix of ones."""
    rows = kernel.codes(rng, o.buffer_words, o.lanes)
    rows[IDENTITY : IDENTITY + o.lanes] = np.eye(o.lanes)
    return rows


def loads(rng: np.random.Generator, code: Code, memory: Any, operands: Any, reads: int) -> None:
    """Some ReadWeights, then the SetTables that take them, a few runs each; what they leave."""
    o, group, waiting = code.overlay, code.overlay.operand_group, []
    for _ in range(reads):
        runs, rows = int(rng.integers(1, 4)), int(rng.integers(1, 33))
        step = int(rng.integers(0, 60))
        first = int(rng.integers(FIRST, TOKENS - (runs - 1) * step - rows))
        read_cache(code, memory=first, memory_rows=rows, runs=runs, memory_step=step)
        waiting += [(first + run * step, rows, run == 0) for run in range(runs)]
    while waiting:
        runs = int(rng.integers(1, 3))
        if len(waiting) < runs or any(begins for *_, begins in waiting[1:runs]):
            runs = 1
        count = filled(waiting[0][1], o)
        step = int(rng.integers(0, 40 // group)) * group
        index = int(rng.integers(0, (128 - (runs - 1) * step - count) // group + 1)) * group
        code.add(isa.SET_TABLE, target=OPERANDS, index=index, count=count, runs=runs, step=step)
        for run, (first, rows, _) in enumerate(waiting[:runs]):
            at = index + run * step
            operands[at : at + count] = 0
            operands[at : at + rows] = memory[first : first + rows]
        del waiting[:runs]


def compare(rng: np.random.Generator, o: Overlay, times: int, forms: Any = kernel.FORMS) -> None:
    """Random loads on every form, against plain copies."""
    rows = content(rng, o)
    code, operands = started(o), rows[: o.operand_words].copy()
    for _ in range(times):
        loads(rng, code, rows, operands, int(rng.integers(1, 9)))
    words = kernel.check(shown(code), rows, forms=forms)
    np.testing.assert_array_equal(words[: o.operand_words], operands)


@each_overlay
@given(seed=st.integers(0, 1 << 30), times=st.integers(1, 3))
@kernel.examples(20)
def test_runs_of_memory_are_words_of_the_operand_buffer(name, seed, times):
    compare(np.random.default_rng(seed), OVERLAYS[name], times)


@pytest.mark.parametrize("name", ["s4p4c", "s2p4c", "s8p2c"])
def test_the_exact_form_agrees(name):
    """Every process a thread, on streams of their real depth; spans and what is left of them."""
    rng, o = np.random.default_rng(3), OVERLAYS[name]
    rows = content(rng, o)
    code, operands = started(o), rows[: o.operand_words].copy()
    for first, count in ((200, 70), (300, 64), (407, 3)):
        read_cache(code, memory=first, memory_rows=count, runs=1)
    for first, count in ((200, 70), (300, 64), (407, 3)):
        code.add(isa.SET_TABLE, target=OPERANDS, count=filled(count, o), runs=1)
        operands[: filled(count, o)] = 0
        operands[:count] = rows[first : first + count]
    words = kernel.check(shown(code), rows, forms=("exact",))
    np.testing.assert_array_equal(words[: o.operand_words], operands)


@pytest.mark.parametrize(
    ("name", "rows", "clocks"),
    [("s4p4c", 26, 28), ("s8p2c", 26, 64), ("s2p4c", 26, 56), ("s4p4h", 26, 56),
     ("s2p1c", 26, 104)],
)  # fmt: skip
def test_words_take_the_clocks_of_the_ports_or_of_the_buffer(name, rows, clocks):
    """Four runs: as many rows a clock as ports bring, or words as are written."""
    o = OVERLAYS[name]
    before = kernel.run(started(o))[1].counters
    code = read_cache(started(o), memory=200, memory_rows=rows, runs=4, memory_step=80)
    code.add(isa.SET_TABLE, target=OPERANDS, count=filled(rows, o), runs=4)
    after = kernel.run(code)[1].counters
    assert after["table"] - before["table"] == clocks
    assert after["transfer"] == before["transfer"]


@pytest.mark.parametrize("position", [0, 1, 21])
def test_fields_follow_the_registers(position):
    """As many tokens as there are, from where a text begins; none leave everything as it was."""
    rng, o = np.random.default_rng(5), S4P4
    rows, origin = content(rng, o), 40
    code = started(o)
    names = [field.name for field in isa.READ_WEIGHTS.fields]
    follows = {"memory_rows": (1, 0, 1, 0), "rows": (1, 2, 8, 0), "memory": (3, 0, 1, 200)}
    fields: dict[str, int] = {"drop_0": 1}
    for i, (field, (register, unit, scale, base)) in enumerate(follows.items()):
        fields |= {f"field_{i}": 1 + names.index(field), f"register_{i}": register}
        fields |= {f"unit_{i}": unit, f"scale_{i}": scale, f"base_{i}": base}
        fields[f"most_{i}"] = (1 << 31) - 1
    code.add(isa.ADJUST, **fields)
    code.add(isa.READ_WEIGHTS, runs=2, memory_step=100, matvec=1, cached=1)
    code.add(isa.ADJUST, field_0=3, register_0=1, drop_0=1, unit_0=2, scale_0=4, most_0=1000)
    code.add(isa.SET_TABLE, target=OPERANDS, index=8, runs=2, step=48)
    registers: Registers = (1, position, origin)
    words = kernel.check(shown(code), rows, registers=registers, forms=kernel.FORMS)
    operands = rows[: o.operand_words].copy()
    for run in range(2 if position else 0):
        operands[8 + 48 * run :][: filled(position, o)] = 0
        operands[8 + 48 * run :][:position] = rows[240 + 100 * run :][:position]
    np.testing.assert_array_equal(words[: o.operand_words], operands)


READ = {"memory": 200, "memory_rows": 5, "runs": 2, "memory_step": 9, "rows": 16}
TAKE = {"target": OPERANDS, "index": 4, "count": 8, "runs": 2, "step": 12}


def statuses(code: Code) -> set[int | None]:
    """Of golden and every form."""
    found = set()
    for device, more in [("golden", {}), *(("csim", {"form": form}) for form in kernel.FORMS)]:
        with pytest.raises(DeviceError) as caught:
            kernel.run(code, device, **more, bare=True)
        found.add(getattr(caught.value, "status", None))
    return found


@pytest.mark.parametrize(
    ("read", "take", "expected"),
    [
        ({"rows": 10}, {}, 2), ({"rows": 24}, {}, 2), ({"rows": 0, "runs": 0}, {}, 2),
        ({"memory_rows": 0}, {}, 2), ({"matvec": 0}, {}, 2), ({"format": 1}, {}, 2),
        ({"memory": 2163}, {}, 8), ({"memory_step": 2000}, {}, 8), ({"memory": 2**32 - 1}, {}, 8),
        ({}, {"count": 6}, 2), ({}, {"count": 0}, 2), ({}, {"runs": 0}, 2), ({}, {"index": 5}, 2),
        ({}, {"step": 10}, 2), ({}, {"runs": 17}, 2), ({}, {"runs": 65535, "count": 65532}, 2),
        ({}, {"step": 120}, 5), ({}, {"index": 124}, 5), ({}, {"runs": 3}, 9), ({}, {"runs": 1}, 9),
        ({}, {"target": 1, "count": 16, "runs": 0, "step": 0, "index": 0}, 9),
    ],
    ids=str,
)  # fmt: skip
def test_bad_fields_are_a_status(read, take, expected):
    code = Code(S4P4).add(isa.READ_WEIGHTS, **{**READ, "matvec": 1, "cached": 1, **read})
    assert statuses(code.add(isa.SET_TABLE, **{**TAKE, **take})) == {expected}


def test_the_last_row_of_memory_may_be_read():
    code = Code(S4P4).add(isa.READ_WEIGHTS, **{**READ, "matvec": 1, "cached": 1, "memory": 2162})
    end = kernel.run(code.add(isa.SET_TABLE, **TAKE), bare=True)[1]  # 2,162 + 9 + 5 rows
    assert end.counters["table"] == 4


def test_rows_of_the_weights_are_not_for_the_operand_buffer():
    code = Code(S4P4).feed(np.zeros((16, 8)))
    assert statuses(code.add(isa.SET_TABLE, **TAKE)) == {9}


@pytest.mark.parametrize("change", [{"engines": ("systolic",), "weight_ports": 1},
                                    {"units": ("requant",)}], ids=str)  # fmt: skip
def test_overlays_without_the_engine_or_attention_have_neither(change):
    rows = 4 if "units" in change else 1
    o = replace(S4P4, name=f"without{rows}", stream_rows=rows, **change)
    read = Code(o).add(isa.READ_WEIGHTS, **{**READ, "matvec": 1, "cached": 1})
    assert statuses(read) == {2}
    assert statuses(Code(o).add(isa.SET_TABLE, **TAKE)) == {2}


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("row", [209, 213])
def test_no_row_may_be_written_in_the_same_segment(before, row):
    """Ports of weights run ahead, so it does not matter which comes first."""
    write = isa.WRITE_HOST.encode(memory=row, words=1, chunks=1)
    code = read_cache(Code(S4P4), **READ).add(isa.SET_TABLE, **TAKE)
    code.words.insert(0 if before else 2, write)
    for device, form in (("golden", {}), *(("csim", {"form": form}) for form in kernel.FORMS)):
        with pytest.raises(DeviceError, match=f"memory rows {row}..{row} are read in the segment"):
            kernel.run(code, device, **form)
    code.words[0 if before else 2] = isa.WRITE_HOST.encode(memory=214, words=1, chunks=1)
    kernel.check(code)


def test_a_broken_program_leaves_nothing_in_the_stream():
    """What nobody takes is discarded; real streams would block."""
    code = read_cache(Code(S4P4), memory=300, memory_rows=90, runs=3, memory_step=0)
    code.add(isa.SET_TABLE, **{**TAKE, "count": 92, "runs": 1}).add(isa.SET_TABLE, target=7)
    opened = open_device("csim", form="exact")
    opened.load(code.program())
    with pytest.raises(DeviceError) as caught:
        opened.run(0, 1)
    assert caught.value.status == 2
