"""Sessions of encoder-decoders: a source is read once, then the target follows token by token."""

from __future__ import annotations

import time
from collections.abc import Sequence

from weft.graph import Array
from weft.text.generation import DecoderSession, Text
from weft.text.pair_forward import PairForward
from weft.text.seq2seq_assets import SourceAssets


class PairSession(DecoderSession):
    """An encoder-decoder ready to generate: what `DecoderSession` takes as prompts are sources, and
    what it gives are targets. `logits` may be given the target.
    """

    behind_source = True

    def __init__(
        self, forward: PairForward, sources: SourceAssets, timeout_s: float | None = None
    ) -> None:
        super().__init__(forward, sources.target, timeout_s)
        self.pair, self.sources = forward, sources

    def text_of(self, prompt: str | Sequence[int]) -> Text:
        """A target that begins, behind a source."""
        return Text(list(self.sources.start), source=self.sources.tokens_of(prompt))

    def logits(self, prompt: str | Sequence[int], target: Sequence[int] | None = None) -> Array:
        """Logits [n, V] behind each of the n tokens of a target of a source; the target begins as
        the model's do, and has those tokens only if none are given.
        """
        text = self.text_of(prompt)
        if target is not None:
            text.tokens = self.assets.tokens_of(list(target))
        return self.logits_of(text)

    def prepare(self, text: Text) -> None:
        """Reads the source of a text that has just entered its slot."""
        start = time.perf_counter()
        with self.guarded(text):
            self.pair.read(text.source, text.slot, self.timeout_s)
        timing = text.timing
        timing.prompt, timing.prompt_s = len(text.source), time.perf_counter() - start
        timing.prompt_cycles = sum(result.cycles for result in self.pair.results)
