"""Number formats: bytes of weights, clocks of low precision, and the speed of packing.

Bytes and clocks are those of programs on overlay lab; the peer of a rate is gguf's quantizer of as
many bits (llama.cpp's file format), in the same run.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

import weft
from weft import isa, tiles
from weft.config import Overlay, load_overlay
from weft.formats import parse
from weft.program import AcceleratorSegment, Program

from .row import Row, absent, at_least, at_most, interleaved

M, K, N = 512, 1024, 256  # a layer whose weights are resident: M outlasts the shift of a tile
BYTES = (
    "int8", "int6", "int4", "int4:g32", "int3", "int2", "flint4", "olive4", "ternary", "binary",
    "codebook16", "mxfp4", "mxint8", "nvfp4", "bf16",
)  # fmt: skip
SHARES = {  # (activations, weights) → products of a cell and clock (BitFusion, section III)
    ("int8", "int4"): 2,
    ("int4", "int4"): 4,
    ("int8", "int2"): 4,
    ("int4", "int2"): 8,
    ("int2", "int2"): 16,
}
SIMULATED = ("int4", "int4:g32", "flint4", "olive4", "codebook16")
LEAST_GB_PER_S = 0.2
SIZE, LANES = 2048, 32


def float_model():
    """x [512, 1024] through two products with random weights."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(1)
    w = [rng.normal(0, 0.05, shape).astype(np.float32) for shape in ((K, K), (K, N))]
    names = (("x", "w0", "h"), ("h", "w1", "y"))
    graph = helper.make_graph(
        [helper.make_node("MatMul", [a, b], [y], f"{b}-product") for a, b, y in names],
        "layers",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", K])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", N])],
        [numpy_helper.from_array(a, f"w{i}") for i, a in enumerate(w)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    return model


def compiled(
    path, x: np.ndarray, weights: str, activations: str = "int8", overlay: Overlay | str = "lab"
) -> Program:
    """The two layers, all samples in one run."""
    formats = {"weights": weights, "activations": activations}
    return weft.compile(path, overlay, calibration=x[:64], batch=M, **formats)


def weight_bytes(program: Program) -> int:
    """Bytes that ReadWeights takes from memory for tiles of weights."""
    rows = 0
    for segment in program.segments:
        for words in segment.words if isinstance(segment, AcceleratorSegment) else ():
            kind, f = isa.decode(words)
            if kind is isa.READ_WEIGHTS:
                rows += f["memory_rows"]
            elif kind is isa.SET_TABLE:
                rows -= f["count"] * (isa.PARAMETER_ROWS if f["target"] == 0 else 1)
    return rows * program.overlay.lanes


def byte_rows(path, x: np.ndarray) -> list[Row]:
    """Weight bytes of each format as a share of int8's.

    On the plain arrays: where there are BitFusion's cells, the compiler takes them to save clocks,
    and they read ternary weights as two bits each.
    """
    plain = replace(load_overlay("lab"), name="plain", engines=("systolic", "bf16"))
    whole = weight_bytes(compiled(path, x, "int8", overlay=plain))
    made = []
    for name in BYTES:
        share = weight_bytes(compiled(path, x, name, overlay=plain)) / whole
        wanted = parse(name).weight_bits / 8
        near = bool(abs(share / wanted - 1) <= 0.05)
        title = f"{name} weights, bytes moved of int8's (peer: bits of the format / 8)"
        made.append(Row(title, share, wanted, "", "within 5 %", near))
    return made


def clock_rows(path, x: np.ndarray) -> list[Row]:
    """Compute clocks of the second layer against 8 × 8 bits."""
    whole = matrix_clocks(compiled(path, x, "int8"))
    made = []
    for (activations, weights), share in SHARES.items():
        clocks = matrix_clocks(compiled(path, x, weights, activations))
        title = f"{activations} × {weights} on BitFusion cells, compute clocks of 8 × 8"
        made.append(at_most(title, clocks / whole, 1 / share, ""))
    return made


def matrix_clocks(program: Program) -> int:
    """Clocks in which the array computes, of the second layer."""
    return weft.estimate(program, batch=M).layers[1].counters["matrix"]


def simulation_rows(path, x: np.ndarray) -> list[Row]:
    """Time per multiply-accumulate of the functional simulation against int8's."""
    sessions = [weft.open(compiled(path, x, name), "csim") for name in ("int8", *SIMULATED)]
    times = interleaved(*(lambda s=s: s.run(x) for s in sessions))
    for session in sessions:
        session.close()
    title = "{} weights, simulation time of int8's"
    return [
        at_most(title.format(name), t / times[0], 2, "×")
        for name, t in zip(SIMULATED, times[1:], strict=True)
    ]


def packed(x: np.ndarray, name: str) -> np.ndarray:
    """Memory rows of real weights [N, K], scales and all."""
    return packed_with(x, name, parse(name).fit(x, 0))


def packed_with(x: np.ndarray, name: str, quant) -> np.ndarray:
    """Memory rows of real weights [N, K] whose scales are known."""
    fmt = parse(name)
    return tiles.pack(fmt.encode(fmt.quantize(x, quant), quant), quant, fmt, LANES)


def rate_rows() -> list[Row]:
    """GB/s of float32 weights to packed rows; the peer finds the scales besides.

    For OliVe and codebooks finding scales is a search, which takes most of the time.
    """
    x = np.random.default_rng(0).standard_normal((SIZE, 1, SIZE), np.float32)
    gigabytes = x.nbytes / 1e9
    made = []
    for name in ("int8", "int4", "int4:g32", "flint4", "e2m1", "apot4", "ternary", "binary",
                 "codebook16", "olive4", "mxfp4", "mxint8", "nvfp4", "e4m3", "bf16"):  # fmt: skip
        quant = parse(name).fit(x, 0)
        known, found = interleaved(
            lambda name=name, quant=quant: packed_with(x, name, quant),
            lambda name=name: packed(x, name),
            seconds=0.5,
            least=2,
        )
        title = f"{name}: quantize and pack {SIZE}×{SIZE} (peer: finding scales, too)"
        made.append(at_least(title, gigabytes / known, LEAST_GB_PER_S, "GB/s", gigabytes / found))
    return made + gguf_rows(x, gigabytes)


def gguf_rows(x: np.ndarray, gigabytes: float) -> list[Row]:
    """int8 and int4 in groups of 32 against gguf's Q8_0 and Q4_0."""
    try:
        from gguf import GGMLQuantizationType, quants
    except ImportError:
        return [absent("packing against gguf", "gguf is not installed", "×")]
    from weft.formats import int8

    flat = np.ascontiguousarray(x[:, 0])
    pairs = (
        ("int8 against Q8_0", lambda: int8.quantize_and_pack(flat, LANES), "Q8_0"),
        ("int4:g32 against Q4_0", lambda: packed(x, "int4:g32"), "Q4_0"),
    )
    made = []
    for title, ours, theirs in pairs:
        kind = GGMLQuantizationType[theirs]
        mine, peer = interleaved(ours, lambda kind=kind: quants.quantize(flat, kind), seconds=1)
        made.append(at_least(f"{title}, GB/s", gigabytes / mine, 3 * gigabytes / peer, "GB/s",
                             gigabytes / peer))  # fmt: skip
    return made


def rows(folder, data) -> list[Row]:
    """Bytes, clocks, simulation time, packing."""
    import onnx

    path = folder / "layers.onnx"
    onnx.save(float_model(), str(path))
    x = np.random.default_rng(2).normal(size=(M, K)).astype(np.float32)
    return [*byte_rows(path, x), *clock_rows(path, x), *simulation_rows(path, x), *rate_rows()]
