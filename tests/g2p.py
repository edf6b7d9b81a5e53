"""The GRU encoder-decoder of g2p_en in plain numpy: what the example's program is held against.

The model is that of Kyubyong Park's g2p (one GRU layer of 256 on either side, greedy decoding); the
words are those of the CMU pronouncing dictionary, on which it was trained. Both are read by
examples/g2p.py.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "g2p.py"
Weights = dict[str, np.ndarray]


def _example():
    """The example as a module."""
    spec = spec_from_file_location("g2p_example", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


example = _example()


def weights(data: Path) -> Weights:
    """The checkpoint's arrays."""
    with np.load(data / "g2p_seq2seq" / "checkpoint20.npz") as file:
        return {name: file[name] for name in file.files}


def gru(x: np.ndarray, h: np.ndarray, parameters: Weights, side: str) -> np.ndarray:
    """The next state; gates are stacked in the order reset, update, new."""
    given = x @ parameters[f"{side}_w_ih"].T + parameters[f"{side}_b_ih"]
    kept = h @ parameters[f"{side}_w_hh"].T + parameters[f"{side}_b_hh"]
    (r, z, n), (hr, hz, hn) = np.split(given, 3, axis=1), np.split(kept, 3, axis=1)
    reset, update = 1 / (1 + np.exp(-r - hr)), 1 / (1 + np.exp(-z - hz))
    return (1 - update) * np.tanh(n + reset * hn) + update * h


def float_sounds(parameters: Weights, words: Sequence[str]) -> list[list[str]]:
    """What the float model says, word by word, all words at once."""
    tokens = [example.letters(word) for word in words]
    h = np.zeros((len(words), parameters["enc_w_hh"].shape[1]), np.float32)
    for t in range(max(map(len, tokens))):
        there = [i for i, row in enumerate(tokens) if t < len(row)]
        x = parameters["enc_emb"][[tokens[i][t] for i in there]]
        h[there] = gru(x, h[there], parameters, "enc")
    last = np.full(len(words), example.START)
    said: list[list[int]] = [[] for _ in words]
    going = np.arange(len(words))
    for _ in range(example.LIMIT):
        h[going] = gru(parameters["dec_emb"][last[going]], h[going], parameters, "dec")
        last[going] = (h[going] @ parameters["fc_w"].T + parameters["fc_b"]).argmax(1)
        going = going[last[going] != example.END]
        for i in going:
            said[i].append(int(last[i]))
    return [example.phonemes(row) for row in said]
