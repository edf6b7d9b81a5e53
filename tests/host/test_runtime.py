"""Session: forms of input and output, checks, chunks, threads, limits."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from programs import MAP, QUANT, scaling, with_host_tail

import weft
from weft.errors import DeviceError, DeviceTimeout, InputError, ProgramError, UsageError

RNG = np.random.default_rng(1)


def samples(n: int, *shape: int) -> np.ndarray:
    return RNG.uniform(-40, 40, (n, *shape)).astype(np.float32)


def expected(x: np.ndarray, layers: int = 2) -> np.ndarray:
    """The same in real arithmetic: halves of multiples of 0.5, ties away from zero upwards."""
    q = QUANT.quantize(x).astype(np.int64) - QUANT.zero_point
    for _ in range(layers):
        q = np.clip(((q + 1) >> 1) + QUANT.zero_point, -128, 127) - QUANT.zero_point
    return (q * 0.5).astype(np.float32)


@pytest.fixture
def session():
    with weft.open(scaling(), "golden") as opened:
        yield opened


@pytest.mark.parametrize("n", [1, 3, 4, 5, 11])
def test_any_number_of_samples(session, n):
    x = samples(n, 5)
    y = session.run(x)
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y, expected(x))


def test_a_map_keeps_its_layout():
    x = samples(6, 5, 2, 3)
    with weft.open(scaling(layout=MAP), "golden") as session:
        np.testing.assert_array_equal(session.run(x), expected(x))


def test_answer_has_the_form_of_the_question(session):
    x = samples(2, 5)
    by_name = session.run({"x": x})
    assert list(by_name) == ["y"]
    np.testing.assert_array_equal(by_name["y"], session.run(x))


def test_results_of_earlier_runs_stay(session):
    x = samples(2, 5)
    first = session.run(x)
    kept = first.copy()
    session.run(-x)
    np.testing.assert_array_equal(first, kept)


def test_host_segments_run_on_real_values():
    x = samples(7, 5)
    with weft.open(with_host_tail(scaling()), "golden") as session:
        results = session.run(x)
    np.testing.assert_array_equal(results["y"], expected(x))
    np.testing.assert_array_equal(results["z"], -expected(x))


def test_wider_numbers_and_lists_are_converted(session):
    x = samples(2, 5)
    np.testing.assert_array_equal(session.run(x.astype(np.float64)), expected(x))
    whole = [[1, 2, 3, 4, 5]]
    np.testing.assert_array_equal(session.run(whole), expected(np.array(whole, np.float32)))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (np.zeros((2, 6), np.float32), ["'x'", "(2, 6)", "(n, 5)"]),
        (np.zeros(5, np.float32), ["'x'", "(5,)", "(n, 5)"]),
        (np.zeros((0, 5), np.float32), ["'x'", "(0, 5)", "at least 1"]),
        (np.full((2, 5), np.nan, np.float32), ["'x'", "nan", "(0, 0)"]),
        (np.full((2, 5), 1e300), ["'x'", "inf"]),
        (np.full((2, 5), "a"), ["'x'", "<U1", "float32"]),
        (np.zeros((2, 5), complex), ["'x'", "complex128"]),
        ([[1, 2], [3]], ["'x'", "not an array"]),
        ({"z": np.zeros((1, 5))}, ["'z'", "'x'"]),
        ({}, ["[]", "'x'"]),
    ],
)
def test_wrong_inputs_are_named(session, given, words):
    with pytest.raises(InputError) as caught:
        session.run(given)
    for word in words:
        assert word in str(caught.value)


def test_inputs_of_different_lengths_are_refused():
    program = scaling()
    twice = type(program)(
        **{**vars(program), "inputs": (*program.inputs, weft.program.TensorInfo("u", (1,), "int8"))}
    )
    with weft.open(twice, "golden") as session:
        with pytest.raises(InputError, match="different numbers"):
            session.run({"x": np.zeros((2, 5)), "u": np.zeros(3, np.int8)})
        with pytest.raises(InputError, match="2 inputs"):
            session.run(np.zeros((2, 5)))
        with pytest.raises(InputError, match=r"300.*-128\.\.127"):
            session.run({"x": np.zeros((1, 5)), "u": np.array([300])})


def test_detail_and_last_tell_what_a_run_took(session):
    x = samples(9, 5)
    y, took = session.run(x, detail=True)
    np.testing.assert_array_equal(y, expected(x))
    assert session.last is took
    assert took.samples == 9
    assert took.macs == 9 * 2 * 5
    assert took.cycles == sum(took.counters.values()) > 0
    assert 0 < took.device_s <= took.wall_s


def test_progress_is_told(session):
    seen = []
    session.run(samples(9, 5), progress=lambda *at: seen.append(at))
    assert seen == [(4, 9), (8, 9), (9, 9)]


def test_threads_share_a_session(session):
    inputs = [samples(6, 5) for _ in range(8)]
    results: dict[int, np.ndarray] = {}

    def work(number: int) -> None:
        for _ in range(5):
            results[number] = session.run(inputs[number])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, x in enumerate(inputs):
        np.testing.assert_array_equal(results[number], expected(x))


def test_closed_session_says_so(session):
    session.close()
    session.close()
    with pytest.raises(DeviceError, match="closed"):
        session.run(samples(1, 5))


def test_timeout_is_the_devices():
    with weft.open(scaling(), "golden", timeout_s=1e-9) as session:
        with pytest.raises(DeviceTimeout):
            session.run(samples(1, 5))
        session.run(samples(1, 5), timeout_s=60)
        for limit in (0, -1, float("nan")):
            with pytest.raises(UsageError, match="timeout_s"):
                session.run(samples(1, 5), timeout_s=limit)


def test_unknown_names_are_usage_errors(tmp_path):
    with pytest.raises(UsageError, match="golden"):
        weft.open(scaling(), "goldn")
    with pytest.raises(UsageError, match="speed"):
        weft.open(scaling(), "golden", speed=9)
    with pytest.raises(ProgramError, match=r"absent\.weft"):
        weft.open(tmp_path / "absent.weft", "golden")


def test_opens_a_file(tmp_path):
    path = tmp_path / "p.weft"
    scaling().save(path)
    x = samples(2, 5)
    with weft.open(str(path), "golden") as session:
        np.testing.assert_array_equal(session.run(x), expected(x))


def test_evaluate_takes_classes_and_one_hot():
    program = scaling(layers=1)
    x = samples(9, 5)
    classes = x.argmax(1)
    with weft.open(program, "golden") as session:
        found = session.run(x).argmax(1)
    expected = weft.Accuracy(float((found == classes).mean()), 9)
    assert weft.evaluate(program, x, classes, "golden") == expected
    assert weft.evaluate(program, {"x": x}, np.eye(5, dtype=int)[classes], "golden") == expected


@pytest.mark.parametrize("y", [np.zeros(3), np.zeros(0, int), np.zeros(2, int)])
def test_labels_that_do_not_fit_are_refused(y):
    with pytest.raises(InputError, match="labels"):
        weft.evaluate(scaling(), samples(3, 5), y, "golden")


def test_top1_needs_one_output():
    program = with_host_tail(scaling())
    with pytest.raises(InputError, match="one output"):
        weft.evaluate(program, samples(3, 5), np.zeros(3, int), "golden")


def test_a_session_per_thread_runs_in_parallel():
    program = scaling()
    inputs = [samples(40, 5) for _ in range(4)]
    results: dict[int, np.ndarray] = {}

    def work(number: int) -> None:
        with weft.open(program, "csim") as own:
            for _ in range(20):
                results[number] = own.run(inputs[number])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, x in enumerate(inputs):
        np.testing.assert_array_equal(results[number], expected(x))
