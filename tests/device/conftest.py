"""Boards for the tests: where pynq is installed, PYNQ's active device is a simulated board."""

from __future__ import annotations

import gc
import sys
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import kernel
from weft.config import load_board, load_overlay

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "host"))

if find_spec("pynq"):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what pynq's imports say would be errors
        import pynq
        import pynq.lib
        import pynq.pl_server.remote_device
        import pynq.remote


@pytest.fixture(autouse=True, scope="session")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The device "pynq" runs on a simulated KV260, with bitstreams of the tests' overlays."""
    if not find_spec("pynq"):
        yield
        return
    from weft.simboard.board import Board, write_bitstream

    folder = tmp_path_factory.mktemp("bitstreams")
    facts = load_board("KV260")
    for overlay in (*kernel.OVERLAYS.values(), load_overlay("tiny")):
        write_bitstream(folder, overlay, facts)
    pynq.Device.active_device = Board(facts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WEFT_BITSTREAMS", str(folder))
        yield
    gc.collect()


@pytest.fixture
def server() -> Iterator[Any]:
    """A simulated KV260 behind the protocol of PYNQ.remote."""
    from weft.simboard.board import Board
    from weft.simboard.server import Server

    made = Server(Board(load_board("KV260")))
    yield made
    made.stop()
    made.board.close()
