"""Trains the CNN of `weft demo` on scikit-learn's handwritten digits, with numpy alone.

    conv 3×3, 8 → ReLU → max pool → conv 3×3, 16 → ReLU → max pool → linear, 10

It has 23,680 multiply-accumulates per image. The script writes, into the package,

- models/digits.onnx: the trained network, input "image" [N, 1, 8, 8], values 0..16;
- models/digits.npz: 540 images held out from the training, their labels, and 128 training images
  for calibration. Optical Recognition of Handwritten Digits (E. Alpaydin, C. Kaynak, UCI Machine
  Learning Repository, 1998), CC BY 4.0.

The result is the same on every run: all randomness has one seed. It takes half a minute.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

HELD_OUT, CALIBRATION = 540, 128
EPOCHS, BATCH, RATE, SMOOTHING = 150, 32, 8e-3, 0.05
FULL_SCALE = 16.0


def initial(rng):
    """Weights as ONNX lays them out; He's initialization (Delving Deep into Rectifiers, 2015)."""
    shapes = {"w1": (8, 1, 3, 3), "w2": (16, 8, 3, 3), "w3": (10, 64)}
    weights = {
        name: rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
        for name, shape in shapes.items()
    }
    return weights | {"b1": np.zeros(8), "b2": np.zeros(16), "b3": np.zeros(10)}


def taps(x):
    """The 3×3 neighbourhood of every pixel: [N, C, H, W] → [N, H, W, C, 3, 3]."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    return windows.transpose(0, 2, 3, 1, 4, 5)


def conv_forward(x, w, b):
    """Convolution, ReLU and 2×2 max pooling; also what the backward pass needs."""
    columns = taps(x)
    y = np.tensordot(columns, w, ((3, 4, 5), (1, 2, 3))) + b
    n, height, width, channels = y.shape
    squares = y.reshape(n, height // 2, 2, width // 2, 2, channels).transpose(0, 1, 3, 5, 2, 4)
    squares = squares.reshape(n, height // 2, width // 2, channels, 4)
    pooled = squares.max(-1)
    winner = (squares == pooled[..., None]) & (pooled[..., None] > 0)
    return np.maximum(pooled, 0).transpose(0, 3, 1, 2), (columns, winner)


def conv_backward(grad, w, kept):
    """Gradients of the input, the weights and the bias."""
    columns, winner = kept
    n, half_h, half_w, channels, _ = winner.shape
    squares = grad.transpose(0, 2, 3, 1)[..., None] * winner
    squares = squares.reshape(n, half_h, half_w, channels, 2, 2).transpose(0, 1, 4, 2, 5, 3)
    dy = squares.reshape(n, 2 * half_h, 2 * half_w, channels)
    dw = np.tensordot(dy, columns, ((0, 1, 2), (0, 1, 2)))
    # The input's gradient is the convolution with the kernel turned by half a circle.
    dx = np.tensordot(taps(dy.transpose(0, 3, 1, 2)), w[:, :, ::-1, ::-1], ((3, 4, 5), (0, 2, 3)))
    return dx.transpose(0, 3, 1, 2), dw, dy.sum((0, 1, 2))


def scores(weights, x):
    """Class scores [N, 10] of images [N, 1, 8, 8] in 0..1, and what the backward pass needs."""
    h1, kept1 = conv_forward(x, weights["w1"], weights["b1"])
    h2, kept2 = conv_forward(h1, weights["w2"], weights["b2"])
    flat = h2.reshape(len(x), -1)
    return flat @ weights["w3"].T + weights["b3"], (kept1, kept2, flat)


def gradients(weights, x, labels):
    """Gradients of the cross entropy with smoothed labels."""
    logits, (kept1, kept2, flat) = scores(weights, x)
    p = np.exp(logits - logits.max(1, keepdims=True))
    target = np.full_like(p, SMOOTHING / 10)
    target[np.arange(len(x)), labels] += 1 - SMOOTHING
    d3 = (p / p.sum(1, keepdims=True) - target) / len(x)
    d2, dw2, db2 = conv_backward((d3 @ weights["w3"]).reshape(-1, 16, 2, 2), weights["w2"], kept2)
    _, dw1, db1 = conv_backward(d2, weights["w1"], kept1)
    return {"w1": dw1, "b1": db1, "w2": dw2, "b2": db2, "w3": d3.T @ flat, "b3": d3.sum(0)}


def shifted(rng, x):
    """Each image moved by up to one pixel, so that the network can't learn positions by heart."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    out = np.empty_like(x)
    for i, (dy, dx) in enumerate(rng.choice(3, (len(x), 2), p=(0.2, 0.6, 0.2))):
        out[i] = padded[i, :, dy : dy + 8, dx : dx + 8]
    return out


def train(x, labels, rng):
    """Adam (Kingma and Ba, 2015), the rate falling to zero along a cosine."""
    weights = initial(rng)
    first = {name: np.zeros_like(w) for name, w in weights.items()}
    second = {name: np.zeros_like(w) for name, w in weights.items()}
    steps = EPOCHS * (len(x) // BATCH)
    for step in range(steps):
        if step % (len(x) // BATCH) == 0:
            order = rng.permutation(len(x))
        start = step % (len(x) // BATCH) * BATCH
        batch = order[start : start + BATCH]
        rate = RATE * 0.5 * (1 + np.cos(np.pi * step / steps))
        for name, g in gradients(weights, shifted(rng, x[batch]), labels[batch]).items():
            first[name] += 0.1 * (g - first[name])
            second[name] += 0.001 * (g * g - second[name])
            mean = first[name] / (1 - 0.9 ** (step + 1))
            square = second[name] / (1 - 0.999 ** (step + 1))
            weights[name] -= rate * mean / (np.sqrt(square) + 1e-8)
    return weights


def export(weights):
    """The network as ONNX; the first layer's weights take the scaling of 0..16 to 0..1."""
    from onnx import TensorProto, checker, helper, numpy_helper

    values = {name: w.astype(np.float32) for name, w in weights.items()}
    values["w1"] = (weights["w1"] / FULL_SCALE).astype(np.float32)
    pool = {"kernel_shape": [2, 2], "strides": [2, 2]}
    nodes = [
        helper.make_node("Conv", ["image", "w1", "b1"], ["c1"], "conv1", pads=[1] * 4),
        helper.make_node("Relu", ["c1"], ["r1"], "relu1"),
        helper.make_node("MaxPool", ["r1"], ["p1"], "pool1", **pool),
        helper.make_node("Conv", ["p1", "w2", "b2"], ["c2"], "conv2", pads=[1] * 4),
        helper.make_node("Relu", ["c2"], ["r2"], "relu2"),
        helper.make_node("MaxPool", ["r2"], ["p2"], "pool2", **pool),
        helper.make_node("Flatten", ["p2"], ["flat"], "flatten"),
        helper.make_node("Gemm", ["flat", "w3", "b3"], ["scores"], "fc", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, 8, 8])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(w, name) for name, w in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    checker.check_model(model, full_check=True)
    return model


def main():
    """Trains, prints the held-out accuracy, and writes the two files."""
    from sklearn.datasets import load_digits

    folder = Path(__file__).resolve().parents[1] / "host" / "weft" / "models"
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--output", type=Path, default=folder)
    output = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(8)
    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 1, 8, 8)
    order = rng.permutation(len(images))
    held, kept = order[:HELD_OUT], order[HELD_OUT:]
    weights = train(images[kept] / FULL_SCALE, labels[kept], rng)
    right = scores(weights, images[held] / FULL_SCALE)[0].argmax(1) == labels[held]
    print(f"held-out accuracy {100 * right.mean():.2f} % of {HELD_OUT} images")
    (output / "digits.onnx").write_bytes(export(weights).SerializeToString())
    np.savez_compressed(
        output / "digits.npz",
        images=images[held].astype(np.uint8),
        labels=labels[held].astype(np.uint8),
        calibration=images[kept[:CALIBRATION]].astype(np.uint8),
    )


if __name__ == "__main__":
    main()
