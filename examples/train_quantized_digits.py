"""Trains digits networks of 1, 2 and 4 bits with Brevitas and exports them as QONNX.

    quantize → conv 3×3, 16 → batch norm → activation → max pool
             → conv 3×3, 32 → batch norm → activation → max pool → linear, 10

W1A1 has weights and activations of ±1, W2A2 and W4A4 unsigned activations behind a ReLU, signed
weights with a scale per output channel. Data: scikit-learn's handwritten digits. It needs
`pip install weft[brevitas]` and takes a few seconds per network:

    python examples/train_quantized_digits.py tests/data
"""

from __future__ import annotations

import argparse
from pathlib import Path

import brevitas.nn as qnn
import numpy as np
import torch
from brevitas.export import export_qonnx
from brevitas.quant import (
    Int8ActPerTensorFloat,
    Int8WeightPerChannelFloat,
    SignedBinaryActPerTensorConst,
    SignedBinaryWeightPerTensorConst,
    Uint8ActPerTensorFloat,
)
from sklearn.datasets import load_digits
from torch import nn

HELD_OUT, EPOCHS, BATCH, RATE = 540, 25, 64, 4e-3


def activation(bits: int) -> nn.Module:
    """±1 for one bit, a quantized ReLU for more."""
    if bits == 1:
        return qnn.QuantIdentity(act_quant=SignedBinaryActPerTensorConst)
    return qnn.QuantReLU(act_quant=Uint8ActPerTensorFloat, bit_width=bits)


def network(bits: int) -> nn.Module:
    """The network described above."""
    weights = SignedBinaryWeightPerTensorConst if bits == 1 else Int8WeightPerChannelFloat
    how = {"bias": False, "weight_quant": weights}
    if bits > 1:
        how["weight_bit_width"] = bits

    def layer(inputs: int, outputs: int) -> list[nn.Module]:
        conv = qnn.QuantConv2d(inputs, outputs, 3, padding=1, **how)
        return [conv, nn.BatchNorm2d(outputs), activation(bits), nn.MaxPool2d(2)]

    entry = qnn.QuantIdentity(act_quant=Int8ActPerTensorFloat, bit_width=8)
    body = [entry, *layer(1, 16), *layer(16, 32), nn.Flatten(), qnn.QuantLinear(128, 10, **how)]
    return nn.Sequential(*body)


def train(bits: int, seed: int = 0) -> tuple[nn.Module, float]:
    """A trained network and its accuracy on the images held out."""
    torch.manual_seed(seed)
    digits = load_digits()
    images = torch.tensor(digits.images[:, None] / 16, dtype=torch.float32)
    labels = torch.tensor(digits.target)
    x, y = images[HELD_OUT:], labels[HELD_OUT:]
    model = network(bits)
    steps = EPOCHS * -(-len(x) // BATCH)
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    for _ in range(EPOCHS):
        for part in torch.randperm(len(x)).split(BATCH):
            optimizer.zero_grad()
            scores = model(x[part]) / (10 if bits == 1 else 1)
            nn.functional.cross_entropy(scores, y[part]).backward()
            optimizer.step()
            schedule.step()
    model.eval()
    with torch.no_grad():
        right = model(images[:HELD_OUT]).argmax(1) == labels[:HELD_OUT]
    return model, float(np.mean(right.numpy()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where digits_w*a*.onnx go")
    folder = parser.parse_args().folder
    for bits in (1, 2, 4):
        model, accuracy = train(bits)
        path = folder / f"digits_w{bits}a{bits}.onnx"
        export_qonnx(model, torch.zeros(1, 1, 8, 8), str(path), opset_version=13, dynamo=False)
        print(f"{path}: {100 * accuracy:.2f} %, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
