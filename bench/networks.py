"""Small networks, end to end: batches, one sample, and the time to the first one.

The peer is hls4ml's C simulation of the same network, measured in turns with ours. Ours counts
everything from float samples to float results (functional form).
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np

import weft

from . import hls4ml_peer
from .row import Row, absent, at_most, interleaved

BATCH = 1000
HELD = {"jet_mlp": 1000, "digits": 64}  # samples of one device run: as many as the overlay holds
FIRST_SAMPLE = """
import sys, time
start = time.perf_counter()
import numpy as np, weft
model, calibration = sys.argv[1:]
program = model
if model.endswith(".onnx"):
    program = weft.compile(model, "lab", calibration=calibration)
x = np.load(calibration)[:1]
with weft.open(program, "csim") as session:
    session.run(x)
print(time.perf_counter() - start)
"""


def first_sample_s(model: Path, calibration: Path, cache: Path) -> float:
    """Seconds in a new process from `import weft` to the first result."""
    done = subprocess.run(
        [sys.executable, "-c", FIRST_SAMPLE, str(model), str(calibration)],
        env=os.environ | {"WEFT_CACHE": str(cache)},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


def digits():
    """The demonstration's CNN (23,680 MACs) and 1,000 images."""
    import onnx

    folder = Path(weft.__file__).parent / "models"
    with np.load(folder / "digits.npz") as file:
        images = file["images"].astype(np.float32)
    return onnx.load(str(folder / "digits.onnx")), np.resize(images, (BATCH, *images.shape[1:]))


def jet_mlp(data: Path):
    """The jet-tagging MLP (4,256 MACs) and 1,000 random inputs."""
    import models

    x = np.random.default_rng(0).normal(size=(BATCH, 16)).astype(np.float32)
    return models.jet_mlp(data), x


def network_rows(name: str, macs: int, model, x: np.ndarray, folder: Path) -> list[Row]:
    """Batch and one-sample rows of one network, and its times to the first result."""
    import onnx

    path, samples = folder / f"{name}.onnx", folder / f"{name}.npy"
    onnx.save(model, str(path))
    np.save(samples, x)
    program = weft.compile(path, "lab", calibration=x, batch=HELD[name])
    program.save(folder / f"{name}.weft")
    title = f"{name}, {macs:,} MACs"
    with weft.open(program, "csim") as session:
        if find_spec("hls4ml") is None:
            reason = "hls4ml is not installed"
            made = absent(f"{title}, batch {BATCH}", reason, "samples/s", "≥ 100 × peer")
            (one,) = interleaved(lambda: session.run(x[:1]), seconds=1.0)
            return [made, _one_row(title, one, None), *_first_rows(name, folder, None)]
        peer, compile_s = hls4ml_peer.compiled(model, folder / f"{name}_hls4ml")
        theirs = hls4ml_peer.channels_last(x)
        ours_s, peer_s = interleaved(
            lambda: session.run(x), lambda: peer.predict(theirs), seconds=3.0
        )
        one, peer_one = interleaved(
            lambda: session.run(x[:1]), lambda: peer.predict(theirs[:1]), seconds=1.0
        )
    ratio = peer_s / ours_s
    metric = f"{title}, batch {BATCH}, csim functional ({ratio:.0f} × hls4ml)"
    batch = Row(metric, BATCH / ours_s, BATCH / peer_s, "samples/s", "≥ 100 × peer", ratio >= 100)
    return [batch, _one_row(title, one, peer_one), *_first_rows(name, folder, compile_s)]


def _one_row(title: str, ours: float, peer: float | None) -> Row:
    metric = f"{title}, one sample through Session.run"
    theirs = None if peer is None else peer * 1e6
    if title.startswith("jet_mlp"):
        return at_most(metric, ours * 1e6, 40, "µs", theirs)
    return Row(metric, ours * 1e6, theirs, "µs")


def _first_rows(name: str, folder: Path, compile_s: float | None) -> list[Row]:
    """From the ONNX file with nothing cached, and from the saved program with the cache."""
    cache, samples = folder / f"{name}_cache", folder / f"{name}.npy"
    cold = first_sample_s(folder / f"{name}.onnx", samples, cache)
    warm = min(first_sample_s(folder / f"{name}.weft", samples, cache) for _ in range(3))
    return [
        Row(
            f"{name}: new process, ONNX file to first sample, nothing cached (peer: compile)",
            cold,
            compile_s,
            "s",
            "≤ 0.5 × peer",
            None if compile_s is None else cold <= 0.5 * compile_s,
        ),
        at_most(f"{name}: new process, .weft file to first sample, cached build", warm, 0.3, "s"),
    ]


def rows(folder: Path, data: Path | None) -> list[Row]:
    """The MLP (if its weights are here) and the CNN."""
    made = []
    if data is None:
        made.append(absent(f"jet_mlp, 4,256 MACs, batch {BATCH}", "the weights are not here"))
    else:
        made += network_rows("jet_mlp", 4256, *jet_mlp(data), folder)
    return made + network_rows("digits", 23_680, *digits(), folder)
