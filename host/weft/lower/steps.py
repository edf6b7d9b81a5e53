"""Programs of single steps: states that stay in activation memory, and parts that run alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from weft.errors import CapacityError, UsageError, unknown
from weft.graph import Graph
from weft.lower.context import Context, key_of
from weft.lower.geometry import Value
from weft.lower.schedule import HostRun, Piece
from weft.pack import sequence

Parts = Sequence[Piece | HostRun]


@dataclass(frozen=True)
class Steps:
    """What makes a graph one of steps.

    `states` names the state that an input or output is; those of one state lie at one place in
    memory. `entries` maps the name of a part that runs alone to the outputs that it gives.
    """

    states: Mapping[str, str] = field(default_factory=dict)
    entries: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def entry_of(self, graph: Graph) -> dict[str, str]:
        """The entry of each node, by key. Raises UsageError for a node of none, or of two."""
        found: dict[str, str] = {}
        for entry, outputs in self.entries.items():
            for name in outputs:
                if name not in graph.outputs:
                    raise UsageError(unknown(f"output of entry {entry!r}", name, graph.outputs))
            for node in graph.replace(outputs=tuple(outputs)).pruned():
                if found.setdefault(key_of(node), entry) != entry:
                    raise UsageError(
                        f"{node.op} {node.name!r} is part of the entries {found[key_of(node)]!r} "
                        f"and {entry!r}: give each nodes of its own"
                    )
        missing = [node for node in graph if self.entries and key_of(node) not in found]
        if missing:
            raise UsageError(f"{missing[0].op} {missing[0].name!r} is part of no entry")
        return found

    def together(self, context: Context, parts: Parts) -> dict[str, str]:
        """Maps that lie where another one does → that one.

        Raises UsageError for states that are no inputs and outputs, or have different codes;
        CapacityError where a step reads a state again after it has written the next one.
        """
        graph, first = context.graph, dict[str, str]()
        found: dict[str, str] = {}
        for name, state in self.states.items():
            if name not in (*graph.inputs, *graph.outputs):
                raise UsageError(unknown("input or output", name, (*graph.inputs, *graph.outputs)))
            value = context.values.get(name)
            if value is None or (name in graph.outputs and value.root in context.hosted):
                whys = [part.why for part in parts if isinstance(part, HostRun)]
                told = f": {'; '.join(whys)}" if whys else ""
                raise UsageError(f"state {state!r}: {name!r} is not on the accelerator{told}")
            other = first.setdefault(state, name)
            if other == name:
                continue
            self._check_alike(state, (other, context.values[other]), (name, value))
            found[value.root] = context.values[other].root
        for name in self.states:
            if name in graph.outputs:
                self._check_order(context, parts, name)
        return found

    def _check_alike(self, state: str, one: tuple[str, Value], two: tuple[str, Value]) -> None:
        sizes, scales = [], []
        for _, value in (one, two):
            layout, quant = value.layout, value.quant
            sizes.append((layout.channels, layout.height, layout.width, sequence(layout)))
            scales.append((float(quant.scale), quant.zero_point, quant.format))
        if sizes[0] != sizes[1] or scales[0] != scales[1]:
            facts = zip((one[0], two[0]), sizes, scales, strict=True)
            told = "; ".join(f"{n!r}: size {size[:3]}, scale {scale}" for n, size, scale in facts)
            raise UsageError(
                f"state {state!r} can't stay in memory, as its tensors lie differently ({told}): "
                "quantize it with one scale (weft.compile(..., states=...)), or let it cross the "
                "host"
            )

    def _check_order(self, context: Context, parts: Parts, name: str) -> None:
        """Raises CapacityError where anything reads the state behind its next value, UsageError
        where the host reads it.
        """
        state, root = self.states[name], context.values[name].root
        same = {context.values[n].root for n, s in self.states.items() if s == state} - {root}
        entries, done = self.entry_of(context.graph), set[str]()
        for part in parts:
            if isinstance(part, HostRun):
                read = {n for node in part.nodes for n in node.inputs} & set(self.states)
                if read:
                    raise UsageError(f"state {sorted(read)[0]!r} is read on the host: {part.why}")
                continue
            entry = entries.get(part.stages[0].nodes[0], "")
            if same & set(part.reads) and (entry in done or _late(part, same, root)):
                raise CapacityError(
                    f"state {state!r}: the step does not fit on chip in one piece, and reads it "
                    f"again after {name!r} is written: take a larger overlay"
                )
            if root in part.writes:
                done.add(entry)


def _late(piece: Piece, same: set[str], root: str) -> bool:
    """Whether a segment first reads the maps `same` from memory behind the one that writes `root`,
    or several times.
    """
    if root not in piece.writes:
        return False
    first = next(i for i, stage in enumerate(piece.stages) if same & set(stage.sources))
    return piece.plan is None or first > piece.stages.index(piece.last_writer(root))
