"""Loops: stated trip counts, and bounds that can be unrolled."""

from __future__ import annotations

from collections.abc import Iterator

from weft.lint.findings import Finding
from weft.lint.parse import Node
from weft.lint.reach import LOOPS, Function, Program, trip_count


def check(program: Program) -> Iterator[Finding]:
    """Findings of this file's rules."""
    for function in program.functions.values():
        for loop in function.loops():
            body = loop.children[-1] if loop.kind != "DO_STMT" else loop.children[0]
            written = list(function.pragmas_of(body))
            if trip_count(function.source, loop) is None:
                if not any(p.startswith("LOOP_TRIPCOUNT") for p in written):
                    text = f"a loop of {function.name} may take any number of turns"
                    yield function.finding(loop, "tripcount", text)
                unrolls = (p for p in written if p.startswith("UNROLL"))
                if any("FACTOR" not in p and "OFF" not in p for p in unrolls):
                    text = f"UNROLL of a loop of {function.name} with variable bounds"
                    yield function.finding(loop, "unroll-bound", text)
            if is_pipelined(written):
                yield from _inner(program, function, body, set())
        if is_pipelined(list(function.pragmas_of(function.body))):
            yield from _inner(program, function, function.body, set())


def is_pipelined(pragmas: list[str]) -> bool:
    """Whether one of the pragmas of a block pipelines it."""
    return any(p.split()[0] == "PIPELINE" and "OFF" not in p.split() for p in pragmas)


def _inner(program: Program, function: Function, block: Node, seen: set[int]) -> Iterator[Finding]:
    """Loops inside a pipelined block, also in what it calls, that can't be unrolled."""
    for node in block.walk():
        if node.kind in LOOPS and trip_count(function.source, node) is None:
            text = f"a loop of {function.name} with variable bounds inside a pipelined one"
            yield function.finding(node, "pipeline-loop", text)
        callee = program.callee(node) if node.kind == "CALL_EXPR" else None
        if callee is not None and callee.node.cursor.hash not in seen:
            seen.add(callee.node.cursor.hash)
            yield from _inner(program, callee, callee.body, seen)
