"""Byte-level BPE of GGUF files: the tokens that the transformers library finds."""

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tokenizers", reason="tokenizers is not installed")

from test_decoders import gguf_of

from weft.errors import ModelError, UnsupportedError
from weft.frontend import decoders
from weft.text.byte_pairs import CONTROL, byte_pairs
from weft.text.decoder_assets import DecoderAssets
from weft.text.tokenizer import restored

KNOWN = json.loads((Path(__file__).resolve().parents[1] / "data" / "byte_pairs.json").read_text())
TYPES = [CONTROL, *[1] * (len(KNOWN["tokens"]) - 1)]


def made(pre, **changes):
    parts = {"pieces": KNOWN["tokens"], "merges": KNOWN["merges"], "types": TYPES, **changes}
    return byte_pairs(**parts, pre=pre)


@pytest.mark.parametrize("pre", KNOWN["ids"])
def test_texts_have_the_librarys_tokens(pre):
    tokenizer = made(pre)
    kept = restored(tokenizer.kind, tokenizer.data())
    for text, ids in zip(KNOWN["texts"], KNOWN["ids"][pre], strict=True):
        assert tokenizer.encode(text) == ids
        assert kept.encode(text) == ids


@pytest.mark.parametrize("pre", ["gpt-2", "llama-bpe", "qwen2"])
def test_texts_come_back(pre):
    tokenizer = made(pre)
    for text in KNOWN["texts"][:2]:
        tokens = tokenizer.encode(text)
        pieces = [tokenizer.piece(*pair) for pair in zip(tokens, [None, *tokens], strict=False)]
        assert b"".join(pieces).decode() == text


def test_llamas_numbers_are_of_three_digits_and_tokens_are_whole():
    """ "1234" is cut behind the third digit; a piece that is a token needs no merge."""
    pieces = [*KNOWN["tokens"], "123", "hello"]
    tokenizer = made("llama-bpe", pieces=pieces, types=[*TYPES, 1, 1])
    four = KNOWN["tokens"].index("4")
    assert tokenizer.encode("1234") == [len(KNOWN["tokens"]), four]
    assert tokenizer.encode("hello") == [len(KNOWN["tokens"]) + 1]
    other = made("qwen2", pieces=pieces, types=[*TYPES, 1, 1])
    assert other.encode("hello") != [len(KNOWN["tokens"]) + 1]


def test_other_cuts_and_bad_merges_are_refused():
    with pytest.raises(UnsupportedError, match=r"tokenizer.ggml.pre.*'tekken'.*qwen2"):
        made("tekken")
    for merge in ("zz zz", "a", "a b c"):
        with pytest.raises(ModelError, match="no pair of tokens"):
            made("qwen2", merges=[*KNOWN["merges"], merge])


def test_gguf_holds_the_tokenizer(tmp_path):
    """Of a model with as many words, begun by no token: Qwen's vocabularies name one in vain."""
    path = tmp_path / "m.gguf"
    tokens = KNOWN["tokens"][:40]
    merges = [m for m in KNOWN["merges"] if {*m.split(), m.replace(" ", "")} <= set(tokens)]

    def tokenizer(writer, pre="qwen2", count=40):
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre)
        writer.add_token_list(tokens[:count])
        writer.add_token_types(TYPES[:count])
        writer.add_token_merges(merges or ["! !"])
        writer.add_bos_token_id(0)
        writer.add_eos_token_id(0)

    if not merges:
        tokens[-1] = "!!"
    gguf_of(path, more=tokenizer)
    decoder = decoders.load(path)
    assert (decoder.bos, decoder.eos) == (None, (0,))
    assert DecoderAssets.of(decoder).tokens_of("$%") == [tokens.index("$"), tokens.index("%")]
    gguf_of(path, more=lambda w: tokenizer(w, "llama-bpe"))
    assert decoders.load(path).bos == 0
    gguf_of(path, more=lambda w: tokenizer(w, "tekken"))
    with pytest.raises(UnsupportedError, match=r"m\.gguf: .*tekken"):
        decoders.load(path)
    gguf_of(path, more=lambda w: tokenizer(w, count=39))
    assert decoders.load(path).tokenizer is None


def test_qwen3_in_gguf_gives_the_same_logits(tmp_path):
    """Its rotated channels lie half a head apart."""
    from test_decoders import FOLDER, logits_of

    path = tmp_path / "m.gguf"
    gguf_of(path, "qwen3", kind="qwen3")
    expected = np.load(FOLDER / "qwen3" / "expected.npz")
    found = logits_of(decoders.load(path), expected["ids"])
    np.testing.assert_allclose(found, expected["logits"], rtol=1e-3, atol=2e-4)
