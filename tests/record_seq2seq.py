"""Writes tests/data/seq2seq: tiny random encoder-decoders, what the transformers library computes.

    python tests/record_seq2seq.py

needs torch and transformers. Each folder has config.json, model.safetensors (float32) and
expected.npz: sources [n, S] and targets [n, T], and the library's logits [n, T, V] in float32.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch
import transformers as t
from torch import nn

from record_transformers import randomize

FOLDER = Path(__file__).resolve().parent / "data" / "seq2seq"
T5 = {
    "vocab_size": 40,
    "d_model": 24,
    "d_kv": 8,
    "d_ff": 36,
    "num_layers": 2,
    "num_heads": 3,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 12,
    "decoder_start_token_id": 0,
}
GATED = {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
BART = {
    "vocab_size": 40,
    "d_model": 24,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 3,
    "decoder_attention_heads": 3,
    "encoder_ffn_dim": 36,
    "decoder_ffn_dim": 36,
    "max_position_embeddings": 48,
    "forced_bos_token_id": 0,
}


def models() -> dict[str, nn.Module]:
    """The encoder-decoders, by folder."""
    small = {**GATED, "num_layers": 1, "num_decoder_layers": 2, "num_heads": 2, "d_kv": 12}
    return {
        "t5": t.T5ForConditionalGeneration(t.T5Config(**T5)),
        "t5_gated": t.T5ForConditionalGeneration(t.T5Config(**GATED)),
        "mt5": t.MT5ForConditionalGeneration(t.MT5Config(**small)),
        "bart": t.BartForConditionalGeneration(t.BartConfig(**BART)),
        "bart_scaled": t.BartForConditionalGeneration(
            t.BartConfig(**{**BART, "encoder_layers": 1, "encoder_attention_heads": 2,
                            "scale_embedding": True, "activation_function": "relu"})
        ),
    }  # fmt: skip


def soften(module: nn.Module) -> None:
    """Queries of T5 as much smaller as its initializer makes them: nothing scales its scores, and a
    softmax of large ones turns on rounding.
    """
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith("Attention.q.weight"):
                parameter.mul_(module.config.d_kv**-0.5)


def main() -> None:
    """Writes all folders anew."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    for name, module in models().items():
        module.eval()
        randomize(module)
        soften(module)
        if hasattr(module, "final_logits_bias"):
            module.final_logits_bias.normal_()
        module.save_pretrained(FOLDER / name)
        (FOLDER / name / "generation_config.json").unlink(missing_ok=True)
        random = np.random.default_rng(2)
        sources, targets = random.integers(3, 40, (2, 14)), random.integers(3, 40, (2, 12))
        targets[:, 0] = module.config.decoder_start_token_id
        with torch.no_grad():
            ids = {"input_ids": sources, "decoder_input_ids": targets}
            logits = module(**{key: torch.tensor(value) for key, value in ids.items()}).logits
        found = {"sources": sources, "targets": targets, "logits": logits.numpy()}
        np.savez_compressed(FOLDER / name / "expected.npz", **found)


if __name__ == "__main__":
    main()
