"""Bits of what a decoder keeps of earlier tokens: 8, or packed codes of 4 or 2."""

from __future__ import annotations

from weft.errors import UsageError
from weft.graph import Graph
from weft.isa import PACKED_GROUP
from weft.units.packed_cache import BITS

PLAIN = 8  # bits of a cache that is not packed
ATTRIBUTE = "cache_bits"  # of an Attention with a cache
TOKENS = 32  # of a run, if nobody says how many
CACHE = 512  # of a cache, likewise


def cache_sizes(limit: int, cache: int | None, tokens: int | None, bits: int) -> tuple[int, int]:
    """Tokens of the cache and of a run of a decoder that knows `limit` positions.

    Raises UsageError for bits that there are not, and for sizes that are no groups.
    """
    if bits not in (PLAIN, *BITS):
        raise UsageError(f"cache_bits = {bits}: the cache has 8 bits, 4 or 2")
    capacity = min(CACHE, limit) if cache is None else cache
    if bits == PLAIN:
        return capacity, min(tokens or TOKENS, capacity)
    group = PACKED_GROUP
    if cache is None:
        capacity -= capacity % group
    if capacity < group or capacity % group:
        raise UsageError(
            f"cache = {capacity or limit} with cache_bits = {bits}: groups of {group} tokens are "
            f"packed; take a multiple of {group}, or 8 bits"
        )
    if tokens is not None and tokens > group:
        raise UsageError(
            f"tokens = {tokens} with cache_bits = {bits}: a run ends with its group of {group} "
            "tokens at the latest; take fewer, or 8 bits"
        )
    return capacity, min(tokens or TOKENS, group)


def with_cache_bits(graph: Graph, bits: int) -> Graph:
    """A graph whose attention with a cache keeps codes of so many bits."""
    nodes = (
        node.with_attrs(**{ATTRIBUTE: bits})
        if node.op == "Attention" and node.attrs.get("cache")
        else node
        for node in graph.nodes
    )
    return graph.replace(nodes=tuple(nodes))
