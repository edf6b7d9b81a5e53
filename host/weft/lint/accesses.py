"""Walks a call tree from the top function and notes what each pipelined loop touches in a turn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from weft.lint.names import value_of
from weft.lint.parse import Node
from weft.lint.pragmas import Words
from weft.lint.reach import LOOPS, Function, Program, operator, target_of, trip_count
from weft.lint.symbols import Frame, Place, symbol, unwrapped

Memory = tuple[int, tuple[str, ...]]
_CHANGES = {"operator++", "operator--"}


@dataclass
class Usage:
    """Accesses of one turn of a loop: (memory, "r" or "w") → places, by what they are called."""

    places: dict[tuple[Memory, str], dict[tuple[str, ...], Place]] = field(default_factory=dict)

    def note(self, place: Place, how: str) -> None:
        """One access; to an address that is accessed already it costs nothing."""
        if place.indices:
            texts = tuple(index.text for _, _, index in place.indices)
            memory = (place.root.hash, place.fields)
            self.places.setdefault((memory, how), {})[texts] = place

    def add(self, branches: list[Usage]) -> None:
        """Of branches that exclude each other, whatever accesses a memory most."""
        for key in {key for branch in branches for key in branch.places}:
            most = max((b.places.get(key, {}) for b in branches), key=len)
            self.places.setdefault(key, {}).update(most)


Judge = Callable[[Function, Node, Usage, int], None]


class Walker:
    """Follows calls with what their parameters stand for; `judge` is told each pipelined loop."""

    def __init__(self, program: Program, judge: Judge) -> None:
        self.program = program
        self.judge = judge
        self.turns: dict[int, int] = {}  # of unrolled loops, by their variable
        self.calls = 0
        self.stack: list[int] = []

    def run(self, function: Function, frame: Frame, usage: Usage | None) -> Place | None:
        """The body of a function; the place that it returns a reference to, if it does."""
        key, ii = function.node.cursor.hash, target_ii(function, function.body)
        if key in self.stack:
            return None
        self.stack.append(key)
        if usage is None and ii is not None:
            usage = Usage()
            self.visit(function.body, frame, usage)
            self.judge(function, function.body, usage, ii)
        else:
            self.visit(function.body, frame, usage)
        self.stack.pop()
        return frame.returned

    def visit(self, node: Node, frame: Frame, usage: Usage | None) -> None:
        """A statement or expression, as a value."""
        node = unwrapped(node)
        if node.kind in LOOPS:
            self._loop(node, frame, usage)
        elif node.kind in ("IF_STMT", "CONDITIONAL_OPERATOR", "SWITCH_STMT"):
            self.visit(node.children[0], frame, usage)
            self._branches([[c] for c in node.children[1:]], frame, usage)
        elif node.kind == "COMPOUND_STMT":
            self._block(list(node.children), frame, usage)
        elif node.kind == "VAR_DECL":
            self._declare(node, frame, usage)
        elif node.kind == "RETURN_STMT" and node.children:
            self._return(node.children[0], frame, usage)
        elif _changed(frame, node):
            self._assign(node, frame, usage)
        else:
            place = self.place(node, frame, usage)
            if place is not None and usage is not None:
                usage.note(place, "r")

    def _loop(self, loop: Node, frame: Frame, usage: Usage | None) -> None:
        function, body = frame.function, loop.children[-1]
        ii = target_ii(function, body)
        if usage is None and ii is not None:
            inner = Usage()
            for part in loop.children:
                self.visit(part, frame, inner)
            self.judge(function, loop, inner, ii)
            return
        turns = trip_count(function.source, loop)
        if usage is not None and turns is not None:
            variable = next(c for c in loop.children[0].children if c.kind == "VAR_DECL")
            self.turns[variable.cursor.hash] = turns
            frame.turns.add(variable.cursor.hash)
            self.visit(body, frame, usage)
            return
        for part in loop.children:
            self.visit(part, frame, usage)

    def _block(self, statements: list[Node], frame: Frame, usage: Usage | None) -> None:
        for position, statement in enumerate(statements):
            if statement.kind == "IF_STMT" and _leaves(statement):
                # What follows an `if` that returns is its else branch.
                self.visit(statement.children[0], frame, usage)
                rest = [*statement.children[2:], *statements[position + 1 :]]
                self._branches([[statement.children[1]], rest], frame, usage)
                return
            self.visit(statement, frame, usage)

    def _branches(self, branches: list[list[Node]], frame: Frame, usage: Usage | None) -> None:
        used = []
        for statements in branches:
            used.append(Usage())
            self._block(statements, frame, used[-1] if usage is not None else None)
        if usage is not None:
            usage.add(used)

    def _declare(self, node: Node, frame: Frame, usage: Usage | None) -> None:
        frame.places.pop(node.cursor.hash, None)
        values = [c for c in node.children if c.kind.endswith(("_EXPR", "_LITERAL", "_OPERATOR"))]
        if node.type.kind.name == "CONSTANTARRAY" or not values:
            for value in values:
                self.visit(value, frame, usage)
            return
        if node.type.kind.name in ("LVALUEREFERENCE", "POINTER"):
            place = self.place(values[-1], frame, usage)
            if place is not None:
                frame.places[node.cursor.hash] = place
            return
        self.visit(values[-1], frame, usage)
        frame.values[node.cursor.hash] = symbol(values[-1], frame)

    def _return(self, value: Node, frame: Frame, usage: Usage | None) -> None:
        kind = frame.function.node.cursor.result_type.get_canonical().kind.name
        if kind in ("LVALUEREFERENCE", "POINTER"):
            frame.returned = self.place(value, frame, usage)
        else:
            self.visit(value, frame, usage)

    def _assign(self, node: Node, frame: Frame, usage: Usage | None) -> None:
        operands = _operands(node)
        for value in operands[1:]:
            self.visit(value, frame, usage)
        place = self.place(operands[0], frame, usage)
        if place is None or usage is None:
            return
        usage.note(place, "w")
        if _changed(frame, node) == "rw":
            usage.note(place, "r")

    def place(self, node: Node, frame: Frame, usage: Usage | None) -> Place | None:
        """What an expression stands for in memory; None for a mere value, which is then visited."""
        node = unwrapped(node)
        children = [c for c in node.children if not c.kind.endswith("_REF")]
        if node.kind == "DECL_REF_EXPR" and node.referenced is not None:
            known = frame.places.get(node.referenced.hash)
            variable = node.referenced.kind.name in ("VAR_DECL", "PARM_DECL")
            return known or (Place(node.referenced) if variable else None)
        if node.kind == "CXX_THIS_EXPR":
            return frame.this
        if node.kind == "MEMBER_REF_EXPR" and _is_field(node):
            base = self.place(children[0], frame, usage) if children else frame.this
            return base.then(node.name) if base is not None else None
        if node.kind == "ARRAY_SUBSCRIPT_EXPR":
            base = self.place(children[0], frame, usage)
            self.visit(children[1], frame, usage)
            return base.then(symbol(children[1], frame)) if base is not None else None
        if node.kind == "CALL_EXPR":
            return self._call(node, frame, usage)
        if node.kind == "UNARY_OPERATOR" and _text(frame, node)[:1] in "*&":
            return self.place(children[0], frame, usage)
        for child in children:
            self.visit(child, frame, usage)
        return None

    def _call(self, call: Node, frame: Frame, usage: Usage | None) -> Place | None:
        callee, arguments = self.program.callee(call), _arguments(call)
        owner = _object(call)
        if callee is None:
            for argument in [*arguments, *([owner] if owner is not None else [])]:
                self.visit(argument, frame, usage)
            return None
        self.calls += 1
        inner = Frame(callee, serial=self.calls)
        target = target_of(call)
        if target.kind.name == "CXX_METHOD" and not target.is_static_method():
            if owner is None and call.name.startswith("operator") and arguments:
                owner, arguments = arguments[0], arguments[1:]
            inner.this = self.place(owner, frame, usage) if owner is not None else frame.this
        for parameter, argument in zip(callee.parameters, arguments, strict=False):
            self._bind(parameter, argument, inner, frame, usage)
        return self.run(callee, inner, usage)

    def _bind(
        self, parameter: Node, argument: Node, inner: Frame, frame: Frame, usage: Usage | None
    ) -> None:
        key = parameter.cursor.hash
        if parameter.type.kind.name in ("LVALUEREFERENCE", "POINTER", "CONSTANTARRAY"):
            place = self.place(argument, frame, usage)
            if place is not None:
                inner.places[key] = place
                return
        else:
            self.visit(argument, frame, usage)
        inner.values[key] = symbol(argument, frame)


def target_ii(function: Function, block: Node) -> int | None:
    """The II that a block is pipelined for; None where it is not."""
    for pragma, where in function.pragmas:
        words = Words(pragma.text)
        if where is block and words.name == "PIPELINE" and "off" not in words.flags:
            return value_of(function, words.options.get("ii", "1")) or 1
    return None


def _changed(frame: Frame, node: Node) -> str:
    """ "w" for an assignment, "rw" where the old value counts, "" for anything else."""
    if node.kind == "COMPOUND_ASSIGNMENT_OPERATOR":
        return "rw"
    if node.kind == "BINARY_OPERATOR":
        return "w" if operator(frame.function.source, node) == "=" else ""
    if node.kind == "UNARY_OPERATOR":
        return "rw" if _text(frame, node)[:2] in ("++", "--") else ""
    if node.kind == "CALL_EXPR" and node.name.startswith("operator"):
        if node.name == "operator=":
            return "w"
        compound = node.name.endswith("=") and node.name[8:] not in ("==", "!=", "<=", ">=")
        return "rw" if compound or node.name in _CHANGES else ""
    return ""


def _operands(node: Node) -> list[Node]:
    if node.kind != "CALL_EXPR":
        return list(node.children)
    owner = _object(node)
    return [*([owner] if owner is not None else []), *_arguments(node)]


def _text(frame: Frame, node: Node) -> str:
    """The operator of a unary expression, before or behind."""
    text = frame.function.source.slice(*node.span)
    return text.replace(frame.function.source.slice(*node.children[0].span), "", 1).strip()


def _arguments(call: Node) -> list[Node]:
    return [Node(argument, call) for argument in call.cursor.get_arguments() if argument]


def _object(call: Node) -> Node | None:
    """The object of a method call written with a dot; None for `this` and for operators."""
    first = unwrapped(call.children[0]) if call.children else None
    if first is None or first.kind != "MEMBER_REF_EXPR" or _is_field(first):
        return None
    return next((c for c in first.children if not c.kind.endswith("_REF")), None)


def _is_field(node: Node) -> bool:
    return node.referenced is not None and node.referenced.kind.name == "FIELD_DECL"


def _leaves(statement: Node) -> bool:
    """Whether the first branch of an `if` always returns."""
    last = statement.children[1]
    if last.kind == "COMPOUND_STMT" and last.children:
        last = last.children[-1]
    return last.kind in ("RETURN_STMT", "BREAK_STMT", "CONTINUE_STMT")
