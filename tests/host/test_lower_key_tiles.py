"""Long sequences: keys in tiles, from the operand buffer or from memory, give the same codes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from encoders import LANES16, LANES32, attention_net, compiled, cut, encoder, samples
from test_lower_attention import CASES, expected, few, run

import weft
from weft import isa
from weft.config import Overlay
from weft.lower import lower
from weft.program import AcceleratorSegment, Program
from weft.tokens import most_tokens

NARROW = replace(LANES16, name="narrow", wide_words=8)  # scores of 128 keys
HELD = replace(LANES16, name="held", operand_words=320)  # a head of 80 keys and values
TILES = replace(LANES16, name="tiles", operand_words=80)  # 16 of them
PACKED = replace(LANES32, name="packed", operand_words=192)
LONG: dict[str, dict[str, Any]] = {
    **{name: {"tokens": 70, **case} for name, case in CASES.items() if "bias" not in case},
    "all of it in tiles": {"tokens": 150},
    "cross attention": {"tokens": 30, "memory": 137},
    "a later window": {"tokens": 90, "left": 20, "right": 60},
    "bias": {"tokens": 70, "bias": (2, 70, 70)},
}
every_case = pytest.mark.parametrize("case", LONG.values(), ids=LONG)


def fields_of(program: Program, kind: isa.Instruction) -> list[dict[str, int]]:
    found = [isa.decode(w) for s in program.segments for w in getattr(s, "words", ())]
    return [fields for each, fields in found if each is kind]


def sweeps(program: Program) -> tuple[int, int]:
    """How many Activates keep maxima alone, and ReadHosts of keys or values there are."""
    maxima = sum(f["discard"] for f in fields_of(program, isa.ACTIVATE))
    return maxima, sum(f["space"] == isa.OPERAND for f in fields_of(program, isa.READ_HOST))


@every_case
@pytest.mark.parametrize("overlay", [HELD, TILES, PACKED], ids=lambda o: o.name)
def test_keys_from_memory_give_the_codes_of_plain_integers(
    overlay: Overlay, case: dict[str, Any]
) -> None:
    overlay = replace(overlay, wide_words=1024)
    graph, program = compiled(attention_net(**case), overlay)
    assert all(isinstance(s, AcceleratorSegment) for s in program.segments)
    feeds = few(graph)
    np.testing.assert_array_equal(run(program, feeds), expected(graph, feeds))


@pytest.mark.parametrize("tokens", [129, 144, 150])
@pytest.mark.parametrize("options", [{}, {"causal": 1}, {"heads": 4, "kv_heads": 2}, {"left": -30}])
def test_scores_in_tiles_give_the_codes_of_plain_integers(
    tokens: int, options: dict[str, Any]
) -> None:
    overlay = replace(NARROW, operand_words=4096)
    graph, program = compiled(attention_net(tokens=tokens, **options), overlay)
    assert all(isinstance(s, AcceleratorSegment) for s in program.segments)
    feeds = few(graph)
    np.testing.assert_array_equal(run(program, feeds), expected(graph, feeds))
    assert sweeps(program)[0] > 0


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8])
def test_every_size_of_a_tile_gives_the_codes_of_whole_rows(size: int) -> None:
    """As many tiles of 16 keys at a time as `size` says, of 70 keys."""
    graph, whole = compiled(attention_net(tokens=70, heads=2, width=16), LANES16)
    feeds = few(graph)
    assert sweeps(whole) == (0, 0)
    overlay = replace(LANES16, operand_words=2 * 16 * size, accumulator_rows=64)
    program = lower(graph, overlay)
    assert (sweeps(program)[0] > 0) == (size < 5)
    np.testing.assert_array_equal(run(program, feeds), run(whole, feeds))


def test_what_fits_is_not_cut() -> None:
    _, program = compiled(attention_net(tokens=128), replace(NARROW, operand_words=4096))
    assert sweeps(program) == (0, 0)
    assert not any(f["stays"] or f["accumulator"] for f in fields_of(program, isa.ATTEND))


def test_keys_of_a_head_that_fit_come_once() -> None:
    _, program = compiled(attention_net(tokens=80, heads=4, kv_heads=2), HELD)
    assert sweeps(program) == (0, 4)


def test_tiles_that_a_mask_hides_from_all_queries_are_neither_read_nor_multiplied() -> None:
    overlay = replace(TILES, accumulator_rows=48)
    causal = compiled(attention_net(tokens=96, heads=1, causal=1), overlay)[1]
    plain = compiled(attention_net(tokens=96, heads=1), overlay)[1]
    assert sweeps(causal) < sweeps(plain)
    last = [f["operand"] for f in fields_of(causal, isa.ATTEND)]
    assert len(last) < len(fields_of(plain, isa.ATTEND))


@pytest.mark.parametrize("overlay", [HELD, TILES, NARROW], ids=lambda o: o.name)
def test_simulation_equals_golden_in_every_layer_and_clock(overlay: Overlay) -> None:
    tokens = 150 if overlay is NARROW else 70
    net = attention_net(tokens=tokens, causal=1, heads=4, kv_heads=2)
    _, program = compiled(net, replace(overlay, operand_words=max(overlay.operand_words, 0)))
    feeds = samples(net, seed=3, count=1)
    assert weft.check(program, feeds, "csim").first_difference is None
    with weft.open(program, "csim") as session:
        _, took = session.run(feeds, detail=True)
    assert took.cycles == weft.estimate(program).cycles


@pytest.mark.parametrize("options", [{}, {"causal": 1}, {"left": -9, "right": 4}])
@pytest.mark.parametrize("overlay", [HELD, TILES], ids=lambda o: o.name)
def test_fewer_tokens_equal_a_program_compiled_for_them(
    overlay: Overlay, options: dict[str, Any]
) -> None:
    graph, program = compiled(attention_net(tokens=90, heads=2, **options), overlay)
    assert most_tokens(program) == {"x": 90}
    feeds = samples(graph, seed=2, count=2)
    for tokens in (1, 15, 16, 17, 48, 89):
        part = {"x": feeds["x"][:, :tokens]}
        own = lower(cut(graph, {"x": tokens}, program.tokens), overlay)
        np.testing.assert_array_equal(run(program, part), run(own, part))
        assert weft.check(program, part, "csim").first_difference is None


def test_queries_and_keys_may_be_fewer_by_themselves() -> None:
    graph, program = compiled(attention_net(tokens=30, memory=50), TILES)
    feeds = samples(graph, seed=2, count=2)
    for x, memory in ((30, 17), (7, 50), (1, 1), (16, 33)):
        part = {"x": feeds["x"][:, :x], "memory": feeds["memory"][:, :memory]}
        own = lower(cut(graph, {"x": x, "memory": memory}, program.tokens), TILES)
        np.testing.assert_array_equal(run(program, part), run(own, part))


def test_an_encoder_whose_keys_do_not_fit_equals_one_whose_do() -> None:
    units = ("requant", "vector", "lookup", "attention", "norm")
    large = replace(LANES16, units=units, norm=("ibert",), wide_words=4096, name="large")
    net = encoder(tokens=60, layers=2)
    graph, whole = compiled(net, large)
    program = lower(graph, replace(large, operand_words=64))
    assert all(isinstance(s, AcceleratorSegment) for s in program.segments)
    assert sweeps(whole)[0] == 0 < sweeps(program)[0]
    feeds = samples(graph, seed=3, count=2)
    np.testing.assert_array_equal(run(program, feeds), run(whole, feeds))
