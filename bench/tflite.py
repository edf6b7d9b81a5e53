"""TFLite networks on the simulation against LiteRT: accuracy, and how many output codes agree."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np

import weft

from .row import Row, absent, at_least

LIMITS = {"kws": 90.0, "resnet8": 75.0, "mnist_lstm": 91.5}
KERNELS = {None: "its default kernels", "double_round": "its reference kernels"}


def rows(folder, data) -> list[Row]:
    """Per network: int8 top-1 against LiteRT's, equal codes per set of kernels, float top-1."""
    if data is None or find_spec("ai_edge_litert") is None:
        reason = "ai-edge-litert is not installed" if data else "the data sets are not here"
        return [absent(f"{name}: TFLite int8 top-1", reason, "%") for name in LIMITS]
    made = []
    for name in LIMITS:
        made += _rows(name, data)
    return made


def _rows(name: str, data) -> list[Row]:
    import models
    from tflite_models import litert

    net = models.tflite_network(name, data)
    made = []
    for requant, kernels in KERNELS.items():
        program = weft.compile(net.path, net.overlay, requant=requant)
        with weft.open(program, "csim") as session:
            found = session.run(net.x)
        peer = litert(net.path.read_bytes(), net.x, reference=requant is not None)[0]
        title = f"{name}: TFLite int8 on csim, overlay {net.overlay}, {len(net.x):,} samples"
        ours, theirs = (models.top1(y, net.labels) for y in (found, peer))
        if requant is None:
            made.append(at_least(f"{title}: top-1", ours, LIMITS[name], "%", theirs))
        else:  # other arithmetic, another accuracy: the peer's, whatever it is
            target = f"= {theirs:.2f}"
            made.append(
                Row(f"{title}, {requant}: top-1", ours, theirs, "%", target, ours == theirs)
            )
        equal = 100 * float(np.mean(found == peer))
        metric = f"{name}: output codes equal to LiteRT's with {kernels}"
        made.append(at_least(metric, equal, 99.9, "%", 100.0))
    made += _export_rows(name, net, models)
    return [*made, _float_row(name, net, models, litert)]


def _export_rows(name: str, net, models) -> list[Row]:
    """The QDQ file of the int8 network in onnxruntime, against the program itself."""
    if name == "mnist_lstm" or find_spec("onnxruntime") is None:  # LSTMs have no QDQ form
        return []
    import onnxruntime

    from weft.export_qdq import to_onnx

    program = weft.compile(net.path, net.overlay)
    runtime = onnxruntime.InferenceSession(to_onnx(program.graph()).SerializeToString())
    theirs = runtime.run(None, {program.inputs[0].name: net.x})[0]
    with weft.open(program, "csim") as session:
        ours = session.run(net.x)
    title = f"{name}: QDQ export in onnxruntime, {len(net.x):,} samples"
    equal = 100 * float(np.mean(ours == theirs))
    own, peer = (models.top1(y, net.labels) for y in (ours, theirs))
    return [
        at_least(f"{title}: output codes equal to the program's", equal, 99.5, "%"),
        Row(f"{title}: top-1 (ours: the program)", own, peer, "%", f"= {own:.2f}", own == peer),
    ]


def _float_row(name: str, net, models, litert) -> Row:
    """The float model, quantized by weft with a fifth of 1,000 samples."""
    x, labels = net.real()[:1000], net.labels[:1000]
    reference = models.top1(litert(net.float_path.read_bytes(), x)[0], labels)
    program = weft.compile(net.float_path, net.overlay, calibration=x[::5])
    with weft.open(program, "csim") as session:
        found = models.top1(session.run(x), labels)
    title = f"{name}: TFLite float model quantized by weft, top-1 of {len(x):,} (peer: float)"
    return at_least(title, found, reference - 1, "%", reference)
