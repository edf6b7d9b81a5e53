"""Encoder-decoders: one graph of both, and what stands around it.

The graph's inputs `embeddings` [1, n, D] and `source` [1, S, D] are rows of tables, looked up on
the host. Its cross-attention has the attribute `cross`: keys and values follow from the source
alone, so that `weft.passes.two_parts` can cut the graph there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weft.errors import ModelError
from weft.frontend.decoder import Blocks, Sizes
from weft.frontend.llama import token_ids
from weft.frontend.safetensors_folder import read_json
from weft.frontend.transformer_blocks import Config, Floats, Weights
from weft.graph import Graph
from weft.text.tokenizer import Tokenizer

SOURCE = "source"


@dataclass(frozen=True)
class Table:
    """Rows [V, D] of tokens, and [P, D] of positions that are added to them, or None."""

    words: Floats
    positions: Floats | None = None


@dataclass(frozen=True)
class Seq2Seq:
    """An encoder-decoder that has been read.

    `source` and `target` make the graph's inputs, `limits` are the longest source and target;
    `build(source, tokens, cache)` makes the graph. A target begins with the tokens `start`.
    """

    name: str
    source: Table
    target: Table
    limits: tuple[int, int]
    build: Callable[[int, int, int], Graph]
    start: tuple[int, ...]
    eos: tuple[int, ...] = ()
    tokenizer: Tokenizer | None = None

    def graph(self, source: int, tokens: int, cache: int) -> Graph:
        """The graph of `source` tokens and `tokens` new ones of at most `cache`.

        Raises ModelError for more than the model has positions.
        """
        fits = 1 <= source <= self.limits[0] and 1 <= tokens <= cache <= self.limits[1]
        if not fits:
            raise ModelError(
                f"{self.name}: a source of {source} tokens, {tokens} at a time of {cache} behind "
                f"it; the model takes sources of 1 to {self.limits[0]} and targets of 1 to "
                f"{self.limits[1]}"
            )
        return self.build(source, tokens, cache)


class Pair(Blocks):
    """Layers of an encoder and a decoder: attention of either, and across."""

    def __init__(self, name: str, weights: Weights, sizes: Sizes, cache: int) -> None:
        super().__init__(name, weights, sizes, cache)
        self.heads = {"encoder": sizes.heads, "decoder": sizes.heads}

    def inputs(self, source: int, tokens: int) -> tuple[str, str]:
        """The graph's inputs: of the source, and the target's new ones."""
        new = self.start(tokens)
        self.b.input(SOURCE, (1, source, self.sizes.width), "float32")
        return SOURCE, new

    def attend(self, q: str, k: str, v: str, name: str, scale: float, bias: str = "") -> str:
        """An encoder's attention: all to all, with a constant bias [H, S, S] or none."""
        return self._attend([q, k, v], bias, name, self.heads["encoder"], {"scale": scale})

    def follow(self, q: str, k: str, v: str, name: str, scale: float, bias: str = "") -> str:
        """A decoder's own attention, with a cache; the bias [H, D] is by distance."""
        attrs = {"scale": scale, "causal": 1, "cache": self.cache}
        return self._attend([q, k, v], bias, name, self.heads["decoder"], attrs)

    def cross(self, q: str, k: str, v: str, name: str, scale: float) -> str:
        """Attention to what the encoder has made."""
        return self._attend(
            [q, k, v], "", name, self.heads["decoder"], {"scale": scale, "cross": 1}
        )

    def _attend(
        self, names: list[str], bias: str, name: str, heads: int, attrs: dict[str, Any]
    ) -> str:
        every = {"heads": heads, "kv_heads": heads, "causal": 0, **attrs}
        inputs = [*names, bias] if bias else names
        return self.b.emit("Attention", inputs, every, name=f"{name}.attention")


def settings(folder: Path, config: Config) -> Config:
    """config.json, with what generation_config.json says in place of its tokens."""
    path = folder / "generation_config.json"
    if not path.is_file():
        return config
    return Config(config.path, {**config.values, **read_json(path)})


def ends(config: Config, words: int) -> tuple[int, ...]:
    """The tokens that end a target."""
    return token_ids(config.values.get("eos_token_id"), words)


def begins(config: Config, words: int) -> tuple[int, ...]:
    """The tokens that a target begins with. Raises ModelError where the config names none."""
    names = ("decoder_start_token_id", "forced_bos_token_id")
    first, forced = (token_ids(config.values.get(name), words)[:1] for name in names)
    if not first:
        raise ModelError(
            f"{config.path}: decoder_start_token_id = {config.values.get(names[0])!r}; one of the "
            f"{words} tokens of the model is expected"
        )
    return first + forced
