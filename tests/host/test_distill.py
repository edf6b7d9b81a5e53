"""Modules made from graphs, and training by distillation, on the digits that come with weft."""

from __future__ import annotations

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'weft[torch]'")

from onnx import TensorProto, helper  # noqa: E402
from torch import nn  # noqa: E402

import models  # noqa: E402
import weft  # noqa: E402
import weft.torch as wt  # noqa: E402
from weft.demo import MODELS, load_data  # noqa: E402
from weft.errors import InputError, UnsupportedError, UsageError  # noqa: E402
from weft.passes.prune import prune, weighted  # noqa: E402
from weft.pruning import masks  # noqa: E402
from weft.pruning.pixels import grouped  # noqa: E402
from weft.pruning.spec import parse  # noqa: E402
from weft.torch.distill import divergence  # noqa: E402

torch.set_num_threads(1)
DATA = load_data()
IMAGES, HELD = torch.from_numpy(DATA.calibration), torch.from_numpy(DATA.images)
LABELS = torch.from_numpy(DATA.labels.astype(np.int64))


def teacher() -> nn.Module:
    return wt.from_graph(weft.load_model(MODELS / "digits.onnx"), logits=True)


def top1(module: nn.Module) -> float:
    with torch.no_grad():
        return 100 * float((module(HELD).argmax(1) == LABELS).float().mean())


def test_a_module_computes_what_the_onnx_file_does() -> None:
    import onnx

    (expected,) = models.run_ort(onnx.load(MODELS / "digits.onnx"), DATA.images)
    module = wt.from_graph(weft.load_model(MODELS / "digits.onnx"))
    with torch.no_grad():
        np.testing.assert_allclose(module(HELD).numpy(), expected, rtol=1e-4, atol=1e-4)


def test_training_a_module_leaves_the_graph_as_it_is() -> None:
    graph = weft.load_model(MODELS / "digits.onnx")
    before = {name: t.data.copy() for name, t in graph.tensors.items() if t.data is not None}
    wt.distill(wt.from_graph(graph, logits=True), teacher(), IMAGES, wt.Schedule(2, 8))
    assert before
    for name, data in before.items():
        np.testing.assert_array_equal(graph[name].data, data)


@pytest.mark.parametrize("name", ["resnet8", "mnist", "har"])
def test_real_networks_as_modules(name: str, network) -> None:
    """Sums of branches, padding on one side, pooling, one axis and two."""
    net = network(name)
    x = net.x[:64]
    (expected,) = models.run_ort(net.model, x)
    with torch.no_grad():
        found = wt.from_graph(weft.load_model(net.path))(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def odd() -> object:
    """A graph with every other operator that `from_graph` knows, x [1, 4, 6, 6]."""
    rng = np.random.default_rng(5)
    net = models.Layers((4, 6, 6))

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(0, 0.3, shape).astype(np.float32)

    net.add("Conv", normal(4, 1, 3, 3), normal(4), group=4, pads=[1, 1, 1, 1])
    net.add("LeakyRelu", alpha=0.2)
    net.add("Conv", normal(8, 4, 3, 3), normal(8), pads=[0, 1, 2, 1], dilations=[1, 1])
    net.add("PRelu", normal(8, 1, 1))
    first = net.add("Conv", normal(8, 8, 1, 1))
    net.add("Clip", np.float32(0), np.float32(6))
    net.add("Mul", also=first)
    second = net.add("AveragePool", kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1])
    net.add("Relu")
    net.add("Concat", also=second, axis=1)
    net.add("Transpose", perm=[0, 1, 3, 2])
    net.add("Sub", normal(16, 1, 1))
    net.add("Sigmoid")
    net.add("GlobalMaxPool")
    net.add("Flatten")
    net.add("Gemm", normal(16, 5), normal(5))
    net.add("Tanh")
    net.add("Softmax", axis=1)
    return net.model("odd", 5)


def test_every_operator(tmp_path) -> None:
    import onnx

    model, x = odd(), np.random.default_rng(6).normal(size=(7, 4, 6, 6)).astype(np.float32)
    onnx.save(model, str(tmp_path / "odd.onnx"))
    module = wt.from_graph(weft.load_model(tmp_path / "odd.onnx"))
    (expected,) = models.run_ort(model, x)
    with torch.no_grad():
        np.testing.assert_allclose(module(torch.from_numpy(x)).numpy(), expected, atol=1e-5)


def test_what_has_no_module_is_said(tmp_path) -> None:
    import onnx

    graph = helper.make_graph(
        [helper.make_node("Softplus", ["x"], ["y"], name="soft")],
        "soft",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(tmp_path / "soft.onnx"))
    with pytest.raises(UnsupportedError, match="Softplus 'soft'"):
        wt.from_graph(weft.load_model(tmp_path / "soft.onnx"))
    from weft.passes.quantize import quantize

    float_graph = weft.load_model(MODELS / "digits.onnx")
    ranges = {float_graph.inputs[0]: DATA.calibration}
    with pytest.raises(UnsupportedError, match="is quantized"):
        wt.from_graph(quantize(float_graph, ranges))


def test_distillation_without_labels_wins_the_loss_of_pruning_back() -> None:
    """2:4 of the digits network: to within two points on images that training never saw."""
    told = teacher()
    before = copy.deepcopy(told.state_dict())
    student = copy.deepcopy(told)
    pruner = wt.prune(student, "2:4")
    pruned = top1(student)
    upright = wt.Augment(flip=False)
    losses = wt.distill(student, told, IMAGES, wt.Schedule(250, 32), augment=upright)
    pruner.finish()
    assert pruned < top1(told) - 20
    assert top1(student) >= top1(told) - 2
    assert np.mean(losses[-25:]) < 0.25 * np.mean(losses[:25])
    for name, value in told.state_dict().items():
        assert torch.equal(value, before[name])
    graph = prune(weft.load_model(student, example_inputs=HELD[:1]), "2:4")
    held = [n for n in weighted(graph) if n.attrs.get("sparsity") == "2:4"]
    assert len(held) >= 2
    assert all(masks.follows(grouped(graph, node), parse("2:4")) for node in held)
    program = weft.compile(
        student, example_inputs=(HELD[:1],), calibration=DATA.calibration, sparsity="2:4"
    )
    found = weft.evaluate(program, DATA.images, DATA.labels, device="golden")
    assert 100 * found.top1 >= top1(told) - 2


def test_a_rounded_network_learns_from_the_float_one() -> None:
    told = teacher()
    student = wt.prepare(told, weights="ternary", example=IMAGES[:128])
    rounded = top1(student.eval())
    wt.distill(student, told, IMAGES, wt.Schedule(steps=120, batch=32))
    assert top1(student) > rounded


def test_zeros_grow_while_it_learns_and_a_seed_fixes_all() -> None:
    def trained(seed: int) -> tuple[list[float], torch.Tensor]:
        student = teacher()
        pruner = wt.prune(student, "2:4", steps=8, every=2)
        shares: list[float] = []

        def watch(done: int, total: int) -> None:
            assert total == 12
            shares.append(pruner.reached)

        losses = wt.distill(
            student, teacher(), IMAGES, wt.Schedule(12, 16), pruner=pruner, seed=seed,
            progress=watch,
        )  # fmt: skip
        assert shares == sorted(shares)
        assert shares[0] == 0
        assert shares[-1] == 1
        pruner.finish()
        return losses, torch.cat([p.detach().reshape(-1) for p in student.parameters()])

    first, again, other = trained(3), trained(3), trained(4)
    assert first[0] == again[0]
    assert torch.equal(first[1], again[1])
    assert first[0] != other[0]


def test_the_loss_is_the_divergence_of_softened_answers() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(size=(2, 5, 7))
    p, q = (np.exp(y / 3) / np.exp(y / 3).sum(1, keepdims=True) for y in (theirs, ours))
    expected = 9 * (p * np.log(p / q)).sum(1).mean()
    found = divergence(torch.from_numpy(ours), torch.from_numpy(theirs), 3.0)
    assert float(found) == pytest.approx(expected)


def test_variations_keep_what_they_must() -> None:
    x = torch.arange(4 * 3 * 8 * 8, dtype=torch.float32).reshape(4, 3, 8, 8)

    def varied(seed: int = 0, **options: float) -> torch.Tensor:
        own = {"shift": 0.0, "flip": False, "mix": 0.0, "cut": 0.0} | options
        return wt.Augment(**own)(x, torch.Generator().manual_seed(seed))

    assert torch.equal(varied(), x)
    flipped = varied(flip=True)
    ways = [
        torch.equal(a, b) + 2 * torch.equal(a, b.flip(2)) for a, b in zip(flipped, x, strict=True)
    ]
    assert set(ways) == {1, 2}
    moved = varied(shift=0.25)  # up to 2 of 8: the middle of each is the image, moved
    for image, source in zip(moved, x, strict=True):
        corners = [source[:, i : i + 4, j : j + 4] for i in range(5) for j in range(5)]
        assert any(torch.equal(image[:, 2:6, 2:6], c) for c in corners)
    mixed = varied(mix=1.0)
    assert float(mixed.min()) >= float(x.min())
    assert float(mixed.max()) <= float(x.max())
    assert not torch.equal(mixed, x)
    cut = varied(cut=1.0)
    assert 0 < float((cut != x).float().mean()) < 0.75**2 + 0.01
    assert set(cut.reshape(-1).tolist()) <= set(x.reshape(-1).tolist())
    vectors = torch.rand(6, 5)
    blended = wt.Augment(mix=1.0)(vectors, torch.Generator().manual_seed(1))
    assert blended.shape == vectors.shape


def test_mistakes_are_typed() -> None:
    with pytest.raises(InputError, match="no samples"):
        wt.distill(teacher(), teacher(), IMAGES[:0])
    with pytest.raises(UsageError, match="steps"):
        wt.Schedule(steps=0)
    with pytest.raises(UsageError, match="same logits"):
        wt.distill(nn.Sequential(teacher(), nn.Linear(10, 9)), teacher(), IMAGES, wt.Schedule(1, 4))
    with pytest.raises(UsageError, match="no parameters"):
        wt.distill(nn.Flatten(), teacher(), IMAGES, wt.Schedule(1, 4))
