"""From a decoder to a program that generates: `weft.compile` of a language model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from weft.activation import WIDE
from weft.config import Overlay
from weft.device.base import Device
from weft.errors import CapacityError, InputError, UsageError
from weft.frontend.decoder import INPUT, Decoder
from weft.graph import Graph
from weft.program import HostSegment, Program
from weft.text.decoder_assets import DecoderAssets
from weft.text.forward import FloatForward
from weft.text.generation import DecoderSession
from weft.units import matvec

SEQUENCES, LENGTH = 8, 256  # of calibration, at most
FLOAT_SOURCE = 1024  # tokens of a source, and of a target, of a model in float
OWN_TEXTS = 4  # that the model writes itself where nobody gives any

Progress = Callable[[str], None]


def compile_decoder(
    decoder: Decoder,
    overlay: Overlay,
    *,
    calibration: Sequence[str | Sequence[int]] | None = None,
    tokens: int | None = None,
    cache: int | None = None,
    slots: int = 1,
    head_scales: bool = False,
    cache_bits: int = 8,
    token_ranges: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> Program:
    """The program of a decoder on an overlay.

    A run takes up to `tokens` tokens (32, or 8 with `activations="int16"`, or fewer where they do
    not fit) to those that the cache holds, of `cache` tokens (512, or as many as the model takes)
    for each of `slots` texts.
    `calibration` are lines of text, or lists of tokens; without any the model writes some itself
    (Liu et al., LLM-QAT, 2023). With `head_scales` each head of the cache has a scale of its own,
    with `token_ranges` each token of each head (`weft.passes.token_ranges`); `cache_bits` of 4 or 2
    packs groups of 32 tokens (`weft.lower.packed_rows`).
    `options` are those of `weft.passes.quantize.quantize`.

    Raises CapacityError for a decoder that does not run on the overlay as a whole, UsageError.
    """
    from weft.passes.cache_bits import PLAIN, cache_sizes, with_cache_bits
    from weft.passes.fuse import fuse
    from weft.passes.head_scales import with_head_scales
    from weft.passes.quantize import quantize
    from weft.passes.ranges import feeds
    from weft.passes.token_ranges import check_alone, with_token_ranges
    from weft.passes.whole_heads import whole_heads

    tell = progress or (lambda stage: None)
    check_alone(token_ranges, head_scales, cache_bits)
    if slots < 1:
        raise UsageError(f"slots = {slots}: a cache for at least one text")
    capacity, longest = cache_sizes(decoder.limit, cache, tokens, cache_bits)
    length = min(LENGTH, capacity)
    tell("writing a text to calibrate with" if calibration is None else "reading the text")
    assets = DecoderAssets.of(decoder)
    texts = _own(decoder, length) if calibration is None else _given(assets, calibration, length)
    data = np.stack([assets.rows(text, 0) for text in texts])
    graph = whole_heads(fuse(decoder.graph(length, capacity)), overlay.lanes)
    graph = quantize(
        graph,
        {INPUT: data},
        progress=lambda done, total: tell(f"quantizing, {done} of {total} texts"),
        **options,
    )
    if head_scales:
        graph = with_head_scales(graph, feeds(graph, {INPUT: data}))
    if token_ranges:
        graph = with_token_ranges(graph, feeds(graph, {INPUT: data}))
    tell(f"lowering to overlay {overlay.name}")
    if cache_bits != PLAIN:
        graph = with_cache_bits(graph, cache_bits)
    if tokens is None and _reads_int16(graph):
        longest = min(longest, matvec.ROWS)
    program = fitting(lambda n: _lowered(graph, overlay, n, slots), longest, tokens is not None)
    return replace(program.keeping(graph), assets=assets.arrays())


def _lowered(graph: Graph, overlay: Overlay, tokens: int, slots: int) -> Program:
    from weft.lower import lower
    from weft.passes.whole_heads import with_tokens

    return lower(with_tokens(graph, tokens), overlay, batch=1, slots=slots)


def _reads_int16(graph: Graph) -> bool:
    """Whether products read int16, of which they take a few tokens at once."""
    quants = (graph[n.inputs[0]].quant for n in graph if n.op == "Linear")
    return any(quant is not None and quant.format == WIDE for quant in quants)


def fitting(lowered: Callable[[int], Program], tokens: int, fixed: bool) -> Program:
    """The program of as many tokens at a time as fit, `tokens` at most; with `fixed` no fewer.

    Raises CapacityError where a part of it would run on the host.
    """
    while True:
        try:
            program = lowered(tokens)
            why = next((s.reason for s in program.segments if isinstance(s, HostSegment)), "")
            if not why:
                return program
            error = CapacityError(
                f"decoder {program.name!r} does not run on overlay {program.overlay.name!r}: {why}"
            )
        except CapacityError as found:
            error = found
        if tokens == 1 or fixed:
            raise error
        tokens = max(tokens // 2, 1)


def _own(decoder: Decoder, length: int) -> list[list[int]]:
    """Texts that the model writes itself, from its first token on."""
    first = 0 if decoder.bos is None else decoder.bos
    texts = []
    with DecoderSession(FloatForward(decoder, length), DecoderAssets.of(decoder)) as session:
        for seed in range(OWN_TEXTS):
            pieces = session.generate([first], length - 1, temperature=1.0, seed=seed, stop=False)
            texts.append([first, *(piece.token for piece in pieces)])
    return texts


def _given(
    assets: DecoderAssets, lines: Sequence[str | Sequence[int]], length: int
) -> list[list[int]]:
    """Sequences of `length` tokens: lines one behind another, each with its BOS."""
    flat: list[int] = []
    for line in lines:
        if not isinstance(line, str) or line.strip():
            flat += assets.tokens_of(line)
        if len(flat) >= SEQUENCES * length:
            break
    if not flat:
        raise InputError("no text to calibrate with: all lines are empty")
    while len(flat) < length:
        flat += flat
    count = min(len(flat) // length, SEQUENCES)
    return [flat[i * length : (i + 1) * length] for i in range(count)]


def open_decoder(
    source: Program | str | Path,
    device: str = "csim",
    *,
    timeout_s: float | None = None,
    **options: Any,
) -> DecoderSession:
    """A session that generates: by a program (or its file) on a device; by a model's file or folder
    in float on the host.

    `options` go to the device. Raises ProgramError for programs of no decoder, UsageError for
    options with a model, ModelError, DeviceError.
    """
    from weft.frontend import decoders, encoder_decoders

    if not isinstance(source, Program) and Path(source).suffix != ".weft":
        if options:
            raise UsageError(f"{source} runs in float on the host, without {sorted(options)}")
        if encoder_decoders.is_pair(source):
            return _pair_in_float(source, timeout_s)
        decoder = decoders.load(source)
        return DecoderSession(FloatForward(decoder), DecoderAssets.of(decoder), timeout_s)
    return _on_device(source, device, timeout_s, options)


def _on_device(
    source: Program | str | Path, device: str, timeout_s: float | None, options: dict[str, Any]
) -> DecoderSession:
    from weft.device import open_device
    from weft.errors import ProgramError
    from weft.text.forward import ProgramForward

    program = source if isinstance(source, Program) else Program.load(source)
    if program.cache is None:
        raise ProgramError(
            f"program {program.name!r} is no decoder: compile one, from a folder of the "
            "transformers library, a .gguf file or a checkpoint of llama2.c"
        )
    if program.cache.source:
        return _pair_on_device(program, open_device(device, **options), timeout_s)
    assets = DecoderAssets.read(program.assets)
    opened = open_device(device, **options)
    return DecoderSession(ProgramForward(program, opened, assets), assets, timeout_s)


def _pair_on_device(program: Program, device: Device, timeout_s: float | None) -> DecoderSession:
    from weft.text.pair_forward import ProgramPair
    from weft.text.pairing import PairSession
    from weft.text.seq2seq_assets import SourceAssets

    assets = SourceAssets.read(program.assets)
    return PairSession(ProgramPair(program, device, assets), assets, timeout_s)


def _pair_in_float(source: str | Path, timeout_s: float | None) -> DecoderSession:
    from weft.frontend import encoder_decoders
    from weft.text.pair_forward import FloatPair
    from weft.text.pairing import PairSession
    from weft.text.seq2seq_assets import SourceAssets

    model = encoder_decoders.load(source)
    assets = SourceAssets.of(model, min(FLOAT_SOURCE, model.limits[0]))
    return PairSession(FloatPair(model, assets, FLOAT_SOURCE), assets, timeout_s)
