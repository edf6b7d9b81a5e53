"""Decoders with a cache of 4 or 2 bits: what they keep, and that no cut of a text shows."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import weft
from weft import isa
from weft.config import load_overlay
from weft.decoder_compiler import compile_decoder
from weft.errors import CapacityError, ProgramError, UsageError
from weft.frontend import decoders
from weft.program import Program
from weft.units import packed_cache

FOLDER = Path(__file__).resolve().parents[1] / "data" / "decoders"
LAB = load_overlay("lab")
GROUP = 32


def longer(name):
    """A decoder; one that rotates may know more positions than it has been made for."""
    decoder = decoders.load(FOLDER / name)
    return decoder if name == "gpt2" else replace(decoder, limit=96)


@pytest.fixture(scope="module")
def programs():
    """Programs by name, compiled once: a cache of two groups for each of 2 texts."""
    made = {}

    def program(name, bits, **options):
        key = (name, bits, *sorted(options.items()))
        if key not in made:
            settings = {"cache": 64, "slots": 2, "cache_bits": bits, **options}
            made[key] = compile_decoder(longer(name), LAB, **settings)
        return made[key]

    return program


def text(name, count):
    """Tokens of a text."""
    ids = np.load(FOLDER / name / "expected.npz")["ids"].reshape(-1)
    return np.resize(ids, count).tolist()


def in_parts(session, ids, cuts, slot):
    """Logits of tokens, taken in parts that end at `cuts`."""
    ends = [0, *cuts, len(ids)]
    run = session.forward.run
    return np.concatenate([run(ids[a:b], a, slot) for a, b in pairwise(ends)])


@pytest.mark.parametrize("bits", [4, 2])
@pytest.mark.parametrize("name", ["llama_gqa", "gpt2"])
def test_a_cut_changes_no_bit(programs, name, bits):
    """One by one, at once, in parts across groups, and beside another text."""
    ids = text(name, 60)
    with weft.open_decoder(programs(name, bits), "csim") as session:
        whole = session.forward.run(ids, 0, 0)
        parts = in_parts(session, ids, (1, 30, 35, 58), 1)
        alone = in_parts(session, ids, range(1, 60), 0)  # in the slot of a text before
        again = session.forward.run(ids[40:], 40, 1)  # of a group that is still open
    np.testing.assert_array_equal(parts, whole)
    np.testing.assert_array_equal(alone, whole)
    np.testing.assert_array_equal(again, whole[40:])


@pytest.mark.parametrize(("name", "bits"), [("llama_gqa", 4), ("gpt2", 2)])
def test_golden_and_csim_agree(programs, name, bits):
    ids, found = text(name, 42), {}
    for device, options in (("golden", {}), ("csim", {}), ("csim cycle", {"form": "cycle"})):
        with weft.open_decoder(programs(name, bits), device.split()[0], **options) as session:
            logits, counters = [], []
            for first, last in ((0, 25), (25, 40), (40, 41), (41, 42)):
                logits.append(session.forward.run(ids[first:last], first, 1))
                counters += [result.counters for result in session.forward.results]
        found[device] = (np.concatenate(logits), counters)
    for device in ("csim", "csim cycle"):
        np.testing.assert_array_equal(found[device][0], found["golden"][0])
        assert found[device][1] == found["golden"][1]


def repacked(words, bits, values):
    """Words [32, lanes] as a group's codes leave them, in plain arithmetic."""
    axis, steps = (1 if values else 0), 2**bits - 1
    whole = words.astype(np.int64)
    least = whole.min(axis, keepdims=True)
    width = whole.max(axis, keepdims=True) - least
    codes = (2 * steps * (whole - least) + width) // (2 * np.maximum(width, 1))  # ties upwards
    return (least + (2 * codes * width + steps) // (2 * steps)).astype(np.int8)


@pytest.mark.parametrize("bits", [4, 2])
@pytest.mark.parametrize("name", ["llama_gqa", "gpt2"])
def test_a_full_group_is_seen_as_its_codes(programs, name, bits):
    """As a program with a cache of int8, whose words are replaced by hand when a group is full."""
    ids = text(name, 60)
    plain, lanes = programs(name, 8), LAB.lanes
    with weft.open_decoder(plain, "golden") as session:
        first = session.forward.run(ids[:GROUP], 0, 1)
        device, capacity = session.forward.device, plain.cache.capacity
        for cache in plain.cache.names:
            region = plain.regions[cache]
            for block in range(region.layout.channels // lanes):
                at = region.row + block * 2 * capacity + capacity  # of the second slot
                words = device.read(at, GROUP)
                device.write(at, repacked(words, bits, cache.endswith("values")))
        second = session.forward.run(ids[GROUP:], GROUP, 1)
    with weft.open_decoder(programs(name, bits), "golden") as session:
        found = session.forward.run(ids, 0, 1)
    np.testing.assert_array_equal(found, np.concatenate([first, second]))


def test_memory_holds_groups_and_a_ring(programs):
    """4.5 bits per element of keys and 5 of values, and 32 tokens of int8, for each text."""
    plain, packed = (programs("llama_gqa", bits) for bits in (8, 4))
    for name in plain.cache.names:
        rows = plain.regions[name].layout.height
        assert rows == 2 * 64
        values = name.endswith("values")
        assert packed.regions[name].layout.height == 2 * 2 * (20 if values else 18)
        assert packed.regions[f"{name}/ring"].layout.height == 2 * GROUP


def test_files_remember_the_bits(programs, tmp_path):
    program = programs("gpt2", 2)
    program.save(tmp_path / "p.weft")
    loaded = Program.load(tmp_path / "p.weft")
    assert loaded.cache == program.cache
    assert loaded.cache.bits == 2
    ids = text("gpt2", 40)
    with weft.open_decoder(loaded, "golden") as session:
        found = session.forward.run(ids, 0, 0)
    with weft.open_decoder(program, "golden") as session:
        np.testing.assert_array_equal(session.forward.run(ids, 0, 0), found)
    names = program.cache.names[:1]
    broken = replace(program, cache=replace(program.cache, names=names, slots=7))
    with pytest.raises(ProgramError, match="is no region of 64 tokens"):
        broken.verify()


def test_sliding_packs_again(programs):
    """A text beyond the cache: what is left is computed anew, from its first token on."""
    with weft.open_decoder(programs("gpt2", 4), "csim") as session:
        pieces = list(session.generate(text("gpt2", 60), 8, stop=False, sliding=True))
    assert len(pieces) == 8


@pytest.mark.parametrize(
    ("options", "says"),
    [({"cache_bits": 3}, "the cache has 8 bits, 4 or 2"),
     ({"cache_bits": 4, "cache": 40}, "take a multiple of 32"),
     ({"cache_bits": 4, "tokens": 33, "cache": 64}, "ends with its group of 32"),
     ({"cache_bits": 2, "cache": 31}, "take a multiple of 32")],
)  # fmt: skip
def test_what_makes_no_groups_is_refused(options, says):
    with pytest.raises(UsageError, match=says):
        compile_decoder(decoders.load(FOLDER / "gpt2"), LAB, **options)


def test_an_overlay_without_the_unit_is_refused():
    units = tuple(unit for unit in LAB.units if unit != packed_cache.UNIT_NAME)
    with pytest.raises(CapacityError, match=r"overlay 'bare' has 8 \(no unit packed_cache"):
        compile_decoder(
            decoders.load(FOLDER / "gpt2"), replace(LAB, name="bare", units=units), cache_bits=4
        )


def tiled(programs, name, bits):
    """A program whose operand buffer holds a tile of a group beside the newest one."""
    words = programs(name, 8).notes["operand_words_used"] // 64  # of a key and a value
    small = replace(LAB, name="lab_groups", operand_words=words * 64)
    return compile_decoder(longer(name), small, cache=96, slots=2, cache_bits=bits)


@pytest.mark.parametrize("bits", [4, 2])
@pytest.mark.parametrize("name", ["llama_gqa", "mistral"])
def test_tiles_of_groups_change_no_bit(programs, name, bits):
    """Where a head does not fit the operand buffer; windows that end in a group, too."""
    whole, program = programs(name, bits, cache=96), tiled(programs, name, bits)
    found = [isa.decode(words) for words in program.segments[0].words]
    assert any(f["discard"] for kind, f in found if kind is isa.ACTIVATE)
    ids = text(name, 90)
    with weft.open_decoder(whole, "golden") as session:
        expected = session.forward.run(ids, 0, 1)
    with weft.open_decoder(program, "golden") as session:
        np.testing.assert_array_equal(session.forward.run(ids, 0, 0), expected)
        cuts = (1, 7, 30, 31, 32, 33, 64, 70, 89)
        np.testing.assert_array_equal(in_parts(session, ids, cuts, 1), expected)


def test_tiles_of_groups_are_the_same_in_simulation(programs):
    ids, program, found = text("llama_gqa", 70), tiled(programs, "llama_gqa", 4), {}
    for device, options in (("golden", {}), ("csim", {}), ("csim cycle", {"form": "cycle"})):
        with weft.open_decoder(program, device.split()[0], **options) as session:
            logits, counters = [], []
            for first, last in ((0, 32), (32, 64), (64, 69), (69, 70)):
                logits.append(session.forward.run(ids[first:last], first, 1))
                counters += [result.counters for result in session.forward.results]
        found[device] = (np.concatenate(logits), counters)
    for device in ("csim", "csim cycle"):
        np.testing.assert_array_equal(found[device][0], found["golden"][0])
        assert found[device][1] == found["golden"][1]


def test_a_cache_of_which_no_group_fits_is_refused():
    small = replace(LAB, name="small", operand_words=64)
    with pytest.raises(CapacityError, match="operand"):
        compile_decoder(decoders.load(FOLDER / "gpt2"), small, cache_bits=4, cache=64, tokens=8)


def test_an_encoder_decoder_keeps_eight_bits():
    folder = FOLDER.parent / "seq2seq" / "t5"
    with pytest.raises(UsageError, match="only decoders without an encoder"):
        weft.compile(folder, "lab", cache_bits=4)


def test_what_is_no_decoder_has_no_cache(tmp_path):
    with pytest.raises(UsageError, match="are for decoders"):
        weft.compile(tmp_path / "m.onnx", "lab", cache_bits=4)
