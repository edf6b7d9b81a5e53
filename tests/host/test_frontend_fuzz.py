"""Damaged model files: bytes changed, cut off, inserted, removed. Each loads or is refused."""

from __future__ import annotations

import contextlib
import warnings

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx_models import Net, cnn

from weft.errors import WeftError
from weft.frontend.onnx import load_onnx


def plain_model() -> onnx.ModelProto:
    net = Net("n", 3, 4, 4)
    return net.model(net.op("Conv", "x", net.weights(2, 3, 3, 3)))


def loads_or_refuses(data: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # damaged floats overflow
        with contextlib.suppress(WeftError):
            load_onnx(data)


def quantized_model() -> onnx.ModelProto:
    net = Net("n", 3, 4, 4)
    s, z = net.const(0.05), net.const(3, np.int8)
    w, ws, wz = net.const(np.ones((2, 3, 3, 3)), np.int8), net.const(0.1), net.const(0, np.int8)
    q = net.op("QuantizeLinear", "x", s, z)
    y = net.op("QLinearConv", q, s, z, w, ws, wz, s, z)
    return net.model(net.op("DequantizeLinear", y, s, z))


def shape_model() -> onnx.ModelProto:
    net = Net("n", 3, 4)
    n = net.op("Slice", net.op("Shape", "x"), *[net.const([v], np.int64) for v in (0, 1)])
    shape = net.op("Concat", n, net.const([-1], np.int64), axis=0)
    y = net.op("Reshape", net.op("Clip", "x", net.const(0.0), net.const(6.0)), shape)
    y = net.op("Gemm", y, net.weights(12, 3), net.weights(3))
    a, b = net.op("Split", y, net.const([1, 2], np.int64), outputs=2, axis=1)
    return net.model(net.op("Softmax", net.op("Concat", b, a, axis=1)))


SEEDS = [m.SerializeToString() for m in (plain_model(), quantized_model(), shape_model(), cnn())]


@pytest.mark.parametrize("seed", range(len(SEEDS)))
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_a_damaged_file_loads_or_is_refused(seed: int, data: st.DataObject) -> None:
    _damage(SEEDS[seed], data)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(len(SEEDS)))
@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_many_damaged_files_load_or_are_refused(seed: int, data: st.DataObject) -> None:
    _damage(SEEDS[seed], data)


def _damage(source: bytes, data: st.DataObject) -> None:
    damaged = bytearray(source)
    kind = data.draw(st.sampled_from(["flip", "flip", "flip", "cut", "insert", "remove"]))
    if kind == "cut":
        damaged = damaged[: data.draw(st.integers(0, len(damaged) - 1))]
    for _ in range(data.draw(st.integers(1, 4)) if kind != "cut" else 0):
        at = data.draw(st.integers(0, len(damaged) - 1))
        if kind == "flip":
            damaged[at] = data.draw(st.integers(0, 255))
        elif kind == "insert":
            damaged[at:at] = data.draw(st.binary(min_size=1, max_size=4))
        else:
            del damaged[at]
    loads_or_refuses(bytes(damaged))
