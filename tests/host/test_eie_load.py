"""Loads of the EIE engine: against the simulation's counters, and an engine stepped by clock."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from test_lower_sparse import SPARSE, linear

import models
import weft
from weft import cli
from weft.eie_load import loads
from weft.lower import lower
from weft.lower.eie import EieWeights
from weft.units import eie

RNG_SEEDS = (0, 1, 2)


def stepped(counts, x, lanes, queue):
    """Clocks, stalls and occupancy of a vector, register by register (hls/weft/units/eie.hpp).

    Columns count as waiting from their broadcast on until a PE starts with them.
    """
    pes, words = counts.shape[1], -(-len(x) // lanes)
    left, queues = [0] * pes, [[] for _ in range(pes)]
    todo = [[j for j in range(w * lanes, min((w + 1) * lanes, len(x))) if x[j]]
            for w in range(words)]  # fmt: skip
    asked = arrived = released = clocks = stalled = 0
    arriving = False
    broadcast = fetched = None
    occupancy = np.zeros(queue + 1, np.int64)
    going = True
    while going:
        coming = (broadcast is not None) + (fetched is not None)
        room = all(len(q) + coming < queue for q in queues)
        for p in range(pes):
            if left[p] == 0 and queues[p]:
                left[p] = max(1, counts[queues[p].pop(0), p])
            occupancy[len(queues[p]) + coming] += 1
            left[p] = max(0, left[p] - 1)
            if fetched is not None:
                queues[p].append(fetched)
        idle = all(n == 0 and not q for n, q in zip(left, queues, strict=True))
        fetched, broadcast = broadcast, None
        there = range(released, arrived)
        first = next((w for w in there if todo[w]), None)
        skipped = len(there) if first is None else first - released
        if first is not None and room:
            broadcast = todo[first].pop(0)
        stalled += first is not None and not room
        if arriving:
            arrived += 1
        arriving = asked < words and asked - released < eie.WINDOW
        asked += arriving
        released += skipped
        clocks += 1
        going = fetched is not None or broadcast is not None or not idle or released < words
    return clocks, stalled, occupancy


@pytest.mark.parametrize("seed", range(12))
def test_stalls_and_queues_are_those_of_an_engine_stepped_clock_by_clock(seed):
    rng = np.random.default_rng(seed)
    k, lanes, queue = int(rng.integers(1, 80)), int(rng.choice([4, 8])), int(rng.integers(1, 7))
    counts = rng.poisson(rng.choice([0.3, 1.5, 4]), (k, int(rng.choice([4, 16]))))
    x = rng.random(k) < rng.choice([0.2, 0.6, 1.0])
    report = eie.simulate(counts, x, lanes, queue)
    clocks, stalled, occupancy = stepped(counts, x, lanes, queue)
    assert (report.clocks, report.stalled) == (clocks, stalled)
    assert report.occupancy.tolist() == occupancy.tolist()


@pytest.mark.parametrize("seed", RNG_SEEDS)
def test_clocks_are_the_simulations_and_entries_those_packed(seed):
    rng = np.random.default_rng(seed)
    k, n = 150, 70
    graph = linear(rng, k, n, "csc:0.9")
    program = lower(graph, replace(SPARSE, eie_queue=2), batch=2)
    x = rng.uniform(-2.5, 2.5, (5, k)).astype(np.float32)
    (load,) = loads(program, x)
    with weft.open(program, "csim") as session:
        _, run = session.run(x, detail=True)
    assert load.clocks == run.counters["matrix"]
    assert (load.vectors, load.predicted) == (5, False)
    assert len(load.occupancy) == 3
    assert load.occupancy.sum() == load.clocks * SPARSE.eie_pes
    weights = graph["w"].data.T
    assert load.weights == np.count_nonzero(weights)
    packed = EieWeights(weights, SPARSE.lanes, SPARSE.eie_pes)
    found = packed.entries(0, packed.tiles)
    assert load.entries.tolist() == found.counts.sum(axis=0).tolist()
    assert load.padding == pytest.approx(found.pad_ratio)
    assert load.spread == load.entries.mean() / load.entries.max()
    assert load.balance == pytest.approx(load.work.mean() / load.clocks)
    assert 0 < load.full < 1


def test_a_layer_in_parts_is_one_load():
    """Outputs beyond what the PEs hold take several MatMuls."""
    rng = np.random.default_rng(4)
    graph = linear(rng, 400, 64, "csc:0.95")
    whole = lower(graph, SPARSE, batch=2)
    parts = lower(graph, replace(SPARSE, name="parts8", eie_outputs=4), batch=2)
    x = rng.uniform(-2.5, 2.5, (3, 400)).astype(np.float32)
    (one,), (sum_of_parts,) = loads(whole, x), loads(parts, x)
    assert sum_of_parts.vectors == one.vectors == 3
    assert sum_of_parts.weights == one.weights
    assert sum_of_parts.broadcasts == 2 * one.broadcasts
    with weft.open(parts, "csim") as session:
        _, run = session.run(x, detail=True)
    assert sum_of_parts.clocks == run.counters["matrix"]


@pytest.mark.parametrize(("zero", "density"), [(-128, 0.5), (3, 1.0)])
def test_without_inputs_activations_have_the_density_that_estimates_have(zero, density):
    graph = linear(np.random.default_rng(5), 400, 64, "csc:0.95", zero=zero)
    program = lower(graph, SPARSE, batch=2)
    (load,) = loads(program)
    (again,) = loads(program)
    assert load.predicted
    assert load.vectors == 1
    assert load.broadcasts == pytest.approx(density * 400, abs=40)
    assert load.clocks == again.clocks


def test_programs_without_the_engine_have_no_loads():
    program = lower(linear(np.random.default_rng(6), 64, 32, "2:4"), SPARSE)
    assert loads(program) == ()


@pytest.fixture
def network(tmp_path, monkeypatch):
    """A small network of products in a folder with its data."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(7)
    net = models.Layers((256,))
    for k, n in ((256, 192), (192, 64)):
        net.add("Gemm", rng.normal(0, 0.1, (k, n)).astype(np.float32), np.zeros(n, np.float32))
        net.add("Relu")
    net.add("Gemm", rng.normal(0, 0.1, (64, 10)).astype(np.float32), np.zeros(10, np.float32))
    onnx.save(net.model("products", 10), "products.onnx")
    np.savez("typical.npz", x=rng.random((40, 256)).astype(np.float32))
    return tmp_path


COMMAND = ["sparsity", "products.onnx", "--calibrate", "typical.npz", "--forms", "2:4,csc:0.95"]


def test_the_command_reports_loads_as_json(network, capsys):
    assert cli.run([*COMMAND, "--json"]) == 0
    dense, nm, csc = json.loads(capsys.readouterr().out)["forms"]
    assert dense["eie"] == nm["eie"] == []
    engines = [layer["name"] for layer in csc["layers"] if layer["engine"] == "eie"]
    assert engines
    assert [load["layer"] for load in csc["eie"]] == engines
    for load in csc["eie"]:
        assert load["vectors"] == 16
        assert 0 < load["balance"] <= 1
        assert 0 < load["spread"] <= 1 <= load["padding"]
        assert 0 <= load["full"] <= load["waiting"] <= len(load["occupancy"]) - 1
        assert sum(load["occupancy"]) == load["clocks"] * len(load["entries"])


def test_the_command_shows_loads_and_draws_them(network, capsys):
    assert cli.run([*COMMAND, "--plot", "two.png", "--forms", "2:4"]) == 0
    assert "engine eie" not in capsys.readouterr().out
    assert cli.run([*COMMAND, "--layers", "--plot", "three.png"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "csc:0.95 on engine eie" in printed
    sizes = [_size(network / name) for name in ("two.png", "three.png")]
    assert sizes[1][0] == pytest.approx(1.5 * sizes[0][0], abs=4)  # a panel more


def _size(path):
    from matplotlib import image

    height, width = image.imread(path).shape[:2]
    return width, height
