"""Values and places in a call tree, as far as they can be known without running it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from weft.lint.parse import Node
from weft.lint.reach import Function, evaluate

WRAPPERS = ("UNEXPOSED_EXPR", "PAREN_EXPR", "CXX_FUNCTIONAL_CAST_EXPR", "CSTYLE_CAST_EXPR")
CASTS = (*WRAPPERS, "CXX_STATIC_CAST_EXPR", "CXX_CONST_CAST_EXPR")


@dataclass(frozen=True)
class Symbol:
    """A value: what it is called, which unrolled loops it changes with, whether it is fixed
    once these are unrolled.
    """

    text: str
    turns: frozenset[int] = frozenset()
    fixed: bool = False


@dataclass(frozen=True)
class Place:
    """A variable, a field of one, or an element: `path` holds field names and indices."""

    root: Any  # cursor of the variable
    path: tuple[str | Symbol, ...] = ()

    def then(self, *more: str | Symbol) -> Place:
        """A part of it."""
        return Place(self.root, (*self.path, *more))

    @property
    def fields(self) -> tuple[str, ...]:
        """The path without its indices: which memory it is."""
        return tuple(part for part in self.path if isinstance(part, str))

    @property
    def indices(self) -> list[tuple[tuple[str, ...], int, Symbol]]:
        """(fields before it, dimension from 1, index) of each index."""
        found: list[tuple[tuple[str, ...], int, Symbol]] = []
        fields: tuple[str, ...] = ()
        dim = 0
        for part in self.path:
            if isinstance(part, str):
                fields, dim = (*fields, part), 0
            else:
                dim += 1
                found.append((fields, dim, part))
        return found

    @property
    def name(self) -> str:
        """As in messages."""
        return ".".join((self.root.spelling, *self.fields))


@dataclass
class Frame:
    """One call: what its parameters and variables stand for."""

    function: Function
    this: Place | None = None
    places: dict[int, Place] = field(default_factory=dict)  # references
    values: dict[int, Symbol] = field(default_factory=dict)
    turns: set[int] = field(default_factory=set)  # variables of its unrolled loops
    serial: int = 0  # tells calls of one function apart
    returned: Place | None = None


def unwrapped(node: Node) -> Node:
    """Without casts and parentheses."""
    while node.kind in CASTS:
        inner = [c for c in node.children if c.kind not in ("TYPE_REF", "NAMESPACE_REF")]
        inner = [c for c in inner if c.kind not in ("TEMPLATE_REF",)]
        if len(inner) != 1:
            break
        node = inner[0]
    return node


def symbol(node: Node, frame: Frame) -> Symbol:
    """The value of an expression."""
    node = unwrapped(node)
    if node.kind == "DECL_REF_EXPR" and node.referenced is not None:
        key = node.referenced.hash
        if key in frame.turns:
            return Symbol(node.name, frozenset({key}), True)
        if key in frame.values:
            return frame.values[key]
        if key in frame.places:
            return Symbol(_text(frame.places[key]), *_of_place(frame.places[key]))
    constant = evaluate(node) if node.kind.endswith(("_EXPR", "_LITERAL", "_OPERATOR")) else None
    if constant is not None:
        return Symbol(str(constant), fixed=True)
    if node.kind in ("DECL_REF_EXPR", "CXX_THIS_EXPR") or not node.children:
        owner = _text(frame.this) if frame.this is not None else ""
        return Symbol(f"{owner}.{node.name}:{frame.serial}")
    parts = [symbol(child, frame) for child in node.children if not child.kind.endswith("_REF")]
    text = f"{node.kind}:{_operator(node, frame)}({','.join(p.text for p in parts)})"
    turns = frozenset().union(*(p.turns for p in parts))
    computed = node.kind in ("BINARY_OPERATOR", "UNARY_OPERATOR", "CONDITIONAL_OPERATOR")
    return Symbol(text, turns, computed and all(p.fixed for p in parts))


def _operator(node: Node, frame: Frame) -> str:
    if len(node.children) == 2 and node.kind == "BINARY_OPERATOR":
        left, right = node.children
        return frame.function.source.slice(left.span[1], right.span[0]).strip()
    if node.kind == "UNARY_OPERATOR":
        text = frame.function.source.slice(*node.span)
        return text.replace(frame.function.source.slice(*node.children[0].span), "")
    return node.name


def _of_place(place: Place) -> tuple[frozenset[int], bool]:
    parts = [part for part in place.path if isinstance(part, Symbol)]
    return frozenset().union(*(p.turns for p in parts)), False


def _text(place: Place) -> str:
    inner = "".join(f".{p}" if isinstance(p, str) else f"[{p.text}]" for p in place.path)
    return f"{place.root.spelling}#{place.root.hash}{inner}"
