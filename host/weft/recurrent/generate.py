"""Greedy decoding, many sequences at once, by anything that has the steps of a StepSession."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from weft.closing import Closing
from weft.errors import InputError
from weft.graph import Array
from weft.program import Program
from weft.recurrent.session import Took, open_steps

if TYPE_CHECKING:
    from weft.recurrent.network import Decoding, Tokens

Progress = Callable[[int, int], None]


class Steps(Protocol):
    """What steps encoder and decoder."""

    def start(self, samples: int) -> None:
        """Begins with states of zeros."""

    def step(self, inputs: Mapping[str, Array], entry: str) -> Mapping[str, Array]:
        """One step of the first samples; their outputs."""

    def keep(self, samples: Array) -> None:
        """Goes on with some of the samples."""


def generate(
    steps: Steps, decoding: Decoding, sources: Sequence[list[int]], limit: int
) -> list[list[int]]:
    """What the decoder says for sources that have been checked, each until its end token.

    Sources are read side by side, the longest first, so that those that end drop out at the back;
    results that end make room.
    """
    order = sorted(range(len(sources)), key=lambda i: -len(sources[i]))
    steps.start(len(sources))
    for t in range(len(sources[order[0]])):
        there = [sources[i][t] for i in order if t < len(sources[i])]
        steps.step({"encoder_input": decoding.source[there]}, "encoder")
    said: list[list[int]] = [[] for _ in sources]
    going, last = np.asarray(order), np.full(len(sources), decoding.start)
    for _ in range(limit):
        scores = steps.step({"decoder_input": decoding.target[last]}, "decoder")["scores"]
        last = scores.reshape(len(last), -1).argmax(1)
        on = np.flatnonzero(last != decoding.end)
        if not len(on):
            break
        if len(on) < len(going):
            steps.keep(on)
            going, last = going[on], last[on]
        for i, token in zip(going.tolist(), last.tolist(), strict=True):
            said[i].append(token)
    return said


class Generator(Closing):
    """An encoder-decoder on an open device; `took` is what the last `run` took."""

    def __init__(self, program: Program | str | Path, device: str = "csim", **options: Any) -> None:
        """Opens a program that `EncoderDecoder.compile` made, or its file; `options` as for
        `weft.open`. Raises ProgramError for another program.
        """
        from weft.recurrent.network import Decoding
        from weft.runtime import load

        if not isinstance(program, Program):
            program = load(program)
        self.decoding = Decoding.of(program)
        self.steps = open_steps(program, device, **options)
        self.took = Took()

    def run(
        self,
        sources: Sequence[Tokens],
        *,
        limit: int | None = None,
        progress: Progress | None = None,
    ) -> list[list[int]]:
        """Tokens for each source, without the one that ends them, at most `limit` (the program's
        own if None). `progress` hears (sources done, sources in all).

        Raises InputError for no sources, and for sources that are empty, longer than the program
        takes, or have tokens out of range; nothing has run then.
        """
        checked = self.decoding.checked(sources)
        most = self.decoding.limit if limit is None else limit
        if not checked or not 1 <= most <= self.decoding.limit:
            raise InputError(
                f"{len(checked)} sources, limit = {limit}: one source at least, and a limit of "
                f"1 to {self.decoding.limit}"
            )
        order = sorted(range(len(checked)), key=lambda i: len(checked[i]))
        found: list[list[int]] = [[] for _ in checked]
        self.took = Took()
        for start in range(0, len(order), self.steps.slots):
            part = order[start : start + self.steps.slots]
            said = generate(self.steps, self.decoding, [checked[i] for i in part], most)
            for i, tokens in zip(part, said, strict=True):
                found[i] = tokens
            self.took.join(self.steps.took)
            if progress:
                progress(start + len(part), len(order))
        return found

    def close(self) -> None:
        """Gives the device back; safe to call twice."""
        self.steps.close()
