"""check: every layer is compared, and a fault is found where it is."""

from __future__ import annotations

import numpy as np
import pytest
from programs import MAP, scaling, with_host_tail

import weft
from weft import isa
from weft.compare import instrument
from weft.device import DEVICES
from weft.device.golden import Golden

X = np.random.default_rng(2).uniform(-40, 40, (7, 5, 2, 3)).astype(np.float32)


class Faulty(Golden):
    """Golden, but for one instruction of the program that it gets with another low clamp."""

    def __init__(self, layer: int = 0, low: int = 100) -> None:
        super().__init__()
        self.layer, self.low = layer, low

    def load(self, program):
        segment = program.segments[0]
        words = segment.words.copy()
        position = 1 + [f.name for f in isa.ACTIVATE.fields].index("low")
        for row, layer in zip(words, segment.layers, strict=True):
            if row[0] == isa.ACTIVATE.opcode and layer == self.layer:
                row[position] = self.low
        changed = type(segment)(words, segment.layers, segment.inputs, segment.outputs)
        segments = (changed, *program.segments[1:])
        super().load(type(program)(**{**vars(program), "segments": segments}))


@pytest.fixture(autouse=True)
def faulty_device(monkeypatch):
    monkeypatch.setitem(DEVICES, "faulty", Faulty)


def test_equal_devices_are_equal():
    result = weft.check(scaling(layout=MAP, layers=3), X, "golden")
    assert result.as_dict() == {"equal": True, "samples": 7, "layers": 3, "first_difference": None}


@pytest.mark.parametrize("layer", range(3))
def test_the_first_layer_that_differs_is_named(layer):
    result = weft.check(scaling(layout=MAP, layers=3), X, "faulty", layer=layer)
    assert not result.equal
    found = result.first_difference
    assert (found.layer, found.segment) == (f"scale_{layer}", 0)
    assert found.device == 100
    assert found.golden < 100
    assert found.count > 0


def test_the_place_is_that_of_the_value():
    x = np.full((6, 5, 2, 3), 40, np.float32)  # code 83; a quarter of 80 and 3 are 23
    x[5, 3, 1, 2] = -40
    program = scaling(layout=MAP, layers=1)
    result = weft.check(program, x, "faulty", low=0)
    found = result.first_difference
    assert (found.sample, found.channel, found.y, found.x) == (5, 3, 1, 2)
    assert (found.device, found.golden, found.count) == (0, -37, 1)


def test_host_segments_are_passed():
    assert weft.check(with_host_tail(scaling(layout=MAP)), X, "golden").equal


def test_instrumented_program_gives_the_same_answer():
    program = scaling(layout=MAP, layers=2)
    probed, probes = instrument(program)
    assert [p.layer for p in probes] == [0, 1]
    with weft.open(program, "golden") as plain, weft.open(probed, "golden") as other:
        np.testing.assert_array_equal(plain.run(X), other.run(X))


def test_progress_is_told():
    seen = []
    weft.check(scaling(layout=MAP), X, "golden", progress=lambda *at: seen.append(at))
    assert seen == [(4, 7), (7, 7)]
