"""Masks in training: the schedule, the zeros that stay, and the way to a program."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'weft[torch]'")

from torch import nn  # noqa: E402

import weft  # noqa: E402
import weft.torch as wt  # noqa: E402
from weft.compiler import load_model  # noqa: E402
from weft.errors import UsageError  # noqa: E402
from weft.passes.prune import prune, weighted  # noqa: E402
from weft.pruning import masks  # noqa: E402
from weft.pruning.pixels import grouped  # noqa: E402
from weft.pruning.spec import parse  # noqa: E402
from weft.torch.flattened import channels  # noqa: E402
from weft.torch.pruning import cubic  # noqa: E402

torch.set_num_threads(1)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * 16, 4),
    )


X = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(1))
Y = X.mean(dim=(2, 3)).squeeze(1).mul(8).add(2).clamp(0, 3).long()


def train(module: nn.Module, pruner: wt.Pruner, steps: int) -> list[float]:
    optimizer = torch.optim.Adam(module.parameters(), 5e-3)
    losses = []
    for _ in range(steps):
        loss = nn.functional.cross_entropy(module(X), Y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pruner.step()
        losses.append(float(loss.detach()))
    return losses


def follows(weight: torch.Tensor, text: str) -> bool:
    shape = (*weight.shape[:2], -1)
    return masks.follows(weight.detach().reshape(shape).transpose(1, 2).numpy(), parse(text))


def test_the_schedule_is_the_papers() -> None:
    """s_t = s_f + (s_i - s_f) (1 - t / n)^3 with s_i = 0, s_f = 1."""
    assert [cubic(t / 4) for t in range(5)] == [0, 1 - 0.75**3, 1 - 0.5**3, 1 - 0.25**3, 1]
    assert cubic(2) == 1


@pytest.mark.parametrize("text", ["2:4", "csc:0.8"])
def test_zeros_grow_with_the_schedule_and_stay(text: str) -> None:
    module = net()
    pruner = wt.prune(module, text, steps=20, begin=5, every=2)
    shares = []
    for _ in range(30):
        train(module, pruner, 1)
        shares.append(1 - float(pruner.masks()["3"].float().mean()))
    assert shares[5] == 0
    assert shares == sorted(shares)
    assert shares[14] == pytest.approx(cubic(10 / 20) * shares[-1], abs=0.01)
    assert set(pruner.masks()) == ({"3", "7"} if text == "2:4" else {"0", "3", "7"})
    before = pruner.masks()["3"].clone()
    train(module, pruner, 3)
    assert torch.equal(before, pruner.masks()["3"])
    pruner.finish()
    assert isinstance(module[3].weight, nn.Parameter)
    assert follows(module[3].weight, text)


@pytest.mark.parametrize("steps", [0, 10])
def test_finishing_keeps_the_masks_that_were_trained_with(steps: int) -> None:
    """Also where a weight that stays became smaller than one that went."""
    module = net()
    pruner = wt.prune(module, "2:4", steps=steps)
    train(module, pruner, 12)
    layer = module[3].parametrizations.weight
    with torch.no_grad():
        layer.original.mul_(torch.where(layer[0].mask, 1e-3, 1.0))
    expected = module[3].weight.detach().clone()
    pruner.finish()
    assert torch.equal(module[3].weight, expected)
    assert float((expected != 0).float().mean()) == 0.5


def test_retraining_recovers_and_the_zeros_reach_the_program() -> None:
    module = net()
    pruner = wt.prune(module, "1:4")
    losses = train(module, pruner, 60)
    assert losses[-1] < 0.8 * losses[0]
    pruner.finish()
    qat = wt.prepare(module, weights="int8", example=X)
    again = wt.prune(qat, "1:4")
    train(qat, again, 5)
    again.finish()
    qat.eval()
    graph = wt.export(qat, X)
    texts = [node.attrs.get("sparsity") for node in weighted(load_model(graph))]
    assert texts == [None, None, "1:4", "1:4"]
    for node in weighted(graph):
        if "sparsity" in node.attrs:
            assert masks.follows(grouped(graph, node), parse("1:4"))
    with weft.open(weft.compile(graph, "tiny")) as session, torch.no_grad():
        np.testing.assert_allclose(session.run(X.numpy()), qat(X).numpy(), atol=0.2)


def test_a_float_module_that_was_pruned_compiles_with_its_zeros() -> None:
    module = net().eval()
    wt.prune(module, "2:4").finish()
    expected = module[3].weight.detach().numpy()
    graph = prune(load_model(module, example_inputs=X[:1]), "2:4")
    own = [n for n in weighted(graph) if graph[n.inputs[1]].shape == expected.shape]
    np.testing.assert_array_equal(graph[own[0].inputs[1]].data, expected)


class Flattens(nn.Module):
    """Two maps that become vectors: of a convolution, and of a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 32, 3, padding=1)
        self.norm = nn.BatchNorm2d(32)
        self.other = nn.Conv2d(1, 32, 1)
        self.fc1 = nn.Linear(32 * 16, 48)
        self.fc2 = nn.Linear(48, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = nn.functional.relu(self.norm(self.stem(x)) + self.other(x))
        y = nn.functional.max_pool2d(y, 2).reshape(x.shape[0], -1)
        return self.fc2(torch.relu(self.fc1(y)))


def by_channels(weight: torch.Tensor, count: int) -> np.ndarray:
    """[N, pixels, channels] of a Linear behind a flattened map, written out apart from weft."""
    k = weight.shape[1]
    at = np.array([[c * (k // count) + p for c in range(count)] for p in range(k // count)])
    return weight.detach().numpy()[:, at]


@pytest.mark.parametrize("pattern", ["2:4", "1:4"])
def test_groups_behind_a_flattened_map_are_of_its_channels(pattern: str) -> None:
    torch.manual_seed(3)
    module = Flattens().eval()
    untouched = load_model(module, example_inputs=X[:1])
    pruner = wt.prune(module, pattern)
    fc1 = pruner.masks()["fc1"]
    assert masks.follows(by_channels(fc1, 32), parse(pattern))
    assert not follows(fc1, pattern)
    pruner.finish()
    expected = prune(untouched, pattern)  # what the compiler would have taken from it
    found = prune(load_model(module, example_inputs=X[:1]), pattern)
    assert len(weighted(found)) == 4
    for ours, own in zip(weighted(found), weighted(expected), strict=True):
        np.testing.assert_array_equal(found[ours.inputs[1]].data, expected[own.inputs[1]].data)


def test_a_network_pruned_in_torch_compiles_without_another_loss() -> None:
    """On `lab` the layer behind the flattened map takes engine nm, with the weights of training."""
    torch.manual_seed(3)
    qat = wt.prepare(Flattens().eval(), weights="int8", example=X)
    wt.prune(qat, "2:4").finish()
    qat.eval()
    graph = wt.export(qat, X)
    before = {n.inputs[1]: np.asarray(graph[n.inputs[1]].data) for n in weighted(graph)}
    again = prune(graph, "2:4")
    for node, own in zip(weighted(again), weighted(graph), strict=True):
        np.testing.assert_array_equal(again[node.inputs[1]].data, before[own.inputs[1]])
    program = weft.compile(graph, "lab", batch=1, sparsity="2:4")
    engines = {layer.name: layer.engine for layer in program.layers if layer.macs}
    assert list(engines.values()).count("nm") == 2
    with weft.open(program, "csim") as session, weft.open(program, "golden") as golden:
        x = X[:1].numpy()
        np.testing.assert_array_equal(session.run(x), golden.run(x))
        np.testing.assert_allclose(golden.run(x), qat(X[:1]).detach().numpy(), atol=0.05)


def test_an_example_tells_the_channels_of_a_map() -> None:
    """Where a map comes from no convolution; inputs of the network and sequences are no maps."""
    shaped = nn.Sequential(nn.Unflatten(1, (8, 4)), nn.Flatten(), nn.Linear(32, 8))
    with pytest.raises(UsageError, match="example="):
        wt.prune(shaped, "2:4")
    assert channels(shaped, torch.zeros(2, 32)) == {"2": 8}
    wt.prune(shaped, "2:4", example=torch.zeros(2, 32)).finish()
    assert masks.follows(by_channels(shaped[2].weight, 8), parse("2:4"))
    assert channels(net(), X) == channels(net()) == {"7": 16}
    assert channels(wt.prepare(net(), example=X)) == {"7": 16}
    assert channels(nn.Sequential(nn.Flatten(), nn.Linear(64, 8))) == {}
    pooled = nn.Sequential(nn.Conv2d(1, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert channels(nn.Sequential(pooled, nn.Linear(8, 8))) == {}
    patches = nn.Sequential(nn.Conv2d(1, 8, 2, 2), nn.Flatten(2), nn.Linear(16, 8))
    assert channels(patches) == channels(patches, X) == {}


def test_what_can_not_be_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="no layer 'fc'"):
        wt.prune(net(), "2:4", {"fc": "1:4"})
    with pytest.raises(UsageError, match="every 0"):
        wt.prune(net(), "2:4", every=0)
    with pytest.raises(UsageError, match="no 0"):
        wt.prune(wt.prepare(net(), weights="binary", example=X), "2:4")


def test_centroids_get_the_summed_gradient_and_zeros_stay() -> None:
    module = nn.Sequential(net()[7])
    wt.prune(module, "csc:0.5").finish()
    pruned = module[0].weight == 0
    (centroids,) = wt.share(module, 3)
    assert centroids.shape == (7,)
    x = torch.randn(5, 256, generator=torch.Generator().manual_seed(2))
    module(x).square().sum().backward()
    held = module[0].parametrizations.weight[0]
    gradient = 2 * (module(x).T @ x).detach().numpy()
    indices = held.indices.numpy()
    expected = [gradient[indices == k].sum() for k in range(1, 8)]
    np.testing.assert_allclose(centroids.grad.numpy(), expected, rtol=1e-4, atol=1e-3)
    torch.optim.SGD([centroids], 1e-3).step()
    values = module[0].weight.detach().clone()
    wt.unshare(module)
    assert isinstance(module[0].weight, nn.Parameter)
    assert torch.equal(module[0].weight, values)
    assert torch.equal(values == 0, pruned)
    assert len(values.unique()) <= 8
