"""Writes tests/data/decoders: tiny random decoders and what the transformers library computes.

    python tests/record_decoders.py

needs torch and transformers. Each folder has config.json, model.safetensors (float32) and
expected.npz: token ids [n, S] and the library's logits [n, S, V] in float32.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch
import transformers as t
from torch import nn

from record_transformers import randomize

FOLDER = Path(__file__).resolve().parent / "data" / "decoders"
LLAMA = {
    "vocab_size": 40,
    "hidden_size": 24,
    "intermediate_size": 36,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
SCALED = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}


def models() -> dict[str, nn.Module]:
    """The decoders, by folder."""
    tied = {**LLAMA, "tie_word_embeddings": True, "num_key_value_heads": 2}
    return {
        "llama_mha": t.LlamaForCausalLM(t.LlamaConfig(**LLAMA)),
        "llama_gqa": t.LlamaForCausalLM(t.LlamaConfig(**tied, rope_theta=500.0)),
        "llama_scaled": t.LlamaForCausalLM(
            t.LlamaConfig(**LLAMA, head_dim=8, num_key_value_heads=1, rope_parameters=SCALED)
        ),
        "mistral": t.MistralForCausalLM(
            t.MistralConfig(
                **{**LLAMA, "num_hidden_layers": 1}, num_key_value_heads=2, sliding_window=5
            )
        ),
        "qwen2": t.Qwen2ForCausalLM(t.Qwen2Config(**LLAMA, num_key_value_heads=2)),
        "qwen3": t.Qwen3ForCausalLM(t.Qwen3Config(**LLAMA, num_key_value_heads=2, head_dim=10)),
        "qwen3_tied": t.Qwen3ForCausalLM(
            t.Qwen3Config(**{**tied, "num_key_value_heads": 1}, head_dim=6)
        ),
        "gemma": t.GemmaForCausalLM(t.GemmaConfig(**LLAMA, num_key_value_heads=2, head_dim=8)),
        "phi3": t.Phi3ForCausalLM(
            t.Phi3Config(**LLAMA, num_key_value_heads=2, pad_token_id=0, bos_token_id=1,
                         eos_token_id=2, partial_rotary_factor=2 / 3)
        ),
        "gpt2": t.GPT2LMHeadModel(
            t.GPT2Config(vocab_size=40, n_embd=24, n_layer=2, n_head=3, n_positions=64)
        ),
    }  # fmt: skip


def main() -> None:
    """Writes all folders anew."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    for name, module in models().items():
        module.eval()
        randomize(module)
        module.save_pretrained(FOLDER / name)
        (FOLDER / name / "generation_config.json").unlink(missing_ok=True)
        ids = np.random.default_rng(2).integers(3, 40, (2, 20))
        with torch.no_grad():
            logits = module(torch.tensor(ids)).logits.numpy()
        np.savez_compressed(FOLDER / name / "expected.npz", ids=ids, logits=logits)


if __name__ == "__main__":
    main()
