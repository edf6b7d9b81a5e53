"""I-BERT's operations: math.isqrt, Hugging Face's quant_modules, published errors."""

from __future__ import annotations

import math

import numpy as np
import pytest

import nonlinear_hls as hls
from weft.errors import InputError
from weft.nonlinear.functions import gelu, softmax
from weft.units.ibert import EXP_A, IExp, IGelu, isqrt
from weft.units.norm import INorm
from weft.units.softmax import ByQuotient, Softmax

HIGH = 1 << 62
EDGES = sorted({0, 1, 2, 3, HIGH - 1} | {(1 << b) + d for b in range(2, 62) for d in (-1, 0, 1)})


def exact_roots(x: np.ndarray) -> list[int]:
    return [math.isqrt(int(v)) for v in x]


def test_isqrt_of_every_16_bit_number() -> None:
    x = np.arange(1 << 16)
    np.testing.assert_array_equal(isqrt(x), exact_roots(x))


def test_isqrt_of_many_32_bit_and_wider_numbers() -> None:
    rng = np.random.default_rng(0)
    squares = rng.integers(1, 1 << 31, 2000) ** 2
    wide = rng.integers(0, HIGH, 10_000) >> rng.integers(0, 60, 10_000)
    x = np.concatenate([rng.integers(0, 1 << 32, 200_000), EDGES, wide, squares - 1, squares])
    np.testing.assert_array_equal(isqrt(x), exact_roots(x))


@pytest.mark.parametrize("form", hls.FORMS)
def test_isqrt_in_hardware(form: str) -> None:
    rng = np.random.default_rng(1)
    count = 200_000 if form == "cycle" else 2_000
    x = np.concatenate([np.array(EDGES), np.arange(1 << 16), rng.integers(0, 1 << 32, count)])
    x = np.ascontiguousarray(x[:: 1 if form == "cycle" else 40])
    y = np.zeros(len(x), np.int32)
    hls.library(form).roots(len(x), hls.pointer(x), hls.pointer(y))
    np.testing.assert_array_equal(y.view(np.uint32), isqrt(x))


@pytest.mark.parametrize(
    ("steps", "published"), [(16, 0.0271), (32, 0.0128), (64, 0.0054), (128, 0.0021), (256, 0.0019)]
)
def test_exp_has_its_published_error(steps: int, published: float) -> None:
    unit, x = IExp.of(1 / steps), np.arange(-16 * steps, 1)
    error = np.abs(unit(x) / 32768 - np.exp(x / steps)).max()
    assert error == pytest.approx(published, abs=8e-5)
    assert error <= 0.00192 + 0.75 / steps + 0.36 / steps**2 + 2**-15


GELU_ERRORS = {  # (steps, the paper's shift): largest error on [-8, 8)
    (16, 0): 0.0238,
    (32, 0): 0.0169,
    (64, 0): 0.0175,
    (256, 0): 0.0181,
    (16, 14): 65.4,
    (1024, 14): 0.0229,
    (4096, 14): 0.0184,
}


@pytest.mark.parametrize("case", GELU_ERRORS)
def test_gelu_has_its_published_error(case: tuple[int, int]) -> None:
    """The paper's shift by 14 needs 32-bit accumulators: with int8 it is off by 65."""
    steps, down = case
    unit, x = IGelu.of(1 / steps, down=down), np.arange(-8 * steps, 8 * steps)
    error = np.abs(unit.raw(x) * unit.scale - gelu(x / steps)).max()
    assert error == pytest.approx(GELU_ERRORS[case], rel=0.01)
    assert down or error <= 0.0186 + 0.2 / steps


@pytest.mark.parametrize(("steps", "bound"), [(16, 0.05), (32, 0.03), (64, 0.011), (256, 0.006)])
def test_softmax_of_8_bits_gains_with_finer_scores(steps: int, bound: float) -> None:
    """Scores of deviation 1. Cut shares lose a third of a long row, rounded ones do not."""
    for n, least in ((32, 0.9), (197, 0.5)):
        x = np.rint(np.random.default_rng(0).normal(0, 1, (200, n)) * steps).astype(np.int64)
        real = softmax(x / steps)
        cut, rounded = (
            Softmax(IExp.of(1 / steps), ByQuotient(rounds), out=8)(x) / 256
            for rounds in (False, True)
        )
        assert np.abs(cut - real).max() <= bound
        assert np.abs(rounded - real).max() <= bound
        assert least < cut.sum(-1).min() < 1 - n / 1024
        assert np.abs(rounded.sum(-1) - 1).max() < 0.08


def test_one_hot_rows_do_not_overflow_8_bits() -> None:
    for steps in (16, 64):
        unit = Softmax(IExp.of(1 / steps), ByQuotient(), out=8)
        assert unit(np.array([[0, -(1 << 14), -(1 << 14)]])).tolist() == [[255, 0, 0]]


def test_scales_that_the_hardware_does_not_take_are_named() -> None:
    with pytest.raises(InputError, match=r"scale 1 is not within 1/2048 and 1/4"):
        IExp.of(1.0)


def ours(name: str, x: np.ndarray) -> np.ndarray:
    """The integers that Hugging Face's modules give for x / STEPS[name], from the golden models."""
    scale = 1 / STEPS[name]
    if name == "softmax":
        # Its exponentials are requantized to 16 bits so that the largest, c, becomes 32767.
        c = IExp.of(scale).c
        unit = IExp.of(scale, EXP_A * scale**2 * c / 32767, 32767)
        return Softmax(unit, ByQuotient(), out=8)(x)
    return IGelu.of(scale).raw(x) if name == "gelu" else INorm().raw(x)


# Powers of two, so that x / scale is an integer there, too: it leaves that quotient unrounded.
STEPS = {"softmax": 64, "gelu": 2048, "norm": 128}
# What transformers 5.24.0 gave for inputs(name, 2, 12, 7), in float64.
VECTORS = {
    "softmax": [
        [68, 9, 13, 50, 7, 24, 34, 0, 0, 1, 1, 44],
        [90, 0, 6, 50, 0, 44, 0, 5, 49, 2, 2, 1],
    ],
    "gelu": [
        [-50480856, -13890410, -20896578, -45069660, -7835640, -31279266,
         -37857096, 8794, 14223, 6395, 6878, -42385338],
        [-46817838, 15832, 11193, -36449334, 11794, -33708276,
         12190, 1052675, -35906796, 6303, 5069, 7091],
    ],
    "norm": [
        [381178197, 38177472, 101408910, 329877219, -12526983, 199835205,
         261873597, -391319088, -573855126, -310788483, -326894604, 304823253],
        [469689874, -467967295, 43064475, 375522222, -337625484, 350257730,
         -350257730, 10335474, 370354485, -160199847, -120580530, -185464339],
    ],
}  # fmt: skip


def inputs(name: str, rows: int, n: int, seed: int) -> np.ndarray:
    """Integers of a usual size: softmax scores, GELU inputs, rows of a norm."""
    limit = {"softmax": 200, "gelu": 16000, "norm": 900}[name]
    return np.random.default_rng(seed).integers(-limit, limit, (rows, n))


def hugging_face(name: str, x: np.ndarray) -> np.ndarray:
    """The integer output of a quant_modules module, all of it in float64."""
    torch = pytest.importorskip("torch")
    modules = pytest.importorskip("transformers.models.ibert.quant_modules")
    scale = torch.tensor(1 / STEPS[name], dtype=torch.float64)
    real = torch.tensor(x[None].astype(np.float64)) * scale
    if name == "softmax":
        module = modules.IntSoftmax(8, quant_mode=True).double()
        module.train()(real, scale)  # its 16-bit step has no range before
        module.act.eval()
    elif name == "gelu":
        module = modules.IntGELU(quant_mode=True)
    else:
        module = modules.IntLayerNorm(x.shape[-1], 0, output_bit=32, quant_mode=True).double()
        module.weight.data[:] = 1.0
        module.bias.data[:] = 0.0
        module.eval()
    with torch.no_grad():
        y, out_scale = module(real, scale)
    return np.rint(np.asarray(y / out_scale, np.float64)[0]).astype(np.int64)


@pytest.mark.parametrize("name", STEPS)
def test_vectors_of_hugging_face(name: str) -> None:
    np.testing.assert_array_equal(ours(name, inputs(name, 2, 12, 7)), VECTORS[name])


@pytest.mark.oracle
@pytest.mark.parametrize("name", STEPS)
def test_equal_to_hugging_face(name: str) -> None:
    for n in (2, 12, 197, 768):
        x = inputs(name, 20, n, n)
        np.testing.assert_array_equal(ours(name, x), hugging_face(name, x))
