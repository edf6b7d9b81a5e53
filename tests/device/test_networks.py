"""Real networks: golden, the C simulation, the simulated board and the same board over the network
agree bit for bit.
"""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("pynq", reason="pynq wants numpy<2: `make test-slow` runs these elsewhere")

import weft
from weft.config import load_board
from weft.simboard.board import write_bitstream

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "overlay", "samples"),
    [("mnist", "lab", 4), ("resnet8", "edge", 2), ("har", "tiny", 6), ("jet_mlp", "tiny", 40)],
)
def test_devices_agree(name, overlay, samples, request, server, tmp_path):
    if name != "mnist":
        pytest.importorskip("h5py", reason=f"the weights of {name} are an .h5 file")
    net = request.getfixturevalue("network")(name)
    program = weft.compile(net.path, overlay, calibration=net.some(32))
    x = net.some(samples)
    bit = write_bitstream(tmp_path, program.overlay, load_board("KV260"))
    devices = {
        "golden": ("golden", {}),
        "csim": ("csim", {}),
        "simboard": ("simboard", {}),
        "remote": ("pynq", {"address": server.address, "bitfile": bit}),
    }
    scores, cycles = {}, {}
    for title, (device, options) in devices.items():
        with weft.open(program, device, **options) as session:
            scores[title] = session.run(x)
            cycles[title] = session.last.cycles
    assert len(np.unique(scores["golden"])) > 1
    assert scores["golden"].shape[0] == samples
    for title in devices:
        np.testing.assert_array_equal(scores[title], scores["golden"])
        assert cycles[title] == cycles["golden"] > 0
    assert server.board.memory.buffers == 0
