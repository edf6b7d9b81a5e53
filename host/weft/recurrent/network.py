"""Encoder-decoders of two GRUs: one reads a sequence of tokens, the other says one, greedily.

    encoder: h ← GRU(source embedding of a token, h)          for every token, from h = 0
    decoder: h ← GRU(target embedding of the last token, h)   scores = W·h + b, the largest is next

(Cho et al., EMNLP 2014, without the encoder's state in every step.) Both cells are in one program,
as entries that run alone; they share the state, which stays on the device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from weft.config import Overlay, load_overlay
from weft.errors import InputError, ModelError, ProgramError
from weft.frontend.build import Builder
from weft.frontend.recurrent import Gru, Parameters
from weft.graph import Array, Graph
from weft.program import Program

GATES = ("reset", "update", "new")  # as PyTorch stacks them
STATE = "state"
STATES = {"encoder_state": STATE, "encoder/h": STATE, "decoder_state": STATE, "decoder/h": STATE}
ENTRIES = {"encoder": ("encoder/h",), "decoder": ("decoder/h", "scores")}
PREFIX = "encoder_decoder."  # of its assets in a program
CALIBRATION_STEPS = 4096  # of each cell that quantization looks at

Tokens = Sequence[int]


@dataclass(frozen=True)
class Decoding:
    """What surrounds the cells: embeddings of source and target tokens [V, I], the tokens that
    start and end a result, and how long sources and results may be.
    """

    source: Array
    target: Array
    start: int
    end: int
    longest: int
    limit: int

    def check(self) -> Decoding:
        """Itself. Raises ModelError for tokens that have no embedding and lengths below 1."""
        for name, table in (("source", self.source), ("target", self.target)):
            if table.ndim != 2 or table.dtype.kind != "f" or not np.isfinite(table).all():
                raise ModelError(f"{name} embeddings {table.shape}: finite numbers [V, I] expected")
        for name in ("start", "end"):
            token = getattr(self, name)
            if not 0 <= token < len(self.target):
                raise ModelError(f"token {name} = {token}; there are {len(self.target)} to say")
        for name in ("longest", "limit"):
            if getattr(self, name) < 1:
                raise ModelError(f"{name} = {getattr(self, name)}: at least one token")
        return self

    def checked(self, sequences: Sequence[Tokens]) -> list[list[int]]:
        """Sources as lists. Raises InputError, with its place, for one that is empty, too long, or
        has tokens out of range.
        """
        found = []
        for place, tokens in enumerate(sequences):
            row = [int(t) for t in tokens]
            if not 1 <= len(row) <= self.longest:
                raise InputError(
                    f"sequence {place} has {len(row)} tokens; 1 to {self.longest} are possible"
                )
            bad = next((t for t in row if not 0 <= t < len(self.source)), None)
            if bad is not None:
                raise InputError(
                    f"sequence {place}: token {bad}; tokens are 0 to {len(self.source) - 1}"
                )
            found.append(row)
        return found

    def arrays(self) -> dict[str, Array]:
        """As assets of a program."""
        numbers = np.array([self.start, self.end, self.longest, self.limit], np.int64)
        tables = {"source": self.source, "target": self.target, "numbers": numbers}
        return {PREFIX + name: value for name, value in tables.items()}

    @staticmethod
    def of(program: Program) -> Decoding:
        """What a program's assets hold. Raises ProgramError where they are of something else."""
        names = ("source", "target", "numbers")
        if any(PREFIX + name not in program.assets for name in names):
            raise ProgramError(
                f"program {program.name!r} is no encoder-decoder: weft.recurrent.EncoderDecoder "
                "compiles one"
            )
        source, target, numbers = (program.assets[PREFIX + name] for name in names)
        if numbers.shape != (4,) or numbers.dtype.kind != "i":
            raise ProgramError(f"program {program.name!r}: damaged tokens of an encoder-decoder")
        try:
            return Decoding(source, target, *(int(n) for n in numbers)).check()
        except ModelError as error:
            raise ProgramError(f"program {program.name!r}: {error}") from None


@dataclass(frozen=True)
class EncoderDecoder:
    """An encoder-decoder in float. `encoder` and `decoder` hold W [3H, I], R [3H, H] and the two
    biases [3H], gates reset, update, new; `output` W [V, H] and b [V].
    """

    name: str
    encoder: tuple[Array, Array, Array, Array]
    decoder: tuple[Array, Array, Array, Array]
    output: tuple[Array, Array]
    decoding: Decoding

    def graph(self) -> Graph:
        """One step of both cells. Raises ModelError for weights that do not fit."""
        self._check()
        b = Builder(self.name)
        cells = {"encoder": self.encoder, "decoder": self.decoder}
        for cell, arrays in cells.items():
            hidden = arrays[1].shape[1]
            b.input(f"{cell}_input", (1, arrays[0].shape[1]), "float32")
            b.input(f"{cell}_state", (1, hidden), "float32")
            gru = Gru.of(b, cell, Parameters.stacked(GATES, *arrays), False, STATE)
            state = gru.w.is_part(f"{cell}_state", "h")
            gru.step(gru.w.given(f"{cell}_input"), (state,), "")
        w, bias = (b.constant(n, a) for n, a in (("w", self.output[0].T), ("b", self.output[1])))
        b.emit("Linear", ["decoder/h", w, bias], name="scores", outputs=("scores",))
        return b.graph([name for outputs in ENTRIES.values() for name in outputs])

    def _check(self) -> None:
        d = self.decoding.check()
        w, bias = self.output
        hidden = w.shape[-1]
        tables = {"encoder": d.source, "decoder": d.target}
        for cell, arrays in {"encoder": self.encoder, "decoder": self.decoder}.items():
            shapes = [a.shape for a in arrays]
            rows = 3 * hidden
            wanted = [(rows, tables[cell].shape[1]), (rows, hidden), (rows,), (rows,)]
            if shapes != wanted:
                raise ModelError(f"{self.name}: {cell} of shapes {shapes}, {wanted} expected")
        if (w.shape, bias.shape) != ((len(d.target), hidden), (len(d.target),)):
            raise ModelError(
                f"{self.name}: output of shapes {w.shape} and {bias.shape} for {len(d.target)} "
                "tokens"
            )

    def calibration(self, sequences: Sequence[Tokens]) -> dict[str, Array]:
        """Inputs of the graph as they come up while it reads and says sequences, in float.

        Raises InputError for no sequences, and as `Decoding.checked`.
        """
        if not len(sequences):
            raise InputError("no sequences to calibrate with")
        from weft.recurrent.generate import generate

        steps = _FloatSteps(self.graph())
        generate(steps, self.decoding, self.decoding.checked(sequences), self.decoding.limit)
        return steps.seen(CALIBRATION_STEPS)

    def compile(
        self,
        overlay: Overlay | str,
        calibration: Sequence[Tokens],
        *,
        batch: int | None = None,
        **options: Any,
    ) -> Program:
        """The program of both cells for an overlay; `options` are those of
        `weft.passes.quantize.quantize`.

        Raises InputError for calibration data that is wrong, ModelError, UsageError and
        CapacityError as `weft.compile` does.
        """
        from weft.lower import Steps, lower
        from weft.passes.quantize import quantize

        hardware = overlay if isinstance(overlay, Overlay) else load_overlay(overlay)
        graph = quantize(self.graph(), self.calibration(calibration), states=STATES, **options)
        program = lower(graph, hardware, batch=batch, steps=Steps(STATES, ENTRIES))
        return replace(program.keeping(graph), assets=self.decoding.arrays())


class _FloatSteps:
    """The graph in float, with the steps of a StepSession; it remembers what the cells read."""

    def __init__(self, graph: Graph) -> None:
        self._parts = {
            entry: graph.replace(
                inputs=(f"{entry}_input", f"{entry}_state"), outputs=outputs
            ).pruned()
            for entry, outputs in ENTRIES.items()
        }
        self._width = graph["encoder_state"].shape[1]
        self._state = np.zeros((0, self._width), np.float32)
        self._seen: dict[str, list[Array]] = {name: [] for name in graph.inputs}

    def start(self, samples: int) -> None:
        """Begins with states of zeros."""
        self._state = np.zeros((samples, self._width), np.float32)

    def step(self, inputs: Mapping[str, Array], entry: str) -> dict[str, Array]:
        """One step of the first samples."""
        from weft import ops

        x = inputs[f"{entry}_input"]
        feeds = {f"{entry}_input": x, f"{entry}_state": self._state[: len(x)].copy()}
        for name, value in feeds.items():
            self._seen[name].append(value)
        found = ops.evaluate(self._parts[entry], feeds)
        self._state[: len(x)] = found[f"{entry}/h"]
        return found

    def keep(self, samples: Array) -> None:
        """Goes on with some samples."""
        self._state = self._state[samples]

    def seen(self, most: int) -> dict[str, Array]:
        """As many steps of each cell, taken at equal distances, again and again where there are
        fewer."""
        found = {name: np.concatenate(parts) for name, parts in self._seen.items()}
        count = min(most, max(map(len, found.values())))
        return {n: x[np.arange(count) * len(x) // count] for n, x in found.items()}
