"""Damaged and hostile TFLite files: typed errors that name the thing; no crash, no hang."""

from __future__ import annotations

import sys
import time
import tracemalloc
from pathlib import Path

import flatbuffers
import numpy as np
import pytest

pytest.importorskip("tflite")
pytest.importorskip("ai_edge_litert")

import weft
from tflite_models import Model
from weft.errors import (
    MissingDependency,
    ModelError,
    ShapeError,
    UnsupportedError,
    UsageError,
    WeftError,
)
from weft.frontend import tflite_read
from weft.frontend.tflite import load_tflite
from weft.passes.fuse import fuse

SECONDS = 3.0


def dense(**output: object) -> Model:
    """Int8 input [1, 60], one FULLY_CONNECTED; its output's facts can be changed."""
    m = Model()
    x = m.input((1, 60), "int8", scale=0.05, zero=-5, name="x")
    w = m.constant(np.ones((8, 60), np.int8), scale=0.0037, name="w")
    facts = {"dtype": "int8", "scale": 0.17, "zero": 3, "name": "y", **output}
    y = m.tensor((1, 8), **facts)  # type: ignore[arg-type]
    m.op("FULLY_CONNECTED", [x, w, -1], [y], "FullyConnectedOptions")
    return m


def real() -> Model:
    m = Model()
    x, w = m.input((1, 60), name="x"), m.constant(np.ones((8, 60), np.float32), name="w")
    m.op("FULLY_CONNECTED", [x, w, -1], [m.tensor((1, 8), name="y")], "FullyConnectedOptions")
    return m


def test_a_file_that_is_something_else(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(b"GIF89a, by no means a model")
    with pytest.raises(
        ModelError, match=r"m\.tflite: not a TFLite model: bytes 4 to 7 are b'9a, '"
    ):
        weft.load_model(path)
    with pytest.raises(ModelError, match=r"none\.tflite: No such file"):
        weft.load_model(tmp_path / "none.tflite")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    tflite_read.import_tflite.cache_clear()
    monkeypatch.setitem(sys.modules, "tflite", None)
    with pytest.raises(MissingDependency, match=r"tflite package: pip install 'weft\[compile\]'"):
        load_tflite(real().bytes(2))
    tflite_read.import_tflite.cache_clear()


def test_the_content_counts_more_than_the_suffix(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(real().bytes(2))
    assert weft.load_model(path).inputs == ("x",)


@pytest.mark.parametrize("keep", [0, 7, 8, 20, 200, 0.5, 0.9])
def test_truncated_files(keep: float, tmp_path: Path) -> None:
    whole = dense().bytes(2)
    path = tmp_path / "m.tflite"
    path.write_bytes(whole[: int(keep if keep > 1 else keep * len(whole))])
    with pytest.raises(ModelError, match=r"m\.tflite"):
        weft.load_model(path)


def test_custom_operators_are_named_with_their_number() -> None:
    m = Model()
    x, y, z = m.input((1, 4)), m.tensor((1, 4)), m.tensor((1, 4))
    m.op("CUSTOM", [x], [y], custom="TFLite_Detection_PostProcess")
    m.op("RFFT2D", [y], [z])
    with pytest.raises(
        UnsupportedError,
        match=r"RFFT2D \(1×\), custom operator 'TFLite_Detection_PostProcess' \(1×\); convert",
    ):
        load_tflite(m.bytes(z))


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ({"scale": None}, r"tensor 2 'y' is int8 and has no scale: convert the model again"),
        ({"scale": [0.1, 0.2]}, r"'y' is int8 and has 2 scales"),
        ({"scale": 0.0}, r"'y' has a scale of 0.0; it must be a positive number"),
        ({"scale": float("nan")}, r"'y' has a scale of nan"),
        ({"zero": 300}, r"'y' has zero point 300, outside int8"),
        ({"dtype": "float32", "scale": None}, r"FULLY_CONNECTED mixes .*'x'.*'y'.*QUANTIZE"),
        ({"dtype": "int16"}, r"'y' is quantized to int16; weft runs int8"),
    ],
)
def test_quantization_that_is_missing_or_mixed(output: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_tflite(dense(**output).bytes(2))


def test_weights_without_a_scale() -> None:
    m = Model()
    x = m.input((1, 60), "int8", scale=0.05)
    w, y = m.constant(np.ones((8, 60), np.int8), name="w"), m.tensor((1, 8), "int8", scale=0.1)
    m.op("FULLY_CONNECTED", [x, w, -1], [y], "FullyConnectedOptions")
    with pytest.raises(ModelError, match=r"'w' holds int8 without a scale where the operator's"):
        load_tflite(m.bytes(y))


def test_cycles_and_double_writers() -> None:
    m = Model()
    x, y, z = m.input((1, 4)), m.tensor((1, 4), name="y"), m.tensor((1, 4), name="z")
    m.op("ADD", [x, z], [y], "AddOptions")
    m.op("RELU", [y], [z])
    with pytest.raises(ModelError, match=r"operator 0 ADD: tensor 2 'z' is read before any"):
        load_tflite(m.bytes(z))
    m = Model()
    x, y = m.input((1, 4)), m.tensor((1, 4), name="y")
    m.op("RELU", [x], [y])
    m.op("TANH", [x], [y])
    with pytest.raises(ModelError, match=r"operator 1 TANH: tensor 1 'y' is written a second time"):
        load_tflite(m.bytes(y))


def test_dynamic_shapes_need_sizes(tmp_path: Path) -> None:
    m = Model()
    x = m.input((1, 1, 1, 3), name="image", signature=[-1, -1, -1, 3])
    y = m.tensor((1, 1, 1, 3), signature=[-1, -1, -1, 3])
    sizes = {"filterHeight": 2, "filterWidth": 2, "strideW": 2, "strideH": 2}
    m.op("MAX_POOL_2D", [x], [y], "Pool2DOptions", padding=0, **sizes)
    path = tmp_path / "m.tflite"
    path.write_bytes(m.bytes(y))
    message = r"m\.tflite: input tensor 0 'image': dimension 1 is dynamic: pass shapes={'image'"
    with pytest.raises(ModelError, match=message):
        weft.load_model(path)
    graph = weft.load_model(path, {"image": (5, 8, 6, 3)})
    assert graph[graph.outputs[0]].shape == (1, 4, 3, 3)
    with pytest.raises(UsageError, match="has 3 dimensions, the input 4"):
        weft.load_model(path, {"image": (1, 8, 6)})
    with pytest.raises(UsageError, match=r"no input 'picture'.*Known: image"):
        weft.load_model(path, {"picture": (1, 8, 6, 3)})


def test_a_fixed_batch_is_refused() -> None:
    m = Model()
    x, y = m.input((8, 4), name="x"), m.tensor((8, 4))
    m.op("RELU", [x], [y])
    with pytest.raises(UnsupportedError, match="'x' has a batch of 8 fixed: convert"):
        load_tflite(m.bytes(y))


def test_shapes_that_the_file_contradicts() -> None:
    m = Model()
    x, y = m.input((1, 4)), m.tensor((1, 5), name="y")
    m.op("RELU", [x], [y])
    with pytest.raises(ShapeError, match=r"'y' comes out as \(1, 4\), the file says \(1, 5\)"):
        load_tflite(m.bytes(y))


def test_constants_of_the_wrong_size() -> None:
    m = real()
    m.buffers[1].data = m.buffers[1].data[:-4]
    with pytest.raises(ModelError, match=r"tensor 1 'w' of shape \(8, 60\), float32, needs 1920"):
        load_tflite(m.bytes(2))


def test_weights_that_are_no_numbers() -> None:
    m = real()
    m.buffers[1].data = np.full(480, np.nan, np.float32).view(np.uint8)
    with pytest.raises(ModelError, match="has 480 values of 480 that are NaN or infinite"):
        load_tflite(m.bytes(2))


def test_absurd_counts_are_refused_at_once() -> None:
    whole = bytearray(real().bytes(2))
    root = tflite_read.import_tflite().Model.GetRootAs(bytes(whole), 0)
    field = flatbuffers.number_types.UOffsetTFlags.py_type(root._tab.Offset(8))
    at = root._tab.Vector(field) - 4  # how many subgraphs there are
    whole[at : at + 4] = (1 << 30).to_bytes(4, "little")
    start = time.perf_counter()
    with pytest.raises(ModelError, match="claims"):
        load_tflite(bytes(whole))
    assert time.perf_counter() - start < 1


def mutated(whole: bytes, rng: np.random.Generator) -> bytes:
    """The file with a few bytes, words or stretches changed, or its end cut off."""
    data = np.frombuffer(whole, np.uint8).copy()
    for _ in range(rng.integers(1, 6)):
        at, kind = int(rng.integers(0, len(data) - 4)), rng.integers(0, 4)
        if kind == 0:
            data[at] = rng.integers(0, 256)
        elif kind == 1:  # offsets, counts and sizes are words
            at -= at % 4
            word = rng.choice([0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, len(data), at])
            data[at : at + 4] = np.frombuffer(np.uint32(word).tobytes(), np.uint8)
        elif kind == 2:
            source = int(rng.integers(0, len(data) - 4))
            data[at : at + 4] = data[source : source + 4]
        else:
            data = data[: max(16, len(data) - int(rng.integers(0, 64)))]
    return data.tobytes()


def seeds() -> list[bytes]:
    """Small models of every kind; structure is most of their bytes."""
    import test_tflite_float as floats
    import test_tflite_int8 as codes

    made = [dense().bytes(2), real().bytes(2)]
    for build in (floats.residual_block, floats.lstm, floats.strided, floats.shapes_computed):
        m = Model()
        made.append(m.bytes(build(m)))
    for case in (codes.joined, codes.pool("AVERAGE_POOL_2D", (2, 2), 1)):
        m = Model()
        made.append(m.bytes(case(m, np.random.default_rng(0))))
    return made


def fuzz(count: int, seed: int, folder: Path) -> None:
    rng, files = np.random.default_rng(seed), seeds()
    path, refused, unnamed = folder / "m.tflite", 0, 0
    for number in range(count):
        path.write_bytes(mutated(files[number % len(files)], rng))
        start = time.perf_counter()
        try:
            weft.load_model(path)
        except WeftError as error:
            refused += 1
            unnamed += not str(error).startswith(str(path))
        assert time.perf_counter() - start < SECONDS, number
    assert refused > count // 4
    assert not unnamed, "every error names the file"


def test_mutated_files_are_read_or_refused(tmp_path: Path) -> None:
    fuzz(60, 0, tmp_path)


@pytest.mark.slow
def test_2000_mutated_files_are_read_or_refused(tmp_path: Path) -> None:
    fuzz(2000, 1, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["int8", "float32"])
def test_a_model_of_20_megabytes_takes_3_seconds_and_3_times_its_size(
    kind: str, tmp_path: Path
) -> None:
    m, rng = Model(), np.random.default_rng(0)
    width = 1024 if kind == "int8" else 512
    facts = {"scale": 0.05} if kind == "int8" else {}
    x = m.input((1, width), kind, **facts)
    for _ in range(20):
        data = rng.integers(-127, 128, (width, width)).astype(kind)
        w = m.constant(data, **({"scale": 0.01} if kind == "int8" else {}))
        y = m.tensor((1, width), kind, **facts)
        m.op("FULLY_CONNECTED", [x, w, -1], [y], "FullyConnectedOptions")
        x = y
    path = tmp_path / "m.tflite"
    path.write_bytes(m.bytes(x))
    fuse(load_tflite(dense().bytes(2)))  # imports what it needs
    start = time.perf_counter()
    weft.load_model(path)
    assert time.perf_counter() - start < 3
    tracemalloc.start()
    weft.load_model(path)
    assert tracemalloc.get_traced_memory()[1] < 3 * path.stat().st_size
    tracemalloc.stop()
