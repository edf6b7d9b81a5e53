"""Writes tests/data/byte_pairs.json: a small byte-level BPE, and what texts are in it.

Their tokens are those of the transformers library's tokenizers of GPT-2 and Qwen2.

    python tests/record_tokenizers.py

needs transformers and tokenizers.
"""

from __future__ import annotations

import json
from pathlib import Path

import tokenizers as t
import transformers

FILE = Path(__file__).resolve().parent / "data" / "byte_pairs.json"
WORDS = 300
TEXTS = [
    "Once upon a time, there was a girl named Lily.",
    "She'll count: 1, 22, 333, 4444 -- it's FUN!  Isn't it?",
    "caf\u00e9 cafe\u0301 \u4e16\u754c \U0001f600\n\n  indented\ttabs \r\nend   ",
    "def f(x):\n    return x**2  # 12345",
    "<|endoftext|>after the end",
]


def main() -> None:
    """Trains merges on the texts themselves and this file, then reads the texts."""
    trained = t.Tokenizer(t.models.BPE())
    trained.pre_tokenizer = t.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = t.trainers.BpeTrainer(
        vocab_size=WORDS,
        initial_alphabet=t.pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>"],
    )
    trained.train_from_iterator([*TEXTS, Path(__file__).read_text()] * 3, trainer)
    model = json.loads(trained.to_str())["model"]
    vocabulary, merges = model["vocab"], [tuple(merge) for merge in model["merges"]]
    found = {
        "tokens": sorted(vocabulary, key=vocabulary.get),
        "merges": [" ".join(merge) for merge in merges],
        "texts": TEXTS,
        "ids": {},
    }
    for pre, kind in (
        ("gpt-2", transformers.GPT2Tokenizer),
        ("qwen2", transformers.Qwen2Tokenizer),
    ):
        made = kind(vocab=vocabulary, merges=merges)
        found["ids"][pre] = [made(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    FILE.write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
