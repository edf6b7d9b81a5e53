"""Weights in a memory of each port: dealt out where they are loaded, and the same bits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import weft
from kernel import Code
from weft import isa
from weft.config import load_board, load_overlay
from weft.decoder_compiler import compile_decoder
from weft.device import channels, open_device
from weft.errors import OverlayError
from weft.frontend import decoders
from weft.memory_trace import LONGEST_BURST, WEIGHTS, traced
from weft.vendor import targets

FOLDER = Path(__file__).resolve().parents[1] / "data" / "decoders"
CARD = load_overlay("decoder_card")
# The shape of the card's overlay on words of 16: the same ports, rows of the stream, engines.
SMALL = replace(
    CARD, name="card16", rows=16, cols=16, bus_bytes=16, buffer_words=8192, wide_words=4096,
    operand_words=1024, accumulator_rows=128, parameter_blocks=128,
)  # fmt: skip


@pytest.mark.parametrize("rows", [1, 7, 63, 64, 65, 200])
def test_packet_after_packet_in_turn(rows):
    rng = np.random.default_rng(rows)
    image = rng.integers(-128, 128, (rows, SMALL.lanes)).astype(np.int8)
    ports = SMALL.weight_ports
    parts = channels.dealt(image, SMALL)
    assert parts.shape == (ports, channels.own_rows(rows, ports), SMALL.lanes)
    at = [0] * ports
    for packet in range(-(-rows // ports)):  # as the definition says it
        port = packet % ports
        own = image[packet * ports : packet * ports + ports]
        np.testing.assert_array_equal(parts[port][at[port] : at[port] + len(own)], own)
        at[port] += ports
    np.testing.assert_array_equal(channels.gathered(list(parts), rows), image)
    port, local = (found.reshape(-1) for found in np.indices(parts.shape[:2]))
    there = channels.image_rows(port, local, ports)
    assert sorted(there.tolist()) == list(range(ports * parts.shape[1]))
    inside = there < rows
    np.testing.assert_array_equal(parts[port[inside], local[inside]], image[there[inside]])


def test_one_memory_holds_the_image_as_it_is():
    image = np.arange(48, dtype=np.int8).reshape(3, 16)
    shared = replace(SMALL, own_memories=False)
    np.testing.assert_array_equal(channels.dealt(image, shared), image[None])
    np.testing.assert_array_equal(channels.gathered([image], 3), image)


def test_one_port_has_nothing_to_share():
    with pytest.raises(OverlayError, match="own_memories with weight_ports = 1"):
        replace(SMALL, weight_ports=1).verify()


@pytest.fixture(scope="module")
def program():
    return compile_decoder(
        decoders.load(FOLDER / "llama_gqa"), SMALL, cache=48, tokens=12,
        calibration=[[1, 2, 3, 4, 5, 6]], weights="int4:g32",
    )  # fmt: skip


def logits(program, device, **options):
    """Of a text in parts and token by token, and every counter."""
    ids = np.random.default_rng(1).integers(3, 40, 39).tolist()
    with weft.open_decoder(program, device, **options) as session:
        run = session.forward.run
        found = [run(ids[t : t + 12], t, 0) for t in range(0, 36, 12)]
        found += [run([ids[t]], t, 0) for t in range(36, 39)]
        return np.concatenate(found), [dict(r.counters) for r in session.forward.results]


@pytest.mark.parametrize("form", ["functional", "cycle"])
def test_a_decoder_gives_the_bits_of_golden(program, form):
    expected, found = logits(program, "golden"), logits(program, "csim", form=form)
    np.testing.assert_array_equal(found[0], expected[0])
    assert found[1] == expected[1]


def test_the_exact_form_gives_them_too():
    """Every process a thread on streams of their depth; reads that begin and end anywhere."""
    rng = np.random.default_rng(7)
    rows = rng.integers(-128, 128, (300, SMALL.lanes)).astype(np.int8)
    reads = [(0, 2), (1, 6), (8, 56), (63, 66), (61, 4), (129, 150), (200, 100)]
    code, written = Code(SMALL, weights=[rows]), 0
    for first, count in reads:
        code.add(isa.READ_WEIGHTS, memory=first, memory_rows=count, rows=count)
        wide = isa.TABLES.index("wide")  # two rows a word
        code.add(isa.SET_TABLE, target=wide, count=count // 2, index=written)
        written += count // 2
    code.add(isa.WRITE_HOST, words=written, chunks=1, space=isa.WIDE)
    expected = np.concatenate([rows[first : first + count] for first, count in reads])
    found = []
    for device, more in (("golden", {}), ("csim", {"form": "cycle"}), ("csim", {"form": "exact"})):
        opened = open_device(device, **more)
        opened.load(code.program())
        found.append((dict(opened.run(0, 1).counters), opened.read(0, len(expected))))
    for counters, words in found:
        assert counters == found[0][0]
        np.testing.assert_array_equal(words, expected)


def test_each_port_reads_its_part_of_every_instruction_in_one_piece(program):
    opened = open_device("csim", form="cycle")
    opened.load(program)
    trace = traced(opened, registers=(1, 30))
    weights, ports = trace.of(WEIGHTS), SMALL.weight_ports
    assert set(weights["port"] - WEIGHTS) == set(range(ports))
    for number in np.unique(weights["instruction"]):
        own = weights[weights["instruction"] == number]
        f = isa.decode(program.segments[0].words[number])[1]
        rows = np.concatenate([
            channels.image_rows(np.int64(a["port"] - WEIGHTS), np.arange(a["first"], a["first"]
                                + a["rows"]), ports) for a in own
        ])  # fmt: skip
        assert len(rows) == len(np.unique(rows)) == rows.max() - rows.min() + 1
        assert len(own) == len(np.unique(own["port"]))  # a run of each port's memory
        if len(rows) == f["memory_rows"] > 2 * ports * ports:
            assert own["rows"].max() - own["rows"].min() <= 2 * ports  # shared evenly
    # The same bytes as of ports that share one memory.
    shared = replace(program, overlay=replace(SMALL, name="shared16", own_memories=False))
    opened.load(shared)
    assert traced(opened, registers=(1, 30)).nbytes(WEIGHTS) == trace.nbytes(WEIGHTS)


def test_long_reads_are_long_bursts_of_all_ports():
    """Of rows 3 to 1,002 the first packet has five, the last three; 125 packets in between."""
    code = Code(SMALL, weights=[np.zeros((1100, SMALL.lanes), np.int8)])
    code.add(isa.READ_WEIGHTS, memory=3, memory_rows=1000, rows=1000)
    for _ in range(4):
        code.add(isa.SET_TABLE, target=isa.TABLES.index("taps"), count=250)
    opened = open_device("csim", form="cycle")
    opened.load(code.program())
    trace = traced(opened)
    own = trace.of(WEIGHTS)
    rows = [8 * 16 - 3] + [8 * 16] * 4 + [8 * 15 + 3] + [8 * 15] * 2
    assert (own["port"] - WEIGHTS).tolist() == list(range(8))
    assert own["first"].tolist() == [3] + [0] * 7
    assert own["rows"].tolist() == rows
    assert sorted(trace.bursts(WEIGHTS).tolist()) == sorted(
        [LONGEST_BURST] * 8 + [r - 64 for r in rows]
    )


@pytest.mark.parametrize(
    ("memories", "there", "weights", "memory"),
    [(1, 32, (0,), 1), (8, 32, tuple(range(8)), 8), (8, 4, (0, 0, 0, 1, 1, 1, 2, 2), 3),
     (4, 1, (0, 0, 0, 0), 0), (1, 4, (0,), 1)],
)  # fmt: skip
def test_channels_of_a_card(memories, there, weights, memory):
    assert targets.channels_of(memories, there) == targets.Channels(weights, memory)


def test_ports_are_connected_to_the_channels_of_what_they_read():
    from weft import project

    board = load_board("Alveo-U55C")
    ports = project.kernel(CARD.weight_ports, CARD.cached).ports
    banks = dict(targets.banks(board, ports, CARD.own_memories))
    expected = {"gmem0": "HBM[0]", "gmem1": "HBM[0:8]", "gmem2": "HBM[8]", "gmem3": "HBM[8]"}
    expected |= {f"gmem_port_{p}": f"HBM[{p}:8]" for p in range(1, 8)}
    assert banks == expected
    link = project.plan(CARD, board).files["alveo/link.cfg"].decode()
    for bundle, bank in expected.items():
        assert f"sp=weft_1.m_axi_{bundle}:{bank}\n" in link


@pytest.mark.slow
def test_the_overlay_itself_gives_the_bits_of_golden():
    made = compile_decoder(
        decoders.load(FOLDER / "llama_gqa"), CARD, cache=48, tokens=12,
        calibration=[[1, 2, 3, 4, 5, 6]], weights="int4:g32",
    )  # fmt: skip
    expected = logits(made, "golden")
    for form in ("functional", "cycle"):
        found = logits(made, "csim", form=form)
        np.testing.assert_array_equal(found[0], expected[0])
        assert found[1] == expected[1]
