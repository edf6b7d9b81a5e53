"""README's table "From what you have": the line of every source runs on a file of that source."""

from __future__ import annotations

import importlib
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import weft
from weft import cli
from weft.demo import MODELS, load_data

sys.path.insert(0, str(Path(__file__).parent / "host"))
from hls4ml_models import Net, quietly

ROOT = Path(__file__).resolve().parents[1]
SECTION = re.compile(r"^## From what you have\n(.*?)^What hls4ml", re.MULTILINE | re.DOTALL)
ROW = re.compile(r"^\| ([^|]+?) \| `([^`]+)`", re.MULTILINE)
ROWS = dict(ROW.findall(SECTION.search((ROOT / "README.md").read_text())[1]))


def images() -> np.ndarray:
    return load_data().images[:64].astype(np.float32)


def float_onnx(path: Path) -> None:
    shutil.copy(MODELS / "digits.onnx", path)


def qdq_onnx(path: Path) -> None:
    data = load_data().calibration
    weft.compile(MODELS / "digits.onnx", "tiny", calibration=data, export_qdq=path)


def qonnx_onnx(path: Path) -> None:
    shutil.copy(ROOT / "tests" / "data" / "digits_w4a4.onnx", path)


def int8_tflite(path: Path) -> None:
    shutil.copy(MODELS / "digits_int8.tflite", path)


def float_tflite(path: Path) -> None:
    from tflite_models import Model

    model = Model()
    x = model.input((1, 64))
    w = model.constant(np.random.default_rng(0).normal(0, 0.1, (10, 64)).astype(np.float32))
    y = model.tensor((1, 10))
    model.op("FULLY_CONNECTED", [x, w, -1], [y], "FullyConnectedOptions")
    path.write_bytes(model.bytes(y))


def data_npz(path: Path) -> None:
    x = images()
    flat = (path.parent / "float.tflite").exists()
    np.savez(path, x=x.reshape(len(x), -1) if flat else x)


def m_gguf(path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("blk.0.w", np.random.default_rng(0).normal(0, 1, (64, 32)).astype("f4"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def folder(path: Path) -> None:
    from safetensors.numpy import save_file

    path.mkdir()
    (path / "config.json").write_text('{"model_type": "bart"}')
    w = np.random.default_rng(0).normal(0, 1, (64, 32)).astype(np.float32)
    save_file({"encoder.weight": w}, path / "model.safetensors")


def model_h5(path: Path) -> None:
    """A whole model, as Keras 2 saves it."""
    import h5py

    net = Net()
    h5, text = net.save(path.parent / "keras", net.dense(net.input(6), 6, 3))
    with h5py.File(h5) as weights, h5py.File(path, "w") as file:
        file.attrs["model_config"] = text.read_text()
        for name in weights:
            weights.copy(name, file.require_group("model_weights"))


MAKERS: dict[str, Callable[[Path], None]] = {
    "float.onnx": float_onnx,
    "qdq.onnx": qdq_onnx,
    "qonnx.onnx": qonnx_onnx,
    "int8.tflite": int8_tflite,
    "float.tflite": float_tflite,
    "data.npz": data_npz,
    "m.gguf": m_gguf,
    "folder": folder,
    "model.h5": model_h5,
}


def torch_module() -> Any:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))


def x() -> Any:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    return torch.tensor(np.random.default_rng(0).normal(0, 1, (64, 6)).astype(np.float32))


def quantized_module() -> Any:
    """A module that torchao quantized, as its users do."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    pytest.importorskip("torchao", reason="torchao is not installed")
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.testing.pt2e import _xnnpack_quantizer as xnnpack

    config = xnnpack.get_symmetric_quantization_config()
    quantizer = xnnpack.XNNPACKQuantizer().set_global(config)
    prepared = prepare_pt2e(torch.export.export(torch_module().eval(), (x(),)).module(), quantizer)
    prepared(x())
    return convert_pt2e(prepared)


def keras_model() -> Any:
    keras = pytest.importorskip("keras", reason="keras is not installed")
    layers = keras.layers
    stack = [layers.Input((6,)), layers.Dense(8, activation="relu"), layers.Dense(3)]
    return keras.Sequential(stack)


def hls4ml() -> Any:
    return pytest.importorskip("hls4ml")


def config() -> Any:
    facts = {"granularity": "name", "backend": "Vitis", "default_precision": "fixed<8,3>"}
    return quietly(hls4ml().utils.config_from_pytorch_model, torch_module(), (6,), **facts)


NAMES: dict[str, Callable[[], Any]] = {
    "module": torch_module,
    "quantized_module": quantized_module,
    "x": x,
    "model": keras_model,
    "config": config,
    "hls4ml": hls4ml,
    "weft": lambda: weft,
}


def test_there_is_a_line_for_every_source():
    sources = " ".join(ROWS)
    for source in ("TFLite", "QONNX", "Brevitas", "Keras", "hls4ml", "PyTorch", "torchao"):
        assert source in sources
    for source in ("GGUF", "safetensors", "ONNX, float", "ONNX, quantized"):
        assert source in sources
    assert len(ROWS) == 12


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("source", ROWS)
def test_the_line_of_a_source_runs(source, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    line = ROWS[source]
    for name, make in MAKERS.items():
        if re.search(rf"(?<![\w.]){re.escape(name)}(?![\w.])", line):
            make(tmp_path / name)
    if line.startswith("weft "):
        assert cli.run(shlex.split(line)[1:]) == 0, capsys.readouterr().err
        if "-o m.weft" in line:
            program = weft.load("m.weft")
            with weft.open(program, "golden") as session:
                assert len(session.run(samples(program))) == 8
        return
    importlib.import_module("weft.frontend.hls4ml")
    words = set(re.findall(r"(?<![\w.\"])\w+(?=[,.)])", line))
    names = {word: NAMES[word]() for word in words & set(NAMES)}
    result = quietly(eval, compile(line, "README.md", "eval"), names)
    if isinstance(result, weft.Program):
        with weft.open(result, "golden") as session:
            assert session.run(np.asarray(names["x"])).shape == (64, 3)
    else:
        result.config.config["Device"] = "golden"
        assert result.predict(np.zeros((5, 6), np.float32)).shape == (5, 3)


def samples(program: Any) -> Any:
    """Eight samples of the shape and dtype that a program takes."""
    graph = program.graph()
    (info,) = [graph[name] for name in graph.inputs]
    return images()[:8].reshape(8, *info.shape[1:]).astype(info.dtype)
