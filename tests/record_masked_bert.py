"""Writes tests/data/masked_bert: a tiny BERT with a mask, as PyTorch's two exporters write it.

    python tests/record_masked_bert.py

needs torch, transformers, onnx and onnxscript. Inputs are `input_ids` and `attention_mask` [1, 9].
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import torch
import transformers as t

from record_transformers import TEXT, randomize

FOLDER = Path(__file__).resolve().parent / "data" / "masked_bert"
SIZES = {**TEXT, "hidden_size": 16, "intermediate_size": 24}
TOKENS = 9
EXPORTERS = {"script": False, "dynamo": True}


class Masked(torch.nn.Module):
    """BERT with two inputs, and the last hidden states."""

    def __init__(self, attention: str) -> None:
        super().__init__()
        config = t.BertConfig(**SIZES, attn_implementation=attention)
        self.bert = t.BertModel(config, add_pooling_layer=False)

    def forward(self, input_ids: Any, attention_mask: Any) -> Any:
        """[1, TOKENS, hidden]."""
        return self.bert(input_ids=input_ids, attention_mask=attention_mask)[0]


def main() -> None:
    """Both implementations of attention by both exporters."""
    FOLDER.mkdir(exist_ok=True)
    ids = torch.arange(4, 4 + TOKENS)[None]
    mask = (torch.arange(TOKENS) < TOKENS - 3).long()[None]
    for attention in ("eager", "sdpa"):
        module = Masked(attention).eval()
        randomize(module)
        for exporter, dynamo in EXPORTERS.items():
            path = str(FOLDER / f"{attention}_{exporter}.onnx")
            torch.onnx.export(
                module,
                (ids, mask),
                path,
                input_names=["input_ids", "attention_mask"],
                output_names=["hidden"],
                opset_version=18,
                dynamo=dynamo,
                **({"external_data": False} if dynamo else {}),
            )
            onnx.save(bare(onnx.load(path)), path)


def bare(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without the source lines that an exporter notes at every node."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.value_info, *graph.input, *graph.output):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    return model


if __name__ == "__main__":
    main()
