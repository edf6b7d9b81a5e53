"""English words and their pronunciations, and the GRU encoder-decoder of g2p_en in plain numpy.

The model is that of Kyubyong Park's g2p (one GRU layer of 256 on either side, greedy decoding); the
words are those of the CMU pronouncing dictionary, on which it was trained.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

GRAPHEMES = ["<pad>", "<unk>", "</s>", *"abcdefghijklmnopqrstuvwxyz"]
VOWELS = ("AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW")
CONSONANTS = (
    *("B", "CH", "D", "DH", "F", "G", "HH", "JH", "K", "L", "M", "N", "NG", "P", "R", "S", "SH"),
    *("T", "TH", "V", "W", "Y", "Z", "ZH", "UW"),  # the model knows UW without stress, too
)
STRESSED = (f"{vowel}{stress}" for vowel in VOWELS for stress in range(3))
PHONEMES = ["<pad>", "<unk>", "<s>", "</s>", *sorted((*CONSONANTS, *STRESSED))]
SOURCE_END, START, END = 2, 2, 3
LIMIT = 20  # phonemes of a word, at most

Weights = dict[str, np.ndarray]
Sounds = list[list[str]]


def weights(data: Path) -> Weights:
    """The checkpoint's arrays."""
    with np.load(data / "g2p_seq2seq" / "checkpoint20.npz") as file:
        return {name: file[name] for name in file.files}


def dictionary(data: Path) -> dict[str, Sounds]:
    """Words of the letters a to z → their pronunciations, the usual one first."""
    found: dict[str, Sounds] = {}
    text = (data / "g2p_seq2seq" / "cmudict.dict").read_text()
    for line in text.splitlines():
        word, *sounds = line.split("#")[0].split()
        word = re.sub(r"\(\d+\)$", "", word)
        if re.fullmatch("[a-z]+", word):
            found.setdefault(word, []).append(sounds)
    return found


def shuffled(words: dict[str, Sounds]) -> list[str]:
    """All words in the order of the reference measurement, which takes the first 4,000."""
    every = sorted(words)
    return [every[i] for i in np.random.default_rng(0).permutation(len(every))]


def letters(word: str) -> list[int]:
    """Tokens of a word, with the one that ends it."""
    return [*(GRAPHEMES.index(c) for c in word), SOURCE_END]


def phonemes(tokens: Sequence[int]) -> list[str]:
    """Sounds of the decoder's tokens."""
    return [PHONEMES[i] for i in tokens]


@dataclass(frozen=True)
class Score:
    """Share of words with one of their pronunciations, and wrong phonemes, both in percent."""

    words: float
    errors: float


def score(found: Sounds, wanted: Sequence[Sounds]) -> Score:
    """What was found for words, against all pronunciations of each."""
    right = np.mean([f in every for f, every in zip(found, wanted, strict=True)])
    nearest = [
        min((distance(f, one), len(one)) for one in every)
        for f, every in zip(found, wanted, strict=True)
    ]
    wrong, total = np.sum(nearest, axis=0)
    return Score(100 * float(right), 100 * float(wrong / total))


def distance(a: Sequence[str], b: Sequence[str]) -> int:
    """Levenshtein's."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        above, row = row, [i]
        for j, y in enumerate(b):
            row.append(min(above[j] + (x != y), above[j + 1] + 1, row[j] + 1))
    return row[-1]


def gru(x: np.ndarray, h: np.ndarray, parameters: Weights, side: str) -> np.ndarray:
    """The next state; gates are stacked in the order reset, update, new."""
    given = x @ parameters[f"{side}_w_ih"].T + parameters[f"{side}_b_ih"]
    kept = h @ parameters[f"{side}_w_hh"].T + parameters[f"{side}_b_hh"]
    (r, z, n), (hr, hz, hn) = np.split(given, 3, axis=1), np.split(kept, 3, axis=1)
    reset, update = 1 / (1 + np.exp(-r - hr)), 1 / (1 + np.exp(-z - hz))
    return (1 - update) * np.tanh(n + reset * hn) + update * h


def float_sounds(parameters: Weights, words: Sequence[str]) -> Sounds:
    """What the float model says, word by word, all words at once."""
    tokens = [letters(word) for word in words]
    h = np.zeros((len(words), parameters["enc_w_hh"].shape[1]), np.float32)
    for t in range(max(map(len, tokens))):
        there = [i for i, row in enumerate(tokens) if t < len(row)]
        x = parameters["enc_emb"][[tokens[i][t] for i in there]]
        h[there] = gru(x, h[there], parameters, "enc")
    last = np.full(len(words), START)
    said: list[list[int]] = [[] for _ in words]
    going = np.arange(len(words))
    for _ in range(LIMIT):
        h[going] = gru(parameters["dec_emb"][last[going]], h[going], parameters, "dec")
        last[going] = (h[going] @ parameters["fc_w"].T + parameters["fc_b"]).argmax(1)
        going = going[last[going] != END]
        for i in going:
            said[i].append(int(last[i]))
    return [phonemes(row) for row in said]
