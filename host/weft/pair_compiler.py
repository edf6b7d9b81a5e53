"""From an encoder-decoder to a program that generates: `weft.compile` of T5 and BART."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from weft.activation import WIDE
from weft.config import Overlay
from weft.decoder_compiler import fitting
from weft.errors import CapacityError, InputError, UsageError
from weft.frontend.decoder import INPUT
from weft.frontend.seq2seq import SOURCE, Seq2Seq
from weft.graph import Graph
from weft.program import Program
from weft.text.pair_forward import FloatPair
from weft.text.pairing import PairSession
from weft.text.seq2seq_assets import SourceAssets

SOURCES = 128  # tokens of the longest source, if nobody says how many
TOKENS, CACHE = 8, 128
SEQUENCES, LENGTH = 8, 64  # of calibration, at most

Tokens = Sequence[int]
Example = str | Tokens | tuple[Tokens, Tokens]
Progress = Callable[[str], None]


def compile_pair(
    model: Seq2Seq,
    overlay: Overlay,
    *,
    calibration: Sequence[Example] | None = None,
    source: int | None = None,
    tokens: int | None = None,
    cache: int | None = None,
    slots: int = 1,
    head_scales: bool = False,
    token_ranges: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> Program:
    """The program of an encoder-decoder on an overlay.

    The encoder's part reads sources of up to `source` tokens (128, or as many as the model takes);
    the decoder's takes up to `tokens` new ones (8, or fewer where they do not fit) to those of a
    cache of `cache` (128), for each of `slots` texts. `calibration` are sources, as text or lists
    of tokens, whose targets the model then writes itself, or pairs (source, target) of tokens;
    without any, sources are drawn at random. With `head_scales` each head of the cache has a scale;
    `token_ranges` are of decoders alone.
    `options` are those of `weft.passes.quantize.quantize`.

    Raises CapacityError for a model that does not run on the overlay as a whole, UsageError,
    ModelError for more tokens than the model has positions.
    """
    from weft.passes.fuse import fuse
    from weft.passes.head_scales import with_head_scales
    from weft.passes.quantize import quantize
    from weft.passes.ranges import feeds
    from weft.passes.whole_heads import whole_heads

    if options.get("activations") == WIDE:
        raise UsageError(
            f"encoder-decoder {model.name!r}: sources are read on the array, which multiplies "
            "int8: leave activations at int8"
        )

    tell = progress or (lambda stage: None)
    longest = min(SOURCES, model.limits[0]) if source is None else source
    capacity = min(CACHE, model.limits[1]) if cache is None else cache
    _check(overlay, longest, slots)
    if token_ranges:
        raise UsageError(
            f"{model.name!r} is an encoder-decoder, whose cross-attention keeps keys and values of "
            "sources, too: ranges per token are of decoders alone; leave token_ranges out, or take "
            "head_scales"
        )
    length = min(LENGTH, capacity)
    graph = whole_heads(fuse(model.graph(longest, length, capacity)), overlay.lanes)
    assets = SourceAssets.of(model, longest)
    tell("writing targets to calibrate with")
    data = _examples(model, assets, calibration, length)
    graph = quantize(
        graph,
        data,
        progress=lambda done, total: tell(f"quantizing, {done} of {total} texts"),
        **options,
    )
    if head_scales:
        graph = with_head_scales(graph, feeds(graph, data))
    tell(f"lowering to overlay {overlay.name}")
    most = min(TOKENS if tokens is None else tokens, capacity)
    program = fitting(lambda n: _lowered(graph, overlay, n, slots), most, tokens is not None)
    return replace(program.keeping(graph), assets=assets.arrays())


def _check(overlay: Overlay, longest: int, slots: int) -> None:
    if slots < 1:
        raise UsageError(f"slots = {slots}: a cache for at least one text")
    if longest > overlay.accumulator_rows:
        raise CapacityError(
            f"sources of {longest} tokens; overlay {overlay.name!r} takes "
            f"{overlay.accumulator_rows} at a time: compile with a smaller --source"
        )


def _lowered(graph: Graph, overlay: Overlay, tokens: int, slots: int) -> Program:
    """The program of both parts."""
    from weft.lower import Steps, lower
    from weft.passes.two_parts import two_parts, with_sizes

    parts = with_sizes(two_parts(graph), tokens)
    steps = Steps(parts.states, parts.entries)
    try:
        return lower(parts.graph, overlay, batch=1, slots=slots, steps=steps)
    except UsageError as error:  # of keys and values that would cross the host
        raise CapacityError(
            f"encoder-decoder {graph.name!r} does not run on overlay {overlay.name!r}: {error}"
        ) from error


def _examples(
    model: Seq2Seq, assets: SourceAssets, given: Sequence[Example] | None, length: int
) -> dict[str, Any]:
    """Inputs of the graph: sources of the longest length, targets of `length` tokens."""
    pairs = [item for item in given or () if isinstance(item, tuple)]
    if pairs and len(pairs) != len(given or ()):
        raise InputError("calibration data are sources, or pairs (source, target), not both")
    texts = [pair[0] for pair in pairs] if pairs else given
    sources = _random(assets) if texts is None else _parts(_tokens(assets, texts), assets.longest)
    if pairs:
        flat = [token for _, target in pairs for token in assets.target.tokens_of(list(target))]
        targets = _parts(flat, length)
        count = min(len(sources), len(targets))
        sources, targets = sources[:count], targets[:count]
    else:
        targets = _own(model, assets, sources, length)
    return {
        INPUT: np.stack([assets.target.rows(target, 0) for target in targets]),
        SOURCE: np.stack([assets.rows(source) for source in sources]),
    }


def _tokens(assets: SourceAssets, texts: Sequence[Any]) -> list[int]:
    """Tokens of sources, one behind another, as many as calibration looks at."""
    wide = replace(assets, longest=1 << 31)
    flat: list[int] = []
    for text in texts:
        if not isinstance(text, str) or text.strip():
            flat += wide.tokens_of(text)
        if len(flat) >= SEQUENCES * assets.longest:
            break
    if not flat:
        raise InputError("no text to calibrate with: all lines are empty")
    return flat


def _parts(flat: list[int], length: int) -> list[list[int]]:
    """Sequences of `length` tokens, the same ones again where there are fewer."""
    while len(flat) < length:
        flat = flat + flat
    count = min(len(flat) // length, SEQUENCES)
    return [flat[i * length : (i + 1) * length] for i in range(count)]


def _random(assets: SourceAssets) -> list[list[int]]:
    """Sources of tokens that are all as likely."""
    random = np.random.default_rng(0)
    size = (SEQUENCES // 2, assets.longest)
    found: list[list[int]] = random.integers(0, len(assets.embedding), size).tolist()
    return found


def _own(
    model: Seq2Seq, assets: SourceAssets, sources: Sequence[Tokens], length: int
) -> list[list[int]]:
    """Targets that the model says of sources."""
    targets = []
    with PairSession(FloatPair(model, assets, length), assets) as session:
        for seed, source in enumerate(sources):
            room = length - len(assets.start) + 1
            pieces = session.generate(source, room, temperature=1.0, seed=seed, stop=False)
            targets.append([*assets.start, *(piece.token for piece in pieces)][:length])
    return targets
