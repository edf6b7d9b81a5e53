"""Generating text: one token after another, from the scores of a decoder.

A session may work on several texts at once, each in a slot of the cache; a text that finds none
free waits for one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from weft.closing import Closing
from weft.errors import DeviceError, InputError, UsageError
from weft.graph import Array
from weft.text.decoder_assets import DecoderAssets
from weft.text.forward import Forward
from weft.text.sampling import Sampler

SINKS = 4  # first tokens that a sliding window keeps (Xiao et al., StreamingLLM, 2023)


@dataclass(frozen=True)
class Piece:
    """A token that was generated: its text, as far as it is complete UTF-8."""

    token: int
    text: str


@dataclass
class Timing:
    """What a generation took: tokens and seconds of the prompt and behind it, clocks of both."""

    prompt: int = 0
    prompt_s: float = 0.0
    tokens: int = 0
    tokens_s: float = 0.0
    prompt_cycles: int = 0
    cycles: int = 0

    @property
    def rate(self) -> float:
        """Tokens per second behind the prompt."""
        return self.tokens / self.tokens_s if self.tokens_s else 0.0


@dataclass
class Text:
    """Tokens of a text, how many of them are in its slot, and bytes that are no letter yet; the
    tokens of its source, where it has one.
    """

    tokens: list[int]
    slot: int = -1
    there: int = 0
    age: int = 0
    rest: bytes = b""
    source: Sequence[int] = ()
    timing: Timing = field(default_factory=Timing)


class DecoderSession(Closing):
    """A decoder ready to generate. Threads may share it: each text has a slot of its own.
    `behind_source` says that prompts are sources, which the text does not begin with.
    """

    behind_source = False

    def __init__(
        self, forward: Forward, assets: DecoderAssets, timeout_s: float | None = None
    ) -> None:
        self.forward, self.assets, self.timeout_s = forward, assets, timeout_s
        self.last = Timing()
        self._free = list(range(forward.slots))[::-1]
        self._holders: dict[int, int] = {}
        self._changed = threading.Condition()
        self._running = threading.Lock()
        self._age = 0
        self._open = True

    def generate(
        self,
        prompt: str | Sequence[int],
        tokens: int = 256,
        *,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: bool = True,
        sliding: bool = False,
    ) -> Iterator[Piece]:
        """Pieces of text behind a prompt, at most `tokens`; fewer if (`stop`) the model ends it.

        Temperature 0 takes the best token each time, of equal ones the first; else one is drawn
        among the best that together have probability `top_p`. A text longer than the cache is
        an InputError; with `sliding` the oldest tokens but the first 4 are forgotten instead.
        Closing the iterator gives the slot back. `last` then tells what it took.

        Raises InputError, UsageError; DeviceError and DeviceTimeout, behind which the session
        works on.
        """
        sampler = Sampler(temperature, top_p, seed)
        text = self.text_of(prompt)
        self._check_length(len(text.tokens), tokens, sliding)
        return self._generate(text, tokens, sampler, stop, sliding)

    def text_of(self, prompt: str | Sequence[int]) -> Text:
        """A text that begins with a prompt."""
        return Text(self.assets.tokens_of(prompt))

    def prepare(self, text: Text) -> None:
        """What is done for a text that has just entered its slot, before its first run."""

    def _generate(
        self, text: Text, tokens: int, sampler: Sampler, stop: bool, sliding: bool
    ) -> Iterator[Piece]:
        self._enter(text)
        try:
            self.prepare(text)
            for _ in range(tokens):
                piece = self._next(text, sampler, stop, sliding)
                if piece is None:
                    return
                yield piece
        finally:
            self.last = text.timing
            self._leave(text)

    def _next(self, text: Text, sampler: Sampler, stop: bool, sliding: bool) -> Piece | None:
        """One more piece of a text; None at its end."""
        if sliding and len(text.tokens) > self.forward.capacity:
            self._slide(text)
        token = sampler.choose(self._logits(text)[-1])
        if stop and token in self.assets.eos:
            return None
        before = text.tokens[-1]
        text.tokens.append(token)
        return Piece(token, self._letters(text, token, before))

    def _slide(self, text: Text) -> None:
        """Forgets tokens in the middle; the rest is computed again at its new positions."""
        half = max(self.forward.capacity // 2, 1)
        sinks = min(SINKS, half - 1)
        text.tokens = text.tokens[:sinks] + text.tokens[len(text.tokens) - half + sinks :]
        text.there = 0

    def _letters(self, text: Text, token: int, before: int) -> str:
        if self.assets.tokenizer is None:
            return ""
        text.rest += self.assets.tokenizer.piece(token, before)
        for cut in range(len(text.rest), max(len(text.rest) - 4, -1), -1):
            try:
                letters = text.rest[:cut].decode()
            except UnicodeDecodeError:
                continue
            text.rest = text.rest[cut:]
            return letters
        letters, text.rest = text.rest.decode("utf-8", "replace"), b""
        return letters

    def _logits(self, text: Text, every: bool = False) -> Array:
        """Logits behind the tokens that are new in a text: of the last part, or of all."""
        found: list[Array] = []
        while text.there < len(text.tokens):
            part = text.tokens[text.there : text.there + self.forward.tokens]
            start = time.perf_counter()
            logits, cycles = self._run(text, part)
            took, timing = time.perf_counter() - start, text.timing
            if text.there and len(part) == 1:
                timing.tokens, timing.tokens_s = timing.tokens + 1, timing.tokens_s + took
                timing.cycles += cycles
            else:
                timing.prompt, timing.prompt_s = timing.prompt + len(part), timing.prompt_s + took
                timing.prompt_cycles += cycles
            text.there += len(part)
            found = [*found, logits] if every else [logits]
        return np.concatenate(found) if every else found[-1]

    def _run(self, text: Text, part: Sequence[int]) -> tuple[Array, int]:
        with self.guarded(text):
            logits = self.forward.run(part, text.there, text.slot, self.timeout_s)
            return logits, sum(result.cycles for result in self.forward.results)

    @contextmanager
    def guarded(self, text: Text) -> Iterator[None]:
        """Room for a run of a text. Raises DeviceError where its cache is gone; behind a run that
        fails all are.
        """
        with self._running:
            if not self._open:
                raise DeviceError("the session is closed; open another one")
            if text.age != self._age:
                raise DeviceError(
                    "another text's run was aborted, and this text's cache went with it: generate "
                    "it again"
                )
            try:
                yield
            except BaseException:
                self._age += 1  # whatever the slots hold, nobody may go on with it
                self.forward.reload()
                raise

    def _check_length(self, prompt: int, tokens: int, sliding: bool) -> None:
        if tokens < 1:
            raise UsageError(f"tokens = {tokens}: at least one is generated")
        capacity = self.forward.capacity
        if prompt > capacity or (prompt + tokens - 1 > capacity and not sliding):
            raise InputError(
                f"{prompt} tokens of prompt and {tokens} to generate; the cache holds {capacity}: "
                "compile with a larger cache, ask for fewer, or let the window slide (sliding)"
            )

    def _enter(self, text: Text) -> None:
        """Waits for a slot."""
        me = threading.get_ident()
        with self._changed:
            while not self._free:
                if me in self._holders.values():
                    raise UsageError(
                        f"all {self.forward.slots} slots of the session hold texts that this "
                        "thread has not finished: finish or close() them, or compile with more"
                    )
                self._changed.wait()
            text.slot = self._free.pop()
            text.age = self._age
            self._holders[text.slot] = me

    def _leave(self, text: Text) -> None:
        with self._changed:
            self._free.append(text.slot)
            del self._holders[text.slot]
            self._changed.notify()

    def generate_all(
        self,
        prompts: Sequence[str | Sequence[int]],
        tokens: int = 256,
        *,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: bool = True,
    ) -> Iterator[tuple[int, Piece]]:
        """(number of the prompt, piece) for many prompts: as many at a time as there are slots, a
        token each in turn; the next prompt is admitted as soon as a text has ended.
        """
        running: dict[int, Iterator[Piece]] = {}
        waiting = list(enumerate(prompts))[::-1]
        try:
            while running or waiting:
                while waiting and len(running) < self.forward.slots:
                    number, prompt = waiting.pop()
                    own = None if seed is None else seed + number
                    running[number] = self.generate(
                        prompt, tokens, temperature=temperature, top_p=top_p, seed=own, stop=stop
                    )
                for number, pieces in list(running.items()):
                    piece = next(pieces, None)
                    if piece is None:
                        del running[number]
                    else:
                        yield number, piece
        finally:
            for pieces in running.values():
                pieces.close()  # type: ignore[attr-defined]

    def logits(self, prompt: str | Sequence[int]) -> Array:
        """Logits [n, V] behind each of the n tokens of a prompt."""
        return self.logits_of(self.text_of(prompt))

    def logits_of(self, text: Text) -> Array:
        """Logits [n, V] behind each token of a text that has no slot yet."""
        self._check_length(len(text.tokens), 1, False)
        self._enter(text)
        try:
            self.prepare(text)
            return self._logits(text, every=True)
        finally:
            self._leave(text)

    def close(self) -> None:
        """Gives the device back; safe to call twice."""
        with self._running:
            if self._open:
                self._open = False
                self.forward.close()
