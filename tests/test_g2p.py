"""Words to sounds by a GRU encoder-decoder: in float as published, and on the simulation."""

from __future__ import annotations

from pathlib import Path

import pytest

import g2p

FLOAT = g2p.Score(69.925, 9.7915)  # of 4,000 words, as the data's README has it: 69.93 %, 9.79 %


@pytest.mark.slow
def test_float_model_says_what_was_measured(shared_data: Path) -> None:
    words = g2p.dictionary(shared_data)
    chosen = g2p.shuffled(words)[:4000]
    said = g2p.float_sounds(g2p.weights(shared_data), chosen)
    found = g2p.score(said, [words[w] for w in chosen])
    assert found.words == pytest.approx(FLOAT.words, abs=0.03)
    assert found.errors == pytest.approx(FLOAT.errors, abs=0.01)


def test_float_model_knows_words(shared_data: Path) -> None:
    words = g2p.dictionary(shared_data)
    parameters = g2p.weights(shared_data)
    assert g2p.float_sounds(parameters, ["network"]) == [["N", "EH1", "T", "W", "ER2", "K"]]
    chosen = g2p.shuffled(words)[:400]
    found = g2p.score(g2p.float_sounds(parameters, chosen), [words[w] for w in chosen])
    assert found.words == pytest.approx(FLOAT.words, abs=5)  # two standard errors of 400 words


def test_distance_counts_edits() -> None:
    assert g2p.distance(["K", "AE", "T"], ["K", "AE", "T"]) == 0
    assert g2p.distance(["K", "AE", "T"], ["K", "AH", "T", "S"]) == 2
    assert g2p.distance([], ["K", "AE"]) == 2
