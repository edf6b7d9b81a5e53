"""Writes tests/data/transformers: tiny random encoders and what the transformers library computes.

    python tests/record_transformers.py [FOLDER ...]

needs torch and transformers. Without names, all are written anew. Each folder has config.json,
model.safetensors (float32) and expected.npz: the inputs, and the library's outputs in float32.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import torch
import transformers as t
from torch import nn

FOLDER = Path(__file__).resolve().parent / "data" / "transformers"
TEXT = {
    "vocab_size": 24,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 16,
}
DISTIL = {
    "vocab_size": 24,
    "dim": 8,
    "n_layers": 2,
    "n_heads": 2,
    "hidden_dim": 12,
    "max_position_embeddings": 16,
}
IMAGE = {
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "image_size": 12,
    "patch_size": 4,
    "num_channels": 3,
    "num_labels": 5,
}

WINDOWS = {
    "image_size": 16,
    "patch_size": 2,
    "num_channels": 3,
    "embed_dim": 32,
    "depths": [2, 1],
    "num_heads": [2, 4],
    "window_size": 4,
    "mlp_ratio": 1.5,
    "num_labels": 5,
}
# No square, positions of its own, no biases of q, k and v, a last map as high as a window.
OBLONG = {
    "image_size": [12, 24],
    "embed_dim": 8,
    "depths": [2, 2],
    "num_heads": [1, 2],
    "window_size": 3,
    "use_absolute_embeddings": True,
    "qkv_bias": False,
}


def models() -> dict[str, nn.Module]:
    """The encoders, by folder."""
    return {
        "bert": t.BertModel(t.BertConfig(**TEXT), add_pooling_layer=False),
        "bert_masked_lm": t.BertForMaskedLM(t.BertConfig(**TEXT, hidden_act="gelu_new")),
        "roberta": t.RobertaModel(
            t.RobertaConfig(**TEXT, type_vocab_size=1), add_pooling_layer=False
        ),
        "distilbert": t.DistilBertModel(t.DistilBertConfig(**DISTIL)),
        "vit": t.ViTForImageClassification(t.ViTConfig(**IMAGE)),
        "vit_hidden": t.ViTModel(t.ViTConfig(**IMAGE, qkv_bias=False), add_pooling_layer=False),
        "swin": t.SwinForImageClassification(t.SwinConfig(**WINDOWS)),
        "swin_hidden": t.SwinModel(t.SwinConfig(**{**WINDOWS, **OBLONG}), add_pooling_layer=False),
        "deit": t.DeiTForImageClassificationWithTeacher(t.DeiTConfig(**IMAGE)),
    }


def randomize(module: nn.Module, seed: int = 0) -> None:
    """Weights far from their initial values: zeros would hide biases, ones the norms."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            level = 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0
            parameter.copy_(level + 0.3 * torch.randn_like(parameter))


def text_example(module: nn.Module) -> dict[str, np.ndarray]:
    """Token ids with their mask, and the last hidden states."""
    random = np.random.default_rng(1)
    ids = random.integers(4, 24, (3, 9))
    counts = np.array([9, 4, 1])
    mask = (np.arange(9) < counts[:, None]).astype(np.int64)
    ids = np.where(mask, ids, module.config.pad_token_id)
    with torch.no_grad():
        made = module(
            input_ids=torch.tensor(ids),
            attention_mask=torch.tensor(mask),
            output_hidden_states=True,
        )
    return {"ids": ids, "mask": mask, "hidden": made.hidden_states[-1].numpy()}


def image_example(module: nn.Module) -> dict[str, np.ndarray]:
    """Images, and logits or hidden states."""
    size = module.config.image_size
    sides = size if isinstance(size, (list, tuple)) else (size, size)
    x = np.random.default_rng(1).normal(0, 1, (3, 3, *sides)).astype(np.float32)
    with torch.no_grad():
        made = module(pixel_values=torch.tensor(x))
    return {"x": x, "y": made[0].numpy()}


def main() -> None:
    """Writes the folders that are named, or all, anew."""
    wanted = sys.argv[1:] or list(models())
    for name, module in models().items():
        if name not in wanted:
            continue
        shutil.rmtree(FOLDER / name, ignore_errors=True)
        module.eval()
        randomize(module)
        module.save_pretrained(FOLDER / name)
        (FOLDER / name / "generation_config.json").unlink(missing_ok=True)
        text = "vit" not in name and "deit" not in name and "swin" not in name
        example = text_example(module) if text else image_example(module)
        np.savez_compressed(FOLDER / name / "expected.npz", **example)


if __name__ == "__main__":
    main()
