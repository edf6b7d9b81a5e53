"""Trains a Vision Transformer on scikit-learn's handwritten digits and exports it to ONNX.

    patches of 2×2 → 16 tokens of 64 → 2 × (norm, 2 heads of 32, norm, 128 GELU) → norm → mean → 10

Images, split and data set are those of train_digits.py: input "image" [N, 1, 8, 8], values 0..16,
output "scores" [N, 10]. The script writes models/vit_digits.onnx into the package, as PyTorch's own
exporter makes it, and prints the accuracy on the 540 images that the training never saw.

    pip install 'weft[torch]'
    python examples/train_vit_digits.py

The result is the same on every run on one machine: all randomness has one seed. It takes minutes.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

HELD_OUT = 540
EPOCHS, BATCH, RATE, DECAY, SMOOTHING = 160, 64, 2e-3, 0.05, 0.1
WIDTH, HEADS, INNER, LAYERS, PATCH = 64, 2, 128, 2, 2
FULL_SCALE = 16.0


class Layer(nn.Module):
    """One layer of an encoder that normalizes what it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.up, self.down = nn.Linear(WIDTH, INNER), nn.Linear(INNER, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, S, D] → [N, S, D]."""
        y = self.norm1(x)
        parts = [
            part(y).unflatten(-1, (HEADS, WIDTH // HEADS)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        ]
        mixed = functional.scaled_dot_product_attention(*parts)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


class Vit(nn.Module):
    """Dosovitskiy et al., An Image is Worth 16x16 Words (2021), with the mean of all tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, WIDTH, PATCH, PATCH)
        self.positions = nn.Parameter(0.02 * torch.randn(1, (8 // PATCH) ** 2, WIDTH))
        self.layers = nn.Sequential(*(Layer() for _ in range(LAYERS)))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Images [N, 1, 8, 8] in 0..16 → scores [N, 10]."""
        x = self.patches(image / FULL_SCALE).flatten(2).transpose(1, 2) + self.positions
        x = self.norm(self.layers(x))
        return self.head(x.transpose(1, 2).mean(2))


def shifted(x: torch.Tensor) -> torch.Tensor:
    """Each image moved by up to one pixel."""
    padded = functional.pad(x, (1, 1, 1, 1))
    at = torch.multinomial(torch.tensor([0.2, 0.6, 0.2]), 2 * len(x), replacement=True)
    pairs = at.reshape(-1, 2).tolist()
    return torch.stack([padded[i, :, dy : dy + 8, dx : dx + 8] for i, (dy, dx) in enumerate(pairs)])


def train(model: nn.Module, x: torch.Tensor, labels: torch.Tensor, epochs: int) -> None:
    """AdamW, its rate falling to zero along a cosine."""
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=DECAY)
    steps = epochs * (len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps, pct_start=0.1)
    for _ in range(epochs):
        order = torch.randperm(len(x))
        for start in range(0, len(x) - BATCH + 1, BATCH):
            batch = order[start : start + BATCH]
            scores = model(shifted(x[batch]))
            loss = functional.cross_entropy(scores, labels[batch], label_smoothing=SMOOTHING)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def export(model: nn.Module, path: Path) -> None:
    """The network as ONNX, its batch dynamic."""
    batch = torch.export.Dim("N")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        made = torch.onnx.export(
            model,
            (torch.zeros(2, 1, 8, 8),),
            input_names=["image"],
            output_names=["scores"],
            dynamic_shapes=({0: batch},),
            dynamo=True,
            opset_version=18,
            verbose=False,
        )
    proto = made.model_proto
    for node in proto.graph.node:  # paths and stack traces of this machine
        del node.metadata_props[:]
        node.doc_string = ""
    del proto.graph.metadata_props[:], proto.metadata_props[:]
    for value in (*proto.graph.value_info, *proto.graph.input, *proto.graph.output):
        del value.metadata_props[:]
    path.write_bytes(proto.SerializeToString())


def main() -> None:
    """Trains, prints the accuracy, and writes the file."""
    from sklearn.datasets import load_digits

    folder = Path(__file__).resolve().parents[1] / "host" / "weft" / "models"
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--output", type=Path, default=folder)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(3)
    torch.set_num_threads(1)
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images.reshape(-1, 1, 8, 8), dtype=torch.float32)
    y = torch.tensor(labels)
    order = np.random.default_rng(8).permutation(len(images))  # the split of train_digits.py
    held, kept = order[:HELD_OUT], order[HELD_OUT:]
    model = Vit()
    train(model, x[kept], y[kept], options.epochs)
    model.eval()
    with torch.no_grad():
        right = model(x[held]).argmax(1) == y[held]
    print(f"held-out accuracy {100 * right.float().mean():.2f} % of {HELD_OUT} images")
    export(model, options.output / "vit_digits.onnx")


if __name__ == "__main__":
    main()
