"""Pools of devices, on csim: what serves, what fails, what is given back."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import weft
from weft.device.csim import Csim
from weft.device.pool import Pool
from weft.errors import DeviceError, InputError, UsageError

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "host"))
from programs import scaling

PROGRAM = scaling(batch=4)


def samples(n: int) -> np.ndarray:
    return np.random.default_rng(n).uniform(-30, 30, (n, 5)).astype(np.float32)


class Failing(Csim):
    """A csim whose runs fail after a few, as a board's that loses its power do."""

    def __init__(self, good: int) -> None:
        super().__init__()
        self.good = good
        self.closed = False

    def run(self, segment, batch, timeout_s=None):
        self.good -= 1
        if self.good < 0:
            raise DeviceError("the board does not answer")
        return super().run(segment, batch, timeout_s)

    def close(self):
        self.closed = True
        super().close()


def test_results_are_those_of_a_session_in_order():
    x = samples(30)
    with weft.open(PROGRAM) as session:
        expected = session.run(x)
    with Pool(PROGRAM, ["csim", "csim"]) as pool:
        np.testing.assert_array_equal(pool.run(x), expected)
        np.testing.assert_array_equal(pool.run({"x": x})["y"], expected)


def test_many_threads_may_ask():
    x = samples(8)
    with Pool(PROGRAM, ["csim", "csim"]) as pool:
        expected = pool.run(x)
        with ThreadPoolExecutor(6) as callers:
            for got in callers.map(lambda _: pool.run(x), range(24)):
                np.testing.assert_array_equal(got, expected)


def test_a_device_that_fails_leaves_and_its_request_goes_on():
    broken = Failing(good=2)
    x = samples(40)
    with Pool(PROGRAM, [broken, "csim"]) as pool:
        got = pool.run(x)
        assert len(pool) <= 2
        while len(pool) == 2:
            pool.run(x)
        assert [str(e) for e in pool.failures] == ["the board does not answer"]
    with weft.open(PROGRAM) as session:
        np.testing.assert_array_equal(got, session.run(x))
    assert broken.closed


def test_no_device_left_is_an_error():
    with Pool(PROGRAM, [Failing(0), Failing(1)]) as pool:
        with pytest.raises(DeviceError, match=r"no device is left in the pool: the board does"):
            pool.run(samples(40))
        with pytest.raises(DeviceError, match="no device is left"):
            pool.run(samples(1))


def test_wrong_inputs_keep_the_pool_whole():
    with Pool(PROGRAM, ["csim"]) as pool:
        with pytest.raises(InputError):
            pool.run(np.zeros((2, 7), np.float32))
        with pytest.raises(InputError):
            pool.submit(np.zeros((2, 7), np.float32)).result()
        assert pool.run(samples(3)).shape == (3, 5)


def test_an_empty_pool_is_refused():
    with pytest.raises(UsageError, match="at least one device"):
        Pool(PROGRAM, [])
