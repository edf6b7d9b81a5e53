"""Says English words: the GRU encoder-decoder of g2p_en, in int8 on the accelerator.

    python examples/g2p.py DATA hello world
    python examples/g2p.py DATA --words 4000 --overlay edge --board KV260

DATA holds checkpoint20.npz (github.com/Kyubyong/g2p, Apache-2.0) and cmudict.dict
(github.com/cmusphinx/cmudict). With --words, that many words of the dictionary are said and
compared with all its pronunciations of them; the model was trained on the dictionary. Ranges are
taken from 300 other words.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import weft
from weft.program import Program
from weft.recurrent import Decoding, EncoderDecoder, Generator, entry_program

GRAPHEMES = ["<pad>", "<unk>", "</s>", *"abcdefghijklmnopqrstuvwxyz"]
VOWELS = ("AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW")
CONSONANTS = (
    *("B", "CH", "D", "DH", "F", "G", "HH", "JH", "K", "L", "M", "N", "NG", "P", "R", "S", "SH"),
    *("T", "TH", "V", "W", "Y", "Z", "ZH", "UW"),  # the model knows UW without stress, too
)
STRESSED = (f"{vowel}{stress}" for vowel in VOWELS for stress in range(3))
PHONEMES = ["<pad>", "<unk>", "<s>", "</s>", *sorted((*CONSONANTS, *STRESSED))]
SOURCE_END, START, END = 2, 2, 3
LONGEST = 32  # letters of a word and its end
LIMIT = 20  # phonemes of a word, at most
CALIBRATION = 300

Sounds = list[list[str]]


def dictionary(data: Path) -> dict[str, Sounds]:
    """Words of the letters a to z → their pronunciations, the usual one first."""
    found: dict[str, Sounds] = {}
    for line in (data / "cmudict.dict").read_text().splitlines():
        word, *sounds = line.split("#")[0].split()
        word = re.sub(r"\(\d+\)$", "", word)
        if re.fullmatch("[a-z]+", word):
            found.setdefault(word, []).append(sounds)
    return found


def shuffled(words: dict[str, Sounds]) -> list[str]:
    """All words, in the order of the reference measurement of 69.93 %, which takes 4,000."""
    every = sorted(words)
    return [every[i] for i in np.random.default_rng(0).permutation(len(every))]


def letters(word: str) -> list[int]:
    """Tokens of a word, with the one that ends it; <unk> for what the model does not know."""
    known = (GRAPHEMES.index(c) if c in GRAPHEMES else 1 for c in word.lower())
    return [*known, SOURCE_END]


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


def network(data: Path) -> EncoderDecoder:
    """The checkpoint as weft takes it."""
    with np.load(data / "checkpoint20.npz") as file:
        arrays = dict(file)
    encoder, decoder = (
        tuple(arrays[f"{side}_{name}"] for name in ("w_ih", "w_hh", "b_ih", "b_hh"))
        for side in ("enc", "dec")
    )
    decoding = Decoding(arrays["enc_emb"], arrays["dec_emb"], START, END, LONGEST, LIMIT)
    output = arrays["fc_w"], arrays["fc_b"]
    return EncoderDecoder("g2p", encoder, decoder, output, decoding)


def compiled(data: Path, overlay: str, **options: object) -> Program:
    """The program for an overlay, with ranges from the last words of `shuffled`."""
    typical = shuffled(dictionary(data))[-CALIBRATION:]
    return network(data).compile(overlay, [letters(word) for word in typical], **options)


def times(program: Program, board: str) -> str:
    """What steps take on a board, as predicted, for one word and for a full batch."""
    lines = []
    for entry in program.entries:
        part = entry_program(program, entry)
        each = [weft.estimate(part, batch=n, board=board).wall_s for n in (1, program.batch)]
        lines.append(
            f"{board}, {entry}: {each[0] * 1e6:.0f} µs a step, "
            f"{program.batch / each[1]:,.0f} steps/s of {program.batch} words at once (predicted)"
        )
    return "\n".join(lines)


def measure(generator: Generator, data: Path, count: int) -> str:
    """How well and how fast words of the dictionary are said."""
    words = dictionary(data)
    chosen = shuffled(words)[:count]
    begun = time.perf_counter()
    said = generator.run([letters(word) for word in chosen])
    wall_s = time.perf_counter() - begun
    found = score([phonemes(tokens) for tokens in said], [words[w] for w in chosen])
    took = generator.took
    return (
        f"{len(chosen):,} words: {found.words:.2f} % right, {found.errors:.2f} % of phonemes "
        f"wrong; {took.samples / wall_s:,.0f} steps/s, {took.cycles:,} clocks"
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Says the words of the command line, or measures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("word", nargs="*")
    parser.add_argument("--words", type=int, default=0, help="how many of the dictionary to say")
    parser.add_argument("--overlay", default="lab")
    parser.add_argument("--board", help="predict times on a board")
    parser.add_argument("--device", default="csim")
    options = parser.parse_args(argv)
    program = compiled(options.data, options.overlay)
    with Generator(program, options.device) as generator:
        if options.word:
            said = generator.run([letters(word) for word in options.word])
            for word, tokens in zip(options.word, said, strict=True):
                print(word, *phonemes(tokens))
        if options.words:
            print(measure(generator, options.data, options.words))
    if options.board:
        print(times(program, options.board))


if __name__ == "__main__":
    main()
