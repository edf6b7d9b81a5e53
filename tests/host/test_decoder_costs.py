"""Decoders on boards: the memory's losses, clocks that are the units', bytes, and what fits."""

from __future__ import annotations

import importlib
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from weft import cli
from weft.config import board_names, load_board, load_overlay
from weft.decoder_compiler import compile_decoder
from weft.decoder_costs import config, dram, packed, run, steps
from weft.decoder_costs.prediction import machine_of, overlay_for, predict, step_seconds
from weft.demo import MODELS
from weft.device import open_device
from weft.errors import CapacityError, InputError, ModelError, ShapeError, UsageError
from weft.estimate import estimate, instructions
from weft.frontend import decoders, encoder_decoders
from weft.pair_compiler import compile_pair
from weft.units import attention, systolic

# Numbers in all tensors of the published checkpoints, norms and biases included.
PUBLISHED = {
    "llama2-7b": 6_738_415_616,
    "tinyllama-1.1b": 1_100_048_384,
    "qwen2-1.5b": 1_543_714_304,
    "qwen2-7b": 7_615_616_512,
}
TINY = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
    "max_position_embeddings": 256,
}


def decoder(name):
    return config.load(MODELS / f"{name}.json")


def written(tmp_path, **changes):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({k: v for k, v in {**TINY, **changes}.items() if v is not None}))
    return path


def on(name="llama2-7b", board="KV260", **facts):
    return predict(decoder(name), machine_of(), load_board(board), **facts)


# --- the memory -----------------------------------------------------------------------------------


def zynq():
    """System #1 of UG585's table: DDR3-1050 of 32 bits, chips of 2 Gbit (tRFC 160 ns)."""
    return replace(load_board("ZedBoard"), ddr_bytes_per_s=4.2e9)


@pytest.mark.parametrize(("run_bytes", "measured"), [(1 << 20, 0.97), (128, 0.92)])
def test_the_memory_is_as_busy_as_ug585_measured(monkeypatch, run_bytes, measured):
    monkeypatch.setitem(dram.TIMINGS, "DDR3", replace(dram.TIMINGS["DDR3"], trfc=160))
    reads = dram.Reads(1 << 24, 4, run_bytes)
    share = (1 << 24) / dram.read_seconds(zynq(), reads, 128) / 4.2e9
    assert share == pytest.approx(measured, abs=0.012)


def test_kv260_streams_at_about_the_share_that_hummingbird_measured():
    assert 0.93 <= dram.efficiency(load_board("KV260"), 1, 1024) <= 0.95


@pytest.mark.parametrize("name", board_names())
def test_no_memory_is_faster_than_its_refresh_lets_it(name):
    board = load_board(name)
    timing = dram.TIMINGS[board.memory]
    best = 1 - (timing.trfc + timing.trp + timing.trcd) / timing.trefi
    alone = dram.efficiency(board, 1, 1024)
    assert 0.85 < dram.efficiency(board, 4, 1024) <= alone < best
    rate = board.ddr_bytes_per_s / (board.ddr_bits / 8 * board.ddr_channels)
    assert 0.8e9 <= rate <= 3.3e9  # transfers per second of these kinds of memory


def test_short_runs_many_ports_and_writes_cost_more():
    board = load_board("KV260")

    def took(**facts):
        return dram.read_seconds(board, dram.Reads(1 << 20, **facts), 1024)

    assert took(streams=4, run=64) > took(streams=4, run=4096) > took(streams=1, run=4096)
    one, two = (dram.write_seconds(board, dram.Writes(n, 16, n)) for n in (1, 2))
    assert two == pytest.approx(2 * one)
    assert one > 64 / 19.2e9
    nothing = dram.Reads(0, 1, 1)
    assert dram.read_seconds(board, nothing, 1024) == dram.write_seconds(
        board, dram.Writes(0, 0, 0)
    ) == 0  # fmt: skip


def test_a_port_of_a_card_reaches_one_channel():
    board = load_board("Alveo-U55C")
    assert dram.peak(board, 4) == pytest.approx(460e9 * 4 / 32)
    assert dram.peak(board, 64) == pytest.approx(460e9)


@pytest.mark.parametrize(("board", "name"), [("KV260", "decoder"), ("Alveo-U55C", "decoder_card"),
                                             ("Pynq-Z2", "decoder")])  # fmt: skip
def test_a_board_has_the_overlay_that_is_meant_for_it(board, name):
    place = load_board(board)
    assert overlay_for(place) == machine_of(board=place).overlay.name == name
    assert machine_of("lab", board=place).overlay.name == "lab"


def on_card(name="llama2-7b", context=512, **change):
    board = load_board("Alveo-U55C")
    return predict(decoder(name), replace(machine_of(board=board), **change), board, context, 1)


def test_ports_with_channels_of_their_own_read_side_by_side():
    """Weights at the speed of eight channels, keys and values at that of one."""
    board, found = load_board("Alveo-U55C"), on_card()
    weights = [s for s in found.decode.steps if set(s.read) & {"weights"}]
    eight = sum(s.times * sum(s.read.values()) for s in weights) / (8 * 460e9 / 32)
    took = sum(s.times * max(step_seconds(s, found.machine, board)) for s in weights)
    assert eight < took < 1.12 * eight  # 7.3 % refresh, misses, waits for a first row
    cache = next(s for s in found.decode.steps if s.read.get("keys and values"))
    one = sum(cache.read.values()) / (460e9 / 32)
    assert one < step_seconds(cache, found.machine, board)[1] < 1.12 * one
    spread = on_card(spread=True)
    assert found.decode.by_part["attention"] > 2 * spread.decode.by_part["attention"]
    assert on_card(overlay=load_overlay("decoder")).decode.tokens_per_s * 5 < (
        found.decode.tokens_per_s
    )


@pytest.mark.parametrize("texts", [2, 8, 16, 64])
def test_texts_at_once_would_gain_what_the_array_has_more_multipliers(texts):
    """Of a product whose weights come 128 a clock: as many as matvec has, half of the array's."""
    machine = machine_of()
    o, product = machine.overlay, decoder("llama2-7b").feed_forward_products()[1]

    def clocks(rows):
        made = steps.product(machine, product, rows, 1)
        return sum(s.clocks.total for s in made if s.part == steps.PRODUCTS)

    weights = product.inputs * product.outputs
    assert o.cols * o.stream_rows == 2 * o.bus_bytes * o.weight_ports == 128
    multipliers = o.rows * o.cols if texts >= o.rows else o.cols * o.stream_rows
    assert clocks(texts) >= texts * weights / multipliers
    gained = texts * clocks(1) / clocks(texts)
    assert gained == pytest.approx(2 if texts >= o.rows else 1, rel=0.03)


def test_every_channel_must_hold_its_part():
    """Llama-2-7B keeps 256 KiB per token, a channel has 512 MiB: of these 2,048 tokens are all."""
    short, long = on_card(context=1024).memory, on_card(context=2048).memory
    assert short.channel == 16 * 2**30 // 32
    assert short.fits
    assert not long.fits
    assert long.total < long.there
    assert long.fullest == 2**29 + long.bytes["activations"]
    assert short.longest == (2**29 - short.bytes["activations"]) // 2**18
    weights = sum(short.bytes[kind] for kind in ("weights", "scales of groups", "requantization"))
    assert short.fullest == weights // 8 + short.bytes["program"]
    assert on().memory.channel == 0


# --- configurations -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PUBLISHED)
def test_numbers_are_those_of_the_published_checkpoints(name):
    d = decoder(name)
    norms = (2 * d.layers + 1) * d.width
    biases = d.layers * (d.heads + 2 * d.kv_heads) * d.head_width if d.kind == "qwen2" else 0
    assert d.parameters + norms + biases == PUBLISHED[name]


def test_a_cache_of_llama_takes_256_kib_per_token():
    assert on().memory.bytes["keys and values"] == 512 * 256 * 1024  # transformer.md, section 6


def test_ranges_of_tokens_take_two_bytes_per_head_and_token_beside_the_codes(tmp_path):
    d, board = config.load(written(tmp_path)), load_board("KV260")
    plain, ranged = (
        predict(d, machine_of("lab", "int8", token_ranges=ranges), board, 100, 1)
        for ranges in (False, True)
    )
    words = 2 * 2 * 2 * (math.ceil(100 / 16) + 1)  # layers, heads, keys and values; a spare one
    more = {k: n - plain.memory.bytes[k] for k, n in ranged.memory.bytes.items()}
    assert more["keys and values"] == words * 32
    read = [p.decode.read["keys and values"] for p in (plain, ranged)]
    assert read[1] == read[0] + 8 * 7 * 32
    assert ranged.decode.written == plain.decode.written + 8 * 32
    assert ranged.memory.longest <= plain.memory.longest
    with pytest.raises(UsageError, match="overlay 'decoder' has no such unit"):
        predict(d, machine_of("decoder", token_ranges=True), board)
    t5 = config.load(_write(tmp_path, {"model_type": "t5"}))
    with pytest.raises(UsageError, match="has an encoder"):
        predict(t5, machine_of("lab", "int8", token_ranges=True), board)
    words = ["estimate", str(written(tmp_path)), "--board", "KV260", "--overlay", "lab"]
    assert cli.run([*words, "--weights", "int8", "--context", "100", "--token-ranges"]) == 0


def test_other_families(tmp_path):
    gpt2 = config.load(written(tmp_path, model_type="gpt2", n_embd=None, hidden_size=None))
    assert (gpt2.width, gpt2.layers, gpt2.inner, gpt2.gated) == (768, 2, 96, False)
    small = config.load(_write(tmp_path, {"model_type": "gpt2"}))
    norms_and_biases = 25 * 2 * 768 + 12 * (3 * 768 + 768 + 3072 + 768)
    assert small.parameters + norms_and_biases == 124_439_808  # GPT-2, 124 M
    t5 = config.load(_write(tmp_path, {"model_type": "t5"}))
    norms_and_distances = (6 * 2 + 6 * 3 + 2) * 512 + 2 * 32 * 8
    assert t5.parameters + norms_and_distances == 60_506_624  # T5-small
    mistral = config.load(written(tmp_path, model_type="mistral", sliding_window=32))
    assert mistral.window == 32
    qwen3 = config.load(written(tmp_path, model_type="qwen3"))
    assert (qwen3.head_norms, qwen3.head_width) == (True, 128)


def _write(tmp_path, values):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(values))
    return path


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"model_type": None}, ModelError, "no model_type"),
        ({"model_type": 7}, ModelError, "no model_type"),
        ({"model_type": "lama"}, ModelError, "llama"),
        ({"num_local_experts": 8}, ModelError, "experts"),
        ({"hidden_size": None}, ModelError, "hidden_size"),
        ({"hidden_size": 0}, ModelError, "from 1 on"),
        ({"hidden_size": 1 << 40}, ModelError, "at most 65,536"),
        ({"num_hidden_layers": 10**9}, ModelError, "at most 1,024"),
        ({"vocab_size": -1}, ModelError, "from 1 on"),
        ({"vocab_size": True}, ModelError, "from 1 on"),
        ({"hidden_size": 65}, ShapeError, "no multiple"),
        ({"num_key_value_heads": 3}, ShapeError, "num_key_value_heads"),
        ({"tie_word_embeddings": "yes"}, ModelError, "true or false"),
        ({"model_type": "gpt2", "n_embd": 65, "hidden_size": None}, ShapeError, "n_head"),
        ({"model_type": "t5", "num_decoder_layers": 4096}, ModelError, "num_decoder_layers"),
    ],
)
def test_an_absurd_configuration_is_refused(tmp_path, changes, error, says):
    with pytest.raises(error, match=says):
        config.load(written(tmp_path, **changes))


@pytest.mark.parametrize("text", ["", "[1]", "{", "\0", '{"model_type": "llama"}'])
def test_a_broken_file_is_refused(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(ModelError):
        config.load(tmp_path)


# --- clocks and bytes -----------------------------------------------------------------------------


def test_a_long_product_takes_the_arrays_clocks_and_a_short_one_the_ports():
    machine = machine_of()
    p = config.Product("p", 4096, 4096)
    long, table = steps.product(machine, p, 64, 1)
    array = systolic.array_clocks(64, 256 * 256, machine.overlay, pace=1)
    assert long.clocks.total == array.total + 2 * 8
    assert table.clocks.table == 256 * 14
    short, _ = steps.product(machine, p, 1, 1)
    beats = sum(short.read.values()) / 64  # bytes of four ports in a clock
    assert beats == 4096 * 4096 * (4 + 8 / 128) / 8 / 64
    assert beats <= short.clocks.total <= 1.001 * beats + 64
    eight, _ = steps.product(machine, p, 8, 1)
    assert eight.clocks.matrix == 8 * short.clocks.matrix
    plain = replace(machine, overlay=load_overlay("encoder16"))
    alone, _ = steps.product(plain, p, 1, 1)
    assert alone.clocks.total > 7.5 * short.clocks.total  # 16 products a clock, not 128


COMPILED = ("llama_gqa", "llama_mha", "qwen2", "mistral", "gpt2", "qwen3")
TOKENS = {"int8": 12, "int16": 8}  # of a run


@pytest.mark.parametrize(
    ("name", "overlay", "weights", "options"),
    [
        *((name, "lab", "int8", {}) for name in COMPILED),
        *((name, "lab", "int8", {"activations": "int16"}) for name in COMPILED),
        ("llama_gqa", "encoder16", "int8", {}),
        ("llama_gqa", "decoder", "int4:g32", {}),
        ("llama_gqa", "decoder", "int4:g32", {"activations": "int16"}),
        ("llama_gqa", "decoder_card", "int4:g32", {}),
        *((name, "lab", "int8", {"token_ranges": True}) for name in ("llama_gqa", "gpt2", "qwen3")),
        ("llama_gqa", "lab", "int8", {"activations": "int16", "token_ranges": True}),
    ],
)
def test_a_run_takes_what_the_compiled_program_takes(name, overlay, weights, options):
    """Every counter that golden counts, and every byte but the instructions'."""
    folder = Path(__file__).resolve().parents[1] / "data" / "decoders" / name
    lines = [[1, 2, 3, 4, 5, 6]]
    most = TOKENS[options.get("activations", "int8")]
    compiled = compile_decoder(
        decoders.load(folder), load_overlay(overlay), cache=40, tokens=most,
        calibration=lines, weights=weights, **options,
    )  # fmt: skip
    machine, d = machine_of(overlay, weights, **options), config.load(folder)
    device = open_device("golden")
    device.load(compiled)
    runs = (1, 0), (1, 30), (1, 32), (2, 3), (3, 0), (8, 0), (9, 2), (12, 20)
    for tokens, before in (r for r in runs if r[0] <= most):
        registers = (tokens, before, 0)
        counted = device.run(0, 1, registers=registers)
        made = list(run._tokens(machine, d, tokens, before, 0))
        counters = steps.total([steps.times(s.clocks, s.times) for s in made])
        assert vars(counters) == dict(counted.counters)
        moved = sum(s.times * (sum(s.read.values()) + s.written) for s in made)
        there = instructions(compiled, 1, registers)
        assert moved == sum(item.bytes - steps.INSTRUCTION_BYTES for item in there)
        if tokens == 1 and not d.window:
            macs = estimate(compiled, registers=registers).macs
            assert sum(s.macs * s.times for s in made) == macs


@pytest.mark.parametrize(("name", "bits"), [("llama_gqa", 4), ("gpt2", 4), ("llama_gqa", 2)])
def test_a_run_of_a_packed_cache_takes_what_the_compiled_program_takes(name, bits):
    """Groups that come in, the newest tokens, and a group that ends with the run."""
    folder = Path(__file__).resolve().parents[1] / "data" / "decoders" / name
    lab = load_overlay("lab")
    compiled = compile_decoder(
        decoders.load(folder), lab, cache=64, calibration=[[1, 2, 3, 4]], cache_bits=bits
    )
    machine, d = machine_of("lab", "int8", cache_bits=bits), config.load(folder)
    device = open_device("golden")
    device.load(compiled)
    for tokens, before in ((1, 0), (32, 0), (1, 31), (2, 32), (5, 40), (1, 63), (32, 32)):
        registers = (tokens, before, 0, 0)
        counted = device.run(0, 1, registers=registers)
        made = list(run._tokens(machine, d, tokens, before, 0))
        counters = steps.total([steps.times(s.clocks, s.times) for s in made])
        assert vars(counters) == dict(counted.counters), (tokens, before)
        moved = sum(s.times * (sum(s.read.values()) + s.written) for s in made)
        there = instructions(compiled, 1, registers)
        assert moved == sum(item.bytes - steps.INSTRUCTION_BYTES for item in there)


def test_a_packed_cache_fits_longer_contexts():
    """Llama-2-7B on KV260, weights of 4 bits: what memory alone allows."""
    d, board = replace(decoder("llama2-7b"), positions=1 << 20), load_board("KV260")
    found = {
        bits: predict(d, machine_of("lab", "int4:g128", cache_bits=bits), board).memory
        for bits in (8, 4, 2)
    }
    tokens = 32 * 32 * 8 * 16  # layers, heads, blocks of a head, bytes: per row of a group
    assert found[8].bytes["keys and values"] == 512 * 2 * tokens
    assert found[4].bytes["keys and values"] == (16 * (18 + 20) + 64) * tokens
    assert found[2].bytes["keys and values"] == (16 * (10 + 12) + 64) * tokens
    assert 1.6 < found[4].longest / found[8].longest < 64 / 38
    assert 2.7 < found[2].longest / found[8].longest < 64 / 22
    assert found[4].longest % 32 == 0
    at, beyond = (
        predict(
            d, machine_of("lab", "int4:g128", cache_bits=4), board, context=found[4].longest + more
        )
        for more in (-32, 320)
    )
    assert at.memory.fits
    assert not beyond.memory.fits


def test_prompts_of_a_packed_cache_come_in_groups():
    machine, d = machine_of("lab", "int8", cache_bits=4), decoder("tinyllama-1.1b")
    assert list(packed.splits(70, 20)) == [(12, 20), (32, 32), (26, 64)]
    made = run.prefill(machine, d, 70)
    assert sum(s.name == "end" for s in made) == 3
    assert sum(s.times for s in made if s.name == "packed keys") == 2 * d.layers * d.kv_heads


@pytest.mark.parametrize(
    ("overlay", "kv", "says"),
    [("decoder", 4, "no unit packed_cache"), ("lab", 3, "keeps int8, int4 or int2")],
)
def test_a_cache_that_an_overlay_does_not_pack_is_refused(overlay, kv, says):
    with pytest.raises(UsageError, match=says):
        predict(decoder("llama2-7b"), machine_of(overlay, cache_bits=kv), load_board("KV260"))


@pytest.mark.parametrize("name", ["t5", "t5_gated", "mt5"])
def test_runs_of_an_encoder_decoder_take_what_the_compiled_program_takes(name):
    """Both parts. Biases by distance are read for the whole cache, here one word of keys."""
    folder = Path(__file__).resolve().parents[1] / "data" / "seq2seq" / name
    model, lab = encoder_decoders.load(folder), load_overlay("lab")
    compiled = compile_pair(model, lab, source=16, cache=16, tokens=2)
    machine, d = machine_of("lab", "int8"), config.load(folder)
    device = open_device("golden")
    device.load(compiled)
    encoder, decoder = (compiled.entries[entry][0] for entry in ("encoder", "decoder"))
    runs = [(encoder, (16, 0, 0, 16), list(run._encode(machine, d, 16)))]
    for tokens, before, source in ((1, 0, 16), (1, 9, 7), (2, 3, 12)):
        made = list(run._tokens(machine, d, tokens, before, source))
        runs.append((decoder, (tokens, before, 0, source), made))
    for segment, registers, made in runs:
        counted = device.run(segment, 1, registers=registers)
        counters = steps.total([steps.times(s.clocks, s.times) for s in made])
        assert vars(counters) == dict(counted.counters)
        moved = sum(s.times * (sum(s.read.values()) + s.written) for s in made)
        there = instructions(compiled, 1, None if segment == encoder else registers)
        own = [item.bytes - steps.INSTRUCTION_BYTES for item in there if item.segment == segment]
        assert moved == sum(own)
        if registers[0] == 1:
            macs = estimate(compiled, registers=registers).macs
            assert sum(s.macs * s.times for s in made) == macs


def test_attention_takes_the_clocks_of_its_instructions():
    machine, d = machine_of(), decoder("tinyllama-1.1b")
    table, step = steps.attend(machine, d, 1, 511, 512, 1, 0)
    fields = {"rows": 1, "overlap": 1, "normalized": 0, "matvec": 1}
    scores = attention.clocks({**fields, "tiles": 32, "blocks": 4}, machine.overlay, 1, {})
    values = attention.clocks({**fields, "tiles": 4, "blocks": 32}, machine.overlay, 1, {})
    load = 2 * (8 + 512 * 4 // 4)  # four words of keys or values a clock, filled up to whole eights
    assert step.clocks.total == 4 * (8 * (scores.total + values.total + 2 * 8) + load)
    assert step.read == {"keys and values": 2 * 511 * 256}
    assert (table.clocks.table, table.times) == (14, 2)
    _, ahead = steps.attend(replace(machine, ahead=True), d, 1, 511, 512, 1, 0)
    assert step.clocks.total > ahead.clocks.total > step.read["keys and values"] / 64


def test_work_is_counted_once_whatever_the_chunks():
    machine, d = machine_of(), decoder("tinyllama-1.1b")
    products = sum(p.weights * n for p, n in d.products())
    made = run.prefill(machine, d, 300)
    scores = 2 * d.layers * d.heads * d.head_width * 300 * 301 // 2
    assert sum(s.macs * s.times for s in made) == 300 * products + scores
    assert run.chunk_tokens(machine, d, 300) < 300
    parts = run.causal_macs(d, 60, 0) + run.causal_macs(d, 40, 60)
    assert parts == run.causal_macs(d, 100, 0)


def test_a_window_masks_keys_that_are_read_all_the_same(tmp_path):
    facts = {"context": 200, "prompt": 1}
    slides = config.load(written(tmp_path, model_type="mistral", sliding_window=32))
    whole = config.load(written(tmp_path))
    found, other = (predict(d, machine_of(), load_board("KV260"), **facts) for d in (slides, whole))
    assert found.decode.read == other.decode.read
    assert found.memory.bytes == other.memory.bytes
    assert found.decode.macs < other.decode.macs


def test_an_encoder_decoder_reads_both_caches(tmp_path):
    d = config.load(_write(tmp_path, {"model_type": "t5"}))
    machine, board = machine_of(), load_board("KV260")
    near, far = (predict(d, machine, board, 16, n) for n in (32, 512))
    per_token = 2 * 6 * 512
    more = far.decode.read["keys and values"] - near.decode.read["keys and values"]
    assert more == 480 * per_token
    assert far.memory.bytes["keys and values"] == (16 + 512) * per_token
    encoder = sum(p.weights * n for p, n in d.products() if n == d.encoder_layers) / 3
    assert near.prefill.macs > 32 * encoder
    assert far.prefill.seconds > near.prefill.seconds


# --- what comes out -------------------------------------------------------------------------------


def test_seconds_are_never_less_than_clocks_ports_and_memory_take():
    for name, board in (("llama2-7b", "KV260"), ("tinyllama-1.1b", "ZCU104")):
        for phase in (on(name, board).decode, on(name, board).prefill):
            assert phase.seconds >= phase.clocks.total / phase.clock_hz
            assert phase.nbytes <= phase.peak * phase.seconds
            assert phase.seconds == pytest.approx(sum(phase.by_part.values()))
            assert 0 < phase.port_share <= 1
            assert 0 < phase.utilization <= 1


def test_llama_on_kv260_with_a_short_context():
    found = on(context=1, prompt=512)
    assert found.bound_tokens_per_s == pytest.approx(5.7, abs=0.05)  # transformer.md: 5.7 to 5.8
    assert 4.9 < found.decode.tokens_per_s < 0.94 * found.bound_tokens_per_s
    assert found.decode.bound == "memory"
    assert found.measured_tokens_per_s < found.decode.tokens_per_s
    assert found.prefill.utilization >= 0.8
    assert found.prefill.bound == "compute"


def test_a_longer_context_is_slower_and_takes_more():
    made = [on(context=n, prompt=1) for n in (0, 64, 512, 1024)]
    rates = [p.decode.tokens_per_s for p in made]
    assert rates == sorted(rates, reverse=True)
    assert [p.memory.total for p in made] == sorted(p.memory.total for p in made)
    assert all(p.memory.fits for p in made)


def test_the_longest_context_is_the_last_that_fits():
    d, machine, board = decoder("llama2-7b"), machine_of(), load_board("KV260")
    longest = on().memory.longest
    # Positions and the longest chunk depend on the context, too: a little less is left for it.
    assert predict(d, machine, board, longest - 8, 1).memory.fits
    assert not predict(d, machine, board, longest + 8, 1).memory.fits
    none = predict(d, machine, replace(board, ddr_bytes=1 << 30), 1, 1).memory
    assert (none.fits, none.longest) == (False, 0)


def test_what_does_not_fit_on_chip_is_refused():
    small = replace(load_overlay("decoder"), wide_words=64)
    with pytest.raises(CapacityError, match="wide_words"):
        predict(decoder("llama2-7b"), replace(machine_of(), overlay=small), load_board("KV260"))
    assert run.longest(machine_of(), decoder("llama2-7b")) == 512


@pytest.mark.parametrize(
    ("machine", "facts", "error", "says"),
    [
        (("decoder", "int3"), {}, UsageError, "decodes"),
        (("encoder16", "int8"), {"context": 4097}, InputError, "4,096 positions"),
        (("encoder16", "int4"), {}, UsageError, "decodes"),
        (("tiny", "int8"), {}, UsageError, "no unit attention"),
    ],
)
def test_what_an_overlay_or_a_model_lacks_is_said(machine, facts, error, says):
    with pytest.raises(error, match=says):
        predict(decoder("llama2-7b"), machine_of(*machine), load_board("KV260"), **facts)


def test_groups_need_wide_operands():
    narrow = replace(load_overlay("decoder"), weight_bits=8)
    with pytest.raises(UsageError, match="operands of 16 bits"):
        predict(decoder("llama2-7b"), replace(machine_of(), overlay=narrow), load_board("KV260"))


def test_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = str(MODELS / "llama2-7b.json")
    assert cli.run(["estimate", path, "--board", "KV260", "--context", "128", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["tokens_per_s"] == pytest.approx(on(context=128).decode.tokens_per_s)
    assert facts["memory"]["fits"]
    assert facts["decode"]["bytes"]["keys and values"] == 128 * 256 * 1024
    assert math.isclose(facts["first_token_s"], facts["prefill"]["seconds"])
    written(tmp_path)
    words = ["estimate", ".", "--board", "KV260", "--weights", "int8", "--kv", "int8"]
    assert cli.run([*words, "--prompt", "20", "--context", "40"]) == 0
    out = capsys.readouterr().out
    for text in ("prompt to first token", "keys and values", "fits:", "tokens/s"):
        assert text in out
    assert cli.run([*words, "--kv", "int4"]) == 2
    assert "no unit packed_cache" in capsys.readouterr().err
    on_lab = [*words[:4], "--overlay", "lab", "--weights", "int8", "--context", "40"]
    assert cli.run([*on_lab, "--kv", "int4"]) == 0
    assert cli.run(["estimate", path]) == 2
    assert "--board" in capsys.readouterr().err
    assert cli.run(["estimate", path, "--board", "KV260", "--batch", "2"]) == 2
    assert cli.run(["estimate", "p.weft", "--context", "2"]) == 2
    assert "is a program" in capsys.readouterr().err
    assert cli.run(["estimate", path, "--board", "ZCU104"]) == 0
    assert "does not fit" in capsys.readouterr().out


def test_a_picture_of_contexts(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    path, picture = str(MODELS / "tinyllama-1.1b.json"), tmp_path / "p.svg"
    assert cli.run(["estimate", path, "--board", "ZCU104", "--plot", str(picture)]) == 0
    assert "<!-- predicted -->" in picture.read_text()


def test_the_benchmark_compares_with_published_rates(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2]))
    bench = importlib.import_module("bench.decoders")
    near = [one for one in bench.published() if one.decoder.name in ("Llama-2-7b-hf", "LLaMA3-8B")]
    for one in near:
        if one.board == "KV260":
            assert one.row().ours == pytest.approx(one.theirs, rel=0.1)
    rows = {row.metric: row for row in bench.llama_rows()}
    assert rows["Llama-2-7B on KV260, prompt of 512: array's peak"].met
    assert rows["Llama-2-7B on KV260, memory at 1,024 tokens (peer: DATE 2025)"].met
    gains = [row.ours / row.peer for row in bench.faster_rows()]
    assert min(gains) > 1
