"""What training saw is what runs: prepared modules against the golden device, code by code."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'weft[torch]'")

from torch import nn  # noqa: E402

import weft  # noqa: E402
import weft.torch as wt  # noqa: E402
from weft import formats  # noqa: E402
from weft.errors import InputError, UnsupportedError, UsageError  # noqa: E402
from weft.torch.activations import ActivationQuant  # noqa: E402

torch.set_num_threads(1)


class Net(nn.Module):
    """A residual block, BatchNorm, moves, functions and methods of all three kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.depth = (
            nn.Conv2d(8, 8, 3, padding=1),
            nn.Conv2d(8, 8, 3, groups=8, padding=1),
        )
        self.pool, self.relu = nn.MaxPool2d(2), nn.ReLU()
        self.fc1, self.norm2, self.fc2 = nn.Linear(8 * 16, 16), nn.BatchNorm1d(16), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.relu(self.norm1(self.conv1(x))))
        x = torch.relu(self.conv2(x)) + x
        x = nn.functional.relu6(self.depth(x))
        x = self.relu(self.norm2(self.fc1(x.view(x.size(0), -1))))
        return self.fc2(x)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).normal(size=shape), dtype=torch.float32)


X = normal(32, 1, 8, 8)


def network() -> nn.Module:
    torch.manual_seed(3)
    model = Net()
    model.train()
    for _ in range(5):
        model(X * 2)  # running statistics that are not 0 and 1
    return model.eval()


def trained(model: nn.Module, steps: int = 2) -> nn.Module:
    """A few steps, so that weights, biases and all factors have moved."""
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    model.train()
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(X), torch.arange(32) % 5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def codes_of(values: np.ndarray, graph: weft.Graph) -> np.ndarray:
    quant = graph[graph.outputs[0]].quant
    assert quant is not None
    return np.rint(values / float(quant.scale)).astype(int)


def run(graph: weft.Graph, x: torch.Tensor, overlay: str = "lab") -> np.ndarray:
    with weft.open(weft.compile(graph, overlay), "golden") as session:
        return np.asarray(session.run(x.numpy()))


CASES = [
    ("int8", "int8", "lsq"),
    ("int4", "int4", "lsq"),
    ("flint4", "flint4", "lsq"),
    ("ternary", "int8", "twn"),
    ("binary", "binary01", "mean"),
    ("uint4:g32", "uint4", "lsq"),
    ("mxfp4", "int8", "lsq"),
]


@pytest.mark.parametrize(("weights", "activations", "method"), CASES)
def test_golden_computes_what_training_saw(weights: str, activations: str, method: str) -> None:
    model = wt.prepare(network(), weights, activations, method=method, example=X)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trained(model)
    moved = sum(not torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert moved > len(before) // 2
    graph = wt.export(model, X, requant="float_even")
    # Every operand and every scale is the module's.
    kinds = {t.quant.format for t in graph.tensors.values() if t.data is not None and t.quant}
    assert formats.parse(weights).name in kinds
    for name, module in model.named_modules():
        if isinstance(module, ActivationQuant):
            own = module.quant()
            assert any(
                t.quant is not None
                and (t.quant.scale, t.quant.zero_point, t.quant.format)
                == (own.scale, own.zero_point, own.format)
                for t in graph.tensors.values()
                if t.data is None
            ), name
    convs = [n for n in graph if n.op == "Conv"]
    layers = [model.get_submodule(n) for n in ("conv1", "conv2", "depth")]
    assert len(convs) == 3
    for node, layer in zip(convs, layers, strict=True):
        parametrization = layer.parametrizations["weight"]
        found = parametrization[0].quantized(parametrization.original)
        constant = graph[node.inputs[1]]
        moved_back = np.moveaxis(constant.data, 1, -1).reshape(found.operands.shape)
        np.testing.assert_array_equal(moved_back, found.operands)
        np.testing.assert_array_equal(constant.real(), layer.weight.detach().numpy())
    with torch.no_grad():
        expected = codes_of(model(X).numpy(), graph)
    found = codes_of(run(graph, X), graph)
    # float32 sums in PyTorch may fall to the other side of a tie; integers don't.
    assert np.abs(found - expected).max() <= 1
    assert np.mean(found != expected) <= 0.01


def test_double_precision_agrees_in_every_code() -> None:
    model = trained(wt.prepare(network(), "int4", "int8", example=X))
    graph = wt.export(model, X, requant="float_even")
    with torch.no_grad():
        expected = codes_of(copy.deepcopy(model).double()(X.double()).numpy(), graph)
    np.testing.assert_array_equal(codes_of(run(graph, X), graph), expected)


def test_one_dimensional_convolutions() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv1d(3, 8, 3), nn.ReLU(), nn.AvgPool1d(2), nn.Flatten(), nn.Linear(56, 4)
    )
    x = normal(16, 3, 16)
    model = wt.prepare(net, "int4", "int8", example=x).eval()
    graph = wt.export(model, x)
    with torch.no_grad():
        expected = codes_of(model(x).numpy(), graph)
    assert np.mean(codes_of(run(graph, x), graph) != expected) <= 0.02


def test_qdq_file_is_the_same_network(tmp_path: Path) -> None:
    model = wt.prepare(network(), "int8", "int8", example=X).eval()
    graph = wt.export(model, X, tmp_path / "net.onnx", requant="float_even")
    program = weft.compile(tmp_path / "net.onnx", "lab", requant="float_even")
    with weft.open(program, "golden") as session:
        again = np.asarray(session.run(X.numpy()))
    found = codes_of(run(graph, X), graph)
    # A QDQ model names no rounding: single codes differ at ties.
    assert np.abs(codes_of(again, graph) - found).max() <= 1
    assert np.mean(codes_of(again, graph) != found) <= 0.01


def test_norms_are_folded_and_the_module_is_not_touched() -> None:
    net = network()
    state = {k: v.clone() for k, v in net.state_dict().items()}
    model = wt.prepare(net, None, None).eval()
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
    torch.testing.assert_close(model(X), net(X), rtol=1e-4, atol=1e-5)
    quantized = wt.prepare(net, "int4", example=X)
    wt.export(quantized, X)
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    quantized(X)  # export leaves the prepared module as it was, too


def test_plan_names_layers() -> None:
    model = wt.prepare(network(), "int4", plan={"fc*": "int8", "conv1": None}, example=X)
    graph = wt.export(model, X)
    kinds = {
        n.name: graph[n.inputs[1]].quant and graph[n.inputs[1]].quant.format
        for n in graph
        if n.op in ("Conv", "Linear")
    }
    assert list(kinds.values()) == [None, "int4", "int4", "int8", "int8"]
    with torch.no_grad():
        found, expected = run(graph, X), model.eval()(X).numpy()
    assert np.mean(codes_of(found, graph) != codes_of(expected, graph)) <= 0.02
    with pytest.raises(UsageError, match="Did you mean 'conv1' or 'conv2'"):
        wt.prepare(network(), plan={"conv3": "int8"})


def test_states_are_saved_and_loaded() -> None:
    model = trained(wt.prepare(network(), "codebook16", example=X))
    again = wt.prepare(network(), "codebook16").eval()
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(again(X), model(X), rtol=0, atol=0)


def test_calibration_takes_batches_of_a_loader() -> None:
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, torch.zeros(32)), 8)
    model = wt.prepare(network())
    wt.calibrate(model, loader)
    assert all(m.ready for m in model.modules() if isinstance(m, ActivationQuant))
    assert len(wt.scale_parameters(model)) == 5 + sum(
        isinstance(m, ActivationQuant) for m in model.modules()
    )
    with pytest.raises(InputError, match="empty"):
        wt.calibrate(model, [])


def test_what_cant_be_done_is_said() -> None:
    with pytest.raises(UsageError, match=r"weft\.torch\.prepare"):
        wt.export(network(), X)
    with pytest.raises(UsageError, match="calibrate"):
        wt.export(wt.prepare(network()), X)

    class Branches(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(UnsupportedError, match="depends on values"):
        wt.prepare(Branches())


def test_binary_splitting_goes_on_from_the_ternary_network() -> None:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 4))
    x = normal(64, 20)
    net[0], net[2] = wt.split_layer(net[0]), wt.split_layer(net[2])
    model = wt.prepare(net, "binary", "int8", method="mean", example=x).eval()
    graph = wt.export(model, x)
    assert sum(n.op == "Linear" for n in graph) == 4
    with torch.no_grad():
        expected = codes_of(model(x).numpy(), graph)
    assert np.mean(codes_of(run(graph, x), graph) != expected) <= 0.05


def test_the_page_on_training_runs() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "training.md").read_text()
    names: dict[str, object] = {}
    blocks = re.findall(r"^```py\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    for number, block in enumerate(blocks):
        exec(compile(block, f"training.md, block {number}", "exec"), names)
    assert np.shape(names["scores"]) == (10, 10)
