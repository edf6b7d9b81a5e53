"""ResNet8 (MLPerf Tiny, CIFAR-10) at 2:4: pruned, retrained without labels, compiled, and run.

Pruned are the layers where 2:4 saves clocks of the overlay; the others (few channels, so no fold of
the array is saved; the 1 × 1 shortcut; the classifier) keep all their weights. SparseGPT chooses
the zeros, then the float network teaches the pruned one (`weft.torch.distill`): no label is read.
Half of the images teach, the other half judges, then the halves change places: top-1 is over all
images, each by a network that has never seen it.

--data FOLDER holds pretrainedResnet.tflite (MLPerf Tiny's float model) and an .npz with x [N, 32,
32, 3] and y [N]. Columns: top-1 in float and as int8 program on the simulation, bytes of weights,
clocks of an image that the simulation counts, times that are predicted for boards.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import fx, nn
from torch.fx.passes.split_module import split_module

import weft
import weft.torch
from weft.config import load_overlay
from weft.graph import Graph
from weft.passes.prune import prune
from weft.plan import LayerPlan, Plan
from weft.program import Program
from weft.sparse_study import Task, Trained, trained_table, unpaid

MODEL, IMAGES = "pretrainedResnet.tflite", "cifar10_test1000_from_jpeg.npz"
FORM, OVERLAY, BOARDS = "2:4", "lab", ("KV260", "ZCU104")
CALIBRATION, COUNTED = 200, 4
FRONT, VARIATIONS = "model_add_add_relu", 8000  # behind the first block; how often it is computed
SCHEDULE = weft.torch.Schedule(steps=1000, batch=64, rate=0.01)
MOVED = weft.torch.Augment(mix=0.0, cut=0.0)
MIXED = weft.torch.Augment(shift=0.0, flip=False, mix=0.4, cut=0.3)


@dataclass(frozen=True, eq=False)
class Half:
    """A network, images that taught it, and those that judge it: x [N, 32, 32, 3], y [N]."""

    module: nn.Module
    seen: torch.Tensor
    x: torch.Tensor
    y: torch.Tensor


def load(folder: Path) -> tuple[Graph, torch.Tensor, torch.Tensor]:
    """The float model, images [N, 32, 32, 3] of 0..255 and classes, in an order of its own."""
    with np.load(folder / IMAGES) as file:
        x, y = file["x"].astype(np.float32), file["y"].astype(np.int64)
    order = np.random.default_rng(0).permutation(len(x))
    return weft.load_model(folder / MODEL), torch.from_numpy(x[order]), torch.from_numpy(y[order])


def pruned(graph: Graph, seen: torch.Tensor) -> tuple[fx.GraphModule, dict[str, str]]:
    """The network with its zeros as a module, and the layers that stay dense."""
    typical = {graph.inputs[0]: seen.numpy()}
    dense = unpaid(Task(graph, load_overlay(OVERLAY), typical, typical), FORM)
    sparse = prune(graph, FORM, criterion="sparsegpt", calibration=typical, layers=dense)
    return weft.torch.from_graph(sparse, logits=True), dense


def halves(module: fx.GraphModule, at: str) -> tuple[nn.Module, nn.Module]:
    """What computes the tensor `at`, and what makes the answers of it; layers are shared."""
    early = True

    def part(node: fx.Node) -> int:
        nonlocal early
        mine, early = early, early and node.name != at
        return 0 if mine else 1

    made = split_module(module, module, part)
    return made.submod_0, made.submod_1


def retrained(graph: Graph, seen: torch.Tensor, schedule: weft.torch.Schedule) -> nn.Module:
    """The pruned network after `graph` has taught it on images without labels.

    No layer up to FRONT is pruned: what they make of varied images is computed once, and mixed and
    taught from there, where it takes half of the time.
    """
    student, dense = pruned(graph, seen)
    pruner = weft.torch.prune(student, FORM, {re.sub(r"\W", "_", name): "dense" for name in dense})
    front, rear = halves(student, FRONT)
    teacher = halves(weft.torch.from_graph(graph, logits=True), FRONT)[1]
    generator, features = torch.Generator().manual_seed(0), []
    for _ in range(-(-VARIATIONS // len(seen))):
        images = MOVED(seen.permute(0, 3, 1, 2), generator).permute(0, 2, 3, 1)
        with torch.no_grad():
            features.append(front(images))
    weft.torch.distill(rear, teacher, torch.cat(features), schedule, augment=MIXED)
    pruner.finish()
    return student


def top1(module: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    """Images whose class is right."""
    with torch.no_grad():
        return float((module(x).argmax(dim=1) == y).sum())


def programs(half: Half, form: str) -> Program:
    """The int8 program of a network; layers that gain nothing by `form` stay as they are."""
    calibration = half.seen[:CALIBRATION].numpy()
    graph = weft.load_model(half.module, example_inputs=(half.x[:1],))
    sparsity, plan = None, None
    if form != "dense":
        typical = {graph.inputs[0]: calibration}
        dense = unpaid(Task(graph, load_overlay(OVERLAY), typical, typical), form)
        sparsity, plan = form, Plan(layers={n: LayerPlan(sparsity="dense") for n in dense})
    return weft.compile(
        graph, OVERLAY, calibration=calibration, sparsity=sparsity, plan=plan, batch=1
    )


def result(halves: list[Half], form: str) -> Trained:
    """Runs the program of each half on the images that the half never saw."""
    right = clocks = 0.0
    for half in halves:
        program, x = programs(half, form), half.x.numpy()
        with weft.open(program, "csim") as session:
            classes = np.asarray(session.run(x)).reshape(len(x), -1).argmax(axis=1)
            _, run = session.run(x[:COUNTED], detail=True)
        right += float((classes == half.y.numpy()).sum())
        clocks += run.cycles / COUNTED / len(halves)
    images = sum(len(half.x) for half in halves)
    real = sum(top1(half.module, half.x, half.y) for half in halves)
    tops = 100 * real / images, 100 * right / images
    return Trained.of(form, program, tops, clocks, BOARDS)


def measure(
    folder: Path, schedule: weft.torch.Schedule = SCHEDULE, images: int = 0
) -> list[Trained]:
    """The dense network, only pruned, and retrained; of the first `images` (0: of all)."""
    graph, x, y = load(folder)
    x, y = (x[:images], y[:images]) if images else (x, y)
    middle = len(x) // 2
    parts = ((x[middle:], x[:middle], y[:middle]), (x[:middle], x[middle:], y[middle:]))
    teacher = weft.torch.from_graph(graph, logits=True)
    dense = [Half(teacher, *part) for part in parts]
    first = [replace(half, module=pruned(graph, half.seen)[0]) for half in dense]
    taught = [replace(half, module=retrained(graph, half.seen, schedule)) for half in dense]
    only = replace(result(first, FORM), form=f"{FORM}, not retrained")
    return [result(dense, "dense"), only, result(taught, FORM)]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with model and images")
    parser.add_argument("--steps", type=int, default=SCHEDULE.steps)
    arguments = parser.parse_args()
    found = measure(arguments.data, replace(SCHEDULE, steps=arguments.steps))
    print(trained_table(found, BOARDS))


if __name__ == "__main__":
    main()
