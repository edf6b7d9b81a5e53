"""How much the network's output suffers when one layer gets another format.

One layer at a time is rounded, everything else stays float, and the outputs on calibration data are
compared with those of the float network. That the errors of several layers add up is the assumption
of HAWQ-V2 (Dong et al., NeurIPS 2020) and HAWQ-V3 (Yao et al., ICML 2021), too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from weft import ops
from weft.graph import Array, Graph, Node
from weft.passes.choices import Choice, layer_name, layers
from weft.passes.ranges import feeds
from weft.passes.weights import finite, format_for
from weft.quantization import codec, methods, statistics
from weft.quantization.statistics import Statistics

Progress = Callable[[int, int], None]
Errors = dict[str, dict[str, float]]


def measure(
    graph: Graph,
    data: Mapping[str, Array],
    formats: Sequence[str],
    method: str = "nearest",
    progress: Progress | None = None,
) -> Errors:
    """Layer's name → format → error of the outputs relative to their power.

    `data` maps the inputs to samples [n, ...]; a Softmax at the end is left out, so that the error
    is that of its logits. `progress` hears (evaluations done, in all).
    """
    tail = logits(graph)
    reference = _evaluated(tail, data)
    power = float(sum(np.square(y).sum(dtype=np.float64) for y in reference.values())) or 1.0
    nodes = layers(tail)
    needs = method in methods.NEED_DATA
    seen = statistics.observe(tail, feeds(tail, data), nodes) if needs else {}
    found: Errors = {}
    for i, node in enumerate(nodes):
        errors = found.setdefault(layer_name(node), {})
        for j, name in enumerate(formats):
            changed = with_rounded(
                tail, node, Choice(name, method=method), seen.get(node.outputs[0])
            )
            outputs = _evaluated(changed, data)
            total = sum(
                np.square(outputs[n] - y).sum(dtype=np.float64) for n, y in reference.items()
            )
            errors[name] = float(total) / power
            if progress:
                progress(i * len(formats) + j + 1, len(nodes) * len(formats))
    return found


def logits(graph: Graph) -> Graph:
    """The graph without a Softmax behind which nothing comes."""
    outputs, producers = [], graph.producers()
    for name in graph.outputs:
        node = producers.get(name)
        last = node is not None and node.op in ("Softmax", "LogSoftmax")
        outputs.append(node.inputs[0] if last and node is not None else name)
    return graph.replace(outputs=tuple(outputs)).pruned()


def with_rounded(graph: Graph, node: Node, choice: Choice, seen: Statistics | None) -> Graph:
    """The float graph in which one layer's weights are what a format keeps of them."""
    tensor = graph[node.inputs[1]]
    fmt, _ = format_for(graph, node, choice.weights)
    weights = codec.canonical(finite(tensor, node), node.op)
    quant = methods.fit(weights, fmt, choice.method, seen)
    kept = codec.real(methods.solve(weights, quant, fmt, choice.method, seen), quant)
    data = codec.restored(kept, node.op, tensor.shape).astype(np.float32)
    name = f"{tensor.name}/rounded"
    while name in graph.tensors:
        name += "'"
    tensors = {**graph.tensors, name: replace(tensor, name=name, data=data)}
    changed = replace(node, inputs=(node.inputs[0], name, *node.inputs[2:]))
    nodes = tuple(changed if n is node else n for n in graph.nodes)
    return graph.replace(nodes=nodes, tensors=tensors)


def _evaluated(graph: Graph, data: Mapping[str, Array]) -> dict[str, Array]:
    parts = [ops.evaluate(graph, part) for part in feeds(graph, data)]
    return {name: np.concatenate([part[name] for part in parts]) for name in graph.outputs}
