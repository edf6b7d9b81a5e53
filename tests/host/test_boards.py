"""Boards and overlays as data: complete, plausible, and overlays that fit where they claim to."""

from __future__ import annotations

import re
from dataclasses import asdict, replace

import pytest

from weft import config, resources
from weft.config import data_root, load_board, load_overlay
from weft.errors import OverlayError, UsageError

BOARDS = config.board_names()
CLAIMS = [(o, b) for o in config.overlay_names() for b in load_overlay(o).boards]


@pytest.mark.parametrize("name", BOARDS)
def test_a_board_is_plausible(name):
    board = load_board(name)
    assert board.name == name
    assert board.ff == 2 * board.lut
    assert board.part.startswith({"zynq7000": "xc7z", "alveo": "xcu"}.get(board.family, "xc"))
    assert (board.shell_lut > 0) == (board.family == "alveo")
    assert (board.ps_clock_mhz > 0) == (board.family != "alveo")
    assert board.memory_bytes_per_s <= board.ddr_bytes_per_s
    slots = board.axi_ports * board.axi_bits / 8 * board.clock_mhz * 1e6
    assert board.memory_bytes_per_s <= slots


@pytest.mark.parametrize("name", BOARDS)
def test_every_figure_of_a_board_has_a_source(name):
    for line in (data_root() / "boards" / f"{name}.toml").read_text().splitlines():
        if re.match(r"(?!ports|\[|#)\w", line):
            if "[shell]" in line or re.match(r"(lut|ff|dsp|bram36|uram) = \d[\d_]*$", line):
                continue  # the shell's come under one remark
            assert re.search(r"# \S", line), f"{name}: no source for {line!r}"


def test_boards_differ_where_their_parts_do():
    parts = {name: load_board(name).part for name in BOARDS}
    assert parts["Pynq-Z1"] == parts["Pynq-Z2"]
    assert len(set(parts.values())) == len(parts) - 2  # KV260 and KR260 share the module, too
    assert {load_board(name).family for name in BOARDS} == {"zynq7000", "zynqmp", "alveo"}


@pytest.mark.parametrize(("overlay", "board"), CLAIMS, ids=lambda name: str(name))
def test_an_overlay_fits_the_boards_it_claims(overlay, board):
    hardware = load_overlay(overlay)
    found = resources.check(hardware, board)
    assert found.fits
    assert hardware.bus_bytes * 8 <= load_board(board).axi_bits
    assert hardware.multiplier == "single" or load_board(board).family != "zynq7000"


def test_what_comes_with_weft_covers_every_board():
    claimed = {board for _, board in CLAIMS}
    assert claimed == set(BOARDS)
    assert load_overlay("tpu_v1").boards == ()


def test_an_overlay_that_does_not_fit_is_told_what_is_missing():
    with pytest.raises(OverlayError, match=r"'edge' does not fit Pynq-Z2: .*DSP 799 of 220") as it:
        resources.check(load_overlay("edge"), "Pynq-Z2")
    assert "weft explore --board Pynq-Z2" in str(it.value)


def test_boards_of_an_overlay_are_no_part_of_its_hardware():
    overlay = load_overlay("tiny")
    assert replace(overlay, boards=()).digest() == overlay.digest()
    assert replace(overlay, tap_words=2 * overlay.tap_words).digest() != overlay.digest()


def test_a_program_file_keeps_its_overlay(tmp_path):
    from programs import scaling

    program = scaling()
    program = replace(program, overlay=replace(program.overlay, boards=("KV260",)))
    program.save(tmp_path / "p.weft")
    import weft

    assert weft.load(tmp_path / "p.weft").overlay == program.overlay


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("dsp = 220", "dsp = 0", ["dsp = 0", "1.."]),
        ("dsp = 220", "dsp = 'many'", ["dsp", "many"]),
        ('"zynq7000"', '"zinq7000"', ["family", "zinq7000"]),
        ("ddr_efficiency = 0.75", "ddr_efficiency = 1.75", ["ddr_efficiency = 1.75"]),
        ("axi_ports = 4", "axi_ports = 3", ["axi_ports = 3", "4 names", "HP3"]),
        ("[resources]", "[shell]\nlut = 99_999_999\n[resources]", ["[shell] lut", "53200"]),
        ("[resources]", "shell = 3\n[resources]", ["[shell]", "3"]),
        ("clock_mhz = 100", "clock = 100", ["clock"]),
    ],
)
def test_mistakes_in_a_board_are_named(tmp_path, old, new, words):
    text = (data_root() / "boards" / "Pynq-Z2.toml").read_text()
    path = tmp_path / "mine.toml"
    path.write_text(text)
    assert asdict(load_board(path)) == asdict(load_board("Pynq-Z2"))
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(OverlayError) as caught:
        load_board(path)
    for word in words:
        assert word in str(caught.value)


def test_an_unknown_board_is_a_usage_error():
    with pytest.raises(UsageError, match="Did you mean 'ZCU102' or 'ZCU104'"):
        load_board("ZCU14")


@pytest.mark.slow
def test_the_first_tpu_runs_in_simulation():
    import numpy as np

    import weft
    from weft.demo import MODELS, load_data

    data = load_data()
    program = weft.compile(MODELS / "digits.onnx", "tpu_v1", calibration=data.calibration)
    with weft.open(program, "csim", form="functional") as session:
        scores = session.run(data.images[:40])
    with weft.open(program, "golden") as session:
        np.testing.assert_array_equal(scores, session.run(data.images[:40]))
