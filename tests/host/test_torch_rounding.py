"""weft.torch's roundings: numpy's values exactly, and the gradients of the papers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'weft[torch]'")

import weft.torch as wt  # noqa: E402
from weft import activation, formats  # noqa: E402
from weft.errors import UsageError  # noqa: E402
from weft.graph import Quant  # noqa: E402
from weft.lowbit import binary, ternary, vision  # noqa: E402
from weft.lower.activations import intermediate  # noqa: E402
from weft.torch.gradients import learned_step, lsq_gain, lsq_start  # noqa: E402

torch.set_num_threads(1)
KINDS = [*formats.FORMATS, "int4:g32", "uint4:g64", "flint4:g32"]
KINDS = [k for k in KINDS if ":" not in k or formats.parse(k.split(":")[0]).record == "multiplier"]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).normal(size=shape), dtype=torch.float32)


def canonical(weight: torch.Tensor) -> np.ndarray:
    return weight.detach().numpy().reshape(*weight.shape[:2], -1).transpose(0, 2, 1)


@pytest.mark.parametrize("shape", [(6, 37), (4, 5, 3, 3), (3, 6, 5)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_numpys_exactly(kind: str, shape: tuple[int, ...]) -> None:
    weight, fmt = normal(*shape), formats.parse(kind)
    quant = wt.WeightQuant(weight, kind)
    with torch.no_grad():
        quant.factor.mul_(torch.linspace(0.8, 1.3, shape[0]))
    x = np.ascontiguousarray(canonical(weight))
    if quant.method == "lsq":
        start = fmt.fit(x, 0, method="mse")
        scale = np.float32(start.scale) * quant.factor.detach().numpy()
        own = replace(start, scale=scale)
    else:
        own = fmt.fit(x, 0, method="max")
    operands = fmt.quantize(x, own)
    found = quant.quantized(weight)
    np.testing.assert_array_equal(found.operands, operands)
    np.testing.assert_array_equal(found.quant.scale, own.scale)
    values = replace(own, axis=0).dequantize(operands)
    np.testing.assert_array_equal(canonical(quant(weight)), values)
    encoded = fmt.encode(found.operands, found.quant)
    np.testing.assert_array_equal(fmt.decode(encoded, found.quant), operands)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_and_scales_get_gradients(kind: str) -> None:
    weight = normal(4, 20).requires_grad_()
    quant = wt.WeightQuant(weight, kind)
    quant(weight).square().sum().backward()
    assert weight.grad is not None
    assert weight.grad.abs().sum() > 0
    if quant.method == "lsq":
        assert quant.factor.grad.abs().sum() > 0  # type: ignore[union-attr]
    else:
        assert not quant.factor.requires_grad


def test_step_gradient_is_lsqs() -> None:
    x, n, p = normal(3, 50).double() * 3, 8, 7
    scale = torch.tensor([0.2, 0.5, 1.0], dtype=torch.float64, requires_grad=True)
    upstream = normal(3, 50, seed=1).double()
    v = torch.clamp(torch.round(x / scale.detach()[:, None]), -n, p)
    leaf = x.clone().requires_grad_()
    low, high = torch.tensor(-float(n)), torch.tensor(float(p))
    y = learned_step(leaf, scale, v, low, high)
    values = v * scale.detach()[:, None].float()
    torch.testing.assert_close(y, values, rtol=1e-6, atol=0, check_dtype=False)
    (y * upstream).sum().backward()
    ratio = x / scale.detach()[:, None].float()
    slope = torch.where(ratio < -n, -float(n), torch.where(ratio > p, float(p), v - ratio))
    expected = (slope * upstream).sum(1) / np.sqrt(50 * p)
    torch.testing.assert_close(scale.grad, expected, rtol=1e-6, atol=1e-9)
    inside = (ratio >= -n) & (ratio <= p)
    torch.testing.assert_close(leaf.grad, upstream * inside)


def test_step_gradient_equals_autograd_of_the_formula() -> None:
    x = normal(40).double() * 2
    for wide in (0.1, 0.7):
        scale = torch.tensor(wide, dtype=torch.float32).double().requires_grad_()
        ratio = x / scale
        clipped = torch.clamp(ratio, -8, 7)
        formula = (clipped + (torch.round(clipped) - clipped).detach()) * scale
        (expected,) = torch.autograd.grad(formula.sum(), scale)
        v = torch.round(clipped).detach()
        y = learned_step(x, scale, v, torch.tensor(-8.0), torch.tensor(7.0), 1.0)
        (found,) = torch.autograd.grad(y.sum(), scale)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert lsq_gain(100, 7) == pytest.approx(1 / np.sqrt(700))
    torch.testing.assert_close(lsq_start(x, 7), 2 * x.abs().mean() / np.sqrt(7))


def test_rules_of_ternary_and_binary_weights() -> None:
    weight = normal(5, 4, 3, 3)
    x = canonical(weight)
    for method, kind, (operands, scale) in (
        ("twn", "ternary", ternary.twn(x, True)),
        ("lat", "ternary2", ternary.lat(x, per_channel=True)),
        ("bitnet", "ternary", ternary.bitnet(x, True)),
        ("mean", "binary", binary.binarize(x, True)),
        ("bit", "binary", binary.binarize(x, True, centred=True)),
    ):
        quant = wt.WeightQuant(weight, kind, method)
        values = operands * scale.reshape(-1, 1, 1)
        np.testing.assert_array_equal(canonical(quant(weight)), values.astype(np.float32))
    with pytest.raises(UsageError, match="for ternary or ternary2, not for 'int4'"):
        wt.WeightQuant(weight, "int4", "twn")
    with pytest.raises(UsageError, match="Did you mean 'lsq'"):
        wt.WeightQuant(weight, "int4", "lsqq")
    with pytest.raises(UsageError, match="number format"):
        wt.WeightQuant(weight, "int44")


@pytest.mark.parametrize("kind", activation.INTEGERS + activation.GRIDS)
def test_activations_are_numpys_exactly(kind: str) -> None:
    x = normal(8, 5, 6) * 2 + 0.7
    quant = wt.ActivationQuant(kind).train()
    quant(x)
    with torch.no_grad():
        quant.factor.fill_(0.9)
    leaf = x.clone().requires_grad_()
    y = quant(leaf)
    own = quant.quant()
    assert own.format == kind
    fine, table = intermediate(own)
    found = fine.quantize(x.numpy())
    if table is not None:  # as on the accelerator: finer codes first
        found = table[found.astype(int) + 128]
        assert np.mean(found != own.quantize(x.numpy())) < 0.1
    np.testing.assert_array_equal(y.detach().numpy(), own.dequantize(found))
    y.square().sum().backward()
    assert leaf.grad.abs().sum() > 0  # type: ignore[union-attr]
    assert quant.factor.grad.abs() > 0  # type: ignore[union-attr]


def test_ranges_are_moving_averages() -> None:
    quant = wt.ActivationQuant("int8")
    for low, high in ((-1.0, 3.0), (-3.0, 1.0)):
        quant.observe(torch.tensor([low, high]))
    np.testing.assert_allclose(quant.span, [-1.2, 2.8], rtol=1e-6)
    np.testing.assert_allclose(quant.scale().item(), 4 / 255, rtol=1e-6)
    with pytest.raises(UsageError, match="calibrate"):
        wt.ActivationQuant("int8").eval()(torch.ones(3))
    with pytest.raises(UsageError, match="calibrate"):
        wt.ActivationQuant("int8").quant()
    with pytest.raises(UsageError, match="Did you mean"):
        wt.ActivationQuant("int9")


def test_few_codes_shrink_the_range() -> None:
    x = torch.cat([normal(4000), torch.tensor([40.0])])
    quant = wt.ActivationQuant("int4").train()
    error = float((quant(x[None]).detach()[0] - x).square().mean())
    whole = Quant(np.float32((40 - float(x.min())) / 15), 0, format="int4")
    plain = whole.dequantize(whole.quantize(x.numpy()))
    assert error < float(np.square(plain - x.numpy()).mean())


def test_elastic_binarization_and_its_gradients() -> None:
    x = torch.tensor([[-3.0, -0.2, 0.25, 0.3, 0.9, 5.0]], requires_grad=True)
    for unit in (False, True):
        module = wt.ElasticBinary(unit, alpha=0.5, beta=0.25)
        y = module(x)
        expected = binary.elastic(x.detach().numpy(), 0.5, 0.25, unit)
        np.testing.assert_allclose(y.detach().numpy(), expected)
        y.sum().backward()
        assert module.alpha.grad is not None
        assert module.beta.grad is not None
        assert module.beta.grad < 0
    assert float(wt.ElasticBinary()(torch.zeros(1, 1)).detach()) == 1


def test_split_layers_are_the_ternary_layer() -> None:
    for layer, x in (
        (torch.nn.Linear(12, 7), normal(4, 12)),
        (torch.nn.Conv2d(3, 5, 3), normal(2, 3, 6, 6)),
    ):
        halves = wt.split_layer(layer)
        torch.testing.assert_close(halves(x), layer(x))
        w = layer.weight.detach().numpy()
        operands, alpha = ternary.twn(w)
        parts = [binary.binarize(h.weight.detach().numpy()) for h in (halves.first, halves.second)]
        total = sum(b * np.float64(s) for b, s in parts)
        np.testing.assert_allclose(total, operands * alpha, atol=1e-6)


def test_vision_modules_have_numpys_values() -> None:
    scores = normal(4, 9).requires_grad_()
    p = torch.softmax(scores, -1)
    twin = vision.TwinSoftmax(6, 3)
    np.testing.assert_allclose(
        wt.TwinSoftmax(6, 3)(p).detach().numpy(),
        twin.dequantize(*twin.quantize(p.detach().numpy())), rtol=1e-6,
    )  # fmt: skip
    y = wt.LogSoftmax()(scores)
    np.testing.assert_array_equal(
        y.detach().numpy(), vision.log_softmax_values(scores.detach().numpy())
    )
    (grad,) = torch.autograd.grad((y * y.detach()).sum(), scores, retain_graph=True)
    (expected,) = torch.autograd.grad((p * y.detach()).sum(), scores)
    torch.testing.assert_close(grad, expected)
    x = torch.nn.functional.gelu(normal(300))
    gelu = wt.TwinGelu()
    found = vision.twin_gelu(x.numpy())
    np.testing.assert_allclose(gelu(x), found.dequantize(found.quantize(x.numpy())), rtol=1e-6)
    assert float(gelu.step) == found.positive
    factors = wt.PowerOfTwoFactors()
    with pytest.raises(UsageError, match="fit"):
        factors(x)
    rows = x.reshape(75, 4) * torch.tensor([0.1, 1, 0.4, 2])
    factors.fit(rows)
    own = vision.power_of_two_factors(rows.numpy())
    np.testing.assert_allclose(factors(rows), own.dequantize(own.quantize(rows.numpy())), rtol=1e-6)
