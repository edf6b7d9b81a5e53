"""Sentences → vectors, by a program on a device or by the float graph of a folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from weft.errors import InputError, ProgramError, UsageError
from weft.graph import Array, Graph
from weft.program import Program
from weft.text.assets import TextAssets, assets_from, assets_of, is_text

Runner = Callable[[Array, Array], Array]
Progress = Callable[[int, int], None]
BATCH = 32  # sentences of one evaluation of a float graph
STEP = 8  # lengths of a float graph are its multiples


class TextEncoder:
    """Embeds sentences. `run` maps (embeddings [n, S, D], tokens there [n]) to hidden [n, S, D]."""

    def __init__(
        self,
        assets: TextAssets,
        run: Runner,
        tokens: int | None = None,
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self.assets = assets
        self.limit = min(assets.limit, tokens or assets.limit)
        self._run = run
        self._tokens = tokens
        self.close = close

    def __enter__(self) -> TextEncoder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def embed(
        self, lines: Sequence[str], *, truncate: bool = False, progress: Progress | None = None
    ) -> Array:
        """A vector per line [n, D], in float32.

        Raises InputError for no lines, and for lines of too many tokens unless they may be cut.
        """
        if isinstance(lines, str):
            raise InputError("one string given; embed takes a list of lines")
        return self._embed(self.assets.tokens(lines, self.limit, truncate), progress)

    def embed_ids(self, ids: Array, mask: Array) -> Array:
        """A vector per row of token ids [n, S]; `mask` [n, S] is 1 for tokens, then 0 for padding.

        A row of padding only gives zeros. Raises InputError for shapes that differ, padding before
        a token, too many tokens and ids that the model lacks.
        """
        ids, there = np.asarray(ids), np.asarray(mask) != 0
        if ids.ndim != 2 or ids.shape != there.shape:
            raise InputError(f"ids {ids.shape} and mask {there.shape}: both are [n, S]")
        late = (~there[:, :-1] & there[:, 1:]).any(1)
        if late.any():
            raise InputError(
                f"row {int(late.argmax())}: a token follows padding; padding must be at the end"
            )
        counts = there.sum(1)
        if counts.max(initial=0) > self.limit:
            raise InputError(f"{counts.max()} tokens; at most {self.limit} are possible here")
        self.assets.rows(np.where(there, ids, 0))
        return self._embed([row[:count].tolist() for row, count in zip(ids, counts, strict=True)])

    def _embed(self, sentences: list[list[int]], progress: Progress | None = None) -> Array:
        if not sentences:
            raise InputError("no lines to embed")
        order = sorted(range(len(sentences)), key=lambda i: len(sentences[i]))
        out = np.zeros((len(sentences), self.assets.word.shape[1]), np.float32)
        for start in range(0, len(order), BATCH):
            part = order[start : start + BATCH]
            chosen = [sentences[i] for i in part]
            x, counts = self.assets.padded(chosen, self._length(len(chosen[-1])))
            out[part] = self.assets.pooling.pool(self._run(x, counts), counts)
            if progress:
                progress(start + len(part), len(order))
        return out

    def _length(self, longest: int) -> int:
        """Tokens of a run: the program's own, or of a float graph enough for the longest."""
        return self._tokens or min(-(-max(longest, 1) // STEP) * STEP, self.assets.limit)


def open_text(source: Program | str | Path, device: str = "csim", **options: Any) -> TextEncoder:
    """An encoder: of a program (or its file) on a device, of a folder in float on the host.

    `options` go to the device. Raises ProgramError for programs of no text encoder, UsageError for
    options with a folder, ModelError, DeviceError.
    """
    if not isinstance(source, Program) and Path(source).is_dir():
        if options:
            raise UsageError(f"{source} runs in float on the host, without {sorted(options)}")
        return _of_folder(Path(source))
    import weft

    program = source if isinstance(source, Program) else Program.load(source)
    if not is_text(program.assets):
        raise ProgramError(
            f"program {program.name!r} has no tokenizer: compile a text encoder from a folder of "
            "the transformers library (config.json, *.safetensors, tokenizer.json)"
        )
    assets = assets_from(program.assets)
    session = weft.open(program, device, **options)
    names = {info.name: info for info in program.inputs}

    def run(x: Array, counts: Array) -> Array:
        feeds = {"embeddings": x, "keys": counts.reshape(-1, 1)}
        result = session.run({name: feeds[name] for name in names})
        return np.asarray(next(iter(result.values())))

    return TextEncoder(assets, run, names["embeddings"].shape[1], session.close)


def _of_folder(folder: Path) -> TextEncoder:
    from weft import ops
    from weft.frontend import transformers_folder

    graphs: dict[int, Graph] = {}

    def run(x: Array, counts: Array) -> Array:
        tokens = x.shape[1]
        if tokens not in graphs:
            graphs[tokens] = transformers_folder.load(folder, tokens, padding=True)
        graph = graphs[tokens]
        feeds = {"embeddings": x, "keys": counts.reshape(-1, 1)}
        return ops.evaluate(graph, feeds)[graph.outputs[0]]

    return TextEncoder(assets_of(folder), run)


def embed(
    source: Program | str | Path,
    lines: Sequence[str],
    device: str = "csim",
    *,
    truncate: bool = False,
    **options: Any,
) -> Array:
    """A vector per line [n, D]; see `open_text` and `TextEncoder.embed`."""
    with open_text(source, device, **options) as encoder:
        return encoder.embed(lines, truncate=truncate)


def calibration(folder: str | Path, lines: Sequence[str], tokens: int) -> dict[str, Array]:
    """Inputs of the graph of `tokens` tokens for lines of text, the longest cut."""
    assets = assets_of(folder)
    if not lines:
        raise InputError("no lines to calibrate with")
    sentences = assets.tokens(lines, min(tokens, assets.limit), truncate=True)
    x, counts = assets.padded(sentences, tokens)
    return {"embeddings": x, "keys": counts.reshape(-1, 1)}
