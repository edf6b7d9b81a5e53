"""The design space: clocks by formula against compiled programs, fronts, processes, a cluster."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from quantized import SMALL, Net, scale

import weft
from weft import cli, designs, explore, fanout, workload
from weft.config import load_board, load_overlay
from weft.demo import MODELS, load_data
from weft.errors import DeviceError, OverlayError, UsageError
from weft.lower import lower
from weft.lower.provisional import provisional
from weft.units.systolic import array_clocks, gemm_folds

LAYERS = {"resnet8": workload.resnet8()}


@pytest.fixture(scope="module")
def digits():
    return provisional(weft.load_model(MODELS / "digits.onnx"))


@pytest.fixture(scope="module")
def space():
    """A few hundred designs of a board, spread over its space."""
    every = designs.space(load_board("KV260"))
    return every.take(np.arange(0, len(every), 397))


@pytest.mark.parametrize("overlay", ["tiny", "edge", "lab", "card"])
@pytest.mark.parametrize("batch", [1, 4])
def test_layers_take_the_clocks_of_the_compiled_program(digits, overlay, batch):
    program = lower(digits, load_overlay(overlay), batch=batch)
    exact = weft.estimate(program, batch, "KV260")
    for layers in (workload.of_graph(digits), workload.of_program(program)):
        taken = float(workload.cycles(layers, program.overlay, batch))
        assert taken == pytest.approx(exact.cycles, rel=0.08)
        took = float(workload.seconds(layers, program.overlay, exact.board, batch))
        assert took == pytest.approx(exact.wall_s, rel=0.08)


@pytest.mark.parametrize("overlay", ["tiny", "edge", "lab"])
@pytest.mark.parametrize("batch", [1, 4])
def test_a_residual_network_by_formula(network, overlay, batch):
    graph = provisional(weft.load_model(network("resnet8").model))
    layers = workload.of_graph(graph)
    assert sum(work.macs for work in layers) == sum(work.macs for work in workload.resnet8())
    program = lower(graph, load_overlay(overlay), batch=batch)
    exact = weft.estimate(program, batch).cycles
    assert float(workload.cycles(layers, program.overlay, batch)) == pytest.approx(exact, rel=0.02)
    built_in = float(workload.cycles(workload.resnet8(), program.overlay, batch))
    assert built_in == pytest.approx(exact, rel=0.02)


def test_one_product_takes_what_the_array_takes():
    overlay = load_overlay("edge")
    work = workload.Work("fc", workload.MATRIX, 768, 768, 128, 1, in_h=128)
    array = array_clocks(128, gemm_folds(768, 768, overlay), overlay).total
    tables = 24 * 14 * overlay.beats
    assert float(workload.cost(work, overlay)[0]) == array + tables + 3 * 8


def test_grouped_and_depthwise_convolutions():
    net, quant = Net(), scale(0.1, 3)
    rng = np.random.default_rng(0)

    def conv(name: str, weights: tuple[int, ...], shape: tuple[int, ...], **attrs: object) -> str:
        data = rng.integers(-9, 9, weights).astype(np.int8)
        constant = net.constant(f"w{len(net.nodes)}", data, scale(0.01))
        return net.node("Conv", [name, constant, ""], shape, quant, **attrs)

    x = net.input("x", (1, 16, 9, 9), quant)
    y = conv(x, (16, 1, 3, 3), (1, 16, 9, 9), group=16, pads=[1] * 4)
    y = conv(y, (32, 4, 3, 3), (1, 32, 4, 4), group=4, strides=[2, 2])
    graph = net.graph(y)
    layers = workload.of_graph(graph)
    assert [work.kind for work in layers] == [workload.VECTOR, workload.MATRIX]
    assert [work.macs for work in layers] == [16 * 81 * 9, 32 * 16 * 4 * 9]
    exact = weft.estimate(lower(graph, SMALL, batch=1)).cycles
    assert float(workload.cycles(layers, SMALL)) == pytest.approx(exact, rel=0.15)


def test_a_design_too_small_for_a_layer_takes_for_ever():
    overlay = replace(load_overlay("tiny"), buffer_words=16)
    assert math.isinf(float(workload.cycles(workload.resnet8(), overlay)))
    overlay = replace(load_overlay("tiny"), accumulator_rows=16)
    assert math.isinf(float(workload.cycles(workload.resnet8(), overlay, batch=17)))


@pytest.mark.parametrize("name", ["Pynq-Z2", "KV260", "Alveo-U250"])
def test_the_space_is_large_and_every_design_is_legal(name):
    board = load_board(name)
    every = designs.space(board)
    assert len(every) >= 10_000
    for index in range(0, len(every), len(every) // 50):
        overlay = every.overlay(index)
        assert overlay.bus_bytes * 8 <= board.axi_bits
        assert overlay.multiplier == "single" or board.family != "zynq7000"


def test_the_front_is_what_no_other_betters():
    values = np.array([[1.0, 2, 4, 4, 9], [9, 4, 1, 3, 9], [5, 5, 5, 5, 9]])
    assert explore.pareto(values).tolist() == [0, 1, 2]
    rng = np.random.default_rng(1)
    many = rng.uniform(1, 100, (4, 400))
    kept = explore.pareto(many)
    assert kept[0] == many[0].argmin()
    for column in range(400):  # everything is bettered by, or within the grain of, one that is kept
        assert (many[:, kept] <= many[:, [column]] * explore.GRAIN).all(axis=0).any()


def test_a_board_gets_the_fastest_that_fits(space):
    found = explore.explore("KV260", LAYERS, designs=space)
    times = [candidate.seconds for candidate in found.front]
    assert times == sorted(times)
    assert found.best.seconds == times[0]
    assert all(candidate.fit.fits for candidate in found.front)
    assert 0 < found.fitting < found.designs == len(space)
    slower = explore.explore("KV260", LAYERS, designs=space, comfortable=True)
    assert not slower.best.fit.tight
    assert slower.best.seconds >= found.best.seconds


def test_no_design_of_the_space_is_faster_than_the_best(space):
    found = explore.explore("ZCU104", LAYERS, designs=space)
    board = load_board("ZCU104")
    took = workload.seconds(LAYERS["resnet8"], space, board)
    for index in np.argsort(took)[:20]:
        overlay = space.overlay(int(index))
        if took[index] < found.best.seconds * (1 - 1e-9):
            assert not explore.resources.fit(overlay, board).fits


def test_what_can_be_compiled_is_timed_exactly(digits, space):
    networks = {"digits": workload.of_graph(digits)}
    found = explore.explore("KV260", networks, graph=digits, designs=space)
    for candidate in found.front[:3]:
        assert candidate.exact
        program = lower(digits, candidate.overlay, batch=1)
        assert candidate.seconds == weft.estimate(program, 1, "KV260").wall_s


@pytest.mark.slow
def test_processes_time_the_front_as_one_does(digits, space, monkeypatch):
    monkeypatch.setattr(explore, "POOL_FROM_S", 0.0)
    options = {"graph": digits, "designs": space}
    networks = {"digits": workload.of_graph(digits)}
    one, two = (explore.explore("KV260", networks, workers=n, **options) for n in (1, 2))
    assert [c.as_dict() for c in one.front] == [c.as_dict() for c in two.front]


def test_where_nothing_fits_that_is_said(space):
    small = replace(load_board("Pynq-Z2"), lut=1000)
    with pytest.raises(OverlayError, match=r"none of [\d,]+ designs fits board 'Pynq-Z2'"):
        explore.explore(small, LAYERS, designs=space)
    with pytest.raises(UsageError, match="Did you mean 'KR260' or 'KV260'"):
        explore.explore("KV26", LAYERS)


def test_a_design_can_be_written_and_used(tmp_path, space):
    found = explore.explore("KV260", LAYERS, designs=space)
    path = tmp_path / "mine.toml"
    path.write_text(explore.toml(found.best, found.board, list(LAYERS), "mine"))
    overlay = load_overlay(path)
    assert overlay.boards == ("KV260",)
    assert overlay.digest() == replace(found.best.overlay, name="mine").digest()


def test_processes_give_results_in_order():
    heard = []
    squares = fanout.fan_out(
        math.sqrt, [9, 4, 16, 1], workers=2, progress=lambda *at: heard.append(at)
    )
    assert squares == [3, 2, 4, 1]
    assert heard == [(1, 4), (2, 4), (3, 4), (4, 4)]
    with pytest.raises(UsageError, match="workers = 0"):
        fanout.fan_out(math.sqrt, [1], workers=0)


@pytest.mark.slow
def test_a_cluster_shares_the_work(space):
    distributed = pytest.importorskip("distributed")
    options = {"n_workers": 1, "threads_per_worker": 1, "processes": False}
    where = {"protocol": "tcp://", "host": "127.0.0.1", "dashboard_address": None}
    with distributed.LocalCluster(**options, **where) as cluster:
        address = cluster.scheduler_address
        there = explore.explore("KV260", LAYERS, designs=space, dask=address)
    here = explore.explore("KV260", LAYERS, designs=space)
    assert [c.as_dict() for c in there.front] == [c.as_dict() for c in here.front]


def test_a_scheduler_that_does_not_answer_is_an_error(monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr(fanout, "CONNECT_S", 0.2)
    with pytest.raises(DeviceError, match=r"no Dask scheduler at 'tcp://127\.0\.0\.1:9'"):
        fanout.fan_out(math.sqrt, [1], dask="tcp://127.0.0.1:9")


def test_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.savez("cal.npz", image=load_data().calibration[:8])
    model = str(MODELS / "digits.onnx")
    few = designs.space(load_board("Pynq-Z2"))
    few = few.take(np.arange(0, len(few), 397))
    monkeypatch.setattr(explore, "space", lambda board: few)
    call = ["explore", "--board", "Pynq-Z2", "--model", model, "--calibrate", "cal.npz"]
    assert cli.run([*call, "--json", "--jobs", "1", "-o", "mine.toml"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["best"]["exact"]
    assert facts["designs"] == len(few)
    assert cli.run(["compile", model, "--overlay", "mine.toml", "--calibrate", "cal.npz",
                    "-o", "p.weft"]) == 0  # fmt: skip
    assert cli.run(["explore", "--board", "Pynq-Z2", "--program", "p.weft", "--plot", "f.png"]) == 0
    assert "that no other betters (by formula)" in capsys.readouterr().out
    assert (tmp_path / "f.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--board", "KV26"], 2),
        (["--board", "KV260", "--model", "a.onnx", "--program", "b.weft"], 2),
        (["--board", "KV260", "--calibrate", "a.npz"], 2),
        (["--board", "KV260", "-o", "a.txt"], 2),
        (["--board", "KV260", "--plot", "a.txt"], 2),
        (["--board", "KV260", "--program", "absent.weft"], 5),
    ],
)
def test_mistakes_on_the_command_line(words, code, capsys):
    assert cli.run(["explore", *words]) == code
    assert "Traceback" not in capsys.readouterr().err
