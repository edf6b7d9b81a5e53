"""An encoder-decoder's graph in two parts that run alone: keys and values of cross-attention, which
the encoder gives, become inputs of the decoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from weft.frontend.decoder import INPUT, OUTPUT
from weft.frontend.seq2seq import SOURCE
from weft.graph import Graph

KEPT = "/kept"  # behind the name of what the encoder gives: what the decoder takes
ENCODER, DECODER = "encoder", "decoder"


@dataclass(frozen=True)
class TwoParts:
    """The graph that was cut; `states` names the tensors at one place in memory, `entries` the
    outputs of either part.
    """

    graph: Graph
    states: Mapping[str, str]
    entries: Mapping[str, tuple[str, ...]]

    def part(self, entry: str) -> Graph:
        """The graph of the encoder, or of the decoder, alone."""
        outputs = self.entries[entry]
        graph = self.graph.replace(outputs=outputs)
        first = SOURCE if entry == ENCODER else INPUT
        inputs = [n for n in graph.inputs if n == first or (entry == DECODER and n in self.states)]
        return graph.replace(inputs=tuple(inputs)).pruned()


def two_parts(graph: Graph) -> TwoParts:
    """The graph cut in front of its cross-attention; codes stay as they are."""
    crossing = [node for node in graph if node.attrs.get("cross")]
    names = tuple(dict.fromkeys(n for node in crossing for n in node.inputs[1:3]))
    tensors = dict(graph.tensors)
    for name in names:
        tensors[name + KEPT] = replace(tensors[name], name=name + KEPT)
    nodes = tuple(
        replace(node, inputs=(node.inputs[0], *(n + KEPT for n in node.inputs[1:3])))
        if node.attrs.get("cross")
        else node
        for node in graph.nodes
    )
    kept = tuple(name + KEPT for name in names)
    cut = graph.replace(
        tensors=tensors, nodes=nodes, inputs=(INPUT, SOURCE, *kept), outputs=(OUTPUT, *names)
    )
    states = {which: name for name in names for which in (name + KEPT, name)}
    return TwoParts(cut.verify(), states, {ENCODER: names, DECODER: (OUTPUT,)})


def with_sizes(parts: TwoParts, tokens: int) -> TwoParts:
    """The parts with another number of new tokens at a time."""
    graph = parts.graph
    moving = {INPUT}
    for node in graph:
        if moving & set(node.inputs):
            moving |= set(node.outputs)
    tensors = {
        name: replace(t, shape=(1, tokens, *t.shape[2:])) if name in moving else t
        for name, t in graph.tensors.items()
    }
    return replace(parts, graph=graph.replace(tensors=tensors).verify())
