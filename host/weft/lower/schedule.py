"""Order of work: segments of the accelerator and of the host, cut to what the buffer holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from weft.graph import Node
from weft.lower.context import Context, key_of
from weft.lower.geometry import OPERAND
from weft.lower.partition import Partition
from weft.lower.places import Places, lives_of, place_all, spaces_of
from weft.lower.sparse import row_limit
from weft.lower.stage import MatrixOp, Stage, VectorOp

LARGEST_BATCH = 64
Runs = list["Run | HostRun"]


@dataclass(frozen=True)
class HostRun:
    """Consecutive nodes for numpy."""

    nodes: tuple[Node, ...]
    why: str


@dataclass(frozen=True)
class Run:
    """Consecutive stages of the accelerator."""

    stages: tuple[Stage, ...]


@dataclass(frozen=True)
class Piece:
    """Stages of one accelerator segment.

    `reads` and `writes` cross to and from activation memory; `plan` places all maps on chip, per
    sample; it is None if the only stage must be cut into bands of rows, or the stages can't be one
    segment: keys and values that these attend to can't be written to memory, or come from there.
    """

    stages: tuple[Stage, ...]
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    plan: Places | None

    def last_writer(self, name: str) -> Stage:
        """The stage behind which the map is complete."""
        return next(stage for stage in reversed(self.stages) if name in stage.targets)


def order(found: Partition, entries: Mapping[str, str] = MappingProxyType({})) -> Runs:
    """Runs as long as dependencies allow, accelerator and host by turns.

    `entries` names, by key, the part of the program that a node belongs to, if there are such
    parts: each has runs of its own.
    """
    graph, hosted = found.context.graph, found.hosted
    stage_of = {name: stage for stage in found.stages.values() for name in stage.nodes}
    why = {key_of(p.node): p.why for p in found.placements}
    ready = {*graph.inputs, *(n for n, t in graph.tensors.items() if t.data is not None)}
    runs: Runs = []
    for entry in dict.fromkeys(entries.get(key_of(node), "") for node in graph.nodes):
        waiting = [node for node in graph.nodes if entries.get(key_of(node), "") == entry]
        on_host = False
        while waiting:
            nodes = _take(waiting, ready, hosted, on_host)
            if nodes and on_host:
                runs.append(HostRun(tuple(nodes), _reasons(nodes, why)))
            elif nodes:
                stages = dict.fromkeys(stage_of[k] for k in map(key_of, nodes) if k in stage_of)
                if stages:
                    runs.append(Run(tuple(stages)))
            on_host = not on_host
    return _with_relabels(found, runs)


def _reasons(nodes: Iterable[Node], why: dict[str, str]) -> str:
    told = list(dict.fromkeys(f"{n.op} {n.name!r}: {why[key_of(n)]}" for n in nodes))
    more = [f"and {len(told) - 3} more"] if len(told) > 4 else []
    return "; ".join(told[:3] + more if more else told)


def _take(waiting: list[Node], ready: set[str], hosted: set[str], on_host: bool) -> list[Node]:
    """Moves out of `waiting` what can run now, on the host or on the accelerator."""
    taken: list[Node] = []
    moved = True
    while moved:
        moved = False
        for node in list(waiting):
            fits = key_of(node) in hosted if on_host else key_of(node) not in hosted
            if fits and ready.issuperset(n for n in node.inputs if n):
                waiting.remove(node)
                taken.append(node)
                ready.update(node.outputs)
                moved = True
    return taken


def relabel_chain(context: Context, name: str) -> list[Node]:
    """Relabelings from a map that the host writes to tensor `name`; the host repeats them."""
    value = context.values.get(name)
    if value is None or value.root == name or value.root not in context.hosted:
        return []
    producers = context.graph.producers()
    chain: list[Node] = []
    while name != value.root:
        chain.insert(0, producers[name])
        name = producers[name].inputs[0]
    return chain


def _with_relabels(found: Partition, runs: list[Run | HostRun]) -> list[Run | HostRun]:
    """Host runs with the relabelings that they need themselves, and one for such outputs."""
    context = found.context
    result: list[Run | HostRun] = []
    for run in runs:
        if isinstance(run, HostRun):
            names = [name for node in run.nodes for name in node.inputs if name]
            run = HostRun((*_chains(context, names), *run.nodes), run.why)
        result.append(run)
    rest = _chains(context, context.graph.outputs)
    if rest:
        result.append(HostRun(tuple(rest), "relabels an input that stays on the host"))
    return result


def _chains(context: Context, names: Iterable[str]) -> list[Node]:
    found: dict[str, Node] = {}
    for name in names:
        found.update({key_of(node): node for node in relabel_chain(context, name)})
    return list(found.values())


def needed_later(found: Partition, runs: Sequence[object]) -> dict[str, set[str]]:
    """For every map of the accelerator: the tensors in it that the host or the caller reads."""
    context, names = found.context, list(found.context.graph.outputs)
    for run in runs:
        if isinstance(run, HostRun):
            made = {out for node in run.nodes for out in node.outputs}
            names += [n for node in run.nodes for n in node.inputs if n and n not in made]
    needed: dict[str, set[str]] = {}
    for name in names:
        value = context.values.get(name)
        if value is not None and value.root not in context.hosted:
            needed.setdefault(value.root, set()).add(name)
    return needed


def make_piece(context: Context, stages: Sequence[Stage], kept: Iterable[str]) -> Piece:
    """One segment of `stages`; the maps in `kept` are read later, and written to memory."""
    lives, later = lives_of(stages), set(kept)
    recalled = tuple(dict.fromkeys(name for stage in stages for name in stage.recalled))
    lives = {name: steps for name, steps in lives.items() if name not in recalled}
    spaces = spaces_of(context, stages, lives)
    targets = dict.fromkeys(name for stage in stages for name in stage.targets)
    own = {*targets, *(name for stage in stages for name in stage.scratch)}
    torn = any(name in recalled or (spaces[name] == OPERAND and name in later) for name in targets)
    return Piece(
        tuple(stages),
        (*(name for name in lives if name not in own), *recalled),
        tuple(name for name in targets if name in later),
        None if torn else place_all(context, stages, lives, spaces),
    )


def read_after(runs: Sequence[Run | HostRun], index: int) -> set[str]:
    """Maps that the runs behind number `index` read."""
    later = [run for run in runs[index + 1 :] if isinstance(run, Run)]
    return {name for run in later for stage in run.stages for name in stage.sources}


def largest_batch(context: Context, pieces: Sequence[Piece]) -> int:
    """Largest power of two up to 64 with which every map stays in the unified buffer, and every
    operation in the accumulators; at least 1.
    """
    overlay = context.overlay
    if any(p.plan is None or p.plan.alone for p in pieces):
        return 1
    peak = max((p.plan.peak for p in pieces if p.plan), default=1)
    every = [op for p in pieces for stage in p.stages for op in stage.ops]
    ops = [op for op in every if isinstance(op, MatrixOp | VectorOp)]
    # Positions may be cut up, samples not: an engine that takes few rows takes as few samples.
    rows = (row_limit(op, overlay) // max(1, op.window.out_h * op.window.out_w) for op in ops)
    limit = min(overlay.buffer_words // peak, *rows, LARGEST_BATCH)
    return 1 << max(limit, 1).bit_length() - 1


def cut(context: Context, stages: Sequence[Stage], kept: Iterable[str]) -> list[Piece]:
    """Segments that each fit the on-chip buffers with one sample; a stage that does not fit by
    itself becomes a segment without a plan, to be cut into bands.
    """
    later = set(kept)
    pieces: list[Piece] = []
    start = 0
    while start < len(stages):
        best, end = None, start + 1
        while end <= len(stages):
            behind = {name for stage in stages[end:] for name in stage.sources}
            piece = make_piece(context, stages[start:end], later | behind)
            if piece.plan is not None and not piece.plan.fits(context.overlay):
                break
            best, end = piece if piece.plan else best, end + 1
        if best is None:
            behind = {name for stage in stages[start + 1 :] for name in stage.sources}
            alone = make_piece(context, stages[start : start + 1], later | behind)
            best = replace(alone, plan=None)
        pieces.append(best)
        start += len(best.stages)
    return pieces
