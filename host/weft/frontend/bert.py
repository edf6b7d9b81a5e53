"""BERT and its kin (MiniLM, RoBERTa, XLM-RoBERTa, DistilBERT): the encoder's graph.

The graph's input `embeddings` [1, S, D] is the sum of word, position and type embeddings before
their LayerNorm: looking rows up is the host's work (`weft.text.embeddings`), the norm is the
graph's first node. `keys` [1, 1] says how many of the S tokens are there; the rest is padding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from weft.frontend.build import Builder
from weft.frontend.stored import StoredModel
from weft.frontend.transformer_blocks import Config, Encoder, Floats, LayerNames, Weights
from weft.frontend.transformer_blocks import check_tokens as check
from weft.graph import Graph

INPUT, KEYS, OUTPUT = "embeddings", "keys", "hidden"
WORDS = "embeddings.word_embeddings.weight"


@dataclass(frozen=True)
class Tables:
    """Embedding tables: word [V, D], position [P, D] from the first that is used on, type [D].

    The sum for token t at place i is word[t] + position[i] + kind.
    """

    word: Floats
    position: Floats
    kind: Floats


def bert_names(layer: int) -> LayerNames:
    """Names of BERT's and RoBERTa's parts."""
    at = f"encoder.layer.{layer}"
    own = f"{at}.attention.self"
    return LayerNames(
        f"{own}.query",
        f"{own}.key",
        f"{own}.value",
        f"{at}.attention.output.dense",
        f"{at}.attention.output.LayerNorm",
        f"{at}.intermediate.dense",
        f"{at}.output.dense",
        f"{at}.output.LayerNorm",
    )


def distilbert_names(layer: int) -> LayerNames:
    """Names of DistilBERT's parts."""
    at = f"transformer.layer.{layer}"
    own = f"{at}.attention"
    return LayerNames(
        f"{own}.q_lin",
        f"{own}.k_lin",
        f"{own}.v_lin",
        f"{own}.out_lin",
        f"{at}.sa_layer_norm",
        f"{at}.ffn.lin1",
        f"{at}.ffn.lin2",
        f"{at}.output_layer_norm",
    )


@dataclass(frozen=True)
class Kin:
    """One architecture of the family: prefixes of its names, and whether RoBERTa counts so."""

    prefixes: tuple[str, ...]
    distil: bool = False
    offset: bool = False  # positions start behind the padding token's

    def load(self, model: StoredModel, config: Config, tokens: int, padding: bool) -> Graph:
        """The encoder's graph for `tokens` tokens; with `padding` it has the input `keys`.

        Raises ModelError and ShapeError for files that don't fit, UnsupportedError.
        """
        check(config.path, tokens, self.positions(config))
        config.require("position_embedding_type", "absolute", "relative positions")
        config.require("is_decoder", False, "decoders (causal masks with a key-value cache)")
        config.require("add_cross_attention", False, "cross-attention from a second model")
        b = Builder(str(config.values.get("model_type", "encoder")))
        width = config.size("hidden_size", "dim")
        e = Encoder(
            b,
            Weights.of(model, self.prefixes, WORDS),
            width,
            config.size("num_attention_heads", "n_heads"),
            config.size("intermediate_size", "hidden_dim"),
            config.number("layer_norm_eps", default=1e-12),
            config.activation("hidden_act", "activation"),
        )
        e.check(config)
        b.input(INPUT, (1, tokens, width), "float32")
        if padding:
            b.input(KEYS, (1, 1), "int64")
        x = e.norm(INPUT, "embeddings.LayerNorm")
        names = distilbert_names if self.distil else bert_names
        for layer in range(config.size("num_hidden_layers", "n_layers")):
            x = e.post_norm_layer(x, names(layer), KEYS if padding else "")
        b.emit("Identity", [x], name=OUTPUT, outputs=(OUTPUT,))
        return b.graph([OUTPUT])

    def positions(self, config: Config) -> int:
        """The longest sequence."""
        return config.size("max_position_embeddings", least=1) - self._first(config)

    def tables(self, model: StoredModel, config: Config) -> Tables:
        """The embedding tables. Raises ModelError and ShapeError for files that don't fit."""
        weights = Weights.of(model, self.prefixes, WORDS)
        width = config.size("hidden_size", "dim")
        rows = config.size("max_position_embeddings")
        words = weights.take(WORDS, config.size("vocab_size"), width)
        places = weights.take("embeddings.position_embeddings.weight", rows, width)
        kind = np.zeros(width, np.float32)
        if not self.distil:
            kinds = config.size("type_vocab_size")
            kind = weights.take("embeddings.token_type_embeddings.weight", kinds, width)[0]
        return Tables(words, np.ascontiguousarray(places[self._first(config) :]), kind)

    def _first(self, config: Config) -> int:
        return config.size("pad_token_id", default=1, least=0) + 1 if self.offset else 0


KIN = {
    "bert": Kin(("", "bert.")),
    "roberta": Kin(("", "roberta."), offset=True),
    "xlm-roberta": Kin(("", "roberta."), offset=True),
    "distilbert": Kin(("", "distilbert."), distil=True),
}
