"""Fewer tokens than compiled for: the same bits as a program compiled for them, and padding."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from encoders import LANES16, LANES32, Net, attention_net, compiled, cut, samples

import weft
from weft import isa
from weft.config import Overlay
from weft.device.golden import Golden
from weft.errors import InputError, ProgramError
from weft.graph import Graph
from weft.lower import lower
from weft.lower.tokens import token_axes
from weft.program import Program
from weft.runtime import Session
from weft.tokens import check_rules, most_tokens

FEW_ROWS = replace(LANES16, name="few", accumulator_rows=32, buffer_words=400)
CASES: dict[str, dict[str, Any]] = {
    "plain": {"tokens": 40},
    "grouped queries": {"heads": 4, "kv_heads": 2},
    "causal": {"tokens": 70, "causal": 1},
    "window": {"tokens": 90, "left": -9, "right": 4},
    "bias": {"bias": (2, 20, 20)},
    "heads of no whole words": {"heads": 3, "width": 12},
}


def outputs(program: Program, feeds: dict[str, Any]) -> Any:
    with Session(program, Golden()) as session:
        return next(iter(session.run(feeds).values()))


@pytest.mark.parametrize("overlay", [LANES16, LANES32, FEW_ROWS], ids=lambda o: o.name)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_equals_a_program_compiled_for_them(overlay: Overlay, case: dict[str, Any]) -> None:
    graph, program = compiled(attention_net(**case), overlay)
    (most,) = most_tokens(program).values()
    feeds = samples(graph, seed=2, count=2)
    for tokens in sorted({1, 2, 15, 16, 17, most // 2, most - 1}):
        part = {name: x[:, :tokens] for name, x in feeds.items()}
        own = lower(cut(graph, {"x": tokens}, program.tokens), overlay)
        expected = outputs(own, part)
        np.testing.assert_array_equal(outputs(program, part), expected)
        assert [la.macs for la in program.at_tokens(tokens).layers] == [
            la.macs for la in own.layers
        ]


def test_queries_and_keys_may_be_fewer_by_themselves() -> None:
    graph, program = compiled(attention_net(tokens=30, memory=50), LANES16)
    assert most_tokens(program) == {"x": 30, "memory": 50}
    feeds = samples(graph, seed=2, count=2)
    for x, memory in ((30, 17), (7, 50), (1, 1), (16, 33)):
        part = {"x": feeds["x"][:, :x], "memory": feeds["memory"][:, :memory]}
        own = lower(cut(graph, {"x": x, "memory": memory}, program.tokens), LANES16)
        np.testing.assert_array_equal(outputs(program, part), outputs(own, part))


def test_simulation_follows() -> None:
    graph, program = compiled(attention_net(tokens=70, causal=1), LANES16)
    part = {"x": samples(graph, seed=2, count=2)["x"][:, :37]}
    assert weft.check(program, part, "csim").first_difference is None
    with weft.open(program, "csim") as session:
        session.run(samples(graph, count=1))
        found, took = session.run(part, detail=True)
        assert took.cycles == 2 * weft.estimate(program.at_tokens(37)).cycles
        assert took.macs == 2 * sum(layer.macs for layer in program.at_tokens(37).layers)
    np.testing.assert_array_equal(next(iter(found.values())), outputs(program, part))


def test_shares_the_weights_and_writes_no_instruction_for_what_is_not_there() -> None:
    _, program = compiled(attention_net(tokens=70, causal=1), FEW_ROWS)
    short = program.at_tokens(5)
    assert short.weights is program.weights
    assert program.at_tokens(70) is program
    rows = [
        fields["rows"]
        for segment in short.segments
        for kind, fields in map(isa.decode, segment.words)
        if kind is isa.ATTEND
    ]
    assert rows == [5] * len(rows)
    assert sum(len(s.words) for s in short.segments) < sum(len(s.words) for s in program.segments)


def test_survives_the_file(tmp_path: Any) -> None:
    graph, program = compiled(attention_net(tokens=40), LANES16)
    program.save(tmp_path / "p.weft")
    loaded = weft.load(tmp_path / "p.weft")
    assert (loaded.tokens, loaded.rules, loaded.layers) == (
        program.tokens,
        program.rules,
        program.layers,
    )
    part = {"x": samples(graph, count=1)["x"][:, :11]}
    np.testing.assert_array_equal(outputs(loaded, part), outputs(program, part))


@pytest.mark.parametrize("count", [0, 41, -1])
def test_numbers_out_of_range_are_refused(count: int) -> None:
    _, program = compiled(attention_net(tokens=40), LANES16)
    with pytest.raises(InputError, match=r"takes 1 to 40"):
        program.at_tokens(count)
    with pytest.raises(InputError, match="memory"):
        program.at_tokens({"memory": 3})


def test_a_session_refuses_more_tokens_and_none() -> None:
    _, program = compiled(attention_net(tokens=40), LANES16)
    with Session(program, Golden()) as session:
        for tokens in (0, 41):
            with pytest.raises(InputError, match=r"\(n, 1 to 40, 32\) expected"):
                session.run(np.zeros((1, tokens, 32), np.float32))


def test_programs_without_tokens_say_so() -> None:
    net = Net()
    x = net.input("x", 20, 32)
    _, program = compiled(net.graph(net.linear(x, 16)), LANES16)
    with pytest.raises(InputError, match="fixed number of tokens"):
        program.at_tokens(3)


@pytest.mark.parametrize(
    "change",
    [
        {"segment": 7},
        {"instruction": 1000},
        {"field": "nonsense"},
        {"input": "y"},
        {"offset": -1},
        {"offset": 3},
        {"scale": 2},
        {"unit": 0},
    ],
    ids=str,
)
def test_rules_that_could_reach_further_are_refused(change: dict[str, Any]) -> None:
    _, program = compiled(attention_net(tokens=40), LANES16)
    index = next(i for i, rule in enumerate(program.rules) if rule.field == "out_h")
    bad = replace(program.rules[index], **change)
    rules = (*program.rules[:index], bad, *program.rules[index + 1 :])
    check_rules(program)
    with pytest.raises(ProgramError, match="rule of segment"):
        replace(program, rules=rules).verify()


def test_tensors_and_layers_without_such_tokens_are_refused() -> None:
    _, program = compiled(attention_net(tokens=40), LANES16)
    layer = replace(program.layers[0], tokens=("z",))
    with pytest.raises(ProgramError, match="tokens of z"):
        replace(program, layers=(layer, *program.layers[1:])).verify()
    info = replace(program.outputs[0], shape=(1,))
    with pytest.raises(ProgramError, match="does not count"):
        replace(program, outputs=(info,)).verify()
    with pytest.raises(ProgramError, match="does not count"):
        replace(program, tokens={**program.tokens, "linear0": "z"}, rules=()).verify()
    with pytest.raises(ProgramError, match="no input"):
        replace(program, lengths="keys").verify()


def test_tokens_that_an_operator_mixes_are_fixed() -> None:
    net = Net()
    x = net.input("x", 16, 32)
    y = net.attention(x, x, 2, 16)
    turned = net.node("Transpose", [y], (1, 32, 16), perm=[0, 2, 1])
    assert token_axes(net.graph(turned)) == {}
    first = net.node("Slice", [y], (1, 1, 32), axes=[1], starts=[0], ends=[1], steps=[1])
    assert first not in token_axes(net.graph(first))


def with_first_token() -> Graph:
    net = Net()
    x = net.input("x", 24, 32)
    y = net.linear(net.attention(x, x, 2, 16), 32)
    first = net.node("Slice", [y], (1, 1, 32), axes=[1], starts=[0], ends=[1], steps=[1])
    flat = net.node("Reshape", [first], (1, 32), shape=[1, 32])
    return net.graph(y, net.linear(flat, 5))


def test_a_classifier_reads_the_first_token_of_any_number() -> None:
    graph, program = compiled(with_first_token(), LANES16)
    assert most_tokens(program) == {"x": 24}
    feeds = {"x": samples(graph, count=2)["x"][:, :9]}
    own = lower(cut(graph, {"x": 9}, program.tokens), LANES16)
    with Session(program, Golden()) as session, Session(own, Golden()) as other:
        found, expected = session.run(feeds), other.run(feeds)
    for name in graph.outputs:
        np.testing.assert_array_equal(found[name], expected[name])


def test_a_mask_with_gaps_computes_what_is_there() -> None:
    graph, program = compiled(with_first_token(), LANES16)
    x = samples(graph, count=4)["x"]
    mask = np.random.default_rng(0).integers(0, 2, (4, 24)).astype(bool)
    mask[1], mask[2] = False, True
    whole, head = graph.outputs
    with Session(program, Golden()) as session:
        found, took = session.run({"x": x}, mask=mask, detail=True)
        for i in (0, 2, 3):
            expected = session.run({"x": x[i : i + 1, mask[i]]})
            np.testing.assert_array_equal(found[whole][i, mask[i]], expected[whole][0])
            np.testing.assert_array_equal(found[head][i], expected[head][0])
        assert not found[whole][~mask].any()
        assert not found[head][1].any()
        counts = sorted({int(n) for n in mask.sum(1)} - {0})
        assert [p.inputs[0].shape[1] for p, _ in took.groups] == counts


@pytest.mark.parametrize(
    ("mask", "text"),
    [
        (np.ones((2, 23)), r"\(2, 24\) expected"),
        (np.ones((2, 24), np.float32), "dtype float32"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(mask: Any, text: str) -> None:
    graph, program = compiled(with_first_token(), LANES16)
    with Session(program, Golden()) as session, pytest.raises(InputError, match=text):
        session.run(samples(graph, count=2), mask=mask)


def test_gaps_are_refused_where_attention_is_a_window() -> None:
    graph, program = compiled(attention_net(tokens=20, left=-3, right=3), LANES16)
    mask = np.ones((1, 20), bool)
    mask[0, 7] = False
    with Session(program, Golden()) as session:
        with pytest.raises(InputError, match="gaps"):
            session.run(samples(graph, count=1), mask=mask)
        ends = np.arange(20)[None] % 19 > 2
        assert session.run(samples(graph, count=1), mask=ends)


def with_lengths() -> Graph:
    net = Net()
    x, keys = net.input("x", 24, 32), net.input("keys", 1, dtype="int64")
    return net.graph(net.linear(net.attention(x, x, 2, 16, keys=keys), 32))


def lengths(graph: Graph, *counts: int) -> dict[str, Any]:
    x = samples(graph.replace(inputs=("x",)), count=len(counts))["x"]
    return {"x": x, "keys": np.asarray(counts, np.int64)[:, None]}


def quantized_with_lengths() -> tuple[Graph, Program]:
    from weft.passes.quantize import quantize

    graph = with_lengths()
    quantized = quantize(graph, lengths(graph, 24, 20, 3, 24))
    return quantized, lower(quantized, LANES16)


def test_numbers_of_tokens_that_come_with_samples() -> None:
    graph, program = quantized_with_lengths()
    assert (program.lengths, len(program.segments)) == ("keys", 1)
    feeds = lengths(graph, 24, 0, 9, 17)
    with Session(program, Golden()) as session:
        found = next(iter(session.run(feeds).values()))
        (name,) = graph.outputs
        for i, count in ((0, 24), (2, 9), (3, 17)):
            alone = {"x": feeds["x"][i : i + 1, :count], "keys": np.array([[count]])}
            np.testing.assert_array_equal(found[i, :count], session.run(alone)[name][0])
            assert not found[i, count:].any()
        assert not found[1].any()
        mask = np.arange(24) < feeds["keys"]
        np.testing.assert_array_equal(session.run(feeds["x"], mask=mask), found)
        with pytest.raises(InputError, match="0 to 24"):
            session.run(feeds | {"keys": np.array([[24], [25], [1], [1]])})
    assert weft.check(program, feeds, "csim").equal


def test_numbers_of_tokens_are_the_hosts_where_tokens_are_fixed() -> None:
    from weft.passes.quantize import quantize

    net = Net()
    x, keys = net.input("x", 24, 32), net.input("keys", 1, dtype="int64")
    y = net.attention(x, x, 2, 16, keys=keys)
    turned = net.node("Transpose", [y], (1, 32, 24), perm=[0, 2, 1])
    graph = net.graph(turned)
    feeds = lengths(graph, 24, 20)
    program = lower(quantize(graph, feeds), LANES16)
    assert (program.lengths, program.tokens) == ("", {})
    assert any("number of keys per sample" in getattr(s, "reason", "") for s in program.segments)
    with Session(program, Golden()) as session:
        assert session.run(feeds)


def counted(axis: int = 1, *, number: bool = True, out: bool = False, **attrs: Any) -> Graph:
    """Attention over rows of a table, which token ids say by what is counted of them."""
    net = Net()
    ids = net.input("ids", 16, dtype="int64")
    more = net.constant(np.array(3) if number else np.arange(16)[None])
    total = net.node("CumSum", [ids, net.constant(np.array(axis))], (1, 16), opset=18, **attrs)
    places = net.node("Add", [total, more], (1, 16))
    x = net.node("Gather", [net.constant(np.ones((40, 32), np.float32)), places], (1, 16, 32))
    y = net.attention(net.node("Add", [x, x], (1, 16, 32)), x, 2, 16)
    return net.graph(y, total) if out else net.graph(y)


def test_what_is_counted_of_the_tokens_before_counts_tokens() -> None:
    graph = counted()
    assert token_axes(graph)[graph.outputs[0]] == "ids"
    assert token_axes(counted(exclusive=1))
    assert token_axes(counted(-1))


@pytest.mark.parametrize(
    "options",
    [{"reverse": 1}, {"axis": 0}, {"number": False}, {"out": True}],
    ids=["of those behind", "of samples", "a constant per place", "an output, too"],
)
def test_other_numbers_fix_the_tokens(options: dict[str, Any]) -> None:
    assert token_axes(counted(**options)) == {}
