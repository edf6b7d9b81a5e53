"""Estimates against published designs, the first TPU's roofline, and the speed of exploring.

What was published is compared at its own clock and number of multipliers. `ratio` is the larger
of ours and theirs over the smaller; docs/estimates.md says why some are apart.
"""

from __future__ import annotations

import csv
import time
from dataclasses import dataclass, replace
from statistics import median

import weft
from weft import resources, workload
from weft.explore import explore
from weft.roofline import Roofline
from weft.workload import MATRIX, Work

from .row import Row, absent, at_least, at_most

# Jouppi et al., ISCA 2017, tables 1 and 3: MACs per weight byte, measured TOP/s.
TPU = Roofline(256 * 256 * 700e6, 34e9)
TPU_WORKLOADS = {
    "MLP0": (200, 12.3),
    "MLP1": (168, 9.7),
    "LSTM0": (64, 3.7),
    "LSTM1": (96, 2.8),
    "CNN0": (2888, 86.0),
    "CNN1": (1750, 14.1),
}
# Arrays of one or four MACs per element, as in tests/host/test_resources.py.
ARRAYS = {
    "A1": (16, 16, 2, 8, 2),
    "A2": (28, 28, 2, 8, 2),
    "A3": (16, 16, 2, 8, 2),
    "A4": (28, 28, 2, 8, 2),
    "A5": (64, 64, 2, 8, 2),
    "A6": (8, 8, 1, 16, 1),
}


@dataclass(frozen=True)
class Published:
    """A rate that somebody measured, and ours for the same; `apart` says why they aren't alike."""

    what: str
    theirs: float
    ours: float
    unit: str
    apart: str = ""

    @property
    def ratio(self) -> float:
        return max(self.ours / self.theirs, self.theirs / self.ours)

    def row(self) -> Row:
        target = self.apart or "≤ 1.5 ×"
        met = None if self.apart else self.ratio <= 1.5
        metric = f"{self.what} ({self.ratio:.2f} ×)"
        return Row(metric, self.ours, self.theirs, self.unit, target, met)


def residual(stages, blocks: int, size: int, stem: Work) -> list[Work]:
    """A residual network of basic blocks (He et al., 2016), without its classifier."""
    layers, before = [replace(stem, enters=True, unfolds=True)], stages[0]
    for number, channels in enumerate(stages):
        for block in range(blocks):
            stride = 2 if number and not block else 1
            out = size // stride
            name = f"{number}.{block}"
            taps = (3, 3)
            layers.append(Work(name, MATRIX, before, channels, out, out, *taps, size, size))
            layers.append(Work(name, MATRIX, channels, channels, out, out, *taps, out, out))
            before, size = channels, out
    return layers


def rate(layers: list[Work], overlay, board, macs: float) -> float:
    """Runs per second of a network with `macs`, at the MAC rate that `layers` reach."""
    seconds = float(workload.seconds(layers, overlay, board))
    return sum(work.macs for work in layers) / seconds / macs


def published() -> list[Published]:
    """Every figure with enough known of its design."""
    tiny, base = weft.load_overlay("tiny"), weft.load_overlay("base")
    z1, zcu104, kv260 = (weft.load_board(n) for n in ("Pynq-Z1", "ZCU104", "KV260"))
    made = [
        Published(f"TPU v1, {name}, roofline", tops, 2e-12 * TPU.bound(intensity), "TOP/s")
        for name, (intensity, tops) in TPU_WORKLOADS.items()
    ]
    for what, weights, theirs, apart in (
        ("KV260, LLaMA2-7B, 4 bit (DATE 2025)", 6.74e9, 5.0, "gave the efficiency"),
        ("KV260, LLaMA3-8B, 4 bit (Hummingbird)", 8.03e9, 4.8, ""),
    ):
        ours = kv260.memory_bytes_per_s / (weights / 2)
        made.append(Published(what, theirs, ours, "tokens/s", apart))
    cifar = Work("stem", MATRIX, 3, 16, 32, 32, 3, 3, 32, 32)
    resnet20 = residual((16, 32, 64), 3, 32, cifar)
    for what, overlay, board, clock, theirs in (
        ("Tensil 8×8, Pynq-Z1 at 50 MHz, ResNet20", tiny, z1, 50, 6.6),
        ("Tensil 32×32, ZCU104 at 100 MHz, ResNet20", base, zcu104, 100, 293.6),
    ):
        ours = rate(resnet20, overlay, replace(board, clock_mhz=clock), 61.5e6)
        made.append(Published(what, theirs, ours, "frames/s"))
    imagenet = Work("stem", MATRIX, 3, 64, 112, 112, 7, 7, 224, 224)
    resnet18 = residual((64, 128, 256, 512), 2, 56, imagenet)
    wide = replace(weft.load_overlay("card"), bus_bytes=16, multiplier="packed")
    ours = rate(resnet18, wide, zcu104, 1.82e9)
    made.append(Published("DPU 2×B4096, ZCU104, ResNet18", 437, ours, "frames/s"))
    zed = replace(weft.load_board("ZedBoard"), clock_mhz=143)
    ours = rate(workload.resnet8(), tiny, zed, 12.5e6)
    stream = "other architecture"
    made.append(Published("fpgaConvNet, ZedBoard, ResNet8", 2431, ours, "frames/s", stream))
    return made


def resource_rows(data) -> list[Row]:
    """LUTs, FFs and DSPs of weight-stationary arrays, against the reports of others."""
    table = data.parent / "spec" / "resources.csv" if data else None
    what = "resources of published weight-stationary arrays, median ratio"
    if table is None or not table.is_file():
        return [absent(what, "the table of published figures is not here")]
    with table.open() as file:
        theirs = {row["id"]: row for row in csv.DictReader(file)}
    apart = []
    for name, (rows, cols, shared, bits, faster) in ARRAYS.items():
        ours = resources.array(rows, cols, shared, bits)
        for kind, scale in (("lut", 1), ("ff", 1), ("dsp", faster)):
            ratio = float(getattr(ours, kind)) / (scale * float(theirs[name][kind]))
            apart.append(max(ratio, 1 / ratio))
    worst = f"worst {max(apart):.2f}, {len(apart)} figures"
    return [at_most(what, median(apart), 1.5, "×", worst)]


def rows(folder, data) -> list[Row]:
    """Roofline, published designs, resources, exploring."""
    found = published()
    alike = [one.ratio for one in found if not one.apart]
    start = time.perf_counter()
    explored = explore("KV260")
    took = time.perf_counter() - start
    return [
        Row(
            "TPU v1: ridge of the roofline",
            TPU.ridge,
            1350,
            "MAC/byte",
            "",
            round(TPU.ridge) == 1349,
        ),
        *(one.row() for one in found),
        at_most(f"{len(alike)} alike designs, median ratio", median(alike), 1.5, "×"),
        *resource_rows(data),
        at_least("explore KV260: designs", explored.designs, 10_000, "designs"),
        at_most("explore KV260: time, one process", took, 60, "s"),
    ]
