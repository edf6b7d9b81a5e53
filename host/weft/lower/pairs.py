"""Encoder-decoders: what the encoder gives stays in memory, a place for each text.

The keys and values of cross-attention are states (`weft.lower.steps`): written by the encoder's
part, read by the decoder's, as many tokens as the register `source` says.
"""

from __future__ import annotations

from dataclasses import dataclass

from weft.lower.context import Context
from weft.lower.registers import ORIGIN, Follow, follow
from weft.lower.steps import Steps


@dataclass(frozen=True)
class Kept:
    """A map that is there for each text: `stride` rows from text to text.

    The register origin counts tokens of the cache: a slot's begins at its number times the
    capacity. Where a row of the cache stands for no whole number of rows here, a power of two of
    them does.
    """

    stride: int
    unit: int
    scale: int

    @staticmethod
    def of(rows: int, capacity: int) -> Kept:
        """That of a map of so many rows, beside caches of so many tokens."""
        unit = capacity & -capacity
        scale = -(-rows // (capacity // unit))
        return Kept(scale * (capacity // unit), unit, scale)

    def at(self, memory: int) -> Follow:
        """The rule of a transfer whose first row in the first slot is `memory`."""
        return follow("memory", ORIGIN, memory, unit=self.unit, scale=self.scale)


def keep(context: Context, steps: Steps) -> None:
    """Tells the context which maps are kept for each text, and which numbers of tokens are those of
    the source.
    """
    if not context.cached or not steps.states:
        return
    context.sources = frozenset(n for n in context.graph.inputs if n in steps.states)
    for name in steps.states:
        root = context.values[name].root
        context.kept[root] = Kept.of(context.maps[root].rows, context.cached)
