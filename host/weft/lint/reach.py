"""Everything that the top function reaches, as instantiated."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from weft.errors import UsageError, unknown
from weft.lint.findings import Finding
from weft.lint.parse import Node, Pragma, Source, libclang

LOOPS = ("FOR_STMT", "WHILE_STMT", "DO_STMT", "CXX_FOR_RANGE_STMT")
_FUNCTIONS = ("FUNCTION_DECL", "CXX_METHOD", "CONSTRUCTOR", "DESTRUCTOR", "CONVERSION_FUNCTION")


@dataclass
class Function:
    """A function with a body in the source; a template is one Function per instantiation."""

    node: Node
    source: Source
    pragmas: list[tuple[Pragma, Node]] = field(default_factory=list)  # with the block it stands in

    @property
    def name(self) -> str:
        """As in messages."""
        return self.node.name

    @cached_property
    def body(self) -> Node:
        """Its outermost block."""
        return next(c for c in reversed(self.node.children) if c.kind == "COMPOUND_STMT")

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """Everything in it."""
        return tuple(self.node.walk())

    @cached_property
    def parameters(self) -> tuple[Node, ...]:
        """Its parameters."""
        return tuple(c for c in self.node.children if c.kind == "PARM_DECL")

    def loops(self) -> Iterator[Node]:
        """Its loops."""
        return (n for n in self.nodes if n.kind in LOOPS)

    def pragmas_of(self, block: Node) -> Iterator[str]:
        """Texts of the HLS pragmas directly in a block, upper case, without "HLS"."""
        for pragma, where in self.pragmas:
            if where is block and pragma.text.upper().startswith("HLS "):
                yield pragma.text[4:].strip().upper()

    def finding(self, node: Node, rule: str, what: str) -> Finding:
        """A broken rule at a node."""
        return self.source.finding(node.line, rule, what)


@dataclass
class Program:
    """The top function and what it reaches, top first."""

    source: Source
    top: Function
    functions: dict[int, Function]

    def callee(self, call: Node) -> Function | None:
        """The function with a body that a call runs; None for those of headers."""
        target = target_of(call)
        return self.functions.get(target.hash) if target is not None else None


def target_of(call: Node) -> Any:
    """Declaration (with a body, if there is one) that a call names; None through a pointer."""
    target = call.referenced
    node = call.children[0] if call.children else None
    while target is None and node is not None and node.kind != "CALL_EXPR":
        target = node.referenced  # a function that is a template argument
        node = node.children[0] if len(node.children) == 1 else None
    if target is None or target.kind.name not in _FUNCTIONS:
        return None
    return target.get_definition() or target


def reachable(source: Source, top: str) -> Program:
    """Raises UsageError where the source has no function `top`."""
    functions = {c.spelling: c for c in _top_level(source, source.root)}
    if top not in functions:
        raise UsageError(unknown("top function", top, functions))
    found: dict[int, Function] = {}
    waiting = [functions[top]]
    while waiting:
        cursor = waiting.pop()
        if cursor.hash in found or not source.owns(cursor):
            continue
        function = Function(Node(cursor), source)
        if not _is_written(function):
            continue
        found[cursor.hash] = function
        calls = (n for n in function.nodes if n.kind == "CALL_EXPR")
        waiting += [t for t in map(target_of, calls) if t is not None]
    for function in found.values():
        _place_pragmas(function)
    return Program(source, next(iter(found.values())), found)


def _is_written(function: Function) -> bool:
    """Whether it has a body that someone wrote: compilers add copy assignments, for example."""
    blocks = [c for c in function.node.children if c.kind == "COMPOUND_STMT"]
    return bool(blocks) and function.source.slice(*blocks[-1].span).startswith("{")


def _top_level(source: Source, cursor: Any) -> Iterator[Any]:
    """Functions with a body at namespace scope."""
    for child in cursor.get_children():
        if not source.owns(child):
            continue
        if child.kind.name in ("NAMESPACE", "LINKAGE_SPEC", "UNEXPOSED_DECL"):
            yield from _top_level(source, child)
        elif child.kind.name == "FUNCTION_DECL" and child.is_definition():
            yield child


def _place_pragmas(function: Function) -> None:
    blocks = [n for n in function.nodes if n.kind == "COMPOUND_STMT"]
    for pragma in function.source.pragmas:
        around = [b for b in blocks if b.span[0] < pragma.offset < b.span[1]]
        if around:
            innermost = min(around, key=lambda b: b.span[1] - b.span[0])
            function.pragmas.append((pragma, innermost))


def evaluate(node: Node) -> int | None:
    """Value of a constant integer expression; None where it is not one."""
    library = libclang().conf.lib
    library.clang_Cursor_Evaluate.restype = ctypes.c_void_p
    library.clang_Cursor_Evaluate.argtypes = [libclang().Cursor]
    library.clang_EvalResult_getKind.argtypes = [ctypes.c_void_p]
    library.clang_EvalResult_getAsLongLong.argtypes = [ctypes.c_void_p]
    library.clang_EvalResult_getAsLongLong.restype = ctypes.c_longlong
    library.clang_EvalResult_dispose.argtypes = [ctypes.c_void_p]
    result = library.clang_Cursor_Evaluate(node.cursor)
    if not result:
        return None
    integer = library.clang_EvalResult_getKind(result) == 1
    value = int(library.clang_EvalResult_getAsLongLong(result)) if integer else None
    library.clang_EvalResult_dispose(result)
    return value


def operator(source: Source, node: Node) -> str:
    """The operator of a binary or assignment node."""
    left, right = node.children
    return source.slice(left.span[1], right.span[0]).strip()


def trip_count(source: Source, loop: Node) -> int | None:
    """Turns of a `for` whose bounds and step are constants; None of any other loop."""
    if loop.kind != "FOR_STMT" or len(loop.children) != 4:
        return None
    begin, condition, step, _ = loop.children
    variables = [c for c in begin.children if c.kind == "VAR_DECL" and c.children]
    if len(variables) != 1 or condition.kind != "BINARY_OPERATOR":
        return None
    first, last = evaluate(variables[0].children[-1]), evaluate(condition.children[1])
    by = _step(source, step)
    if first is None or last is None or not by:
        return None
    ends = {"<": last, "<=": last + 1, ">": last, ">=": last - 1, "!=": last}
    end = ends.get(operator(source, condition))
    return None if end is None else len(range(first, end, by))


def _step(source: Source, step: Node) -> int | None:
    text = source.slice(*step.span)
    if step.kind == "UNARY_OPERATOR":
        return 1 if "++" in text else -1 if "--" in text else None
    if step.kind == "COMPOUND_ASSIGNMENT_OPERATOR":
        value = evaluate(step.children[1])
        sign = {"+=": 1, "-=": -1}.get(operator(source, step))
        return sign * value if sign and value else None
    return None
