"""What has no form in hardware: memory, calls, types and libraries of a running program."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from weft import build
from weft.lint.findings import Finding
from weft.lint.parse import Node
from weft.lint.reach import Function, Program, target_of

_MEMORY = {"malloc", "calloc", "realloc", "free", "alloca", "aligned_alloc", "posix_memalign"}
_KINDS = {
    "CXX_NEW_EXPR": ("dynamic-memory", "new"),
    "CXX_DELETE_EXPR": ("dynamic-memory", "delete"),
    "CXX_THROW_EXPR": ("exception", "throw"),
    "CXX_TRY_STMT": ("exception", "try"),
    "CXX_REINTERPRET_CAST_EXPR": ("pointer-cast", "reinterpret_cast"),
}
_FLOATS = {"FLOAT", "DOUBLE", "LONGDOUBLE", "HALF", "FLOAT128", "FLOAT16"}
_DECLARATIONS = ("VAR_DECL", "PARM_DECL", "FIELD_DECL")
_STATED = "floating point"  # what the comment above a function says where floats are meant


def check(program: Program) -> Iterator[Finding]:
    """Findings of this file's rules."""
    yield from _recursion(program)
    for function in program.functions.values():
        floats_stated = _says_floating_point(function)
        for node in function.nodes:
            if node.kind in _KINDS:
                rule, word = _KINDS[node.kind]
                yield function.finding(node, rule, f"{word} in {function.name}")
            elif node.kind == "CALL_EXPR":
                yield from _call(function, node)
            elif node.kind in _DECLARATIONS:
                yield from _declaration(function, node)
            if not floats_stated and node.type.kind.name in _FLOATS:
                yield function.finding(node, "float", f"{node.type.spelling} in {function.name}")


def _call(function: Function, call: Node) -> Iterator[Finding]:
    target = target_of(call)
    if target is None:
        if call.children and _is_function_pointer(call.children[0].type):
            yield function.finding(call, "function-pointer", f"{function.name} calls a pointer")
        return
    if target.kind.name == "CXX_METHOD" and target.is_virtual_method():
        yield function.finding(call, "virtual", f"{target.spelling} is virtual")
    file = target.location.file
    if function.source.owns(target):
        if target.get_definition() is None and not target.is_default_method():
            text = f"{target.spelling} has no body here"
            yield function.finding(call, "system-call", text)
    elif target.spelling in _MEMORY:
        yield function.finding(call, "dynamic-memory", f"{function.name} calls {target.spelling}")
    elif file is not None and not Path(file.name).is_relative_to(build.ap_types()):
        yield function.finding(call, _outside(target), f"{function.name} calls {target.spelling}")


def _outside(target: Any) -> str:
    """The rule for a call into a header of the system: a container's method, or anything else."""
    owner = target.semantic_parent
    return (
        "container"
        if owner is not None
        and owner.kind.is_declaration()
        and (owner.kind.name in ("CLASS_DECL", "STRUCT_DECL", "CLASS_TEMPLATE"))
        else "system-call"
    )


def _declaration(function: Function, node: Node) -> Iterator[Finding]:
    for part in _parts(node.type, function, set()):
        if _is_function_pointer(part):
            yield function.finding(node, "function-pointer", f"{node.name} points to a function")
        declared = part.get_declaration()
        if _in_std(declared):
            yield function.finding(node, "container", f"{node.name} is a {part.spelling}")
        elif function.source.owns(declared):
            for method in declared.get_children():
                if method.kind.name in ("CXX_METHOD", "DESTRUCTOR") and method.is_virtual_method():
                    text = f"{declared.spelling}::{method.spelling} is virtual"
                    yield function.source.finding(method.location.line, "virtual", text)


def _parts(kind: Any, function: Function, seen: set[str]) -> Iterator[Any]:
    """A type and those of its elements and fields, canonical, each once."""
    kind = kind.get_canonical()
    while kind.kind.name in ("LVALUEREFERENCE", "RVALUEREFERENCE", "CONSTANTARRAY"):
        kind = kind.element_type if kind.kind.name == "CONSTANTARRAY" else kind.get_pointee()
        kind = kind.get_canonical()
    if kind.spelling in seen:
        return
    seen.add(kind.spelling)
    yield kind
    if kind.kind.name == "RECORD" and function.source.owns(kind.get_declaration()):
        for member in kind.get_fields():
            yield from _parts(member.type, function, seen)


def _is_function_pointer(kind: Any) -> bool:
    kind = kind.get_canonical()
    if kind.kind.name == "MEMBERPOINTER":
        return True
    return bool(kind.kind.name == "POINTER" and kind.get_pointee().kind.name.startswith("FUNCTION"))


def _in_std(declared: Any) -> bool:
    parent = declared.semantic_parent if declared is not None else None
    while parent is not None and parent.kind.name != "TRANSLATION_UNIT":
        if parent.kind.name == "NAMESPACE" and parent.spelling == "std":
            return True
        parent = parent.semantic_parent
    return False


def _recursion(program: Program) -> Iterator[Finding]:
    done: set[int] = set()
    path: list[int] = []

    def visit(function: Function) -> Iterator[Finding]:
        key = function.node.cursor.hash
        path.append(key)
        for call in (n for n in function.nodes if n.kind == "CALL_EXPR"):
            callee = program.callee(call)
            if callee is None:
                continue
            called = callee.node.cursor.hash
            if called in path:
                text = f"{function.name} calls {callee.name}, which leads back to it"
                yield function.finding(call, "recursion", text)
            elif called not in done:
                yield from visit(callee)
        path.pop()
        done.add(key)

    yield from visit(program.top)


def _says_floating_point(function: Function) -> bool:
    """Looks at the comment lines right above the function, in its file."""
    file, line = function.source.where(function.node.line)
    try:
        lines = Path(file).read_text().splitlines()[: line - 1]
    except OSError:
        return False
    comment: list[str] = []
    while lines and lines[-1].lstrip().startswith(("//", "template", "*", "/*")):
        comment.append(lines.pop().lower())
    return any(_STATED in text for text in comment)
