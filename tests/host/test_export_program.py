"""`weft export`: the quantized graph that a program keeps, as ONNX; what is damaged is refused."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from programs import scaling
from test_program_file import same

import models
import weft
from weft import cli, demo, graph_file
from weft.errors import ProgramError, UnsupportedError, UsageError, WeftError
from weft.export_qdq import export_qdq, to_onnx
from weft.program import Program


@pytest.fixture(scope="module")
def digits() -> Program:
    data = demo.load_data()
    return weft.compile(demo.MODELS / "digits.onnx", "tiny", calibration=data.calibration)


def runs(program: Program, path: Path, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Outputs of the program and of onnxruntime."""
    ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    with weft.open(program) as session:
        ours = np.asarray(session.run(x))
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return ours, session.run(None, {program.inputs[0].name: x})[0]


def test_a_file_keeps_the_graph(digits, tmp_path):
    digits.save(tmp_path / "p.weft")
    again = Program.load(tmp_path / "p.weft")
    assert same(digits.graph(), again.graph())
    assert again.graph().is_quantized


@pytest.mark.oracle
def test_export_of_a_float_model(digits, tmp_path):
    data = demo.load_data()
    digits.save(tmp_path / "p.weft")
    assert cli.run(["export", str(tmp_path / "p.weft"), "-o", str(tmp_path / "q.onnx")]) == 0
    ours, theirs = runs(digits, tmp_path / "q.onnx", data.images.astype(np.float32))
    assert models.top1(ours, data.labels) == models.top1(theirs, data.labels)
    export_qdq(digits.graph(), tmp_path / "graph.onnx")
    assert (tmp_path / "graph.onnx").read_bytes() == (tmp_path / "q.onnx").read_bytes()


@pytest.mark.oracle
def test_export_of_a_qdq_model(digits, tmp_path):
    data = demo.load_data()
    export_qdq(digits, tmp_path / "first.onnx")
    program = weft.compile(tmp_path / "first.onnx", "tiny")
    export_qdq(program, tmp_path / "second.onnx")
    ours, theirs = runs(program, tmp_path / "second.onnx", data.images.astype(np.float32))
    assert models.top1(ours, data.labels) == models.top1(theirs, data.labels)


@pytest.mark.oracle
@pytest.mark.parametrize(("name", "samples"), [("mnist", 2000), ("resnet8", 40), ("har", 400)])
def test_export_of_real_networks(
    name: str, samples: int, network: Callable[[str], models.Network], tmp_path: Path
) -> None:
    net = network(name)
    weft.compile(net.path, "edge", calibration=net.calibration).save(tmp_path / "p.weft")
    export_qdq(tmp_path / "p.weft", tmp_path / "q.onnx")
    ours, theirs = runs(Program.load(tmp_path / "p.weft"), tmp_path / "q.onnx", net.x[:samples])
    labels = net.labels[:samples]
    assert abs(models.top1(ours, labels) - models.top1(theirs, labels)) <= 100 / samples


@pytest.mark.oracle
@pytest.mark.parametrize("name", ["kws", "resnet8"])
def test_export_of_int8_tflite_networks(name: str, shared_data: Path, tmp_path: Path) -> None:
    """Of keyword spotting every code; of ResNet8 all but those behind a sum near a half."""
    pytest.importorskip("tflite")
    net = models.tflite_network(name, shared_data)
    program = weft.compile(net.path, net.overlay)
    export_qdq(program, tmp_path / "q.onnx")
    samples = 400 if name == "kws" else 200
    ours, theirs = runs(program, tmp_path / "q.onnx", net.x[:samples])
    assert ours.dtype == theirs.dtype == np.int8
    np.testing.assert_array_equal(ours.argmax(1), theirs.argmax(1))
    equal = (ours == theirs).mean()
    assert equal == 1 if name == "kws" else equal >= 0.995


@pytest.mark.oracle
def test_where_onnxruntime_rounds_resnet8_otherwise(shared_data: Path) -> None:
    """Only in sums of two branches, and there only within 1e-4 of a half.

    XNNPACK adds with factors of 21 bits, ONNX in float32. All other operators agree in every code
    where their inputs do.
    """
    pytest.importorskip("tflite")
    ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    net = models.tflite_network("resnet8", shared_data)
    graph = weft.compile(net.path, net.overlay).graph()
    names = tuple(n.outputs[0] for n in graph if graph[n.outputs[0]].quant is not None)
    whole = replace(graph, outputs=(*dict.fromkeys((*graph.outputs, *names)),))
    x = net.x[:40]
    session = ort.InferenceSession(to_onnx(whole).SerializeToString())
    theirs = dict(zip(whole.outputs, session.run(None, {graph.inputs[0]: x}), strict=True))
    with weft.open(weft.compile(whole, net.overlay), "golden") as golden:
        ours = golden.run(x)
    found: dict[str, int] = {}
    for node in whole:
        if node.outputs[0] not in names:
            continue
        read = [n for n in node.inputs if n in names]
        wrong = ours[node.outputs[0]] != theirs[node.outputs[0]]
        if node.op == "Add":
            step = float(graph[node.outputs[0]].quant.scale)
            codes = sum(ours[n].astype(np.float64) for n in read) / step
            wrong &= np.logical_and.reduce([ours[n] == theirs[n] for n in read])
            assert np.abs(codes[wrong] - np.floor(codes[wrong]) - 0.5).max(initial=0) < 1e-4
        else:
            same = [(ours[n] == theirs[n]).reshape(len(x), -1).all(axis=1) for n in read]
            wrong = wrong[np.logical_and.reduce([np.ones(len(x), bool), *same])]
        found[node.op] = found.get(node.op, 0) + int(wrong.sum())
    assert found.pop("Add") > 0
    assert not any(found.values())
    assert {"Conv", "AveragePool", "Linear", "Softmax8"} <= set(found)


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("weights", "activations"),
    [
        *[(weights, "int8") for weights in ("int4", "int4:g32", "mxfp4", "bf16")],
        *[("int8", activations) for activations in ("int4", "uint4", "int2")],
        ("bf16", "bf16"),
    ],
)
def test_export_of_number_formats(weights, activations, tmp_path):
    data = demo.load_data()
    formats = {"weights": weights, "activations": activations}
    program = weft.compile(
        demo.MODELS / "digits.onnx", "lab", calibration=data.calibration, **formats
    )
    export_qdq(program, tmp_path / "q.onnx")
    ours, theirs = runs(program, tmp_path / "q.onnx", data.images[:300].astype(np.float32))
    assert np.mean(ours.argmax(1) == theirs.argmax(1)) >= 0.99
    quant = program.graph()[program.outputs[0].name].quant
    assert quant is not None
    step = 0.02 * np.abs(ours).max() if quant.format == "bf16" else quant.scale * 1.01
    assert np.abs(ours - theirs).max() <= step


def test_activations_that_onnx_lacks_are_refused(tmp_path):
    data = demo.load_data()
    program = weft.compile(
        demo.MODELS / "digits.onnx", "lab", calibration=data.calibration, activations="ternary"
    )
    with pytest.raises(UnsupportedError, match="codes of ternary"):
        export_qdq(program, tmp_path / "q.onnx")


def test_a_program_without_its_graph_says_to_recompile(digits, tmp_path, capsys):
    replace(digits, model=None).save(tmp_path / "old.weft")
    with pytest.raises(ProgramError, match=r"does not hold its quantized graph .* compile the"):
        export_qdq(tmp_path / "old.weft", tmp_path / "q.onnx")
    assert cli.run(["export", str(tmp_path / "old.weft"), "-o", str(tmp_path / "q.onnx")]) == 5
    assert f"{tmp_path / 'old.weft'}: program" in capsys.readouterr().err
    assert not (tmp_path / "q.onnx").exists()
    with weft.open(tmp_path / "old.weft") as session:  # it runs all the same
        session.run(demo.load_data().images[:2])


def test_an_attribute_without_a_form_is_noted(digits):
    graph = digits.graph()
    odd = graph.replace(nodes=(graph.nodes[0].with_attrs(odd=object()), *graph.nodes[1:]))
    kept = digits.keeping(odd)
    assert kept.model is None
    with pytest.raises(ProgramError, match="attribute of type object"):
        kept.graph()


def test_every_part_of_a_quant_comes_back():
    data = demo.load_data()
    program = weft.compile(
        demo.MODELS / "digits.onnx", "lab", calibration=data.calibration, weights="int4:g32"
    )
    graph = program.graph()
    assert any(t.quant and t.quant.groups is not None for t in graph.tensors.values())
    assert same(graph, graph_file.unpack(graph_file.pack(graph)))


def test_the_command_wants_onnx(tmp_path, capsys):
    assert cli.run(["export", "p.weft", "-o", "q.txt"]) == UsageError.exit_code
    assert "*.onnx" in capsys.readouterr().err


def repacked(model: np.ndarray, change: Callable[[bytearray], None]) -> np.ndarray:
    """The bytes of a graph with its unpacked content changed."""
    content = bytearray(zlib.decompress(model.tobytes()[8:]))
    change(content)
    data = struct.pack("<Q", len(content)) + zlib.compress(bytes(content))
    return np.frombuffer(data, np.uint8)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(7),
        bytes(8),
        struct.pack("<Q", 1 << 60) + bytes(100),
        struct.pack("<Q", 10) + zlib.compress(bytes(1 << 20)),
        struct.pack("<Q", 10) + zlib.compress(bytes(10)) + b"more",
        struct.pack("<Q", 10) + zlib.compress(bytes(10)),
    ],
    ids=["empty", "short", "no stream", "absurd size", "bomb", "more behind", "no safetensors"],
)
def test_damaged_graphs_are_refused(digits, data, tmp_path):
    replace(digits, model=np.frombuffer(data, np.uint8)).save(tmp_path / "p.weft")
    with pytest.raises(ProgramError, match=r"p\.weft: damaged graph"):
        export_qdq(tmp_path / "p.weft", tmp_path / "q.onnx")


def test_the_blob_is_of_bytes(tmp_path):
    replace(scaling(), model=np.zeros((2, 2), np.float32)).save(tmp_path / "p.weft")
    with pytest.raises(ProgramError, match="blob 'model' is float32"):
        Program.load(tmp_path / "p.weft")


def fuzz(program: Program, path: Path, seed: int, count: int) -> int:
    """Exports programs whose graphs have flipped bytes; only WeftErrors come out."""
    rng, refused = np.random.default_rng(seed), 0
    assert program.model is not None
    content = zlib.decompress(program.model.tobytes()[8:])
    (size,) = struct.unpack("<Q", content[:8])
    assert json.loads(content[8 : 8 + size])["manifest"]
    for _ in range(count):

        def change(data: bytearray) -> None:
            for place in rng.integers(0, len(data), int(rng.integers(1, 8))):
                data[place] ^= 1 << int(rng.integers(0, 8))

        try:
            export_qdq(replace(program, model=repacked(program.model, change)), path)
        except WeftError:
            refused += 1
    return refused


def test_changed_graphs(digits, tmp_path):
    assert fuzz(digits, tmp_path / "q.onnx", 1, 100) > 30


@pytest.mark.slow
def test_many_changed_graphs(digits, tmp_path):
    assert fuzz(digits, tmp_path / "q.onnx", 2, 2000) > 700
