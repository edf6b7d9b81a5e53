"""Text encoders: tokens, embeddings, pooling, padding; programs that hold all of it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import weft
from weft.cli import run
from weft.errors import (
    InputError,
    MissingDependency,
    ModelError,
    ProgramError,
    UnsupportedError,
    UsageError,
)
from weft.text import Pooling, TextEncoder, embed, open_text
from weft.text.assets import assets_from, assets_of
from weft.text.pooling import pooling_of

MODELS = Path(__file__).resolve().parents[1] / "data" / "transformers"
WORDS = ["the", "a", "dog", "cat", "runs", "sleeps", "and", "fast"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
LINES = ["the dog runs", "a cat sleeps and the dog runs fast", "cat", "", "the unknown dog"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny BERT as sentence-transformers saves it."""
    tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    target = tmp_path / "model"
    shutil.copytree(MODELS / "bert", target)
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *WORDS])}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    made.enable_padding(length=16)  # as some folders do: weft pads by itself
    made.save(str(target / "tokenizer.json"))
    return target


def pooled_as(folder: Path, mode: str, normalize: bool) -> None:
    (folder / "1_Pooling").mkdir(exist_ok=True)
    modes = {f"pooling_mode_{m}": m == mode for m in ("cls_token", "mean_tokens", "max_tokens")}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"dimension": 8, **modes}))
    kinds = ["Transformer", "Pooling", *(["Normalize"] if normalize else [])]
    modules = [{"type": f"sentence_transformers.models.{kind}"} for kind in kinds]
    (folder / "modules.json").write_text(json.dumps(modules))


def test_tokens_and_sums_of_embeddings(folder):
    assets = assets_of(folder)
    ids = assets.tokens(LINES, 16)
    assert ids == [
        [2, 4, 6, 8, 3],
        [2, 5, 7, 9, 10, 4, 6, 8, 11, 3],
        [2, 7, 3],
        [2, 3],
        [2, 4, 1, 6, 3],
    ]
    x, counts = assets.padded(ids, 16)
    assert counts.tolist() == [5, 10, 3, 2, 5]
    wanted = assets.word[ids[0]] + assets.position[:5] + assets.kind
    np.testing.assert_array_equal(x[0, :5], wanted)
    np.testing.assert_array_equal(x[0, 5:10], wanted)


@pytest.mark.parametrize("mode", ["mean", "cls"])
@pytest.mark.parametrize("normalize", [False, True])
def test_pooling_is_what_the_folder_says(mode, normalize, folder):
    pooled_as(folder, {"mean": "mean_tokens", "cls": "cls_token"}[mode], normalize)
    found = embed(folder, LINES)
    with open_text(folder) as encoder:
        for line, vector in zip(LINES, found, strict=True):
            ids = encoder.assets.tokens([line], 16)[0]
            x = encoder.assets.rows(np.asarray([ids]))
            graph = weft.load_model(folder, tokens=len(ids))
            feeds = {"embeddings": x, "keys": np.asarray([[len(ids)]])}
            (hidden,) = weft.ops.evaluate(graph, feeds).values()
            wanted = hidden[0].mean(0) if mode == "mean" else hidden[0, 0]
            wanted = wanted / np.linalg.norm(wanted) if normalize else wanted
            np.testing.assert_allclose(vector, wanted, rtol=1e-4, atol=1e-5)


def test_the_order_and_company_of_lines_changes_nothing(folder):
    together = embed(folder, LINES)
    for i, line in enumerate(LINES):
        np.testing.assert_allclose(embed(folder, [line])[0], together[i], rtol=1e-4, atol=1e-5)
    backwards = embed(folder, LINES[::-1])[::-1]
    np.testing.assert_allclose(backwards, together, rtol=1e-4, atol=1e-5)


def test_pooling_of_no_tokens_is_zero():
    hidden = np.ones((2, 3, 4), np.float32)
    for mode in ("mean", "cls"):
        found = Pooling(mode, normalize=True).pool(hidden, np.array([0, 2]))
        np.testing.assert_array_equal(found, [[0] * 4, [0.5] * 4])


@pytest.fixture
def program(folder: Path) -> Any:
    return weft.compile(folder, "tiny", calibration=LINES * 4, tokens=12)


def test_a_program_holds_all_that_text_needs(program, folder, tmp_path):
    path = tmp_path / "m.weft"
    program.save(path)
    shutil.rmtree(folder)
    again = weft.load(path)
    np.testing.assert_array_equal(again.assets["text.word"], program.assets["text.word"])
    golden, csim = embed(path, LINES, "golden"), embed(again, LINES, form="functional")
    np.testing.assert_array_equal(golden, csim)
    assert golden.shape == (5, 8)


def test_int8_is_near_float(program, folder):
    exact, found = embed(folder, LINES), embed(program, LINES)
    lengths = np.linalg.norm(exact, axis=1) * np.linalg.norm(found, axis=1)
    assert ((exact * found).sum(1) / lengths).min() > 0.98


def test_ids_with_their_mask(program, folder):
    ids = np.array([[2, 4, 6, 8, 3, 0], [2, 7, 3, 0, 0, 0], [0] * 6])
    mask = np.array([[1, 1, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0], [0] * 6])
    for source in (folder, program):
        with open_text(source) as encoder:
            found = encoder.embed_ids(ids, mask)
            np.testing.assert_allclose(
                found[:2], encoder.embed([LINES[0], LINES[2]]), rtol=1e-4, atol=1e-5
            )
            np.testing.assert_array_equal(found[2], 0)  # nothing but padding, and no NaN


@pytest.mark.parametrize(
    ("ids", "mask", "words"),
    [
        ([[2, 99]], [[1, 1]], r"token id 99 at \(0, 1\); the vocabulary is 0\.\.23"),
        ([[2, -1]], [[1, 1]], "token id -1"),
        ([[2, 3]], [[0, 1]], "row 0: a token follows padding"),
        ([[2, 3]], [[1, 1, 1]], r"ids \(1, 2\) and mask \(1, 3\)"),
        ([[2] * 17], [[1] * 17], "17 tokens; at most 16"),
        ([[2] * 17], [[1] + [0] * 16], "17 tokens, but the model has positions for 16"),
        ([[2.0]], [[1]], "token ids of type float64"),
    ],
)
def test_ids_that_are_wrong(ids, mask, words, folder):
    with open_text(folder) as encoder, pytest.raises(InputError, match=words):
        encoder.embed_ids(np.asarray(ids), np.asarray(mask))


def test_lines_that_are_too_long(program, folder):
    long = "the dog and " * 5
    with open_text(program) as encoder:
        with pytest.raises(InputError, match="line 2 has 17 tokens, at most 12 are possible here"):
            encoder.embed(["a dog", long])
        cut = encoder.embed([long], truncate=True)
        np.testing.assert_array_equal(cut, encoder.embed(["the dog and " * 3 + "the"]))
        with pytest.raises(InputError, match="no lines"):
            encoder.embed([])
        with pytest.raises(InputError, match="a list of lines"):
            encoder.embed("a dog")
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 6}')
    with pytest.raises(InputError, match="at most 6"):
        embed(folder, ["the dog and the cat"])


def test_folders_that_lack_something(folder, monkeypatch):
    pooled_as(folder, "max_tokens", False)
    with pytest.raises(UnsupportedError, match="pooling_mode_max_tokens; weft pools by one of"):
        pooling_of(folder)
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    (folder / "modules.json").write_text('{"type": 1}')
    with pytest.raises(ModelError, match="not a list of modules"):
        pooling_of(folder)
    with pytest.raises(ModelError, match="no pooling 'max'"):
        Pooling("max")
    shutil.rmtree(folder / "1_Pooling")
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match=r"tokenizer.json can't be read"):
        embed(folder, LINES)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"no tokenizer\.json"):
        embed(folder, LINES)
    assert weft.compile(folder, "tiny", dynamic=True, tokens=4).assets == {}


def test_a_missing_package_is_named(folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(MissingDependency, match=r"weft\[text\]"):
        embed(folder, LINES)


def test_programs_of_something_else_and_damaged_ones(program):
    with pytest.raises(ProgramError, match="has no tokenizer"):
        open_text(replace(program, assets={}))
    for name, value in (
        ("text.facts", np.frombuffer(b"{", np.uint8)),
        ("text.facts", np.frombuffer(b'{"pooling": {"mode": "max"}, "limit": 3}', np.uint8)),
        ("text.tokenizer", np.frombuffer(b"\xff", np.uint8)),
        ("text.word", np.zeros((3, 4), np.float32)),
        ("text.word", program.assets["text.word"].astype(np.float64)),
    ):
        with pytest.raises(ProgramError, match="damaged text assets"):
            assets_from({**program.assets, name: value})
    left = {n: a for n, a in program.assets.items() if n != "text.kind"}
    with pytest.raises(ProgramError, match="KeyError"):
        assets_from(left)


def test_wrong_uses(folder):
    with pytest.raises(UsageError, match=r"in float on the host, without \['form'\]"):
        open_text(folder, form="cycle")
    with pytest.raises(UsageError, match="lines of text calibrate text encoders"):
        weft.compile(MODELS / "vit", "tiny", calibration=["a line"])
    with pytest.raises(InputError, match="no lines to calibrate"):
        weft.compile(folder, "tiny", calibration=[])
    encoder = TextEncoder(assets_of(folder), lambda x, counts: x)
    np.testing.assert_array_equal(
        encoder.embed_ids(np.array([[2]]), np.array([[1]]))[0],
        encoder.assets.rows(np.array([[2]]))[0, 0],
    )


def test_the_commands(folder, tmp_path, capsys):
    lines, made, out = tmp_path / "lines.txt", tmp_path / "m.weft", tmp_path / "e.npy"
    lines.write_text("\n".join(LINES) + "\n")
    options = ["--overlay", "tiny", "--tokens", "12", "--calibrate", str(lines)]
    assert run(["compile", str(folder), *options, "-o", str(made)]) == 0
    assert run(["inspect", str(folder)]) == 0
    assert "Attention" in capsys.readouterr().out
    for source in (folder, made):
        assert run(["embed", str(source), str(lines), "-o", str(out)]) == 0
        assert "5 lines, 8 numbers each" in capsys.readouterr().out
        np.testing.assert_array_equal(np.load(out), embed(source, LINES))
    golden = ["--device", "golden", "--timeout", "100", "--json", "--truncate"]
    assert run(["embed", str(made), str(lines), "-o", str(out), *golden]) == 0
    assert json.loads(capsys.readouterr().out)["lines"] == 5
    assert run(["embed", str(made), str(lines), "-o", "e.txt"]) == 2
    assert run(["embed", str(made), str(tmp_path / "absent.txt"), "-o", str(out)]) == 6
    lines.write_text("")
    assert run(["embed", str(made), str(lines), "-o", str(out)]) == 6
    lines.write_bytes(b"\xff\xfe\xff")
    assert run(["embed", str(made), str(lines), "-o", str(out)]) == 6
    assert run(["embed", str(MODELS / "vit"), str(tmp_path / "x"), "-o", str(out)]) == 6
