"""Quantization-aware training of a small CNN: float, rounded after training, trained rounded.

    conv 3×3, 16 → BN → ReLU → pool → conv 3×3, 32 → BN → ReLU → pool → linear, 64 → ReLU
    → linear, 10

Data are MNIST's 10,000 test images, 5,000 to train on and 5,000 held out (--data FOLDER with the
two t10k-*.gz files), or scikit-learn's 1,797 digits. For each format the table shows top-1 of the
held-out images right after rounding (calibrated on 512 of the training images) and after a few
epochs of training; the last column runs the exported program on the golden device and says in how
many images its class differs from PyTorch's. Seeds are fixed; two cores take some minutes.
"""

from __future__ import annotations

import argparse
import gzip
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

import weft
import weft.torch

BATCH, CALIBRATION, CHECKED = 50, 512, 500
# weights, activations, method
FORMATS = {
    "int8": ("int8", "int8", "lsq"),
    "int4": ("int4", "int8", "lsq"),
    "flint4": ("flint4", "int8", "lsq"),
    "pot4": ("pot4", "int8", "lsq"),
    "mxfp4": ("mxfp4", "int8", "lsq"),
    "W4A4": ("int4", "int4", "lsq"),
    "ternary, TWN": ("ternary", "int8", "twn"),
    "ternary, LSQ": ("ternary", "int8", "lsq"),
    "binary": ("binary", "int8", "mean"),
    "W2A2": ("int2", "uint2", "lsq"),
}


class Network(nn.Module):
    def __init__(self, side: int, channels: tuple[int, int] = (16, 32)) -> None:
        super().__init__()
        first, second = channels
        self.conv1, self.norm1 = nn.Conv2d(1, first, 3, padding=1), nn.BatchNorm2d(first)
        self.conv2, self.norm2 = nn.Conv2d(first, second, 3, padding=1), nn.BatchNorm2d(second)
        self.pool, self.relu = nn.MaxPool2d(2), nn.ReLU()
        self.fc1 = nn.Linear(second * (side // 4) ** 2, 64)
        self.fc2 = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.relu(self.norm1(self.conv1(x))))
        x = self.pool(self.relu(self.norm2(self.conv2(x))))
        return self.fc2(self.relu(self.fc1(torch.flatten(x, 1))))


def load(folder: Path | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Images [N, 1, side, side] in 0..1 and labels, in an order that a seed fixes."""
    if folder is not None and (folder / "t10k-images-idx3-ubyte.gz").is_file():
        pixels = gzip.decompress((folder / "t10k-images-idx3-ubyte.gz").read_bytes())[16:]
        names = gzip.decompress((folder / "t10k-labels-idx1-ubyte.gz").read_bytes())[8:]
        images = np.frombuffer(pixels, np.uint8).reshape(-1, 1, 28, 28) / 255
        labels = np.frombuffer(names, np.uint8)
    else:
        from sklearn.datasets import load_digits

        flat, labels = load_digits(return_X_y=True)
        images = flat.reshape(-1, 1, 8, 8) / 16
    order = np.random.default_rng(1).permutation(len(images))
    return (
        torch.tensor(images[order], dtype=torch.float32),
        torch.tensor(labels[order].astype(np.int64)),
    )


def train(model: nn.Module, x: torch.Tensor, y: torch.Tensor, epochs: int, rate: float) -> None:
    """Adam, the rate falling to zero along a cosine."""
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), rate)
    steps = epochs * (len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(BATCH)[: len(x) // BATCH]:
            loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()


def classes(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([model(part).argmax(1) for part in x.split(500)])


def top1(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    return 100 * float((classes(model, x) == y).float().mean())


def differing(model: nn.Module, x: torch.Tensor, overlay: str) -> int:
    """Images whose class differs between PyTorch and the program on the golden device."""
    program = weft.compile(weft.torch.export(model, x[:1]), overlay)
    with weft.open(program, "golden") as session:
        found = np.asarray(session.run(x.numpy())).argmax(1)
    return int(np.count_nonzero(found != classes(model, x).numpy()))


def measure(
    data: tuple[torch.Tensor, torch.Tensor],
    formats: dict[str, tuple[str, str, str]],
    epochs: tuple[int, int] = (6, 4),
    overlay: str = "lab",
) -> tuple[float, dict[str, tuple[float, float, int]]]:
    """Float top-1, and by format: after rounding, after training, images that differ."""
    x, y = data
    half = len(x) // 2
    torch.manual_seed(0)
    model = Network(x.shape[-1])
    train(model, x[:half], y[:half], epochs[0], 2e-3)
    rows = {}
    for name, (weights, activations, method) in formats.items():
        rounded = weft.torch.prepare(
            model, weights, activations, method=method, example=x[:CALIBRATION]
        )
        before = top1(rounded, x[half:], y[half:])
        train(rounded, x[:half], y[:half], epochs[1], 1e-3)
        after = top1(rounded, x[half:], y[half:])
        rows[name] = before, after, differing(rounded, x[half : half + CHECKED], overlay)
    return top1(model, x[half:], y[half:]), rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, help="folder with MNIST's t10k-*.gz files")
    parser.add_argument("--epochs", type=int, nargs=2, default=(6, 4), help="float, rounded")
    parser.add_argument("--formats", nargs="*", choices=FORMATS, default=list(FORMATS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    start, data = time.perf_counter(), load(options.data)
    chosen = {name: FORMATS[name] for name in options.formats}
    reference, rows = measure(data, chosen, tuple(options.epochs))
    print(f"{len(data[0]):,} images of {data[0].shape[-1]}×{data[0].shape[-1]}, half held out")
    print(f"{'format':14}{'float':>8}{'rounded':>9}{'trained':>9}   classes that golden changes")
    for name, (before, after, changed) in rows.items():
        print(f"{name:14}{reference:8.2f}{before:9.2f}{after:9.2f}   {changed} of {CHECKED}")
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
