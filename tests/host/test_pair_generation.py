"""Encoder-decoders on devices: the cache changes no bit, sources and slots stay apart."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import weft
from weft import ops
from weft.config import load_overlay
from weft.errors import (
    CapacityError,
    DeviceTimeout,
    InputError,
    ModelError,
    ProgramError,
    ShapeError,
    UsageError,
)
from weft.frontend import encoder_decoders
from weft.frontend.decoder import INPUT, OUTPUT
from weft.frontend.seq2seq import SOURCE
from weft.pair_compiler import compile_pair
from weft.program import Program
from weft.text.pair_forward import FloatPair
from weft.text.pairing import PairSession
from weft.text.perplexity import perplexity
from weft.text.seq2seq_assets import SourceAssets

FOLDER = Path(__file__).resolve().parents[1] / "data" / "seq2seq"
NAMES = sorted(path.name for path in FOLDER.iterdir())
LAB = load_overlay("lab")


def expected(name):
    """Sources, targets and the library's logits, of two texts."""
    found = np.load(FOLDER / name / "expected.npz")
    return found["sources"].tolist(), found["targets"].tolist(), found["logits"]


@pytest.fixture(scope="module")
def programs():
    """Programs by name, compiled once: 5 tokens at a time, a cache of 24 for each of 3 texts."""
    made = {}

    def program(name, **options):
        key = (name, *sorted(options.items()))
        if key not in made:
            model = encoder_decoders.load(FOLDER / name)
            settings = {"source": 14, "tokens": 5, "cache": 24, "slots": 3, **options}
            made[key] = compile_pair(model, LAB, **settings)
        return made[key]

    return program


@pytest.mark.parametrize("name", NAMES)
def test_a_cache_changes_no_bit(programs, name):
    """Targets one by one, in parts, and beside other texts of other lengths: the same logits."""
    sources, targets, _ = expected(name)
    with weft.open_decoder(programs(name)) as session:
        whole = [
            session.logits(s[:n], t) for s, t, n in zip(sources, targets, (14, 9), strict=True)
        ]
        run, read = session.forward.run, session.forward.read
        read(sources[1][:9], 2)
        read(sources[0], 1)
        found = {1: [], 2: []}
        for first, last in ((0, 1), (1, 2), (2, 7), (7, 12)):
            for slot, target in ((1, targets[0]), (2, targets[1])):
                found[slot].append(run(target[first:last], first, slot))
        alone = np.concatenate([run([t], i, 1) for i, t in enumerate(targets[0])])
    for slot in (1, 2):
        np.testing.assert_array_equal(np.concatenate(found[slot]), whole[slot - 1])
    np.testing.assert_array_equal(alone, whole[0])


@pytest.mark.parametrize("name", NAMES)
def test_golden_and_csim_agree(programs, name):
    sources, targets, _ = expected(name)
    found = {}
    for device, options in (("golden", {}), ("csim", {}), ("csim cycle", {"form": "cycle"})):
        with weft.open_decoder(programs(name), device.split()[0], **options) as session:
            forward, counters = session.forward, []
            forward.read(sources[0][:11], 1)
            counters.append([result.counters for result in forward.results])
            logits = [forward.run(targets[0][:4], 0, 1), forward.run(targets[0][4:5], 4, 1)]
            counters.append([result.counters for result in forward.results])
        found[device] = (np.concatenate(logits), counters)
    for device in ("csim", "csim cycle"):
        np.testing.assert_array_equal(found[device][0], found["golden"][0])
        assert found[device][1] == found["golden"][1]


def scales_bound(graph, feeds, trials=32):
    """How far logits move where every activation and weight moves by up to a step of its codes."""
    random = np.random.default_rng(0)
    still = ops.evaluate(graph, feeds)[OUTPUT]
    worst = 0.0
    for _ in range(trials):
        values = dict(feeds)
        for name, tensor in graph.tensors.items():
            if tensor.data is not None:
                step = tensor.quant.scale if tensor.quant is not None else 0.0
                values[name] = tensor.real() + random.uniform(-1, 1, tensor.shape) * step
        for node in graph:
            y = ops.spec_of(node).reference(node, [values[n] for n in node.inputs if n])[0]
            step = float(graph[node.outputs[0]].quant.scale)
            values[node.outputs[0]] = (y + random.uniform(-step, step, y.shape)).astype(np.float32)
        worst = max(worst, float(np.abs(values[OUTPUT] - still).max()))
    return worst


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_the_librarys_within_the_bound_of_the_scales(name):
    """Ranges are of the very source and target, so that nothing saturates."""
    sources, targets, logits = expected(name)
    model = encoder_decoders.load(FOLDER / name)
    examples = [(sources[0], targets[0])]
    sizes = {"source": 14, "tokens": 12, "cache": 12}
    program = compile_pair(model, LAB, calibration=examples, calibrator="minmax", **sizes)
    assets = SourceAssets.of(model, 14)
    feeds = {
        SOURCE: assets.rows(sources[0])[None],
        INPUT: assets.target.rows(targets[0], 0)[None],
    }
    bound = scales_bound(program.graph(), feeds)
    with weft.open_decoder(program) as session:
        found = session.logits(sources[0], targets[0])
    assert np.abs(found - logits[0]).max() <= bound


@pytest.mark.parametrize("name", NAMES)
def test_in_float_a_shorter_source_is_read_as_it_is(name):
    """By the graph of that very length."""
    sources, targets, _ = expected(name)
    model = encoder_decoders.load(FOLDER / name)
    assets = SourceAssets.of(model, 14)
    feeds = {
        SOURCE: assets.rows(sources[1][:6])[None],
        INPUT: assets.target.rows(targets[1], 0)[None],
    }
    graph = model.graph(6, len(targets[1]), 20)
    with PairSession(FloatPair(model, assets, 20, slots=2), assets) as session:
        found = session.logits(sources[1][:6], targets[1])
    np.testing.assert_allclose(found, ops.evaluate(graph, feeds)[OUTPUT][0], rtol=1e-3, atol=2e-4)


def test_targets_follow_their_sources(programs, tmp_path):
    """Greedy: each next token is the best of the logits; files hold all that it needs."""
    program = programs("bart")
    program.save(tmp_path / "m.weft")
    sources, _, _ = expected("bart")
    with weft.open_decoder(tmp_path / "m.weft") as session:
        said = [p.token for p in session.generate(sources[0], 6, stop=False)]
        target = [2]
        for token in said:
            assert int(session.logits(sources[0], target)[-1].argmax()) == token
            target.append(token)
        other = [p.token for p in session.generate(sources[1][:5], 6, stop=False)]
        both = {0: [], 1: []}
        for number, piece in session.generate_all([sources[0], sources[1][:5]], 6, stop=False):
            both[number].append(piece.token)
        drawn = [
            [p.token for p in session.generate(sources[0], 6, temperature=2.0, seed=seed)]
            for seed in (1, 1, 2, 3)
        ]
        assert session.last.prompt == len(sources[0]) + 1  # and the token that begins the target
    assert both == {0: said, 1: other}
    assert drawn[0] == drawn[1]
    assert len({tuple(text) for text in drawn}) > 1
    assert Program.load(tmp_path / "m.weft").cache == program.cache


def test_an_end_token_ends_a_target(programs):
    """Whatever the model says second counts as the end."""
    sources, _, _ = expected("t5")
    with weft.open_decoder(programs("t5")) as session:
        said = [p.token for p in session.generate(sources[0], 6, stop=False)]
        session.assets = replace(session.assets, eos=(said[-1],))
        found = [p.token for p in session.generate(sources[0], 6)]
    assert found == said[: said.index(said[-1])]


def changed(tmp_path, name, generation=None, **values):
    """A copy of a folder whose config.json (and generation_config.json) say something else."""
    folder = tmp_path / "model"
    shutil.copytree(FOLDER / name, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


def test_a_forced_token_stands_behind_the_first(tmp_path):
    folder = changed(tmp_path, "bart", {"forced_bos_token_id": 7, "eos_token_id": [4, 5]})
    model = encoder_decoders.load(folder)
    assert (model.start, model.eos) == ((2, 7), (4, 5))
    assert encoder_decoders.load(FOLDER / "bart").start == (2,)


def test_bad_sources_leave_the_session_usable(programs):
    with weft.open_decoder(programs("t5")) as session:
        for bad, told in (
            ([], "0 tokens; 1 to 14"),
            ([3] * 15, "15 tokens; 1 to 14"),
            ([3, 40], "token 40"),
            ([-1], "token -1"),
            ("a text", "without a tokenizer"),
        ):
            with pytest.raises(InputError, match=told):
                session.generate(bad)
        with pytest.raises(InputError, match="the cache holds 24"):
            session.generate([3], 25)
        with pytest.raises(InputError, match="token 41"):
            session.logits([3], [0, 41])
        with pytest.raises(UsageError, match="perplexity is of texts"):
            perplexity(session, "a text")
        assert len(list(session.generate([3], 2, stop=False))) == 2


def test_a_timeout_costs_the_texts_but_not_the_session(programs):
    with weft.open_decoder(programs("t5")) as session:
        session.timeout_s = 1e-9
        with pytest.raises(DeviceTimeout):
            list(session.generate([3, 4], 5))
        session.timeout_s = None
        assert len(list(session.generate([3, 4], 5, stop=False))) == 5


@pytest.mark.parametrize(
    ("name", "values", "error", "told"),
    [
        ("t5", {"num_layers": 3}, ModelError, r"encoder\.block\.2\..* is missing"),
        ("bart", {"decoder_layers": 3}, ModelError, r"decoder\.layers\.2\..* is missing"),
        ("t5", {"d_ff": 40}, ShapeError, r"wi\.weight.*config.json asks"),
        ("bart", {"encoder_attention_heads": 5}, ShapeError, "24 for 5 heads of the encoder"),
        ("t5", {"decoder_start_token_id": None}, ModelError, "decoder_start_token_id = None"),
        ("t5", {"decoder_start_token_id": 40}, ModelError, "one of the 40 tokens"),
    ],
)
def test_damaged_folders_are_named(tmp_path, name, values, error, told):
    with pytest.raises(error, match=told):
        encoder_decoders.load(changed(tmp_path, name, **values)).graph(4, 4, 8)


def test_sizes_beyond_the_model_or_the_overlay_are_refused(programs):
    bart = encoder_decoders.load(FOLDER / "bart")
    with pytest.raises(ModelError, match="sources of 1 to 48"):
        compile_pair(bart, LAB, source=49, cache=8)
    with pytest.raises(CapacityError, match="takes 8 at a time"):
        compile_pair(bart, replace(LAB, accumulator_rows=8), source=9, cache=8)
    with pytest.raises(CapacityError, match="operand_words"):
        compile_pair(bart, replace(LAB, operand_words=32), source=14, cache=8)
    with pytest.raises(UsageError, match="slots = 0"):
        compile_pair(bart, LAB, slots=0)


def test_another_programs_tables_are_missed(programs):
    bare = replace(programs("t5"), assets={})
    with pytest.raises(ProgramError, match="tables"):
        weft.open_decoder(bare)


def test_folders_compile_by_name_and_estimates_know_both_parts(tmp_path):
    program = weft.compile(FOLDER / "bart_scaled", "lab", source=10, cache=16, tokens=2)
    assert (program.cache.source, program.cache.capacity, program.cache.tokens) == (10, 16, 2)
    with weft.open_decoder(program) as session:
        session.logits([3] * 10, [2] * 16)
        forward = session.forward
        forward.read([3] * 10, 0)
        cycles = sum(result.cycles for result in forward.results)
        forward.run([2, 2], 14, 0)
        step = sum(result.cycles for result in forward.results)
    assert weft.estimate(program).cycles == cycles + step
    part = weft.estimate(program, registers=(2, 14, 0, 10))
    assert part.cycles == step
    macs = {layer.name: layer.macs for layer in part.layers}
    heads, width = 3, 8
    assert macs["decoder.layers.0.self_attn.attention"] == heads * 2 * 16 * 2 * width
    assert macs["decoder.layers.0.encoder_attn.attention"] == heads * 2 * 10 * 2 * width
    assert macs["encoder.layers.0.self_attn.attention"] == 0
    with pytest.raises(UsageError, match="source is for encoder-decoders"):
        weft.compile(FOLDER.parent / "decoders" / "gpt2", "lab", source=4)


def tokenized(tmp_path):
    """A folder of t5 whose words are letters, with a mark behind each source."""
    tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    letters = {letter: 3 + i for i, letter in enumerate("abcdefghijklmnopqrstuvwxyz ")}
    words = {"<pad>": 0, "</s>": 1, "<unk>": 2, **letters}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    made.decoder = tokenizers.decoders.Fuse()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    folder = changed(tmp_path, "t5")
    made.save(str(folder / "tokenizer.json"))
    return folder


def test_texts_are_sources_with_their_special_tokens(tmp_path):
    folder = tokenized(tmp_path)
    program = weft.compile(folder, "lab", source=8, cache=12, calibration=["some text", "more"])
    with weft.open_decoder(program) as session, weft.open_decoder(folder) as float_session:
        assert session.sources.tokens_of("abc") == [3, 4, 5, 1]
        assert float_session.sources.tokens_of("abc") == [3, 4, 5, 1]
        with pytest.raises(InputError, match="0 tokens"):
            session.generate(" ")
        pieces = list(session.generate("abc", 5, stop=False))
        assert pieces == list(session.generate([3, 4, 5, 1], 5, stop=False))
        assert all(len(piece.text) <= 1 for piece in pieces)


def test_the_commands_of_the_documents(tmp_path, capsys):
    from weft import cli

    folder, target = tokenized(tmp_path), tmp_path / "m.weft"
    (tmp_path / "sources.txt").write_text("the house is small\nanother line\n")
    sizes = ("--source", "32", "--cache", "16", "--calibrate", str(tmp_path / "sources.txt"))
    assert cli.run(["compile", str(folder), "--overlay", "lab", *sizes, "-o", str(target)]) == 0
    words = ["--prompt", "the house", "--tokens", "6", "--json"]
    capsys.readouterr()
    assert cli.run(["generate", str(target), *words, "--board", "KV260"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert not facts["text"].startswith("the house")
    assert facts["prompt_tokens"] == len("the house") + 2  # an end, and what begins the target
    assert facts["board_tokens_per_s"] > 0
    assert cli.run(["generate", str(folder), *words]) == 0
    assert json.loads(capsys.readouterr().out)["prompt_tokens"] == facts["prompt_tokens"]
    assert cli.run(["generate", str(target), "--prompt", "x" * 40]) != 0
    assert "1 to 32 are read" in capsys.readouterr().err
