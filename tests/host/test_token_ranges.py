"""Ranges per token and head of a decoder's cache: graphs, programs, bits, and what is refused."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_generation import scales_bound

import weft
from weft import cli, isa, ops
from weft.config import load_overlay
from weft.decoder_compiler import compile_decoder
from weft.errors import CapacityError, ProgramError, UnsupportedError, UsageError
from weft.frontend import decoders, encoder_decoders
from weft.frontend.decoder import INPUT, OUTPUT
from weft.graph import Quant
from weft.graph_file import pack, unpack
from weft.lower.token_ranges import SHIFT, UNIT
from weft.pair_compiler import compile_pair
from weft.passes.quantize import simulate
from weft.passes.token_ranges import rounded_heads, with_token_ranges
from weft.passes.whole_heads import with_tokens
from weft.program import AcceleratorSegment, Program
from weft.text.decoder_assets import DecoderAssets

DATA = Path(__file__).resolve().parents[1] / "data"
FOLDER = DATA / "decoders"
NAMES = sorted(path.name for path in FOLDER.iterdir())
LAB = load_overlay("lab")
CAPACITY = 48  # three words of magnitudes
OPTIONS = {"tokens": 6, "cache": CAPACITY, "slots": 2, "token_ranges": True}
# Heads of two words, so that magnitudes of all of a cache have room where its codes have none.
EIGHT = replace(
    LAB, name="lab8", rows=8, cols=8, bus_bytes=8, engines=("systolic", "matvec"), formats=("int8",)
)
SMALL = replace(EIGHT, name="lab8_tiles", operand_words=128)  # 24 keys beside the new ones


@pytest.fixture(scope="module")
def programs():
    """Programs by name and options, compiled once."""
    made = {}

    def program(name, overlay=LAB, **options):
        key = (name, overlay.name, *sorted(options.items()))
        if key not in made:
            decoder = decoders.load(FOLDER / name)
            made[key] = compile_decoder(decoder, overlay, **{**OPTIONS, **options})
        return made[key]

    return program


def tokens(count, seed=0):
    return np.random.default_rng(seed).integers(3, 40, count).tolist()


def fields(program, kind):
    """Of a program's instructions of a kind."""
    words = [w for s in program.segments if isinstance(s, AcceleratorSegment) for w in s.words]
    return [f for found, f in map(isa.decode, words) if found is kind]


def ranged(graph):
    return {n: t.quant for n, t in graph.tensors.items() if t.quant is not None and t.quant.heads}


# --- bits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_tokens_one_by_one_in_parts_and_beside_another_text(programs, name):
    """The cache is filled to its end, where a word too many would be the next text's."""
    ids, others = tokens(CAPACITY), tokens(20, seed=1)
    with weft.open_decoder(programs(name), "golden") as session:
        whole, run = session.logits(ids), session.forward.run
        beside = session.logits(others)
        alone = np.concatenate([run([t], i, 1) for i, t in enumerate(others[:17])])
        cuts = [0, 1, 6, 11, 15, 17, 18, 24, 30, 36, 42, 48]
        parts = [run(ids[a:b], a, 0) for a, b in itertools.pairwise(cuts)]
        rest = run(others[17:], 17, 1)
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    np.testing.assert_array_equal(np.concatenate([alone, rest]), beside)


@pytest.mark.parametrize(("name", "overlay"), [("llama_gqa", LAB), ("gpt2", LAB), ("qwen3", LAB),
                                               ("qwen3", SMALL)])  # fmt: skip
def test_simulation_equals_golden_in_every_word_and_counter(programs, name, overlay):
    program, ids = programs(name, overlay), tokens(24)
    assert any(f["discard"] for f in fields(program, isa.ACTIVATE)) == (overlay is SMALL)
    found = {}
    for device, options in (("golden", {}), ("csim", {}), ("csim cycle", {"form": "cycle"})):
        with weft.open_decoder(program, device.split()[0], **options) as session:
            run = session.forward.run
            cuts = (0, 6, 12, 14, 19, 22)
            logits = [run(ids[a:b], a, 1) for a, b in itertools.pairwise(cuts)]
            logits += [run(ids[t : t + 1], t, 1) for t in (22, 23)]
            counters = [dict(result.counters) for result in session.forward.results]
        found[device] = np.concatenate(logits), counters
    for device in ("csim", "csim cycle"):
        np.testing.assert_array_equal(found[device][0], found["golden"][0])
        assert found[device][1] == found["golden"][1]


def test_tiles_of_a_cache_change_no_bit(programs):
    ids = tokens(CAPACITY - 1)
    with weft.open_decoder(programs("qwen3", EIGHT), "golden") as session:
        expected = session.logits(ids)
    with weft.open_decoder(programs("qwen3", SMALL), "golden") as session:
        np.testing.assert_array_equal(session.logits(ids), expected)
        parts = [session.forward.run(ids[t : t + 5], t, 1) for t in range(0, len(ids), 5)]
    np.testing.assert_array_equal(np.concatenate(parts), expected)


# --- numbers --------------------------------------------------------------------------------------


def test_logits_are_the_librarys_within_the_bound_of_the_scales():
    """And all in all no further from them than float arithmetic on the same codes, but for a tenth:
    what exponentials times magnitudes round goes either way.
    """
    errors = []
    for name, text in itertools.product(("llama_gqa", "llama_mha", "gpt2", "qwen3"), range(2)):
        expected = np.load(FOLDER / name / "expected.npz")
        ids, real = expected["ids"][text][:12], expected["logits"][text][:12]
        decoder = decoders.load(FOLDER / name)
        program = compile_decoder(
            decoder, LAB, tokens=12, cache=12, calibration=[ids.tolist()], calibrator="minmax",
            token_ranges=True,
        )  # fmt: skip
        graph = with_tokens(program.graph(), 12)
        assert len(ranged(graph)) == 2 * sum(node.op == "Attention" for node in graph)
        feeds = {INPUT: DecoderAssets.of(decoder).rows(ids, 0)[None]}
        with weft.open_decoder(program, "golden") as session:
            found = session.logits(ids.tolist())
        assert np.abs(found - real).max() <= scales_bound(graph, feeds)
        both = found, simulate(graph, feeds)[OUTPUT][0]
        errors.append([np.sqrt(np.square(y - real).mean() / np.square(real).mean()) for y in both])
    own, codes = np.sum(errors, 0)
    assert own <= 1.1 * codes


def test_fields_are_those_of_the_scales(programs):
    program = programs("llama_gqa")
    rotations = [f for f in fields(program, isa.ROTATE) if f["ranges"]]
    scores = [f for f in fields(program, isa.ACTIVATE) if f["normalize"] == isa.BY_TOKEN]
    values = [f for f in fields(program, isa.ATTEND) if f["ranged"]]
    assert len(scores) == len(values) == sum(f["scores"] for f in fields(program, isa.ATTEND))
    assert {f["range_shift"] for f in values} == {SHIFT}
    each = CAPACITY // LAB.lanes
    assert {f["ranges"] for f in scores} == {0}
    assert {f["ranges"] for f in values} == {each}
    assert {f["range_word"] for f in rotations} == {0, each}
    for quant in ranged(program.graph()).values():
        largest = [127 * float(quant.scale) * share for share in quant.heads]
        steps = [float(quant.scale) * share / 128 for share in quant.heads]
        assert [round(a / b) for a, b in zip(largest, steps, strict=True)] == [16_256] * len(steps)
    assert (16_256 * (1 << 15) + (1 << 21)) >> SHIFT == 127


def test_float_arithmetic_rounds_each_head_of_each_token():
    random = np.random.default_rng(4)
    x = (random.normal(size=(1, 9, 3, 8)) * random.uniform(0.01, 1, (1, 9, 3, 1))).astype("float32")
    x[0, 2, 1] = 0
    x[0, 3] *= 40  # beyond twice what was seen, which saturates
    quant = Quant(np.float32(0.02), heads=(1.0, 0.5, 1.25))
    found = rounded_heads(x.reshape(1, 9, 24), quant, True).reshape(x.shape)
    for token, head in itertools.product(range(9), range(3)):
        step = 0.02 * quant.heads[head] / 128
        inside = np.clip(x[0, token, head], -32767 * step, 32767 * step)
        scale = np.abs(inside).max() / 127
        codes = np.rint(inside / scale) if scale else inside
        np.testing.assert_allclose(found[0, token, head], codes * scale, rtol=1e-5, atol=1e-7)
    kept = rounded_heads(x.reshape(1, 9, 24), quant, False).reshape(x.shape)
    np.testing.assert_array_equal(kept[0, :3], x[0, :3])


def test_ranges_are_of_the_largest_and_not_of_what_the_calibrator_cuts_off():
    """MSE cuts off what is rare; what is left of that is for the scale of a tensor."""
    decoder = decoders.load(FOLDER / "llama_gqa")
    program = compile_decoder(decoder, LAB, calibration=[tokens(40)], calibrator="mse", **OPTIONS)
    graph = with_tokens(program.graph(), 40)
    feeds = {INPUT: DecoderAssets.of(decoder).rows(tokens(40), 0)[None]}
    found = ranged(graph)
    plain = {n: replace(graph[n], quant=None) for n in found}
    bare = graph.replace(tensors={**graph.tensors, **plain})
    for name, x in ops.evaluate(bare, feeds, keep=list(found)).items():
        if name in found:
            quant = found[name]
            seen = np.abs(x).reshape(x.shape[1], len(quant.heads), -1)
            told = [127 * float(quant.scale) * share for share in quant.heads]
            np.testing.assert_allclose(seen.max((0, 2)), told, rtol=1e-5)


# --- files, commands, refusals --------------------------------------------------------------------


def test_files_hold_them(programs, tmp_path):
    program = programs("llama_gqa")
    graph = program.graph()
    again = unpack(pack(graph))
    shares = {name: quant.heads for name, quant in ranged(again).items()}
    assert shares == {name: quant.heads for name, quant in ranged(graph).items()} != {}
    name = next(iter(shares))
    broken = replace(graph[name], quant=replace(graph[name].quant, heads=(-1.0,)))
    with pytest.raises(ProgramError, match="shares"):
        unpack(pack(graph.replace(tensors={**graph.tensors, name: broken})))
    program.save(tmp_path / "m.weft")
    ids = tokens(9)
    with (
        weft.open_decoder(tmp_path / "m.weft", "golden") as session,
        weft.open_decoder(program, "golden") as other,
    ):
        np.testing.assert_array_equal(session.logits(ids), other.logits(ids))


def test_the_command_line_asks_for_them(tmp_path, capsys):
    output = tmp_path / "m.weft"
    words = ["compile", str(FOLDER / "llama_gqa"), "--cache", "16", "--tokens", "2"]
    assert cli.run([*words, "--token-ranges", "-o", str(output)]) == 0
    capsys.readouterr()
    program = Program.load(output)
    assert any(f["ranges"] for f in fields(program, isa.ROTATE))
    same = weft.compile(FOLDER / "llama_gqa", cache=16, tokens=2, token_ranges=True)
    with weft.open_decoder(same) as session:
        assert len(list(session.generate([3], 2, stop=False))) == 2


def test_what_can_not_have_them_says_so(tmp_path):
    decoder = decoders.load(FOLDER / "llama_gqa")
    without = replace(LAB, units=tuple(unit for unit in LAB.units if unit != UNIT))
    with pytest.raises(CapacityError, match="overlay 'lab' has no unit token_ranges"):
        compile_decoder(decoder, without, **OPTIONS)
    with pytest.raises(CapacityError, match=r"multiples of 16; compile with cache=48"):
        compile_decoder(decoder, LAB, **{**OPTIONS, "cache": 40})
    with pytest.raises(CapacityError, match=r"range_words = .*'few' has 4"):
        compile_decoder(decoder, replace(LAB, name="few", operand_words=64), **OPTIONS)
    with pytest.raises(UsageError, match="take one of them"):
        compile_decoder(decoder, LAB, head_scales=True, **OPTIONS)
    with pytest.raises(UsageError, match="cache_bits = 4 packs them: take one of them"):
        compile_decoder(decoder, LAB, cache_bits=4, **OPTIONS)
    pair = encoder_decoders.load(DATA / "seq2seq" / "t5")
    with pytest.raises(UsageError, match="ranges per token are of decoders alone"):
        compile_pair(pair, LAB, token_ranges=True)
    from weft.demo import MODELS, load_data

    with pytest.raises(UsageError, match="are for decoders"):
        weft.compile(MODELS / "digits.onnx", token_ranges=True)
    graph = weft.compile(MODELS / "digits.onnx", calibration=load_data().calibration).graph()
    with pytest.raises(UsageError, match="has no ranges per token"):
        with_token_ranges(graph, [])


def test_standard_onnx_has_no_form_for_them(programs, tmp_path):
    from weft.export_qdq import export_qdq

    with pytest.raises(UnsupportedError, match=r"has ranges per token|Attention|cache"):
        export_qdq(programs("gpt2").graph(), tmp_path / "m.onnx")
