"""LeNet-300-100 in four sparse forms: pruned while it trains, compiled, and run on the simulation.

    784 → 300 → ReLU → 100 → ReLU → 10

The network of Deep Compression (Han et al., ICLR 2016). Data are MNIST's 10,000 test images, 5,000
to train on and 5,000 held out (--data FOLDER with the two t10k-*.gz files), or scikit-learn's 1,797
digits. Each form goes on training from the same float network while its zeros grow; the dense row
gets the same training. Columns: top-1 of the held-out images in float and as int8 program, bytes of
weights, clocks of one image that the simulation counts, and times that are predicted for boards.
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path

import numpy as np
import torch
from torch import nn

import weft
import weft.torch
from weft.sparse_study import Trained, trained_table

FORMS = ("dense", "2:4", "1:4", "csc:0.9", "bitmask:0.5", "snap:0.9")
BOARDS = ("KV260", "ZCU104")
BATCH, CALIBRATION, COUNTED = 50, 512, 16


def load(folder: Path | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Images [N, pixels] in 0..1 and labels, in an order that a seed fixes."""
    if folder is not None and (folder / "t10k-images-idx3-ubyte.gz").is_file():
        pixels = gzip.decompress((folder / "t10k-images-idx3-ubyte.gz").read_bytes())[16:]
        names = gzip.decompress((folder / "t10k-labels-idx1-ubyte.gz").read_bytes())[8:]
        images = np.frombuffer(pixels, np.uint8).reshape(-1, 784) / 255
        labels = np.frombuffer(names, np.uint8)
    else:
        from sklearn.datasets import load_digits

        images, labels = load_digits(return_X_y=True)
        images = images / 16
    order = np.random.default_rng(0).permutation(len(images))
    x = torch.from_numpy(images[order].astype(np.float32))
    return x, torch.from_numpy(labels[order].astype(np.int64))


def network(inputs: int) -> nn.Module:
    """The float network."""
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Linear(inputs, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)
    )


def train(module: nn.Module, x: torch.Tensor, y: torch.Tensor, epochs: int, form: str) -> None:
    """Trains; zeros of `form` grow through the first half of the epochs."""
    steps = epochs * (len(x) // BATCH)
    pruner = weft.torch.prune(module, form, steps=steps // 2, every=20) if form != "dense" else None
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(2)
    for _ in range(epochs):
        for part in torch.randperm(len(x), generator=generator)[: steps // epochs * BATCH].split(
            BATCH
        ):
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(x[part]), y[part]).backward()
            optimizer.step()
            schedule.step()
            if pruner:
                pruner.step()
    if pruner:
        pruner.finish()


def measure(
    images: tuple[torch.Tensor, torch.Tensor], epochs: int = 12, forms: tuple[str, ...] = FORMS
) -> list[Trained]:
    """Every form, trained on the first half of the images and judged on the second."""
    x, y = images
    half = len(x) // 2
    start = network(x.shape[1])
    train(start, x[:half], y[:half], epochs, "dense")
    state = {name: value.clone() for name, value in start.state_dict().items()}
    found = []
    for form in forms:
        module = network(x.shape[1])
        module.load_state_dict(state)
        train(module, x[:half], y[:half], epochs, form)
        found.append(result(module.eval(), form, x, y, half))
    return found


def result(module: nn.Module, form: str, x: torch.Tensor, y: torch.Tensor, half: int) -> Trained:
    """Compiles a trained network, runs it, and looks at what it took."""
    program = weft.compile(
        module,
        "lab",
        example_inputs=(x[:1],),
        calibration=x[:CALIBRATION].numpy(),
        batch=1,
        sparsity=None if form == "dense" else form,
    )
    held = x[half:].numpy()
    with weft.open(program, "csim") as session:
        classes = np.asarray(session.run(held)).reshape(len(held), -1).argmax(axis=1)
        _, run = session.run(held[:COUNTED], detail=True)
    with torch.no_grad():
        reference = module(x[half:]).argmax(dim=1).numpy()
    truth = y[half:].numpy()
    tops = 100 * float((reference == truth).mean()), 100 * float((classes == truth).mean())
    return Trained.of(form, program, tops, run.cycles / COUNTED, BOARDS)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with MNIST's t10k files")
    parser.add_argument("--epochs", type=int, default=12)
    arguments = parser.parse_args()
    found = measure(load(arguments.data), arguments.epochs)
    print(trained_table(found, BOARDS))


if __name__ == "__main__":
    main()
