"""Writes tests/data/swin_onnx/*.onnx.gz: a tiny random Swin as PyTorch's exporter writes it.

    python tests/record_swin_onnx.py

needs torch, transformers and onnx. The input is `pixel_values` [1, 3, 16, 16].
"""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import Any

import torch
import transformers as t

from record_transformers import WINDOWS, randomize

FOLDER = Path(__file__).resolve().parent / "data" / "swin_onnx"


class Logits(torch.nn.Module):
    """A classifier, and its logits alone."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, pixel_values: Any) -> Any:
        """[1, classes]."""
        return self.module(pixel_values=pixel_values)[0]


def main() -> None:
    """Both implementations of attention, by the exporter that follows a run."""
    FOLDER.mkdir(exist_ok=True)
    for attention in ("eager", "sdpa"):
        config = t.SwinConfig(**{**WINDOWS, "embed_dim": 16}, attn_implementation=attention)
        module = t.SwinForImageClassification(config).eval()
        randomize(module)
        made = io.BytesIO()
        torch.onnx.export(
            Logits(module),
            (torch.zeros(1, 3, 16, 16),),
            made,
            input_names=["pixel_values"],
            output_names=["logits"],
            opset_version=18,
            dynamo=False,
        )
        data = gzip.compress(made.getvalue(), mtime=0)
        (FOLDER / f"{attention}.onnx.gz").write_bytes(data)


if __name__ == "__main__":
    main()
