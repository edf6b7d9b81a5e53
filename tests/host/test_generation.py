"""Programs of decoders generate: the cache changes no bit, sessions and slots keep texts apart."""

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import weft
from weft import ops
from weft.config import load_overlay
from weft.decoder_compiler import compile_decoder
from weft.errors import (
    CapacityError,
    DeviceError,
    DeviceTimeout,
    InputError,
    ProgramError,
    UsageError,
)
from weft.frontend import decoders
from weft.frontend.decoder import INPUT, OUTPUT
from weft.lower.cached import SHARES
from weft.passes.whole_heads import with_tokens
from weft.program import Program
from weft.text.decoder_assets import DecoderAssets
from weft.text.perplexity import perplexity
from weft.text.sampling import Sampler

FOLDER = Path(__file__).resolve().parents[1] / "data" / "decoders"
NAMES = sorted(path.name for path in FOLDER.iterdir())
LAB = load_overlay("lab")


@pytest.fixture(scope="module")
def programs():
    """Programs by name, compiled once: 6 tokens at a time, a cache of 40 for each of 2 texts."""
    made = {}

    def program(name, **options):
        key = (name, *sorted(options.items()))
        if key not in made:
            decoder = decoders.load(FOLDER / name)
            settings = {"tokens": 6, "cache": 40, "slots": 2, **options}
            made[key] = compile_decoder(decoder, LAB, **settings)
        return made[key]

    return program


@pytest.mark.parametrize("name", NAMES)
def test_a_cache_changes_no_bit(programs, name):
    """Tokens one by one, in parts of 6, and beside another text: the same logits everywhere."""
    ids = np.load(FOLDER / name / "expected.npz")["ids"][0][:14].tolist()
    with weft.open_decoder(programs(name), "csim") as session:
        whole = session.logits(ids)
        run = session.forward.run
        alone = np.concatenate([run([t], i, 0) for i, t in enumerate(ids)])
        parts = [run(ids[a:b], a, 1) for a, b in ((0, 1), (1, 6), (6, 11), (11, 14))]
    np.testing.assert_array_equal(alone, whole)
    np.testing.assert_array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("name", NAMES)
def test_golden_and_csim_agree(programs, name):
    ids = np.load(FOLDER / name / "expected.npz")["ids"][1][:9].tolist()
    found = {}
    for device, options in (("golden", {}), ("csim", {}), ("csim cycle", {"form": "cycle"})):
        with weft.open_decoder(programs(name), device.split()[0], **options) as session:
            logits = [session.forward.run(ids[:5], 0, 1), session.forward.run(ids[5:6], 5, 1)]
            counters = [result.counters for result in session.forward.results]
        found[device] = (np.concatenate(logits), counters)
    for device in ("csim", "csim cycle"):
        np.testing.assert_array_equal(found[device][0], found["golden"][0])
        assert found[device][1] == found["golden"][1]


@pytest.mark.parametrize("name", ["gpt2", "llama_gqa"])
def test_ranges_per_row_are_those_of_each_token(programs, name):
    """With a range per token behind norms, too, one by one is as many at once, on every device."""
    program = programs(name, row_ranges=True)
    assert any(t.quant is not None and t.quant.rows for t in program.graph().tensors.values())
    ids = np.load(FOLDER / name / "expected.npz")["ids"][0][:9].tolist()
    with weft.open_decoder(program, "csim") as session:
        whole = session.logits(ids)
        alone = np.concatenate([session.forward.run([t], i, 0) for i, t in enumerate(ids)])
    with weft.open_decoder(program, "golden") as session:
        expected = session.logits(ids)
    np.testing.assert_array_equal(whole, expected)
    np.testing.assert_array_equal(alone, expected)


def scales_bound(graph, feeds, trials=32):
    """How far logits move where every activation and weight moves by up to a step of its codes.

    What rounding does beside that (exponentials, roots) is less than a step of what they make.
    """
    random = np.random.default_rng(0)
    still = ops.evaluate(graph, feeds)[OUTPUT]
    worst = 0.0
    for _ in range(trials):
        values = {INPUT: feeds[INPUT]}
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
    """Ranges are of the very text, so that nothing saturates."""
    expected = np.load(FOLDER / name / "expected.npz")
    ids = expected["ids"][0][:12]
    decoder = decoders.load(FOLDER / name)
    program = compile_decoder(
        decoder, LAB, tokens=12, cache=12, calibration=[ids.tolist()], calibrator="minmax"
    )
    feeds = {INPUT: DecoderAssets.of(decoder).rows(ids, 0)[None]}
    bound = scales_bound(with_tokens(program.graph(), 12), feeds)
    with weft.open_decoder(program, "csim") as session:
        found = session.logits(ids.tolist())
    assert np.abs(found - expected["logits"][0][:12]).max() <= bound


@pytest.mark.parametrize("name", ["llama_gqa", "gpt2", "qwen3"])
def test_scales_of_heads_are_their_own_and_change_no_bit_of_a_cache(name):
    """The bound is that of the tensor's scale, which none of them exceeds."""
    expected = np.load(FOLDER / name / "expected.npz")
    ids = expected["ids"][0][:12].tolist()
    decoder = decoders.load(FOLDER / name)
    options = {"tokens": 12, "cache": 12, "calibration": [ids], "calibrator": "minmax"}
    program = compile_decoder(decoder, LAB, head_scales=True, **options)
    graph = with_tokens(program.graph(), 12)
    shares = [n.attrs[a] for n in graph if n.op == "Attention" for a in SHARES]
    assert all(0.9 < max(own) <= 1 for own in shares)
    assert min(map(min, shares)) < 0.9
    bound = scales_bound(graph, {INPUT: DecoderAssets.of(decoder).rows(ids, 0)[None]})
    found = {}
    for device in ("golden", "csim"):
        with weft.open_decoder(program, device) as session:
            found[device] = session.logits(ids)
            parts = [session.forward.run(ids[a:b], a, 0) for a, b in ((0, 5), (5, 6), (6, 12))]
        np.testing.assert_array_equal(np.concatenate(parts), found[device])
    np.testing.assert_array_equal(found["golden"], found["csim"])
    assert np.abs(found["csim"] - expected["logits"][0][:12]).max() <= bound
    plain = compile_decoder(decoder, LAB, **options)
    with weft.open_decoder(plain) as session:
        assert not np.array_equal(session.logits(ids), found["csim"])


def test_files_hold_all_that_generation_needs(programs, tmp_path):
    program = programs("llama_gqa")
    program.save(tmp_path / "m.weft")
    with weft.open_decoder(tmp_path / "m.weft") as read, weft.open_decoder(program) as made:
        texts = [[p.token for p in s.generate([3, 4], 8, stop=False)] for s in (read, made)]
    assert texts[0] == texts[1]
    assert len(texts[0]) == 8
    assert Program.load(tmp_path / "m.weft").cache == program.cache


def test_many_prompts_share_the_slots(programs):
    """As many texts at a time as slots; each is what it is alone."""
    prompts = [[3, 5], [7], [9, 11, 13], [4] * 9, [20]]
    with weft.open_decoder(programs("llama_gqa")) as session:
        alone = [[p.token for p in session.generate(x, 5, stop=False)] for x in prompts]
        together = [[] for _ in prompts]
        order = []
        for number, piece in session.generate_all(prompts, 5, stop=False):
            together[number].append(piece.token)
            order.append(number)
    assert together == alone
    assert order[:4] == [0, 1, 0, 1]
    assert set(order) == set(range(5))


def test_seeds_repeat_and_temperature_matters(programs):
    with weft.open_decoder(programs("llama_mha")) as session:

        def text(seed, temperature=1.5, top_p=1.0):
            pieces = session.generate(
                [5], 12, temperature=temperature, top_p=top_p, seed=seed, stop=False
            )
            return [piece.token for piece in pieces]

        assert text(1) == text(1)
        assert len({tuple(text(seed)) for seed in range(4)}) > 1
        assert text(1, top_p=1e-6) == text(2, temperature=0.0)


def test_the_nucleus_is_the_smallest_set_that_has_the_probability():
    logits = np.log([0.5, 0.3, 0.15, 0.05])
    drawn = {p: {Sampler(1.0, p, seed).choose(logits) for seed in range(60)} for p in (0.5, 0.6, 1)}
    assert drawn == {0.5: {0}, 0.6: {0, 1}, 1: {0, 1, 2, 3}}
    assert Sampler().choose(np.array([1.0, 3.0, 3.0])) == 1


def test_too_long_is_an_error_and_sliding_is_not(programs):
    with weft.open_decoder(programs("llama_gqa")) as session:
        with pytest.raises(InputError, match="the cache holds 40"):
            session.generate([3] * 30, 20)
        pieces = list(session.generate([3] * 30, 20, sliding=True, stop=False))
    assert len(pieces) == 20


def test_bad_prompts_leave_the_session_usable(programs):
    with weft.open_decoder(programs("llama_gqa")) as session:
        for bad, told in (
            ([], "no tokens"),
            ([40], "token 40"),
            ([-1], "token -1"),
            ("a", "tokenizer"),
        ):
            with pytest.raises(InputError, match=told):
                session.generate(bad)
        with pytest.raises(UsageError, match="tokens = 0"):
            session.generate([3], 0)
        assert len(list(session.generate([3], 2, stop=False))) == 2


def test_a_cancelled_text_gives_its_slot_back(programs):
    with weft.open_decoder(programs("llama_gqa")) as session:
        first, second = (session.generate([3], 9, stop=False) for _ in range(2))
        next(first), next(second)
        with pytest.raises(UsageError, match="all 2 slots"):
            next(session.generate([3], 9))
        first.close()
        assert len(list(session.generate([3], 3, stop=False))) == 3
        assert len(list(second)) == 8


def test_threads_wait_for_a_slot(programs):
    """Texts of several threads on one slot: one after another, not mixed."""
    program = programs("llama_gqa", slots=1)
    with weft.open_decoder(program) as session:
        alone = [p.token for p in session.generate([3], 6, stop=False)]
        found = []

        def work():
            found.append([p.token for p in session.generate([3], 6, stop=False)])

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [alone] * 3


def test_a_timeout_costs_the_texts_but_not_the_session(programs):
    with weft.open_decoder(programs("llama_gqa")) as session:
        other = session.generate([3], 9, stop=False)
        next(other)
        session.timeout_s = 1e-9
        with pytest.raises(DeviceTimeout):
            list(session.generate([3], 5))
        session.timeout_s = None
        with pytest.raises(DeviceError, match="cache went with it"):
            next(other)
        assert len(list(session.generate([3], 5, stop=False))) == 5


@pytest.mark.parametrize("options", [{"batch": 0}, {"batch": 2}, {"sparsity": "2:4"}])
def test_what_a_decoder_does_not_take_is_refused(options):
    with pytest.raises(UsageError, match="slots hold several texts"):
        weft.compile(FOLDER / "llama_gqa", "lab", **options)


def test_a_closed_session_says_so(programs):
    session = weft.open_decoder(programs("llama_gqa"))
    session.close()
    session.close()
    with pytest.raises(DeviceError, match="closed"):
        list(session.generate([3], 2))


def test_what_is_no_decoder_is_refused(programs, tmp_path):
    with pytest.raises(UsageError, match="open_decoder"):
        weft.open(programs("llama_gqa"))
    from weft.demo import MODELS, load_data

    plain = weft.compile(MODELS / "digits.onnx", calibration=load_data().calibration)
    with pytest.raises(ProgramError, match="no decoder"):
        weft.open_decoder(plain)


def test_an_overlay_without_the_units_is_refused():
    with pytest.raises(CapacityError, match="does not run on overlay 'edge'"):
        compile_decoder(decoders.load(FOLDER / "llama_gqa"), load_overlay("edge"), cache=16)


def test_a_cache_of_which_no_tile_fits_is_refused():
    """A word of keys and one of values per token: 16 of the cache, and the new ones."""
    small = replace(LAB, operand_words=48)
    with pytest.raises(CapacityError, match="operand_words"):
        compile_decoder(decoders.load(FOLDER / "llama_gqa"), small, cache=60)


def test_perplexity_of_texts_is_that_of_their_tokens():
    """By hand, from the logits; a text longer than the cache goes on in a new one."""

    class Letters:
        kind = "letters"

        def encode(self, text):
            return [3 + ord(letter) % 30 for letter in text]

        def piece(self, token, before):
            return b"?"

    decoder = replace(decoders.load(FOLDER / "llama_gqa"), tokenizer=Letters())
    from weft.text.forward import FloatForward
    from weft.text.generation import DecoderSession

    session = DecoderSession(FloatForward(decoder, 16), DecoderAssets.of(decoder))
    texts = ["hello there", "a text that is longer than the cache"]
    found = perplexity(session, "<|endoftext|>".join(texts))
    total = count = 0
    for text in texts:
        tokens = [decoder.bos, *decoder.tokenizer.encode(text)]
        for start in range(0, len(tokens) - 1, 16):
            piece = tokens[start : start + 17]
            logits = session.logits(piece[:-1]).astype(np.float64)
            chances = np.exp(logits - logits.max(-1, keepdims=True))
            chances /= chances.sum(-1, keepdims=True)
            total -= np.log(chances[np.arange(len(piece) - 1), piece[1:]]).sum()
            count += len(piece) - 1
    assert (found.tokens, found.texts) == (count, 2)
    assert found.perplexity == pytest.approx(np.exp(total / count))
    with pytest.raises(InputError, match="empty"):
        perplexity(session, " <|endoftext|> ")
