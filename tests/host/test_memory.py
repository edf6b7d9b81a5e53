"""No two values that live at the same time share a word."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.memory import Request, plan

SPANS = st.tuples(st.integers(0, 12), st.integers(0, 12)).map(sorted)


@given(st.lists(st.tuples(st.integers(1, 50), SPANS), max_size=25))
def test_live_values_never_overlap(values: list[tuple[int, list[int]]]) -> None:
    requests = [Request(f"v{i}", size, *span) for i, (size, span) in enumerate(values)]
    found = plan(requests)
    assert found.offsets.keys() == {r.name for r in requests}
    for i, a in enumerate(requests):
        low, high = found.offsets[a.name], found.offsets[a.name] + a.size
        assert 0 <= low < high <= found.peak
        for b in requests[i + 1 :]:
            if a.first <= b.last and b.first <= a.last:
                other = found.offsets[b.name]
                assert high <= other or other + b.size <= low, f"{a} and {b}"
    assert found.peak <= sum(r.size for r in requests)
    live = [sum(r.size for r in requests if r.first <= t <= r.last) for t in range(13)]
    assert found.peak >= max(live)


def test_chain_needs_two_neighbours_only() -> None:
    sizes = [10, 40, 20, 30, 5]
    found = plan([(f"v{i}", size, i, i + 1) for i, size in enumerate(sizes)])
    assert found.peak == 60  # 40 + 20, the largest pair of neighbours


def test_same_requests_same_plan() -> None:
    requests = [Request("b", 4, 0, 3), Request("a", 4, 0, 3), Request("c", 2, 2, 5)]
    assert plan(requests) == plan(list(reversed(requests)))


def test_nothing_to_place() -> None:
    assert plan([]).peak == 0


def test_an_empty_value_is_our_own_mistake() -> None:
    with pytest.raises(AssertionError):
        plan([("a", 0, 0, 1)])
