"""The demonstration: from an ONNX file to cycles on two boards, with nothing but a laptop.

A small CNN (8×8 images of handwritten digits, trained by examples/train_digits.py) is quantized,
compiled for each overlay and run on the register-exact simulation over images that its training
never saw; the golden model checks every output.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import weft
from weft.errors import DeviceError
from weft.graph import Array

if TYPE_CHECKING:
    from rich.console import Console

MODELS = Path(__file__).resolve().parent / "models"
TARGETS: Mapping[str, str | None] = {"tiny": "Pynq-Z2", "edge": "KV260", "lab": None}


@dataclass(frozen=True)
class Result:
    """One overlay: accuracy in percent, clocks per image, predicted seconds per image on its board.

    `utilization` is the share, in percent, of the array's multiplications that each layer uses.
    """

    overlay: str
    board: str | None
    array: str
    top1: float
    cycles: float
    image_s: float | None
    equal: int
    utilization: Mapping[str, float]


@dataclass(frozen=True)
class Data:
    """Held-out images [n, 1, 8, 8] in 0..16 with their labels, and images to calibrate with."""

    images: Array
    labels: Array
    calibration: Array


def load_data() -> Data:
    """The images that come with weft (UCI handwritten digits, CC BY 4.0)."""
    with np.load(MODELS / "digits.npz") as file:
        return Data(
            file["images"].astype(np.float32),
            file["labels"],
            file["calibration"].astype(np.float32),
        )


def main(console: Console, *, output_dir: Path = Path("demo"), json: bool = False) -> None:
    """Runs the demonstration on `console`; writes utilization.png to `output_dir`.

    With `json`, prints one JSON object instead of the tables. Raises DeviceError if simulation
    and golden model differ, MissingDependency without onnx.
    """
    start = time.perf_counter()
    data = load_data()
    float_top1 = reference_top1(data)
    results = []
    for overlay, board in TARGETS.items():
        if not json:
            console.print(f"compiling for overlay {overlay}, running {len(data.images)} images ...")
        results.append(run_overlay(overlay, board, data))
    picture = draw(results, output_dir)
    facts = {
        "images": len(data.images),
        "float_top1": float_top1,
        "overlays": [asdict(result) for result in results],
        "picture": str(picture) if picture else None,
        "seconds": time.perf_counter() - start,
    }
    if json:
        console.print_json(data=facts)
    else:
        show(console, facts, results)


def reference_top1(data: Data) -> float:
    """Accuracy of the float network in percent."""
    from weft.ops import evaluate

    graph = weft.load_model(MODELS / "digits.onnx")
    scores = evaluate(graph, {graph.inputs[0]: data.images})[graph.outputs[0]]
    return top1(scores, data.labels)


def top1(scores: Array, labels: Array) -> float:
    """Share of rows [n, classes] whose largest score is the label's, in percent."""
    return 100.0 * float(np.mean(scores.argmax(axis=1) == labels))


def run_overlay(overlay: str, board: str | None, data: Data) -> Result:
    """Compiles for one overlay, runs every image in the cycle form, and compares with golden."""
    program = weft.compile(MODELS / "digits.onnx", overlay, calibration=data.calibration)
    with weft.open(program, "csim", form="cycle") as session:
        scores, run = session.run(data.images, detail=True)
    with weft.open(program, "golden") as session:
        expected = session.run(data.images)
    equal = int((scores == expected).all(axis=1).sum())
    if equal != len(scores):
        raise DeviceError(
            f"overlay {overlay!r}: simulation and golden model differ in {len(scores) - equal} of "
            f"{len(scores)} images; `weft check` names the first layer that differs"
        )
    held = weft.estimate(program, batch=program.batch, board=board)
    hardware = program.overlay
    return Result(
        overlay,
        board,
        f"{hardware.rows}×{hardware.cols}",
        top1(scores, data.labels),
        run.cycles / run.samples,
        None if held.wall_s is None else held.wall_s / held.batch,
        equal,
        {layer.name: 100.0 * layer.utilization for layer in held.layers if layer.macs},
    )


def show(console: Console, facts: Mapping[str, Any], results: Sequence[Result]) -> None:
    """The table, for people."""
    from weft.report import amount, seconds, table

    n = facts["images"]
    console.print(
        table(
            f"handwritten digits, {n} images held out: float {facts['float_top1']:.2f} %",
            ("overlay", "array", "#int8", "#clocks per image", "board", "#per image", "#golden"),
            [
                (
                    r.overlay,
                    r.array,
                    f"{r.top1:.2f} %",
                    amount(r.cycles),
                    f"{r.board} ({weft.load_board(r.board).clock_mhz:.0f} MHz)" if r.board else "–",
                    seconds(r.image_s) if r.image_s else "–",
                    f"{r.equal}/{n} equal",
                )
                for r in results
            ],
        )
    )
    if facts["picture"]:
        console.print(f"utilization of the array by layer: {facts['picture']}")
    else:
        console.print("no picture: pip install 'weft[plot]'")
    console.print(f"all of it took {facts['seconds']:.1f} s")


def draw(results: Sequence[Result], output_dir: Path) -> Path | None:
    """Bars of each layer's utilization, one panel per overlay; None without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return None
    figure = Figure(figsize=(9, 2.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(results), sharey=True, squeeze=False)[0]
    for axes, result in zip(panels, results, strict=True):
        names, shares = list(result.utilization), list(result.utilization.values())
        bars = axes.barh(names, shares, color="#2f6f8f", height=0.6)
        axes.bar_label(bars, fmt="%.0f %%", padding=3, fontsize=8)
        axes.set_title(f"{result.overlay} ({result.array})", fontsize=10, loc="left")
        axes.set_xlim(0, 100)
        axes.set_xlabel("multipliers busy, %", fontsize=8)
        axes.tick_params(labelsize=8, length=0)
        axes.spines[["top", "right", "left"]].set_visible(False)
    panels[0].invert_yaxis()
    output_dir.mkdir(parents=True, exist_ok=True)
    path = output_dir / "utilization.png"
    figure.savefig(path, dpi=150)
    return path
