"""Runs of a decoder whose cache is packed: none goes beyond the end of a group."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from weft.isa import PACKED_GROUP
from weft.program import Cache


def parts(
    tokens: Sequence[int], position: int, cache: Cache
) -> Iterator[tuple[Sequence[int], int]]:
    """(tokens, position) of the runs that take some tokens behind `position` others."""
    if cache.bits >= 8:
        yield tokens, position
        return
    while len(tokens):
        room = PACKED_GROUP - position % PACKED_GROUP
        yield tokens[:room], position
        tokens, position = tokens[room:], position + room


def registers(tokens: int, position: int, slot: int, cache: Cache) -> tuple[int, ...]:
    """Those of a run; of a packed cache `source` says where the slot's newest tokens are."""
    found = (tokens, position, slot * cache.capacity)
    return found if cache.bits >= 8 else (*found, slot * PACKED_GROUP)
