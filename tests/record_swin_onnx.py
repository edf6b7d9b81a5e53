"""Writes tests/data/swin_onnx/*.onnx.gz: a tiny random Swin as PyTorch's exporters write it.

    python tests/record_swin_onnx.py [FILE ...]

needs torch, transformers, onnx and onnxscript. The input is `pixel_values` [1, 3, 16, 16]. Without
names, all are written: both implementations of attention by the exporter that follows a run, eager
attention also by torch.export (which fails on the other one: PyTorch 2.13, transformers 5.24).
"""

from __future__ import annotations

import gzip
import io
import sys
from pathlib import Path
from typing import Any

import onnx
import torch
import transformers as t

from record_masked_bert import bare
from record_transformers import WINDOWS, randomize

FOLDER = Path(__file__).resolve().parent / "data" / "swin_onnx"
FILES = {"eager": ("eager", False), "eager_dynamo": ("eager", True), "sdpa": ("sdpa", False)}


class Logits(torch.nn.Module):
    """A classifier, and its logits alone."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, pixel_values: Any) -> Any:
        """[1, classes]."""
        return self.module(pixel_values=pixel_values)[0]


def main() -> None:
    """The files that are named, or all."""
    FOLDER.mkdir(exist_ok=True)
    for name in sys.argv[1:] or FILES:
        attention, dynamo = FILES[name]
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
            dynamo=dynamo,
            **({"external_data": False} if dynamo else {}),
        )
        model = onnx.load_from_string(made.getvalue())
        data = gzip.compress((bare(model) if dynamo else model).SerializeToString(), mtime=0)
        (FOLDER / f"{name}.onnx.gz").write_bytes(data)


if __name__ == "__main__":
    main()
