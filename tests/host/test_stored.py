"""GGUF files and folders of safetensors: every tensor as written; nothing hostile gets through."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

import weft
from weft import cli
from weft.errors import ModelError, UnsupportedError, WeftError
from weft.frontend import stored
from weft.frontend.gguf import load_tensors
from weft.frontend.safetensors_folder import load_folder

gguf = pytest.importorskip("gguf", reason="the gguf package is not installed")

DECODED = (
    *("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"),
    *("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "TQ1_0", "TQ2_0", "MXFP4"),
)
ROWS, COLUMNS = 6, 512


def raw_blocks(kind, rng) -> np.ndarray:
    """Bytes of a tensor [ROWS, COLUMNS]: random ones with scales that are small numbers."""
    x = rng.normal(0, 1, (ROWS, COLUMNS)).astype(np.float32)
    try:
        return gguf.quants.quantize(x, kind)
    except NotImplementedError:
        block, nbytes = gguf.GGML_QUANT_SIZES[kind]
        data = rng.integers(0, 256, (ROWS, COLUMNS // block, nbytes)).astype(np.uint8)
        data[..., 1::2] &= 0x3F  # no float16 in it is infinite or NaN, wherever it lies
        return data.reshape(ROWS, -1)


def written(path: Path, seed: int = 0, kinds=DECODED) -> Path:
    """A GGUF file with one tensor of every type."""
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("small")
    writer.add_context_length(128)
    writer.add_rope_freq_base(1e4)
    writer.add_token_list(["a", "b", "ä"])
    writer.add_token_scores([0.0, -1.0, -2.5])
    for name in kinds:
        kind = gguf.GGMLQuantizationType[name]
        data = raw_blocks(kind, rng)
        writer.add_tensor(f"{name}.weight", data, raw_dtype=kind)
    writer.add_tensor("norm.weight", np.linspace(0, 1, 40, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    return written(tmp_path_factory.mktemp("gguf") / "small.gguf")


@pytest.mark.oracle
def test_every_type_equals_the_reader_of_llama_cpp(file):
    model, reader = load_tensors(file), gguf.GGUFReader(file)
    assert list(model.tensors) == [t.name for t in reader.tensors]
    for theirs in reader.tensors:
        ours = model[theirs.name]
        assert ours.kind == theirs.tensor_type.name
        assert ours.nbytes == theirs.n_bytes
        wanted = np.asarray(gguf.quants.dequantize(theirs.data, theirs.tensor_type), np.float32)
        assert ours.shape == wanted.shape
        np.testing.assert_array_equal(ours.read(), wanted)
        np.testing.assert_array_equal(ours.rows(2, 5), wanted[2:5])


def test_blocks_are_what_their_definition_says(file):
    """Q4_0 and Q8_0 by their formula: a float16 scale times codes."""
    raw = raw_blocks(gguf.GGMLQuantizationType.Q4_0, np.random.default_rng(7))
    path = written(file.parent / "q.gguf", 3, ("Q4_0", "Q8_0"))
    data = path.read_bytes()
    model = load_tensors(path)
    for name in ("Q4_0", "Q8_0"):
        tensor = model[f"{name}.weight"]
        blocks = ROWS * COLUMNS // 32
        per = tensor.nbytes // blocks
        at = data.index(gguf_bytes(path, f"{name}.weight"))
        raw = np.frombuffer(data[at : at + tensor.nbytes], np.uint8).reshape(blocks, per)
        scale = raw[:, :2].copy().view("<f2").astype(np.float32)
        if name == "Q4_0":
            codes = np.concatenate([raw[:, 2:] & 15, raw[:, 2:] >> 4], axis=1).astype(int) - 8
        else:
            codes = raw[:, 2:].view(np.int8).astype(int)
        wanted = (codes * scale).astype(np.float32).reshape(ROWS, COLUMNS)
        np.testing.assert_array_equal(tensor.read(), wanted)


def gguf_bytes(path: Path, name: str) -> bytes:
    return next(t.data.tobytes() for t in gguf.GGUFReader(path).tensors if t.name == name)


def test_metadata(file):
    model = load_tensors(file)
    assert model.architecture == "llama"
    assert model.metadata["llama.context_length"] == 128
    assert model.metadata["tokenizer.ggml.tokens"] == ["a", "b", "ä"]
    np.testing.assert_array_equal(model.metadata["tokenizer.ggml.scores"], [0, -1, -2.5])
    with pytest.raises(ModelError, match=r"Did you mean .*'norm\.weight'"):
        model["norm.weigth"]


def test_errors_of_the_nearest_format(file):
    rows = {row["name"]: row for row in stored.rows(load_tensors(file))}
    for row in rows.values():
        kind = stored.NEAREST.get(row["type"], "int8")
        assert row["format"] == ("float32" if row["name"].startswith("norm") else kind)
    x = load_tensors(file)["F32.weight"].read()
    scale = np.abs(x).max(axis=1, keepdims=True) / 127
    noise = x - np.rint(x / scale) * scale
    wanted = np.sqrt(np.square(noise).sum() / np.square(x).sum())
    assert rows["F32.weight"]["error"] == pytest.approx(wanted, rel=1e-4)
    assert 0.003 < wanted < 0.02


def test_inspect(file, capsys):
    printed = shown(capsys, file)
    for text in ("llama", "Q6_K.weight", "6×512", "int8", "norm.weight", "generates text"):
        assert text in printed, text
    facts = json.loads(shown(capsys, file, "--json"))
    assert facts["architecture"] == "llama"
    assert len(facts["layers"]) == facts["tensors"] == len(DECODED) + 1


def shown(capsys, path: Path, *options: str) -> str:
    """What `weft inspect` prints."""
    assert cli.run(["inspect", str(path), *options]) == 0
    return capsys.readouterr().out


def test_values_that_are_no_numbers_stay_float(tmp_path, capsys):
    save_file({"w": np.full((4, 4), np.nan, np.float32)}, str(tmp_path / "x.safetensors"))
    (row,) = json.loads(shown(capsys, tmp_path / "x.safetensors", "--json"))["layers"]
    assert row["format"] == "float32 (NaN or infinite values)"


def test_what_has_no_graph_is_refused(file, tmp_path):
    with pytest.raises(UnsupportedError, match="weights and no graph"):
        weft.load_model(file)
    for name in ("a.pt", "b.pth", "pytorch_model.bin"):
        (tmp_path / name).write_bytes(b"\x80\x04cos\nsystem\n")
        with pytest.raises(UnsupportedError, match=r"(?s)never does.*safetensors.*weights_only"):
            weft.load_model(tmp_path / name)


HOSTILE = {
    "magic": (lambda b: b"GGUX" + b[4:], "not a GGUF file"),
    "version": (lambda b: b[:4] + struct.pack("<I", 99) + b[8:], "version 99"),
    "big endian": (lambda b: b[:4] + b[4:8][::-1] + b[8:], "byte order"),
    "tensor count": (lambda b: b[:8] + struct.pack("<Q", 1 << 60) + b[16:], "tensors of at least"),
    "metadata count": (lambda b: b[:16] + struct.pack("<Q", 1 << 60) + b[24:], "metadata entries"),
    "key length": (lambda b: b[:24] + struct.pack("<Q", 1 << 63) + b[32:], "bytes of a metadata"),
    "truncated data": (lambda b: b[:-3000], "truncated"),
    "truncated header": (lambda b: b[:200], "truncated|more than"),
    "empty": (lambda b: b"", "truncated"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_damaged_files_are_named(name, file, tmp_path):
    change, text = HOSTILE[name]
    (tmp_path / "x.gguf").write_bytes(change(file.read_bytes()))
    with pytest.raises(ModelError, match=text) as caught:
        load_tensors(tmp_path / "x.gguf")
    assert "x.gguf" in str(caught.value)


def patched(file: Path, name: str, offset: int, form: str, value: int) -> bytes:
    """The file with a number of a tensor's entry changed, `offset` bytes behind its name."""
    data = bytearray(file.read_bytes())
    at = data.index(name.encode(), 24) + len(name) + offset
    struct.pack_into(form, data, at, value)
    return bytes(data)


@pytest.mark.parametrize(
    ("offset", "form", "value", "text"),
    [
        (0, "<I", 9, "9 dimensions"),
        (4, "<Q", 1 << 62, "truncated, or not"),
        (4, "<Q", 17, "blocks of 32"),
        (20, "<I", 4, "type 4"),
        (24, "<Q", 1 << 61, "truncated, or not"),
    ],
)
def test_entries_of_tensors_are_checked(offset, form, value, text, file, tmp_path):
    (tmp_path / "x.gguf").write_bytes(patched(file, "Q4_0.weight", offset, form, value))
    with pytest.raises(ModelError, match=text):
        load_tensors(tmp_path / "x.gguf")


def fuzz(file: Path, path: Path, count: int, first: int = 0) -> None:
    """Files with bytes changed, cut or doubled: read, or refused with an error of weft's."""
    whole = file.read_bytes()
    header = whole.index(b"norm.weight") + 60
    for seed in range(first, first + count):
        rng = np.random.default_rng(seed)
        data = bytearray(whole)
        for _ in range(rng.integers(1, 5)):
            at = int(rng.integers(0, header))
            span = int(rng.integers(1, 9))
            data[at : at + span] = rng.integers(0, 256, span).astype(np.uint8).tobytes()
        if rng.random() < 0.3:
            data = data[: rng.integers(0, len(data))]
        path.write_bytes(data)
        try:
            for tensor in load_tensors(path):
                if tensor.size < 1 << 20:
                    tensor.read()
        except WeftError:
            continue


def test_fuzz(file, tmp_path):
    fuzz(file, tmp_path / "f.gguf", 60)


@pytest.mark.slow
def test_fuzz_long(file, tmp_path):
    fuzz(file, tmp_path / "f.gguf", 2000, 60)


# Folders of safetensors


def folder(path: Path, index: bool = True) -> dict[str, np.ndarray]:
    """A folder as transformers writes it; its tensors."""
    rng = np.random.default_rng(0)
    parts = [
        {
            "embed.weight": rng.normal(0, 1, (40, 16)).astype(np.float32),
            "half": rng.normal(0, 1, (3, 8)).astype(np.float16),
        },
        {
            "brain": rng.normal(0, 1, (5, 7)).astype(ml_dtypes.bfloat16),
            "bias": np.ones(7, np.float32),
            "scalar": np.asarray(2.5, np.float32),
            "codes": rng.integers(-128, 128, (4, 4)).astype(np.int8),
        },
    ]
    names = {}
    for i, part in enumerate(parts, 1):
        file = f"model-0000{i}-of-00002.safetensors"
        save_file(part, str(path / file))
        names |= dict.fromkeys(part, file)
    if index:
        (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    config = {"architectures": ["BartModel"], "hidden_size": 16, "model_type": "bart"}
    (path / "config.json").write_text(json.dumps(config))
    return parts[0] | parts[1]


@pytest.mark.parametrize("index", [True, False])
def test_folder(index, tmp_path, capsys):
    wanted = folder(tmp_path, index)
    model = load_folder(tmp_path)
    assert model.architecture == "BartModel"
    assert model.metadata["hidden_size"] == 16
    assert set(model.tensors) == set(wanted)
    for name, value in wanted.items():
        np.testing.assert_array_equal(model[name].read(), value.astype(np.float32))
    printed = shown(capsys, tmp_path)
    for text in ("BartModel", "brain", "BF16", "export it to ONNX"):
        assert text in printed, text
    with pytest.raises(UnsupportedError, match="weights and no graph"):
        weft.load_model(tmp_path)


def broken_index(value) -> str:
    return json.dumps({"weight_map": value})


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("config.json", "{", "not JSON"),
        ("config.json", "[]", "an object"),
        ("config.json", '{"architectures": "x"}', "a list"),
        ("model.safetensors.index.json", "{}", "no weight_map"),
        (
            "model.safetensors.index.json",
            broken_index({"a": "../secret.safetensors"}),
            "not a file",
        ),
        ("model.safetensors.index.json", broken_index({"a": "/etc/passwd"}), "not a file"),
        ("model.safetensors.index.json", broken_index({"a": "absent.safetensors"}), "not there"),
        (
            "model.safetensors.index.json",
            broken_index({"z": "model-00001-of-00002.safetensors"}),
            "'z' is one",
        ),
        ("model-00001-of-00002.safetensors", "abc", "damaged"),
    ],
)
def test_damaged_folders_are_named(name, text, message, tmp_path):
    folder(tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(ModelError, match=message):
        load_folder(tmp_path)


@pytest.mark.parametrize("name", ["m.keras", "m.h5", "M.HDF5"])
def test_keras_files_are_never_opened(name, tmp_path):
    (tmp_path / name).mkdir()  # opening it would be another error
    with pytest.raises(UnsupportedError, match="Lambda layers"):
        weft.load_model(tmp_path / name)


def fuzz_folder(path: Path, first: int, count: int) -> int:
    """Folders with bytes of one file changed or cut; how many of them were refused."""
    folder(path)
    contents = {p: p.read_bytes() for p in sorted(path.iterdir())}
    refused = 0
    for seed in range(first, first + count):
        rng = np.random.default_rng(seed)
        file = list(contents)[seed % len(contents)]
        data = bytearray(contents[file])
        for _ in range(rng.integers(1, 5)):
            at = int(rng.integers(0, min(len(data), 600)))
            data[at] = int(rng.integers(0, 256))
        if rng.random() < 0.3:
            data = data[: rng.integers(0, len(data))]
        file.write_bytes(data)
        try:
            for tensor in load_folder(path):
                tensor.read()
        except WeftError:
            refused += 1
        file.write_bytes(contents[file])
    return refused


def test_fuzz_folders(tmp_path):
    assert fuzz_folder(tmp_path, 0, 60) > 30


@pytest.mark.slow
def test_fuzz_folders_long(tmp_path):
    assert fuzz_folder(tmp_path, 60, 2000) > 1000
