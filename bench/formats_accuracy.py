"""Accuracy of four networks with weights in every kind of number format, in percent.

Post-training: 200 inputs without labels calibrate, 1,000 of the same set are judged on the
simulation of overlay lab. The method of each format is the one with the least error of the
network's output on the calibration inputs. Weight bytes and clocks of a sample are those of the
program, against int8's.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

import weft
from weft.compiler import load_model
from weft.config import load_overlay
from weft.graph import Graph
from weft.lower import lower
from weft.ops import evaluate
from weft.passes.quantize import quantize, simulate
from weft.program import Program

from .formats import weight_bytes
from .row import Row, absent, at_least

FORMATS = (
    "int8", "int6", "int4", "int4:g32", "int3", "int2", "flint4", "pot4", "apot4", "e2m1", "olive4",
    "ternary", "binary", "codebook16", "mxfp4", "mxint8", "nvfp4", "bf16", "ant4",
)  # fmt: skip
NETWORKS = ("mnist", "resnet8", "har", "kws")
METHODS = (
    {"weight_method": "mse"},
    {"weight_method": "adaround", "correct_bias": True},
)
SAMPLES, JUDGED = 1000, 64
LOSS = {8: 1.0, 4: 3.0}  # points that the best format of so many bits may lose
BEST_OF = ("int4", "int4:g32", "flint4", "pot4", "apot4", "e2m1", "olive4", "codebook16",
           "mxfp4", "nvfp4", "ant4")  # fmt: skip


def quantized(graph: Graph, x: np.ndarray, name: str) -> tuple[Graph, str]:
    """The graph with weights in a format, by the better method, and that method's name."""
    (source,), (output,) = graph.inputs, graph.outputs
    some = {source: x[:: max(1, len(x) // JUDGED)][:JUDGED]}
    reference = evaluate(graph, some)[output]
    found = []
    for method in METHODS:
        made = quantize(graph, {source: x}, calibrator="mse", weights=name, **method)
        error = float(np.square(simulate(made, some)[output] - reference).sum())
        found.append((error, method["weight_method"], made))
    _, method_name, best = min(found, key=lambda entry: entry[0])
    return best, method_name


def judged(net) -> tuple[np.ndarray, np.ndarray]:
    """SAMPLES inputs at equal distances, and their labels."""
    step = max(1, len(net.x) // SAMPLES)
    return net.x[::step][:SAMPLES], net.labels[::step][:SAMPLES]


def accuracy(graph: Graph, net, run) -> float:
    """Percent of the judged inputs whose largest output is the label's."""
    x, labels = judged(net)
    hits = 0
    for start in range(0, len(x), 100):
        scores = run(graph, {graph.inputs[0]: x[start : start + 100]})[graph.outputs[0]]
        rows = scores.reshape(len(scores), -1).argmax(axis=1)
        hits += int((rows == labels[start : start + 100]).sum())
    return 100 * hits / len(x)


def on_csim(program: Program, net) -> float:
    """As `accuracy`, of a program on the simulation."""
    x, labels = judged(net)
    with weft.open(program, "csim") as session:
        scores = session.run(x)
    return 100 * float((scores.reshape(len(x), -1).argmax(axis=1) == labels).mean())


def network(name: str, data, folder):
    """The float network with its inputs, labels and typical inputs; "kws" is a TFLite file."""
    import models

    if name != "kws":
        return models.network(name, data, folder)
    net = models.tflite_network(name, data)
    x = net.real()
    return SimpleNamespace(path=net.float_path, x=x, labels=net.labels, calibration=x[::5])


def network_rows(name: str, folder, data) -> list[Row]:
    """One row per format, then the best of 4 bits."""
    net = network(name, data, folder)
    graph = load_model(net.path)
    reference = accuracy(graph, net, evaluate)
    made, found, first = [], {}, None
    for fmt in FORMATS:
        best, method = quantized(graph, net.calibration, fmt)
        program = lower(best, load_overlay("lab"))
        found[fmt] = on_csim(program, net)
        size = weight_bytes(program), weft.estimate(program, batch=1).cycles
        first = first or size  # int8's
        shares = f"{size[0] / first[0]:.2f} of the bytes, {size[1] / first[1]:.2f} of the clocks"
        title = f"{name}: {fmt} weights ({method}), {shares} (peer: float)"
        made.append(_row(title, found[fmt], reference, LOSS[8] if fmt == "int8" else None))
    best_of = max(BEST_OF, key=lambda fmt: found[fmt])
    title = f"{name}: best of 4 bits, {best_of} (peer: float)"
    return [*made, _row(title, found[best_of], reference, LOSS[4])]


def _row(title: str, percent: float, reference: float, loss: float | None) -> Row:
    if loss is None:
        return Row(title, percent, reference, "%", "", None)
    return at_least(title, percent, round(reference - loss, 2), "%", reference)


def rows(folder, data) -> list[Row]:
    """All networks, if the data sets are here."""
    if data is None:
        return [absent("accuracy per number format", "the data sets are not here", "%")]
    return [row for name in NETWORKS for row in network_rows(name, folder, data)]
