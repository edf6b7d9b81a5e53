"""weft bench and power: percentiles, counts, rails."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from programs import scaling

import weft
from weft import cli
from weft.device.power import Recorder, rails_power
from weft.errors import UsageError
from weft.measure import measure, random_inputs


def test_measures_what_a_session_takes():
    program = scaling(batch=4)
    found = measure(program, runs=20, batch=4)
    with weft.open(program) as session:
        session.run(random_inputs(program, 4))
        assert found.cycles == session.last.cycles
    p50, p90, p99 = (found.latency_s[name] for name in ("p50", "p90", "p99"))
    assert 0 < found.device_s < p50 <= p90 <= p99
    assert 4 / p99 / 3 < found.samples_per_s < 4 / found.device_s
    assert (found.runs, found.batch, found.power_w, found.joules) == (20, 4, None, None)


@pytest.mark.parametrize("counts", [{"runs": 0}, {"batch": 0}])
def test_counts_below_one_are_refused(counts):
    with pytest.raises(UsageError, match="= 0: at least 1"):
        measure(scaling(), **counts)


def test_inputs_are_the_same_for_the_same_seed():
    one, two = (random_inputs(scaling(), 3, seed=1)["x"] for _ in range(2))
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, random_inputs(scaling(), 3, seed=2)["x"])


def test_command(tmp_path, capsys):
    path = tmp_path / "p.weft"
    scaling().save(path)
    assert cli.run(["bench", str(path), "--runs", "5", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["device"], facts["runs"], facts["power_w"]) == ("csim", 5, None)
    assert cli.run(["bench", str(path), "--runs", "5"]) == 0
    assert "throughput" in capsys.readouterr().out


class Sensor:
    """A sensor as pynq's: its value is read from a file of the kernel's."""

    def __init__(self, path, microwatts):
        self.path = path
        path.write_text(str(microwatts))

    @property
    def value(self):
        return float(self.path.read_text()) * 1e-6


def test_power_is_the_input_or_the_sum(tmp_path):
    a, b = Sensor(tmp_path / "a", 2_000_000), Sensor(tmp_path / "b", 500_000)
    rail, voltage = (lambda s: SimpleNamespace(power=s)), SimpleNamespace(power=None)
    assert rails_power({"INT": rail(a), "AUX": rail(b), "V": voltage}) == pytest.approx(2.5)
    assert rails_power({"12V": rail(a), "AUX": rail(b)}) == pytest.approx(2.0)
    assert rails_power({"V": voltage}) is None
    assert rails_power({}) is None
    with Recorder(lambda: a.value, interval_s=0.001) as recorder:
        while recorder.mean_w is None:
            pass
    assert recorder.mean_w == pytest.approx(2.0)
