"""The examples that prune, retrain, compile and run: a few steps; ResNet8's whole when slow."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'weft[torch]'")

import weft.torch as wt  # noqa: E402
from weft.config import load_overlay  # noqa: E402
from weft.demo import MODELS, load_data  # noqa: E402
from weft.pruning import masks  # noqa: E402
from weft.pruning.spec import parse  # noqa: E402
from weft.sparse_study import Task, unpaid  # noqa: E402

torch.set_num_threads(1)
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[name] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def resnet() -> ModuleType:
    return example("prune_resnet8")


@pytest.fixture(scope="module")
def folder(shared_data: Path) -> Path:
    return shared_data / "resnet8_cifar10"


def sparse_layers(module: torch.nn.Module) -> list[str]:
    """Names of layers whose weights follow 2:4."""
    found = []
    for name, layer in module.named_modules():
        if isinstance(layer, (torch.nn.Conv2d, torch.nn.Linear)) and layer.weight.shape[1] >= 4:
            w = (
                layer.weight.detach().flatten(2)
                if layer.weight.ndim == 4
                else layer.weight[..., None]
            )
            if masks.follows(w.detach().transpose(1, 2).numpy(), parse("2:4")):
                found.append(name)
    return found


def test_a_few_steps_of_resnet8(resnet, folder, monkeypatch):
    monkeypatch.setattr(resnet, "VARIATIONS", 60)
    dense, only, taught = resnet.measure(folder, wt.Schedule(3, 16, rate=1e-3), images=60)
    assert [r.form for r in (dense, only, taught)] == ["dense", "2:4, not retrained", "2:4"]
    assert "nm" not in dense.engines
    assert taught.engines == only.engines
    assert taught.engines.count("nm") == 3  # those with two blocks of channels or more
    for r in (only, taught):
        assert r.weight_bytes < 0.7 * dense.weight_bytes
        assert r.clocks < 0.8 * dense.clocks
        assert all(ours < theirs for ours, theirs in zip(r.board_s, dense.board_s, strict=True))
    assert dense.float_top1 > 60
    assert min(only.top1, taught.top1) > 40  # of ten classes


def test_teaching_keeps_zeros_and_changes_the_rest(resnet, folder, monkeypatch):
    monkeypatch.setattr(resnet, "VARIATIONS", 40)
    graph, x, _ = resnet.load(folder)
    before = resnet.pruned(graph, x[:40])[0]
    after = resnet.retrained(graph, x[:40], wt.Schedule(3, 16, rate=1e-3))
    assert len(sparse_layers(before)) == 3
    assert sparse_layers(after) == sparse_layers(before)
    weights, changed = dict(before.named_parameters()), 0
    for name, value in after.named_parameters():
        np.testing.assert_array_equal(value.detach() == 0, weights[name].detach() == 0)
        changed += not torch.equal(value, weights[name])
    assert changed >= 8


def test_halves_are_the_whole(resnet, folder):
    graph, x, _ = resnet.load(folder)
    module = wt.from_graph(graph, logits=True)
    front, rear = resnet.halves(module, resnet.FRONT)
    with torch.no_grad():
        features = front(x[:5])
        assert features.shape == (5, 16, 32, 32)
        assert torch.equal(rear(features), module(x[:5]))


@pytest.mark.slow
def test_resnet8_at_2_4_is_within_two_points_of_float(resnet, folder):
    dense, _, taught = resnet.measure(folder)
    assert dense.float_top1 == pytest.approx(75.1)
    assert taught.top1 >= dense.float_top1 - 2
    assert taught.float_top1 >= dense.float_top1 - 2


def test_lenet_in_every_form():
    lenet = example("prune_lenet")
    found = lenet.measure(lenet.load(None), epochs=2)
    assert [r.form for r in found] == list(lenet.FORMS)
    dense = found[0]
    used = {engine for r in found for engine in r.engines}
    assert {"nm", "eie", "gather", "snap"} <= used
    for r in found[1:]:
        assert r.weight_bytes < dense.weight_bytes
        assert r.clocks < dense.clocks


def test_unpaid_names_layers_that_save_little():
    graph, data = weft_digits()
    name = graph.inputs[0]
    typical = {name: data.calibration[:64]}
    task = Task(graph, load_overlay("lab"), typical, typical)
    all_pruned, none = unpaid(task, "2:4", least=-1.0), unpaid(task, "2:4", least=1.1)
    assert all_pruned == {}
    some = unpaid(task, "2:4")
    assert set(some) < set(none)
    assert set(none.values()) == {"dense"}
    assert unpaid(replace(task, criterion="sparsegpt"), "2:4") == some


def weft_digits():
    import weft

    return weft.load_model(MODELS / "digits.onnx"), load_data()
