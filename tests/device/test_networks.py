"""Real networks: golden, the C simulation and the simulated board agree bit for bit.

Digits over the network are in test_remote.py.
"""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("pynq", reason="pynq wants numpy<2: `make test-slow` runs these elsewhere")

import weft

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "overlay", "samples"),
    [("mnist", "lab", 4), ("resnet8", "edge", 2), ("har", "tiny", 6)],
)
def test_devices_agree(name, overlay, samples, request):
    if name != "mnist":
        pytest.importorskip("h5py", reason=f"the weights of {name} are an .h5 file")
    net = request.getfixturevalue("network")(name)
    program = weft.compile(net.path, overlay, calibration=net.some(32))
    x = net.some(samples)
    scores, cycles = {}, {}
    for device in ("golden", "csim", "simboard"):
        with weft.open(program, device) as session:
            scores[device] = session.run(x)
            cycles[device] = session.last.cycles
    assert len(np.unique(scores["golden"])) > 1
    assert scores["golden"].shape[0] == samples
    for device in ("csim", "simboard"):
        np.testing.assert_array_equal(scores[device], scores["golden"])
        assert cycles[device] == cycles["golden"] > 0
