"""Cells without multipliers: popcounts by definition, and the array around them."""

from __future__ import annotations

import numpy as np
import pytest
import wide
from hypothesis import given
from hypothesis import strategies as st

import kernel
from weft import isa
from weft.units import binary

seeds = st.integers(0, 2**32 - 1)
PAIRS = {(1, 1): 4, (1, 2): 2, (8, 1): 4, (8, 2): 4}


def precision(a: int, w: int, codes: int = 0) -> dict[str, int]:
    number = isa.ENGINES.index("binary")
    words = PAIRS[a, w]
    return {
        "engine": number,
        "activation_bits": a,
        "weight_bits": w,
        "words": words,
        "codes": codes,
    }


def test_dot_product_of_bits_is_the_popcount_formula():
    """2·popcount(xnor) − n, for n bits."""
    rng = np.random.default_rng(0)
    words = rng.integers(0, 256, (1, 1, 4, 8)).astype(np.uint8)
    rows = rng.integers(-128, 128, (1, 1, 8, 4, 8)).astype(np.int16)
    f = precision(1, 1, codes=1)
    x, w = binary.activations(words, f)[0, 0], binary.weights(rows, f)[0, 0]
    for lane in range(8):
        a = int.from_bytes(words[0, 0, :, lane].tobytes(), "little")
        b = int.from_bytes(rows[0, 0, lane, :, 0].astype(np.uint8).tobytes(), "little")
        assert x[lane] @ w[lane, :, 0] == 2 * bin(~(a ^ b) & 0xFFFFFFFF).count("1") - 32


@pytest.mark.parametrize("name", wide.OVERLAYS)
@pytest.mark.parametrize(("a", "w"), PAIRS)
@given(seed=seeds, batch=st.integers(1, 2), codes=st.integers(0, 1))
@kernel.examples(6)
def test_every_form_computes_and_counts_alike(name, a, w, seed, batch, codes):
    rng = np.random.default_rng(seed)
    wide.check(rng, wide.OVERLAYS[name], precision(a, w, codes), batch)


@pytest.mark.parametrize(("a", "w"), PAIRS)
def test_the_exact_form_agrees(a, w):
    forms = ("exact", *kernel.FORMS)
    wide.check(np.random.default_rng(2), wide.NANO, precision(a, w, 1), forms=forms, small=True)
