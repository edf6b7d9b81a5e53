"""int8 GEMM on the simulated array, against onnxruntime's on the CPU; one thread each.

M = 512 rows, K = 384, N = 1,536, on a 32×32 array with the buffers of overlay edge. Ours is the
time inside the simulation for the accelerator's segment; the peer is one QLinearMatMul, which
requantizes, too.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

import weft

from .row import Row, at_most, interleaved

M, K, N = 512, 384, 1536


def float_model(k: int = K, n: int = N, rows: str = "N"):
    """x [rows, K] · W [K, N] as ONNX, with random weights."""
    from onnx import TensorProto, helper, numpy_helper

    w = np.random.default_rng(1).normal(0, 0.05, (k, n)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "matmul")],
        "gemm",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, k])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, n])],
        [numpy_helper.from_array(w, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    return model


def ort_session(x: np.ndarray):
    """onnxruntime's QLinearMatMul of the same size, uint8 · int8 → uint8, one thread."""
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(1)
    values = {
        "w": rng.integers(-127, 128, (K, N)).astype(np.int8),
        "xs": np.float32(0.02),
        "xz": np.uint8(128),
        "ws": np.float32(0.01),
        "wz": np.int8(0),
        "ys": np.float32(0.5),
        "yz": np.uint8(128),
    }
    graph = helper.make_graph(
        [helper.make_node("QLinearMatMul", ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz"], ["y"])],
        "gemm",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [M, K])],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, [M, N])],
        [numpy_helper.from_array(np.asarray(v), name) for name, v in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    codes = (x * 50 + 128).clip(0, 255).astype(np.uint8)
    return lambda: session.run(None, {"x": codes})


def gemm_row(program, peer, x: np.ndarray, form: str, limit: float) -> Row:
    """One form of the simulation, in ns per multiply-accumulate."""
    device: list[float] = []
    with weft.open(program, "csim", form=form) as session:
        _, theirs = interleaved(
            lambda: device.append(session.run(x, detail=True)[1].device_s), peer
        )
    scale, overlay = 1e9 / (M * K * N), program.overlay
    array = f"{overlay.rows}×{overlay.cols} {overlay.multiplier}"
    metric = f"int8 GEMM M={M} K={K} N={N}, {array}, csim {form}"
    return at_most(metric, min(device) * scale, limit, "ns/MAC", theirs * scale)


def rows(folder, data) -> list[Row]:
    """Clock by clock with one product per DSP and with two, and functional."""
    import onnx

    path = folder / "gemm.onnx"
    onnx.save(float_model(), str(path))
    x = np.random.default_rng(2).normal(size=(M, K)).astype(np.float32)
    peer, edge = ort_session(x), weft.load_overlay("edge")
    made = []
    for multiplier, form, limit in (
        ("single", "cycle", 0.3),
        ("packed", "cycle", 0.3),
        ("packed", "functional", 0.02),
    ):
        overlay = replace(edge, name=f"32x32_{multiplier}", multiplier=multiplier)
        program = weft.compile(path, overlay, calibration=x[:64], batch=M)
        made.append(gemm_row(program, peer, x, form, limit))
    return made
