"""Names in pragmas, looked up where the pragma stands."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from weft.lint.parse import Node, Source, libclang
from weft.lint.reach import Function, evaluate


@dataclass(frozen=True)
class Named:
    """What a name like `m.parameters.bias` stands for."""

    root: Any  # cursor of the variable
    fields: tuple[str, ...]
    type: Any


def lookup(function: Function, name: str, block: Node, offset: int) -> Named | None:
    """The variable or field of that name, if it is declared above `offset` and visible there."""
    first, *fields = name.replace("->", ".").split(".")
    root = next((d for d in _visible(function, block, offset) if d.name == first), None)
    if root is None:
        return None
    kind = bare(root.cursor.type)
    for field in fields:
        members = {f.spelling: f for f in element(kind).get_fields()} if is_record(kind) else {}
        if field not in members:
            return None
        kind = bare(members[field].type)
    return Named(root.cursor, tuple(fields), kind)


def _visible(function: Function, block: Node, offset: int) -> Iterator[Node]:
    around = {id(node) for node in (block, *block.up())}
    for node in function.nodes:
        if node.kind == "PARM_DECL" and node.parent is function.node:
            yield node
        elif node.kind == "VAR_DECL" and node.span[1] <= offset:
            scope = next(p for p in node.up() if p.kind in ("COMPOUND_STMT", "FOR_STMT"))
            if id(scope) in around:
                yield node
    owner = function.node.cursor.semantic_parent
    if owner is not None and owner.kind.name in ("CLASS_DECL", "STRUCT_DECL"):
        yield from (Node(c) for c in owner.get_children() if c.kind.name == "FIELD_DECL")
    for cursor in _globals(function.source):
        yield Node(cursor)


def bare(kind: Any) -> Any:
    """A canonical type without references and pointers."""
    kind = kind.get_canonical()
    while kind.kind.name in ("LVALUEREFERENCE", "RVALUEREFERENCE", "POINTER"):
        kind = kind.get_pointee().get_canonical()
    return kind


def element(kind: Any) -> Any:
    """Of an array, what it is made of."""
    while kind.kind.name == "CONSTANTARRAY":
        kind = kind.element_type.get_canonical()
    return kind


def rank(kind: Any) -> int:
    """Dimensions of an array type; 0 of any other."""
    count, kind = 0, bare(kind)
    while kind.kind.name == "CONSTANTARRAY":
        count, kind = count + 1, kind.element_type.get_canonical()
    return count


def is_record(kind: Any) -> bool:
    """Whether a type, or the elements of an array type, have fields."""
    return bool(element(kind).kind.name == "RECORD")


def constants(function: Function) -> frozenset[str]:
    """Names of constants and template parameters that a pragma in the function may use."""
    return _constants(function.source) | _template_parameters(function.node.cursor)


def _template_parameters(cursor: Any) -> frozenset[str]:
    library, names = libclang().conf.lib, set()
    owner = cursor
    while owner is not None and owner.kind.name != "TRANSLATION_UNIT":
        template = library.clang_getSpecializedCursorTemplate(owner)
        for child in template.get_children() if template is not None else ():
            if child.kind.name == "TEMPLATE_NON_TYPE_PARAMETER":
                names.add(child.spelling)
        owner = owner.semantic_parent
    return frozenset(names)


def _globals(source: Source) -> list[Any]:
    """Variables and enumerators at namespace scope, looked for once."""
    if "globals" not in source.kept:
        source.kept["globals"] = list(_variables(source, source.root))
    found: list[Any] = source.kept["globals"]
    return found


def _constants(source: Source) -> frozenset[str]:
    return frozenset(
        c.spelling
        for c in _globals(source)
        if c.kind.name == "ENUM_CONSTANT_DECL" or c.type.is_const_qualified()
    )


def _variables(source: Source, cursor: Any) -> Iterator[Any]:
    for child in cursor.get_children():
        if not source.owns(child):
            continue
        if child.kind.name in ("NAMESPACE", "LINKAGE_SPEC", "UNEXPOSED_DECL", "ENUM_DECL"):
            yield from _variables(source, child)
        elif child.kind.name in ("VAR_DECL", "ENUM_CONSTANT_DECL"):
            yield child


def value_of(function: Function, text: str) -> int | None:
    """Value of a number or of a named constant; None of anything else."""
    if text.isdigit():
        return int(text)
    for cursor in _globals(function.source):
        if cursor.spelling == text.split("::")[-1]:
            return evaluate(Node(cursor))
    return None
