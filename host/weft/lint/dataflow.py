"""DATAFLOW regions: canonical form, and one process on each side of a channel."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from weft.lint.findings import Finding
from weft.lint.parse import Node
from weft.lint.reach import Function, Program, target_of

_READS = {"read", "read_nb", "empty", "operator>>"}
_WRITES = {"write", "write_nb", "full", "operator<<"}
_WRAPPERS = ("UNEXPOSED_EXPR", "PAREN_EXPR")
_NAMES = ("DECL_REF_EXPR", "MEMBER_REF_EXPR", "INTEGER_LITERAL", "CXX_BOOL_LITERAL_EXPR")


def is_stream(kind: Any) -> bool:
    """Whether a type is hls::stream, or a reference to one."""
    kind = kind.get_canonical()
    if kind.kind.name in ("LVALUEREFERENCE", "RVALUEREFERENCE"):
        kind = kind.get_pointee().get_canonical()
    declared = kind.get_declaration()
    return bool(declared.spelling == "stream" and declared.semantic_parent.spelling == "hls")


def check(program: Program) -> Iterator[Finding]:
    """Findings of this file's rules."""
    for function in program.functions.values():
        for block in (n for n in function.nodes if n.kind == "COMPOUND_STMT"):
            if any(p.split()[0] == "DATAFLOW" for p in function.pragmas_of(block)):
                yield from _form(function, block)
                yield from _channels(program, function, block)


def _form(function: Function, block: Node) -> Iterator[Finding]:
    for statement in map(_unwrapped, block.children):
        if statement.kind == "DECL_STMT":
            for variable in statement.children:
                yield from _plain_declaration(function, variable)
        elif statement.kind == "CALL_EXPR":
            if statement.type.kind.name != "VOID":
                text = f"{statement.name} returns a value"
                yield function.finding(statement, "dataflow-form", text)
            for argument in statement.cursor.get_arguments():
                node = _unwrapped(Node(argument))
                if not _is_name(node):
                    text = f"an argument of {statement.name} is computed in the region"
                    yield function.finding(statement, "dataflow-form", text)
        elif statement.kind != "NULL_STMT":
            text = f"{statement.kind.lower().replace('_', ' ')} in the region of {function.name}"
            yield function.finding(statement, "dataflow-form", text)


def _plain_declaration(function: Function, variable: Node) -> Iterator[Finding]:
    if variable.kind != "VAR_DECL":
        return
    if variable.cursor.storage_class.name == "STATIC":
        yield function.finding(variable, "dataflow-form", f"{variable.name} is static")
    if is_stream(variable.type):
        return
    values = [c for c in variable.children if c.kind.endswith(("_LITERAL", "_EXPR", "_OPERATOR"))]
    constructed = [v for v in values if v.kind == "CALL_EXPR" and not v.children]
    size = variable.type.kind.name == "CONSTANTARRAY"
    if len(values) > len(constructed) + size:
        yield function.finding(variable, "dataflow-form", f"{variable.name} has an initializer")


def _is_name(node: Node) -> bool:
    """A variable, a field of one, or a literal."""
    node = _unwrapped(node)
    if node.kind == "CALL_EXPR":  # a struct by value: its copy constructor
        return len(node.children) == 1 and _is_name(node.children[0])
    return node.kind in _NAMES and all(_is_name(c) for c in node.children if c.kind in _NAMES)


def _unwrapped(node: Node) -> Node:
    while node.kind in _WRAPPERS and len(node.children) == 1:
        node = node.children[0]
    return node


def _channels(program: Program, function: Function, block: Node) -> Iterator[Finding]:
    """Who reads and writes each local channel, and who uses each array that comes from outside."""
    readers: dict[int, list[str]] = defaultdict(list)
    writers: dict[int, list[str]] = defaultdict(list)
    users: dict[int, list[str]] = defaultdict(list)
    variables: dict[int, Node] = {}
    for call in (c for c in map(_unwrapped, block.children) if c.kind == "CALL_EXPR"):
        callee = program.callee(call)
        for position, argument in enumerate(call.cursor.get_arguments()):
            named = _unwrapped(Node(argument))
            if named.kind != "DECL_REF_EXPR" or callee is None:
                continue
            variable = Node(named.referenced)
            key = named.referenced.hash
            variables[key] = variable
            if is_stream(variable.type):
                uses = _stream_uses(program, callee, callee.parameters[position], set())
                readers[key] += [call.name] * ("read" in uses)
                writers[key] += [call.name] * ("write" in uses)
            elif variable.type.kind.name in ("POINTER", "CONSTANTARRAY", "INCOMPLETEARRAY"):
                users[key].append(call.name)
    for key, variable in variables.items():
        if is_stream(variable.type) and variable.kind == "VAR_DECL":
            for role, names in (("read", readers[key]), ("written", writers[key])):
                if len(names) != 1:
                    text = f"{variable.name} is {role} by {', '.join(names) or 'no process'}"
                    yield function.finding(variable, "dataflow-channel", text)
        local = variable.kind == "VAR_DECL"
        if len(users[key]) > (2 if local else 1):
            text = f"{variable.name} is used by {', '.join(users[key])}"
            yield function.finding(variable, "dataflow-channel", text)
    for statement in (c for c in block.children if c.kind == "DECL_STMT"):
        for node in statement.children:
            if is_stream(node.type) and node.cursor.hash not in variables:
                text = f"{node.name} is used by no process"
                yield function.finding(node, "dataflow-channel", text)


def _stream_uses(program: Program, function: Function, stream: Node, seen: set[int]) -> set[str]:
    """{"read", "write"} as far as a function does so to the stream that is its parameter."""
    key, uses = stream.cursor.hash, set()
    if key in seen:
        return set()
    seen.add(key)
    for call in (n for n in function.nodes if n.kind == "CALL_EXPR"):
        callee, target = program.callee(call), target_of(call)
        if callee is None:
            owner = target.semantic_parent if target is not None else None
            if owner is not None and owner.spelling == "stream" and _first(call) == key:
                uses |= {"read"} if target.spelling in _READS else set()
                uses |= {"write"} if target.spelling in _WRITES else set()
            continue
        for position, argument in enumerate(call.cursor.get_arguments()):
            node = _unwrapped(Node(argument))
            if node.kind == "DECL_REF_EXPR" and node.referenced.hash == key:
                uses |= _stream_uses(program, callee, callee.parameters[position], seen)
    return uses


def _first(call: Node) -> int | None:
    """The variable whose method is called."""
    for node in call.children[0].walk() if call.children else ():
        if node.kind == "DECL_REF_EXPR":
            return int(node.referenced.hash)
    return None
