"""Decoders read from files: their float graphs compute what the transformers library does."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from weft import ops
from weft.errors import InputError, ModelError, ShapeError, UnsupportedError
from weft.frontend import decoders
from weft.frontend.decoder import INPUT, OUTPUT
from weft.text.decoder_assets import DecoderAssets
from weft.text.forward import FloatForward

FOLDER = Path(__file__).resolve().parents[1] / "data" / "decoders"
NAMES = sorted(path.name for path in FOLDER.iterdir())


def logits_of(decoder, ids):
    """The graph's logits of each row of tokens."""
    x = np.stack([DecoderAssets.of(decoder).rows(row, 0) for row in ids])
    graph = decoder.graph(ids.shape[1], decoder.limit)
    return ops.evaluate(graph, {INPUT: x})[OUTPUT]


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_the_library(name):
    expected = np.load(FOLDER / name / "expected.npz")
    found = logits_of(decoders.load(FOLDER / name), expected["ids"])
    np.testing.assert_allclose(found, expected["logits"], rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("name", NAMES)
def test_a_cache_changes_nothing_in_float(name):
    expected = np.load(FOLDER / name / "expected.npz")
    forward = FloatForward(decoders.load(FOLDER / name), 40, slots=2)
    rows = [[], []]
    for first, last in ((0, 7), (7, 8), (8, 20)):  # texts by turns, in parts
        for slot, ids in enumerate(expected["ids"]):
            rows[slot].append(forward.run(ids[first:last], first, slot))
    for slot, found in enumerate(rows):
        whole = np.concatenate(found)
        np.testing.assert_allclose(whole, expected["logits"][slot], rtol=1e-3, atol=2e-4)


def changed(tmp_path, name="llama_mha", **values):
    """A copy of a folder whose config.json says something else."""
    folder = tmp_path / "model"
    shutil.copytree(FOLDER / name, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))
    return folder


def test_wrong_sizes_are_named(tmp_path):
    with pytest.raises(ShapeError, match=r"q_proj.*config.json asks"):
        decoders.load(changed(tmp_path, hidden_size=24, head_dim=12)).graph(2, 8)


def test_heads_that_do_not_share_evenly_are_refused(tmp_path):
    with pytest.raises(ModelError, match="4 heads of 6 channels over 3"):
        decoders.load(changed(tmp_path, num_key_value_heads=3))


@pytest.mark.parametrize(
    ("name", "values", "told"),
    [
        ("llama_mha", {"rope_parameters": {"rope_type": "yarn"}}, "rope_type 'yarn'"),
        ("llama_mha", {"mlp_bias": True}, "biases in the feed-forward part"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scores scaled by the layer"),
    ],
)
def test_what_weft_lacks_is_told(tmp_path, name, values, told):
    with pytest.raises(UnsupportedError, match=told):
        decoders.load(changed(tmp_path, name, **values))


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("gemma2", "weft lacks scores that tanh bounds"),
        ("mixtral", "weft lacks experts that a router chooses"),
        ("nobody", "no decoder that weft knows; it knows llama"),
    ],
)
def test_other_architectures_are_refused_with_what_is_missing(tmp_path, kind, told):
    with pytest.raises(UnsupportedError, match=told):
        decoders.load(changed(tmp_path, model_type=kind))


def test_a_fused_matrix_of_another_size_is_named(tmp_path):
    with pytest.raises(ShapeError, match=r"qkv_proj.*config.json asks"):
        decoders.load(changed(tmp_path, "phi3", num_key_value_heads=4)).graph(2, 8)


def test_missing_tensors_are_named(tmp_path):
    folder = changed(tmp_path, num_hidden_layers=3)
    with pytest.raises(ModelError, match=r"layers\.2\..* is missing"):
        decoders.load(folder).graph(2, 8)


def test_more_tokens_than_positions_are_refused():
    with pytest.raises(ModelError, match="takes 1 to 64"):
        decoders.load(FOLDER / "gpt2").graph(65, 65)


def gguf_of(path, name="llama_gqa", kind="llama", more=None):
    """A GGUF file of a folder of the llama family, as llama.cpp's converter lays it out; `more`
    writes further metadata.
    """
    gguf = pytest.importorskip("gguf")
    from safetensors.numpy import load_file

    config = json.loads((FOLDER / name / "config.json").read_text())
    tensors = load_file(FOLDER / name / "model.safetensors")
    writer = gguf.GGUFWriter(str(path), kind)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_key_length(config["head_dim"])
    if more is not None:
        more(writer)
    arch = gguf.MODEL_ARCH[kind.upper()]
    names = gguf.get_tensor_name_map(arch, config["num_hidden_layers"])
    for key, data in tensors.items():
        for part, heads in (("q_proj", "num_attention_heads"), ("k_proj", "num_key_value_heads")):
            if part in key and kind == "llama":
                count = config[heads]
                data = data.reshape(count, 2, -1, data.shape[1]).swapaxes(1, 2).reshape(data.shape)
        writer.add_tensor(
            names.get_name(key, try_suffixes=(".weight",)), np.ascontiguousarray(data)
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_gguf_gives_the_same_logits(tmp_path):
    path = tmp_path / "m.gguf"
    gguf_of(path)
    assert decoders.is_decoder(path)
    expected = np.load(FOLDER / "llama_gqa" / "expected.npz")
    found = logits_of(decoders.load(path), expected["ids"])
    np.testing.assert_allclose(found, expected["logits"], rtol=1e-3, atol=2e-4)


def test_a_truncated_gguf_is_refused(tmp_path):
    path = tmp_path / "m.gguf"
    gguf_of(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match="truncated"):
        decoders.load(path)


def test_tokens_out_of_range_are_refused():
    from weft.decoder_compiler import open_decoder

    with open_decoder(FOLDER / "gpt2") as session, pytest.raises(InputError, match="token 40"):
        session.logits([1, 40])
