"""The compiler's back end: a quantized graph and an overlay become a program.

`partition` turns nodes into stages (operations on named maps) and says what stays with the host,
`schedule` cuts them into segments that fit the unified buffer, `emit` writes the instructions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from weft.config import Overlay
from weft.errors import CapacityError, UsageError
from weft.graph import Graph, Node
from weft.lower.context import key_of
from weft.lower.dynamic import expand_dynamic
from weft.lower.emit import Emitter
from weft.lower.geometry import OPERAND, UNIFIED, WIDE
from weft.lower.heads import pad_heads
from weft.lower.inplace import without_copies
from weft.lower.lengths import windowed, without_lengths
from weft.lower.pairs import keep
from weft.lower.partition import Partition, Placement, partition
from weft.lower.provisional import provisional
from weft.lower.row_ranges import check_placed
from weft.lower.schedule import (
    HostRun,
    Piece,
    Run,
    cut,
    largest_batch,
    make_piece,
    needed_later,
    order,
    read_after,
)
from weft.lower.steps import Steps
from weft.lower.token_ranges import check_placed as check_tokens
from weft.lower.token_ranges import check_slots, rows_of
from weft.lower.token_ranges import region as magnitudes
from weft.memory import Request, plan
from weft.passes.stream import narrowed
from weft.program import (
    AcceleratorSegment,
    Cache,
    HostSegment,
    Layout,
    Program,
    Region,
    Segment,
    TensorInfo,
)

__all__ = ["Placement", "Steps", "lower", "preflight"]

Part = Piece | HostRun
NO_STEPS = Steps()


def lower(
    graph: Graph,
    overlay: Overlay,
    *,
    batch: int | None = None,
    overlap: bool = True,
    name: str | None = None,
    slots: int = 1,
    steps: Steps = NO_STEPS,
) -> Program:
    """The program of a quantized graph on an overlay.

    `batch` is the number of samples that a run may hold; None takes the largest power of two up to
    64 with which all activations stay on chip. `overlap` lets weight tiles shift in while the one
    before computes. `slots` is how many texts the caches of a decoder hold; `steps` says which
    tensors are states that stay in memory, and which parts run alone. Raises UsageError for a batch
    below 1 and wrong steps, CapacityError for a layer, batch or step that does not fit, ModelError
    for scales that can't be encoded.
    """
    if batch is not None and batch < 1:
        raise UsageError(f"batch = {batch}: a run holds at least one sample")
    graph, lengths, found = _placed(graph, overlay)
    found.context.slots = slots
    _check_exact(found)
    entries = steps.entry_of(found.context.graph)
    parts, size = _parts(found, batch, entries)
    together = steps.together(found.context, parts)
    keep(found.context, steps)
    rows, memory_rows = _memory(found, parts, size, together)
    emitter = Emitter(found.context, size, overlap, rows)
    segments: list[Segment] = []
    names = needed_later(found, parts)
    for part in parts:
        if isinstance(part, HostRun):
            segments.append(HostSegment(_subgraph(graph, part.nodes, parts), part.why))
            continue
        words, layers = emitter.segment(part, len(segments))
        outputs = [n for root in part.writes for n in sorted({root, *names.get(root, ())})]
        segments.append(AcceleratorSegment(words, layers, part.reads, tuple(outputs)))
    weights = emitter.weights or [np.zeros((0, overlay.lanes), np.int8)]
    return Program(
        name=name or graph.name,
        overlay=overlay,
        batch=size,
        segments=tuple(segments),
        layers=tuple(emitter.layers),
        weights=np.concatenate(weights),
        regions=_regions(found, rows, names),
        memory_rows=memory_rows,
        inputs=_infos(graph, graph.inputs),
        outputs=_infos(graph, graph.outputs),
        notes=_notes(parts, size) | windowed(graph),
        tokens={} if found.context.cached else _tokens(found, graph),
        rules=tuple(emitter.rules),
        lengths=lengths,
        cache=_cache(found),
        states=dict(steps.states),
        entries=_entries(parts, entries),
    ).verify()


def _entries(parts: Sequence[Part], entries: Mapping[str, str]) -> dict[str, tuple[int, ...]]:
    """The numbers of each entry's segments."""
    found: dict[str, tuple[int, ...]] = {}
    for number, part in enumerate(parts):
        if isinstance(part, HostRun):
            entry = entries.get(key_of(part.nodes[0]))
        else:
            entry = entries.get(part.stages[0].nodes[0])
        if entry is not None:
            found[entry] = (*found.get(entry, ()), number)
    return found


def _check_exact(found: Partition) -> None:
    """Raises CapacityError for a node that is exact on the accelerator only, but not there, or has
    ranges per row, or per token.
    """
    check_placed(found)
    check_tokens(found)
    check_slots(found.context)
    for place in found.placements:
        if place.where == "host" and place.node.attrs.get("exact"):
            raise CapacityError(
                f"{place.op} {place.name!r} is exact on the accelerator only, but {place.why} on "
                f"overlay {found.context.overlay.name!r}: lower the model for this overlay "
                "(weft.frontend.hls4ml.load_hls4ml(model, overlay)), or take a larger one"
            )


def preflight(graph: Graph, overlay: Overlay) -> list[Placement]:
    """Where each node would run, on which engine, and why; a float graph as if quantized."""
    return _placed(provisional(graph), overlay)[2].placements


def _placed(graph: Graph, overlay: Overlay) -> tuple[Graph, str, Partition]:
    """The graph as it is lowered, the input with numbers of tokens, and where its nodes run."""
    graph = _prepared(graph, overlay)
    bare, lengths = without_lengths(graph)
    found = partition(bare, overlay)
    if lengths and found.context.fixed:
        return graph, "", partition(graph, overlay)
    return bare, lengths, found


def _prepared(graph: Graph, overlay: Overlay) -> Graph:
    """The graph as the overlay takes it: dynamic ranges, heads of whole words, no int16 where there
    is no wide buffer.
    """
    graph = expand_dynamic(graph.verify(), overlay.lanes)
    if not overlay.wide_words:
        graph = narrowed(graph)
    return pad_heads(graph, overlay)


def _parts(
    found: Partition, batch: int | None, entries: Mapping[str, str]
) -> tuple[list[Part], int]:
    """Segments in order, and the batch."""
    context, runs = found.context, order(found, entries)
    kept = set(needed_later(found, runs))
    whole = []
    for i, run in enumerate(runs):
        if isinstance(run, Run):
            later = kept | read_after(runs, i)
            whole.append(make_piece(context, without_copies(context, run.stages, later), later))
    size = batch or largest_batch(context, whole)
    peak = max((p.plan.peak for p in whole if p.plan), default=0)
    _check_batch(context.overlay, size, peak)
    _check_alone(whole, size)
    parts: list[Part] = []
    for i, run in enumerate(runs):
        if isinstance(run, HostRun):
            parts.append(run)
            continue
        piece = whole.pop(0)
        later = kept | read_after(runs, i)
        fits_whole = piece.plan is not None and piece.plan.fits(context.overlay, size)
        parts += [piece] if fits_whole else cut(context, run.stages, later)
    return parts, size


def _check_batch(overlay: Overlay, batch: int, peak: int) -> None:
    """Raises CapacityError if `batch` samples of `peak` words don't fit; one is cut if need be."""
    words, rows = overlay.buffer_words, overlay.accumulator_rows
    if batch > rows:
        raise CapacityError(
            f"batch = {batch}: the accumulators of overlay {overlay.name!r} hold {rows} rows, and "
            f"a sample takes at least one; use batch={rows} or less"
        )
    if batch > 1 and batch * peak > words:
        raise CapacityError(
            f"batch = {batch}: the activations take {batch * peak} words of the {words} of the "
            f"unified buffer of overlay {overlay.name!r} ({peak} per sample); "
            f"use batch={max(words // peak, 1)} or less"
        )


def _check_alone(pieces: Sequence[Piece], batch: int) -> None:
    """Raises CapacityError for a batch of what takes one sample at a time."""
    if batch > 1 and any(p.plan is None or p.plan.alone for p in pieces):
        raise CapacityError(
            f"batch = {batch}: attention and the residual stream are on chip for one sample at a "
            "time; use batch=1, and give a session as many samples as you like"
        )


def _memory(
    found: Partition, parts: Sequence[Part], batch: int, together: Mapping[str, str]
) -> tuple[dict[str, int], int]:
    """First row of every map that crosses, and the size of activation memory.

    Inputs and outputs of the program keep their rows throughout; what lies between shares them.
    Maps in `together` lie where another one does.
    """
    context = found.context
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for time, part in enumerate(parts):
        crossing = (*part.reads, *part.writes) if isinstance(part, Piece) else ()
        for name in crossing:
            first.setdefault(name, time)
            last[name] = time
    graph = context.graph
    outputs = {context.values[n].root for n in graph.outputs if n in context.values}
    for name in first:
        if name in graph.inputs or name in outputs:
            first[name], last[name] = 0, len(parts)
    own = [n for n in first if n not in together]
    slots, kept = context.slots, context.kept
    sizes = {n: kept[n].stride * slots if n in kept else context.maps[n].rows * batch for n in own}
    requests = [Request(n, sizes[n], first[n], last[n]) for n in own]
    held = {n: m.rows * slots for n, (m, _) in context.caches.items()}
    held |= {n: rows_of(*each, slots) for n, each in context.magnitudes.items()}
    requests += [Request(n, size, 0, len(parts)) for n, size in held.items()]
    placed = plan(requests)
    rows = {n: placed.offsets[together.get(n, n)] for n in (*first, *held)}
    return rows, max(placed.peak, 1)


def _cache(found: Partition) -> Cache | None:
    """What the program keeps from run to run."""
    context = found.context
    if not context.cached:
        return None
    tokens = context.graph[context.graph.inputs[0]].shape[1]
    source = max((context.graph[n].shape[1] for n in context.sources), default=0)
    return Cache(
        tokens, context.cached, tuple(context.caches), context.slots, source, context.cache_bits
    )


def _regions(
    found: Partition, rows: dict[str, int], names: dict[str, set[str]]
) -> dict[str, Region]:
    context = found.context
    regions: dict[str, Region] = {}
    for root, row in rows.items():
        if root in context.magnitudes:
            regions[root] = magnitudes(context, root, row)
            continue
        if root in context.caches:
            extent, quant = context.caches[root]
            layout = Layout(
                extent.blocks * context.lanes,
                extent.height * context.slots,
                1,
                ((), ("h",), ("c",)),
            )
            regions[root] = Region(row, layout, quant)
            continue
        for name in sorted({root, *names.get(root, ())}):
            value = context.values[name]
            regions[name] = Region(row, value.layout, value.quant, context.unfolds.get(root))
    return regions


def _subgraph(graph: Graph, nodes: Sequence[Node], parts: Iterable[Part]) -> Graph:
    """The graph of a host segment; its outputs are what anything else reads."""
    mine = {id(node) for node in nodes}
    made = {out for node in nodes for out in node.outputs if out}
    used = {n for node in nodes for n in node.inputs if n}
    constants = {n for n in used if graph[n].data is not None}
    wanted = set(graph.outputs)
    for node in graph.nodes:
        if id(node) not in mine:
            wanted.update(node.inputs)
    tensors = {n: graph[n] for n in graph.tensors if n in used | made}
    return Graph(
        f"{graph.name}/host",
        tensors,
        tuple(nodes),
        tuple(n for n in graph.tensors if n in used - made - constants),
        tuple(n for n in graph.tensors if n in made & wanted),
    )


def _tokens(found: Partition, graph: Graph) -> dict[str, str]:
    """For tensors whose dimension 1 counts tokens: of which input. None where none may vary."""
    context = found.context
    return {
        n: s for n, s in context.tokens.items() if s not in context.fixed and n in graph.tensors
    }


def _infos(graph: Graph, names: Iterable[str]) -> tuple[TensorInfo, ...]:
    return tuple(TensorInfo(n, graph[n].shape, graph[n].dtype) for n in names)


def _notes(parts: Sequence[Part], batch: int) -> dict[str, int]:
    """What reports like to say of the program as a whole."""
    pieces = [part for part in parts if isinstance(part, Piece)]
    peaks = [part.plan.peaks for part in pieces if part.plan is not None]
    most = [batch * max(sizes, default=0) for sizes in zip(*peaks, strict=True)] or [0, 0, 0]
    return {
        "buffer_words_used": most[UNIFIED],
        **({"operand_words_used": most[OPERAND]} if most[OPERAND] else {}),
        **({"wide_words_used": most[WIDE]} if most[WIDE] else {}),
        "accelerator_segments": len(pieces),
        "banded_layers": sum(part.plan is None for part in pieces),
    }
