"""Writes tests/data/masked_bert: tiny BERTs with a mask, as PyTorch's two exporters write them.

    python tests/record_masked_bert.py [MODEL ...]

needs torch, transformers, onnx and onnxscript. Inputs are `input_ids` and `attention_mask` [1, 9].
Without names, all models are written: BERT by both implementations of attention, and its kin of one
layer, of which RoBERTa and MPNet count positions from the ids.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import onnx
import torch
import transformers as t

from record_transformers import DISTIL, TEXT, randomize

FOLDER = Path(__file__).resolve().parent / "data" / "masked_bert"
WIDTHS = {"hidden_size": 16, "intermediate_size": 24}
SIZES = {**TEXT, **WIDTHS}
KIN = {**SIZES, "num_hidden_layers": 1}
TOKENS = 9
EXPORTERS = {"script": False, "dynamo": True}


def models() -> dict[str, torch.nn.Module]:
    """The encoders, by the first part of their files' names."""

    def bert(attention: str) -> torch.nn.Module:
        config = t.BertConfig(**SIZES, attn_implementation=attention)
        return t.BertModel(config, add_pooling_layer=False)

    distil = {**DISTIL, "dim": 16, "hidden_dim": 24, "n_layers": 1}
    roberta = t.RobertaConfig(**KIN, type_vocab_size=1)
    return {
        "eager": bert("eager"),
        "sdpa": bert("sdpa"),
        "distilbert": t.DistilBertModel(t.DistilBertConfig(**distil)),
        "mpnet": t.MPNetModel(t.MPNetConfig(**KIN), add_pooling_layer=False),
        "roberta": t.RobertaModel(roberta, add_pooling_layer=False),
    }


class Masked(torch.nn.Module):
    """An encoder with two inputs, and its last hidden states."""

    def __init__(self, encoder: torch.nn.Module) -> None:
        super().__init__()
        self.bert = encoder

    def forward(self, input_ids: Any, attention_mask: Any) -> Any:
        """[1, TOKENS, hidden]."""
        return self.bert(input_ids=input_ids, attention_mask=attention_mask)[0]


def main() -> None:
    """The models that are named, or all, by both exporters."""
    FOLDER.mkdir(exist_ok=True)
    ids = torch.arange(4, 4 + TOKENS)[None]
    mask = (torch.arange(TOKENS) < TOKENS - 3).long()[None]
    made = models()
    for name in sys.argv[1:] or made:
        module = Masked(made[name]).eval()
        randomize(module)
        for exporter, dynamo in EXPORTERS.items():
            path = str(FOLDER / f"{name}_{exporter}.onnx")
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
