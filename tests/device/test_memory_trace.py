"""A trace of memory: the bytes and bursts that predictions assume are those that happen."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kernel import Code
from weft import isa
from weft.adjust import resolved
from weft.config import load_overlay
from weft.decoder_compiler import compile_decoder
from weft.decoder_costs import config, run, steps
from weft.decoder_costs.prediction import machine_of
from weft.device import open_device
from weft.errors import UsageError
from weft.estimate import instructions
from weft.frontend import decoders
from weft.memory_trace import (
    CACHE,
    FIRST_CACHE,
    LOADS,
    LONGEST_BURST,
    STORES,
    WEIGHTS,
    traced,
)

FOLDER = Path(__file__).resolve().parents[1] / "data" / "decoders"
BURST_BEATS = 16  # of a weight port, where there are several


@pytest.fixture(scope="module", params=["lab", "decoder"])
def device(request):
    program = compile_decoder(
        decoders.load(FOLDER / "llama_gqa"), load_overlay(request.param), cache=40, tokens=12,
        calibration=[[1, 2, 3, 4, 5, 6]], weights="int4:g32",
    )  # fmt: skip
    opened = open_device("csim", form="cycle")
    opened.load(program)
    return opened


@pytest.mark.parametrize("registers", [(1, 0), (1, 30), (8, 5), (12, 20)])
def test_bytes_are_those_of_estimates_and_predictions(device, registers):
    program = device.program
    trace = traced(device, registers=registers)
    there = instructions(program, 1, registers)
    assert trace.bytes == sum(item.bytes - steps.INSTRUCTION_BYTES for item in there)
    machine = machine_of(program.overlay.name, "int4:g32")
    made = list(run._tokens(machine, config.load(FOLDER / "llama_gqa"), *registers, 0))

    def moved(*kinds):
        return sum(s.times * s.read.get(kind, 0) for s in made for kind in kinds)

    cached, loaded = moved(steps.CACHE), moved(steps.ACTIVATIONS)
    rest = sum(s.times * sum(s.read.values()) for s in made) - cached - loaded
    assert [trace.nbytes(kind) for kind in (CACHE, LOADS, WEIGHTS)] == [cached, loaded, rest]
    assert trace.nbytes(STORES) == sum(s.times * s.written for s in made)


def test_weights_come_once_each_in_long_bursts(device):
    """Every instruction's rows, in bursts of one port each, that alternate where there are four."""
    program, registers = device.program, (1, 30)
    trace, overlay = traced(device, registers=registers), program.overlay
    weights = trace.of(WEIGHTS)
    for number, words in resolved(program.segments[0].words, registers):
        if words is None or words[0] != isa.READ_WEIGHTS.opcode:
            continue
        f = isa.decode(words)[1]
        if f["cached"]:
            continue
        own = weights[weights["instruction"] == number]
        rows = np.concatenate([np.arange(a["first"], a["first"] + a["rows"]) for a in own])
        np.testing.assert_array_equal(rows, np.arange(f["memory"], f["memory"] + f["memory_rows"]))
        ports = own["port"] - WEIGHTS
        span = BURST_BEATS // overlay.beats * overlay.weight_ports
        whole = f["memory_rows"] // span * overlay.weight_ports if overlay.weight_ports > 1 else 0
        assert (own["rows"][:whole] * overlay.beats == BURST_BEATS).all()
        np.testing.assert_array_equal(ports[:whole], np.arange(whole) % overlay.weight_ports)
        assert (ports[whole:] == 0).all()
    assert set(weights["port"] - WEIGHTS) == set(range(overlay.weight_ports))
    assert trace.runs(WEIGHTS).sum() == trace.nbytes(WEIGHTS)


def test_a_heads_keys_and_values_are_one_run(device):
    """All earlier tokens of a block of a head in one piece, as predictions have them: packets of
    the weight ports in turn, each a burst of a word per port.
    """
    trace, overlay = traced(device, registers=(1, 30)), device.program.overlay
    d = config.load(FOLDER / "llama_gqa")
    blocks = machine_of(overlay.name).head_blocks(d)
    runs = 2 * d.layers * d.kv_heads * blocks
    assert trace.nbytes(CACHE) == runs * 30 * overlay.lanes
    whole = trace.of(CACHE)
    ports, each = overlay.weight_ports, -(-30 // overlay.weight_ports)
    first = np.concatenate([[0], np.flatnonzero(np.diff(whole["instruction"])) + 1])
    assert set(whole["port"] - FIRST_CACHE) == set(range(ports))
    if ports > 1:
        np.testing.assert_array_equal(whole["port"][:each] - FIRST_CACHE, np.arange(each) % ports)
        assert (whole["rows"][:each] == [*[ports] * (30 // ports), 30 % ports]).all()
    assert len(first) == 2 * d.layers * d.kv_heads  # instructions
    for kind in (LOADS, CACHE):
        bursts = trace.bursts(kind)
        assert bursts.max() <= LONGEST_BURST
        assert bursts.sum() * overlay.bus_bytes == trace.nbytes(kind)


def test_more_tokens_of_a_head_come_in_bursts_of_all_ports():
    """Of a run of 150 rows two spans of four bursts of 16 rows, then packets of four."""
    overlay = load_overlay("decoder")
    code = Code(overlay)
    code.add(isa.READ_WEIGHTS, memory=7, memory_rows=150, rows=2 * 152, runs=2, memory_step=200,
             matvec=1, cached=1)  # fmt: skip
    code.add(isa.SET_TABLE, target=6, count=152, runs=2, step=256)
    opened = open_device("csim", form="cycle")
    opened.load(code.program())
    found = traced(opened).of(CACHE)
    rest = [(128 + 4 * i, min(4, 22 - 4 * i)) for i in range(6)]
    one = [(16 * i, 16) for i in range(8)] + rest
    both = [(7 + 200 * run + row, count) for run in range(2) for row, count in one]
    assert list(zip(found["first"].tolist(), found["rows"].tolist(), strict=True)) == both
    ports = [*[0, 1, 2, 3] * 3, 0, 1] * 2
    assert (found["port"] - FIRST_CACHE).tolist() == ports


def test_a_record_ends_with_its_run(device):
    first, second = (traced(device, registers=(1, 3)) for _ in range(2))
    np.testing.assert_array_equal(first.accesses, second.accesses)
    device.run(0, 1, registers=(1, 3))
    with device.recording() as accesses:
        assert accesses() == b""


def test_other_forms_keep_no_record(device):
    fast = open_device("csim")
    fast.load(replace(device.program))
    with pytest.raises(UsageError, match="form 'cycle', not 'functional'"):
        traced(fast)
