"""Overlays and boards: what comes with weft is sound, and what is wrong is named."""

from __future__ import annotations

from dataclasses import replace

import pytest

from weft import config
from weft.errors import OverlayError, UsageError


@pytest.mark.parametrize("name", config.overlay_names())
def test_overlays_that_come_with_weft(name):
    overlay = config.load_overlay(name)
    assert overlay.name == name
    assert overlay.beats * overlay.bus_bytes == overlay.lanes
    assert overlay.digest() == config.load_overlay(name).digest()


@pytest.mark.parametrize("name", config.board_names())
def test_boards_that_come_with_weft(name):
    board = config.load_board(name)
    assert board.name == name
    assert 10 <= board.clock_mhz <= 1000
    assert board.dsp > 0


def test_digests_tell_overlays_apart():
    overlay = config.load_overlay("tiny")
    other = replace(overlay, accumulator_rows=overlay.accumulator_rows * 2)
    names = config.overlay_names()
    assert (
        len({config.load_overlay(n).digest() for n in names} | {other.digest()}) == len(names) + 1
    )


def test_an_overlay_may_be_a_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text((config.data_root() / "overlays" / "tiny" / "overlay.toml").read_text())
    assert config.load_overlay(path) == config.load_overlay("tiny")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("rows = 8", "rows = 16", ["rows = 16", "cols = 8"]),
        ("rows = 8", "rows = 'x'", ["rows", "'x'"]),
        ("rows = 8", "", ["rows", "required"]),
        ("rows = 8", "lines = 8", ["rows"]),
        ("rows = 8", "rows = 8\nspeed = 3", ["speed"]),
        ("weight_tiles = 4", "weight_tiles = 1", ["weight_tiles = 1", "2..64"]),
        ("bus_bytes = 8", "bus_bytes = 5", ["bus_bytes = 5", "multiple"]),
        ('multiplier = "single"', 'multiplier = "singel"', ["Did you mean 'single'"]),
        ("rows = 8", "rows =", ["mine.toml"]),
        ("rows = 8", "rows = 8\nstream_rows = 2", ["stream_rows = 2", "engine matvec"]),
        ("rows = 8", "rows = 8\nstream_rows = 32", ["stream_rows = 32", "1..16"]),
        ("rows = 8", "rows = 8\nweight_ports = 3", ["weight_ports = 3", "power of two"]),
    ],
)
def test_mistakes_in_an_overlay_are_named(tmp_path, old, new, words):
    path = tmp_path / "mine.toml"
    text = (config.data_root() / "overlays" / "tiny" / "overlay.toml").read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(OverlayError) as caught:
        config.load_overlay(path)
    for word in words:
        assert word in str(caught.value)


def test_unknown_names_are_usage_errors(tmp_path):
    with pytest.raises(UsageError, match="Did you mean 'edge'"):
        config.load_overlay("egde")
    with pytest.raises(UsageError, match=r"Did you mean .*'KV260'"):
        config.load_board("kv260")
    with pytest.raises(OverlayError, match="no such file"):
        config.load_overlay(tmp_path / "absent.toml")


def test_an_incomplete_installation_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "__file__", str(tmp_path / "a" / "b" / "config.py"))
    with pytest.raises(OverlayError, match="incomplete"):
        config.data_root.__wrapped__()
