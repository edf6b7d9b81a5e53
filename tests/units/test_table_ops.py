"""Tables of the published W3A3 DeiT-tiny network reproduce its intermediate values.

Golden model and C++ against the outputs of every operation that the data set keeps.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nonlinear_hls as hls
from weft.units.softmax import MASKED
from weft.units.table_ops import TableNorm, TableSoftmax, residual, table

TOKENS, CHANNELS, HEADS = 196, 192, 3
LAYERS = (0, 5, 11)
NORMS = {  # layer norm → where its input is kept
    "attn_0_lnq": "attn_0_input",
    "attn_5_lnq": "mlp_4_output",
    "attn_11_lnq": "mlp_10_output",
    "mlp_0_lnq": "attn_0_output",
    "mlp_11_lnq": "attn_11_output",
    "head_lnq": "head_input",
}


@cache
def load(path: Path) -> dict[str, Any]:
    with np.load(path) as file:
        return {name: file[name].astype(np.int64) for name in file.files}


@pytest.fixture(scope="module")
def deit(shared_data):
    path = shared_data / "deit_tiny_w3a3" / "deit_tiny_w3a3.npz"
    if not path.is_file():
        pytest.skip(f"no {path.name} in the test data")
    return load(path)


def softmax_of(deit, layer: int) -> TableSoftmax:
    name = f"attn_{layer}_softmaxq"
    s = [int(v) for v in deit[f"{name}_scalars"]]
    b1, s1, bd1, b21, s21, bd21, b31, s31, b22, s22, bd22, b32, s32, bits = s
    return TableSoftmax(
        table(deit[f"{name}_exp_opp_table_m"], b1, s1, bd1),
        table(deit[f"{name}_recip_scaled_table_m_one"], b21, s21, bd21),
        table(deit[f"{name}_recip_scaled_table_m_two"], b22, s22, bd22),
        (b31, s31),
        (b32, s32),
        bits,
    )


def norm_of(deit, name: str) -> TableNorm:
    multiplier, mean_shift, b, s1, bound, s2, bits = (int(v) for v in deit[f"{name}_scalars"])
    rsqrt = table(deit[f"{name}_rsqrt_table_m"], b, s1, bound)
    return TableNorm(rsqrt, multiplier, mean_shift, s2, bits)


@pytest.mark.parametrize("layer", LAYERS)
def test_softmax(deit, layer):
    unit = softmax_of(deit, layer)
    x = deit[f"attn_{layer}_softmaxq_input"].reshape(HEADS * TOKENS, TOKENS)
    expected = deit[f"attn_{layer}_softmaxq_output"].reshape(x.shape)
    np.testing.assert_array_equal(unit(x), expected)
    for form in hls.FORMS:
        np.testing.assert_array_equal(hls.run(form, unit, x), expected)
    total = unit.exp(x.max(-1, keepdims=True) - x).sum(-1)
    small = unit.small.index
    above = ((total + small.bias) >> small.shift) > small.bound
    assert 0 < above.mean() < 1  # both tables of reciprocals are used


def test_softmax_of_masked_rows(deit):
    unit = softmax_of(deit, 0)
    x = deit["attn_0_softmaxq_input"].reshape(HEADS * TOKENS, TOKENS)[:4].copy()
    x[:2, 100:] = MASKED
    x[2] = MASKED
    y = unit(x)
    assert not y[:2, 100:].any()
    assert not y[2].any()
    for form in hls.FORMS:
        np.testing.assert_array_equal(hls.run(form, unit, x), y)


@pytest.mark.parametrize("name", NORMS)
def test_layer_norm(deit, name):
    unit = norm_of(deit, name)
    x = deit[NORMS[name]].reshape(TOKENS, CHANNELS)
    expected = deit[f"{name}_output"].reshape(-1, CHANNELS)
    x = x[: len(expected)]  # the head has the first token only
    weight, bias = deit[f"{name}_lnw_m"], deit[f"{name}_lnb_m"]
    np.testing.assert_array_equal(unit(x, weight, bias), expected)
    for form in hls.FORMS:
        got = hls.run(form, unit, x, weight=weight, bias=bias)
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("layer", [0, 11])
def test_gelu(deit, layer):
    name = f"mlp_{layer}_geluq"
    unit = table(deit[f"{name}_table_m"], *deit[f"{name}_scalars"])
    x, expected = deit[f"{name}_input"], deit[f"{name}_output"]
    np.testing.assert_array_equal(unit(x), expected)
    for form in hls.FORMS:
        np.testing.assert_array_equal(hls.run(form, unit, x), expected)
    if layer == 0:  # not monotone: what lies below the table is 1, then come zeros
        assert unit.value[0] == 1
        assert not unit.value[1:8].any()
        assert np.count_nonzero(x < -unit.index.bias) == 26_776


@pytest.mark.parametrize("layer", LAYERS)
def test_requantize(deit, layer):
    """From the kept norm and softmax outputs: q, k, v, then A·V to its table."""
    x = deit[f"attn_{layer}_lnq_output"].reshape(TOKENS, CHANNELS)

    def projected(which: str) -> Any:
        w = deit[f"attn_{layer}_gen_{which}_matmul_weight"].reshape(CHANNELS, CHANNELS)
        return x @ w.T + deit[f"attn_{layer}_gen_{which}_matmul_bias"]

    def requantized(which: str, raw: Any) -> Any:
        unit = table(
            deit[f"attn_{layer}_{which}_q_table_m"], *deit[f"attn_{layer}_{which}_q_scalars"]
        )
        got = unit(raw)
        np.testing.assert_array_equal(hls.run("cycle", unit, raw), got)
        return got

    def heads(y: Any) -> Any:
        return y.reshape(TOKENS, HEADS, -1).transpose(1, 0, 2)

    q, k, v = (heads(requantized(w, projected(w))) for w in "qkv")
    scores = q @ k.transpose(0, 2, 1)
    np.testing.assert_array_equal(scores.ravel(), deit[f"attn_{layer}_softmaxq_input"])
    shares = deit[f"attn_{layer}_softmaxq_output"].reshape(scores.shape)
    np.testing.assert_array_equal(
        requantized("a", shares @ v).ravel(), deit[f"attn_{layer}_aq_output"]
    )


def test_residual(deit):
    """Layer 0's attention output, whose product needs more than 32 bits."""
    a = deit["attn_0_aq_output"].reshape(HEADS, TOKENS, -1).transpose(1, 0, 2)
    w = deit["attn_0_gen_o_matmul_weight"].reshape(CHANNELS, CHANNELS)
    o = a.reshape(TOKENS, CHANNELS) @ w.T + deit["attn_0_gen_o_matmul_bias"]
    x = deit["attn_0_input"].reshape(TOKENS, CHANNELS)
    multiplier, shift = (int(v) for v in deit["attn_0_scalars"])
    y = residual(x, o, multiplier, shift)
    np.testing.assert_array_equal(y.ravel(), deit["attn_0_output"])
