"""Fewer tokens than a program was compiled for: the same weights, other numbers in instructions.

`at_tokens` follows the program's rules (`weft.program.Rule`): counts of rows, tiles and keys become
smaller, and instructions for tokens that are not there are left out. Nothing else moves, so that
no address of the result is one that the program itself does not use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from weft import isa
from weft.errors import InputError, ProgramError, unknown
from weft.graph import Graph, Node, Tensor
from weft.program import (
    AcceleratorSegment,
    HostSegment,
    Layer,
    Program,
    Region,
    Rule,
    Segment,
    TensorInfo,
)

Counts = Mapping[str, int]


def most_tokens(program: Program) -> dict[str, int]:
    """The inputs whose tokens may be fewer, with the numbers that the program was compiled for."""
    names = set(program.tokens.values())
    found = [info for info in program.inputs if info.name in names and len(info.shape) > 1]
    return {info.name: info.shape[1] for info in found}


def at_tokens(program: Program, tokens: int | Counts) -> Program:
    """The program of shorter sequences; itself for those that it was compiled for.

    `tokens` is the number of tokens of all inputs that may have fewer, or of each by its name
    (one of those that count the same will do). Raises InputError for a program whose numbers of
    tokens are fixed, unknown names, and numbers outside 1..those it was compiled for.
    """
    most = most_tokens(program)
    counts = _counts(program, tokens, most)
    if counts == most:
        return program
    segments: list[Segment] = []
    for number, segment in enumerate(program.segments):
        if isinstance(segment, HostSegment):
            graph = _host(segment.graph, program.tokens, counts, most)
            segments.append(replace(segment, graph=graph))
        else:
            rules = [rule for rule in program.rules if rule.segment == number]
            segments.append(_patched(segment, rules, counts))
    return replace(
        program,
        segments=tuple(segments),
        layers=tuple(_layer(layer, counts, most) for layer in program.layers),
        regions={n: _region(n, r, program.tokens, counts) for n, r in program.regions.items()},
        inputs=tuple(
            _info(info, program.tokens, counts)
            for info in program.inputs
            if info.name != program.lengths
        ),
        outputs=tuple(_info(info, program.tokens, counts) for info in program.outputs),
        tokens={},
        rules=(),
        lengths="",
    ).verify()


def _counts(program: Program, tokens: int | Counts, most: Counts) -> dict[str, int]:
    if not most:
        raise InputError(
            f"program {program.name!r} has a fixed number of tokens, or none: compile it for the "
            "shape that you want"
        )
    given = dict.fromkeys(most, tokens) if isinstance(tokens, int) else dict(tokens)
    counts = dict(most)
    for name, count in given.items():
        if name not in program.tokens:
            raise InputError(unknown("input with tokens", name, most))
        root = program.tokens[name]
        if not 1 <= count <= most[root]:
            raise InputError(
                f"input {name!r}: {count} tokens; program {program.name!r} takes 1 to {most[root]}"
            )
        counts[root] = count
    return counts


def _patched(
    segment: AcceleratorSegment, rules: Sequence[Rule], counts: Counts
) -> AcceleratorSegment:
    words, there = segment.words.copy(), np.ones(len(segment.words), np.bool_)
    for rule in rules:
        value = rule.value(counts[rule.input])
        there[rule.instruction] &= value >= 1
        if rule.field and value >= 1:
            words[rule.instruction, _index(words[rule.instruction], rule.field)] = value
    return replace(segment, words=words[there], layers=segment.layers[there])


def _index(words: isa.Words, field: str) -> int:
    """Which word of an instruction holds a field."""
    names = [f.name for f in isa.INSTRUCTIONS[int(words[0])].fields]
    return 1 + names.index(field)


def _layer(layer: Layer, counts: Counts, most: Counts) -> Layer:
    macs = layer.macs
    for name in layer.tokens:
        macs = macs * counts[name] // most[name]
    return replace(layer, macs=macs)


def _region(name: str, region: Region, tokens: Mapping[str, str], counts: Counts) -> Region:
    if name not in tokens:
        return region
    return replace(region, layout=replace(region.layout, height=counts[tokens[name]]))


def _info(info: TensorInfo, tokens: Mapping[str, str], counts: Counts) -> TensorInfo:
    if info.name not in tokens:
        return info
    return replace(info, shape=(info.shape[0], counts[tokens[info.name]], *info.shape[2:]))


def _host(graph: Graph, tokens: Mapping[str, str], counts: Counts, most: Counts) -> Graph:
    """A host segment's graph for fewer tokens; constants with a row per token lose theirs."""
    tensors = dict(graph.tensors)
    for name, tensor in graph.tensors.items():
        if name in tokens and tensor.data is None:
            shape = (tensor.shape[0], counts[tokens[name]], *tensor.shape[2:])
            tensors[name] = replace(tensor, shape=shape)
    for node in graph:
        axes = _token_axes(node, tokens)
        for name in node.inputs:
            if name and graph[name].data is not None and axes:
                tensors[name] = _shortened(graph[name], axes, counts, most)
    return graph.replace(tensors=tensors).verify()


def _token_axes(node: Node, tokens: Mapping[str, str]) -> dict[int, str]:
    """Axes, counted from the end, of a node's constants that may have a row per token."""
    if node.op == "Attention":
        named = zip((-2, -1), node.inputs[:2], strict=True)
        return {axis: tokens[name] for axis, name in named if name in tokens}
    rowless = ("Linear", "Gather", "onnx.Gather")  # whose constants have other rows
    if node.op in rowless or node.outputs[0] not in tokens:
        return {}
    return {-2: tokens[node.outputs[0]]}


def _shortened(tensor: Tensor, axes: Mapping[int, str], counts: Counts, most: Counts) -> Tensor:
    data = tensor.data
    assert data is not None, "constants have data"
    for axis, name in axes.items():
        if data.ndim >= -axis and data.shape[axis] == most[name]:
            data = np.take(data, np.arange(counts[name]), axis)
    return replace(tensor, data=data, shape=data.shape)


def check_rules(program: Program) -> None:
    """Raises ProgramError for rules that do not fit the program: with all tokens each must give
    what the instruction says, so that with fewer it gives no more.
    """
    most = most_tokens(program)
    if program.lengths and program.lengths not in {info.name for info in program.inputs}:
        raise ProgramError(f"numbers of tokens come from {program.lengths!r}, which is no input")
    for rule in program.rules:
        where = f"rule of segment {rule.segment}, instruction {rule.instruction}"
        segments = program.segments
        segment = segments[rule.segment] if 0 <= rule.segment < len(segments) else None
        if not isinstance(segment, AcceleratorSegment):
            raise ProgramError(f"{where}: no segment of the accelerator")
        if not 0 <= rule.instruction < len(segment.words):
            raise ProgramError(f"{where}: {len(segment.words)} instructions")
        if rule.input not in most or min(rule.unit, rule.scale) < 1 or rule.offset < 0:
            raise ProgramError(f"{where}: {rule}")
        kind, fields = isa.decode(segment.words[rule.instruction])
        value = rule.value(most[rule.input])
        if value < 1 or (rule.field and fields.get(rule.field) != value):
            raise ProgramError(f"{where}: {kind.name}.{rule.field} is not {value}")
    _check_tensors(program, most)


def _check_tensors(program: Program, most: Counts) -> None:
    """Raises ProgramError for tensors and layers that do not have the tokens of what they name."""
    shapes = {info.name: info.shape for info in (*program.inputs, *program.outputs)}
    for segment in program.segments:
        if isinstance(segment, HostSegment):
            shapes |= {t.name: t.shape for t in segment.graph.tensors.values() if t.data is None}
    for name, root in program.tokens.items():
        region, shape = program.regions.get(name), shapes.get(name)
        right = root in most and (region is None or region.layout.height == most[root])
        if not right or (shape is not None and shape[1:2] != (most[root],)):
            raise ProgramError(f"tensor {name!r} does not count the tokens of input {root!r}")
    for layer in program.layers:
        if not set(layer.tokens) <= set(most):
            raise ProgramError(f"layer {layer.name!r}: tokens of {', '.join(layer.tokens)}")
