"""A cache beyond the operand buffer: keys come from memory in tiles, and no bit changes."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import weft
from weft import isa
from weft.config import load_overlay
from weft.decoder_compiler import compile_decoder
from weft.frontend import decoders

FOLDER = Path(__file__).resolve().parents[1] / "data" / "decoders"
NAMES = sorted(path.name for path in FOLDER.iterdir())
LAB = load_overlay("lab")
OPTIONS = {"tokens": 6, "cache": 48, "slots": 2}


def compiled(name, overlay, **options):
    return compile_decoder(decoders.load(FOLDER / name), overlay, **{**OPTIONS, **options})


def smallest(name):
    """An overlay whose operand buffer holds a tile of 16 keys beside the new ones."""
    heads = compiled(name, LAB).notes["operand_words_used"] // 48  # words of a key and a value
    return replace(LAB, name="lab_tiles", operand_words=heads * 32)


def discards(program):
    found = [isa.decode(w) for s in program.segments for w in getattr(s, "words", ())]
    return sum(f["discard"] for kind, f in found if kind is isa.ACTIVATE)


@pytest.mark.parametrize("name", NAMES)
def test_tiles_of_a_cache_change_no_bit(name):
    """Tokens one by one, in parts, in another slot: the logits of a cache that fits."""
    small, whole = smallest(name), compiled(name, LAB)
    program = compiled(name, small)
    assert discards(whole) == 0 < discards(program)
    ids = np.random.default_rng(0).integers(3, 40, 45).tolist()
    with weft.open_decoder(whole, "golden") as session:
        expected = session.logits(ids)
    with weft.open_decoder(program, "golden") as session:
        np.testing.assert_array_equal(session.logits(ids), expected)
        run = session.forward.run
        cuts = [0, 1, 6, 11, 17, 18, 23, 29, 34, 40, 45]
        parts = [run(ids[a:b], a, 1) for a, b in itertools.pairwise(cuts)]
    np.testing.assert_array_equal(np.concatenate(parts), expected)


@pytest.mark.parametrize("name", ["llama_gqa"])
def test_simulation_equals_golden_in_every_counter(name):
    program = compiled(name, smallest(name))
    ids = np.random.default_rng(1).integers(3, 40, 39).tolist()
    found = {}
    for device, options in (("golden", {}), ("csim", {}), ("csim cycle", {"form": "cycle"})):
        with weft.open_decoder(program, device.split()[0], **options) as session:
            run = session.forward.run
            logits = [run(ids[t : t + 6], t, 1) for t in range(0, 36, 6)]
            logits += [run([ids[t]], t, 1) for t in range(36, 39)]
            counters = [dict(result.counters) for result in session.forward.results]
        found[device] = np.concatenate(logits), counters
    for device in ("csim", "csim cycle"):
        np.testing.assert_array_equal(found[device][0], found["golden"][0])
        assert found[device][1] == found["golden"][1]
