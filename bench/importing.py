"""What importing costs: models of 20 MB of every kind, in seconds and in memory over file size."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bench.row import Row, absent, at_most, interleaved

LAYERS, MEGABYTES = 20, 20
ROOT = Path(__file__).resolve().parents[1]
SECONDS, PREFLIGHT_SECONDS, MEMORY = 3, 1, 3


def write_onnx(path: Path, layers: int = LAYERS) -> None:
    """A chain of float layers."""
    from onnx import TensorProto, helper, numpy_helper

    width, rng = 512, np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.normal(0, 0.05, (width, width)).astype(np.float32), f"w{i}")
        for i in range(layers)
    ]
    names = ["x", *(f"h{i}" for i in range(layers - 1)), "y"]
    nodes = [
        helper.make_node("MatMul", [names[i], f"w{i}"], [names[i + 1]], f"n{i}")
        for i in range(layers)
    ]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", width]) for n in "xy")
    graph = helper.make_graph(nodes, "chain", [x], [y], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())


def write_tflite(path: Path, layers: int = LAYERS) -> None:
    """A chain of int8 layers."""
    from tflite_models import Model

    width, m, rng = 1024, Model(), np.random.default_rng(0)
    x = m.input((1, width), "int8", scale=0.05)
    for _ in range(layers):
        w = m.constant(rng.integers(-127, 128, (width, width)).astype(np.int8), scale=0.01)
        y = m.tensor((1, width), "int8", scale=0.05)
        m.op("FULLY_CONNECTED", [x, w, -1], [y], "FullyConnectedOptions")
        x = y
    path.write_bytes(m.bytes(x))


def write_gguf(path: Path, layers: int = LAYERS) -> None:
    """float32 weights."""
    import gguf

    writer, rng = gguf.GGUFWriter(path, "llama"), np.random.default_rng(0)
    for i in range(layers):
        writer.add_tensor(f"w{i}", rng.normal(0, 1, (512, 512)).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_safetensors(path: Path, layers: int = LAYERS) -> None:
    """float32 weights."""
    from safetensors.numpy import save_file

    rng = np.random.default_rng(0)
    save_file(
        {f"w{i}": rng.normal(0, 1, (512, 512)).astype(np.float32) for i in range(layers)}, path
    )


def write_h5(path: Path, layers: int = LAYERS) -> None:
    """A chain of float layers, as Keras 2 saves a whole model."""
    import h5py

    sys.path.append(str(ROOT / "tests" / "host"))
    from hls4ml_models import Net

    net = Net()
    x = net.input(512)
    for _ in range(layers):
        x = net.dense(x, 512, 512, "relu")
    weights, text = net.save(path.parent / f"{path.stem}_h5", x)
    with h5py.File(weights) as source, h5py.File(path, "w") as file:
        file.attrs["model_config"] = text.read_text()
        for name in source:
            source.copy(name, file.require_group("model_weights"))


def read_hls4ml(path: Path) -> None:
    """The graph of the types that hls4ml gives by default."""
    import contextlib
    import io

    from weft.frontend.hls4ml import keras_file, lower_model

    with contextlib.redirect_stdout(io.StringIO()):
        lower_model(keras_file(path, output_dir=path.parent / "project"))


def read_graph(path: Path) -> None:
    """The fused graph."""
    import weft

    weft.load_model(path)


def read_weights(path: Path) -> None:
    """Every tensor, one after the other."""
    from weft.frontend import stored

    for tensor in stored.load(path):
        tensor.read()


KINDS: dict[str, tuple[Callable[..., None], Callable[[Path], None]]] = {
    "onnx": (write_onnx, read_graph),
    "tflite": (write_tflite, read_graph),
    "h5": (write_h5, read_hls4ml),
    "gguf": (write_gguf, read_weights),
    "safetensors": (write_safetensors, read_weights),
}


def peak(kind: str, path: Path, small: Path) -> int:
    """By how many bytes an import raises the most memory of a process, C libraries included.

    The process has imported a `small` file of the kind before, and so all modules.
    """
    command = [sys.executable, "-m", "bench.importing", kind, str(small), str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return int(done.stdout)


def most_memory() -> int:
    """The most bytes this program has held, as Linux counts; getrusage has its parent's, too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def kind_rows(kind: str, folder: Path) -> list[Row]:
    """Time and memory of one kind of file; of models also what the preflight adds."""
    import weft

    write, read = KINDS[kind]
    path, small = folder / f"model.{kind}", folder / f"small.{kind}"
    name = f"import {MEGABYTES} MB, {kind}"
    try:
        write(path)
        write(small, 1)
    except ImportError as error:
        return [absent(name, f"{error.name} is not installed", "s", f"≤ {SECONDS}")]
    (seconds,) = interleaved(lambda: read(path))
    ratio = peak(kind, path, small) / path.stat().st_size
    found = [
        at_most(f"{name}, time", round(seconds, 3), SECONDS, "s"),
        at_most(f"{name}, peak memory", round(ratio, 2), MEMORY, "x file size"),
    ]
    if read is read_graph:
        whole, load = interleaved(lambda: weft.preflight(path, "lab"), lambda: read(path))
        more = round(max(0.0, whole - load), 3)
        found.append(at_most(f"preflight {MEGABYTES} MB, {kind}", more, PREFLIGHT_SECONDS, "s"))
    return found


def rows(folder: Path, data: Path | None) -> list[Row]:
    """All kinds; `folder` takes the files, `data` is not needed."""
    return [row for kind in KINDS for row in kind_rows(kind, folder)]


if __name__ == "__main__":  # what `peak` runs
    read = KINDS[sys.argv[1]][1]
    read(Path(sys.argv[2]))
    before = most_memory()
    read(Path(sys.argv[3]))
    print(most_memory() - before)
