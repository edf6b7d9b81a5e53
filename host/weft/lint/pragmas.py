"""Pragmas: names, options and values that the tools know, names that exist, places that count.

The table is that of AMD's UG1399 and UG1702; a bare word where an option with a value is meant is
refused, as versions differ in what they take.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from weft.errors import unknown
from weft.lint.dataflow import is_stream
from weft.lint.findings import Finding
from weft.lint.names import constants, lookup, rank
from weft.lint.parse import Node, Pragma
from weft.lint.reach import LOOPS, Function, Program

CONST, NAME, VARIABLE = "constant", "name", "variable"
BODY, LOOP, BLOCK, TOP = "function", "loop", "block", "top"


@dataclass(frozen=True)
class Form:
    """What one pragma takes: option → kind of value or the words it may be."""

    places: tuple[str, ...]
    options: dict[str, str | tuple[str, ...]] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    required: tuple[str, ...] = ()


_ARRAY = Form(
    (BODY, BLOCK),
    {"variable": VARIABLE, "type": ("cyclic", "block", "complete"), "factor": CONST, "dim": CONST},
    ("off",),
    ("variable", "type"),
)
_RAMS = "ram_1p ram_2p ram_s2p ram_t2p ram_1wnr rom_1p rom_2p rom_np fifo"
_PORT_OPTIONS = (
    "depth latency num_read_outstanding num_write_outstanding max_read_burst_length "
    "max_write_burst_length max_widen_bitwidth"
)
FORMS: dict[str, Form] = {
    "PIPELINE": Form(
        (BODY, LOOP), {"ii": CONST, "style": ("stp", "flp", "frp")}, ("rewind", "off")
    ),
    "UNROLL": Form((LOOP,), {"factor": CONST, "off": ("true",)}, ("skip_exit_check",)),
    "LOOP_FLATTEN": Form((LOOP,), {}, ("off",)),
    "LOOP_MERGE": Form((BODY, LOOP, BLOCK), {}, ("force",)),
    "LOOP_TRIPCOUNT": Form((LOOP,), {"min": CONST, "max": CONST, "avg": CONST}, (), ("max",)),
    "DATAFLOW": Form((BODY, LOOP), {}, ("disable_start_propagation",)),
    "STREAM": Form(
        (BODY, BLOCK),
        {"variable": VARIABLE, "depth": CONST, "type": ("fifo", "pipo", "shared", "unsync")},
        (),
        ("variable",),
    ),
    "ARRAY_PARTITION": _ARRAY,
    "ARRAY_RESHAPE": _ARRAY,
    "BIND_STORAGE": Form(
        (BODY, BLOCK),
        {
            "variable": VARIABLE,
            "type": tuple(_RAMS.split()),
            "impl": ("bram", "uram", "lutram", "auto", "srl", "memory"),
            "latency": CONST,
        },
        (),
        ("variable", "type"),
    ),
    "BIND_OP": Form(
        (BODY, LOOP, BLOCK),
        {"variable": VARIABLE, "op": NAME, "impl": NAME, "latency": CONST},
        (),
        ("variable", "op"),
    ),
    "DEPENDENCE": Form(
        (BODY, LOOP),
        {
            "variable": VARIABLE,
            "class": ("array", "pointer"),
            "type": ("inter", "intra"),
            "direction": ("raw", "war", "waw"),
            "distance": CONST,
            "dependent": ("true", "false"),
        },
    ),
    "INLINE": Form((BODY,), {}, ("off", "recursive")),
    "AGGREGATE": Form(
        (BODY, BLOCK),
        {"variable": VARIABLE, "compact": ("bit", "byte", "none", "auto")},
        (),
        ("variable",),
    ),
    "DISAGGREGATE": Form((BODY, BLOCK), {"variable": VARIABLE}, (), ("variable",)),
    "STABLE": Form((BODY,), {"variable": VARIABLE}, (), ("variable",)),
    "RESET": Form((BODY, BLOCK), {"variable": VARIABLE}, ("off",), ("variable",)),
    "LATENCY": Form((BODY, LOOP, BLOCK), {"min": CONST, "max": CONST}),
    "EXPRESSION_BALANCE": Form((BODY, LOOP, BLOCK), {}, ("off",)),
    "ALLOCATION": Form(
        (BODY, LOOP, BLOCK), {"instances": NAME, "limit": CONST}, ("function", "operation")
    ),
    "INTERFACE": Form(
        (TOP,),
        {
            "mode": (
                *("m_axi", "s_axilite", "axis", "ap_ctrl_hs", "ap_ctrl_chain", "ap_ctrl_none"),
                *("ap_none", "ap_vld", "ap_ack", "ap_hs", "ap_memory", "ap_fifo", "bram"),
            ),
            "port": VARIABLE,
            "bundle": NAME,
            "offset": ("slave", "direct", "off"),
            "name": NAME,
            "channel": NAME,
            **dict.fromkeys(_PORT_OPTIONS.split(), CONST),
        },
        (),
        ("mode", "port"),
    ),
    "TOP": Form((BODY,), {"name": NAME}),
}


class Words:
    """A pragma taken apart: `name` upper case, `options` and `flags` with lower-case keys."""

    def __init__(self, text: str) -> None:
        self.hls = bool(re.match(r"hls\b", text, re.IGNORECASE))
        words = re.sub(r"\s*=\s*", "=", text).split()[1:] if self.hls else []
        self.name = words[0].upper() if words else ""
        pairs = [word.partition("=") for word in words[1:]]
        self.options = {key.lower(): value for key, equals, value in pairs if equals}
        self.flags = [key.lower() for key, equals, _ in pairs if not equals]


def check(program: Program) -> Iterator[Finding]:
    """Findings of this file's rules."""
    source = program.source
    placed = {p for f in program.functions.values() for p, _ in f.pragmas}
    for pragma in source.pragmas:
        words = Words(pragma.text)
        if words.hls and pragma not in placed and words.name in ("", *FORMS):
            continue  # in a function that the top does not reach
        for rule, text in _spelling(words):
            yield source.finding(pragma.line, rule, text)
    for function in program.functions.values():
        for pragma, block in function.pragmas:
            words = Words(pragma.text)
            if words.name in FORMS:
                for rule, text in _meaning(program, function, pragma, block):
                    yield source.finding(pragma.line, rule, text)


def _spelling(words: Words) -> Iterator[tuple[str, str]]:
    if not words.hls:
        return  # `once` and what other tools read
    if words.name not in FORMS:
        yield "pragma-unknown", unknown("pragma", words.name, FORMS)
        return
    form = FORMS[words.name]
    values = {v for kind in form.options.values() if isinstance(kind, tuple) for v in kind}
    for flag in words.flags:
        if flag in values and flag not in form.flags:
            yield "pragma-form", f"{words.name} {flag}: which option is that?"
        elif flag not in form.flags:
            yield "pragma-unknown", f"{words.name} does not know {flag!r}"
    for key, value in words.options.items():
        kind = form.options.get(key)
        if kind is None:
            yield "pragma-unknown", f"{words.name}: {unknown('option', key, form.options)}"
        elif isinstance(kind, tuple) and value.lower() not in kind:
            yield "pragma-value", f"{words.name} {unknown(key, value, kind)}"
    for key in form.required:
        if key not in words.options:
            yield "pragma-value", f"{words.name} needs {key}="
    if words.options.get("type") in ("cyclic", "block") and "factor" not in words.options:
        yield "pragma-value", f"{words.name} type={words.options['type']} needs factor="


def _meaning(
    program: Program, function: Function, pragma: Pragma, block: Node
) -> Iterator[tuple[str, str]]:
    words = Words(pragma.text)
    form = FORMS[words.name]
    place = _place(function, block)
    if TOP in form.places:
        if function is not program.top or place != BODY:
            yield "pragma-place", f"{words.name} outside the body of the top function"
    elif place not in form.places:
        wanted = " or ".join(form.places)
        yield "pragma-place", f"{words.name} in the body of a {place}, not of a {wanted}"
    if words.name == "DATAFLOW" and not _is_first(block, pragma, function):
        yield "pragma-place", "DATAFLOW behind the first statement"
    if words.name == "ALLOCATION" and "function" in words.flags:
        called = {f.name for f in program.functions.values()}
        if words.options.get("instances") not in called:
            yield "pragma-variable", f"no function {words.options.get('instances')!r} is called"
    for key, value in words.options.items():
        kind = form.options.get(key)
        if kind == CONST and not _is_constant(function, value):
            yield "pragma-value", f"{words.name} {key}={value} is not a constant"
        if kind == VARIABLE:
            yield from _names(function, pragma, block, words)


def _place(function: Function, block: Node) -> str:
    if block is function.body:
        return BODY
    return LOOP if block.parent is not None and block.parent.kind in LOOPS else BLOCK


def _is_first(block: Node, pragma: Pragma, function: Function) -> bool:
    return not any(c.span[0] < pragma.offset for c in block.children)


def _is_constant(function: Function, value: str) -> bool:
    names = re.findall(r"[A-Za-z_]\w*(?:::\w+)*", value)
    plain = bool(re.fullmatch(r"[\w\s:+*/()-]+", value))
    return plain and all(name.split("::")[-1] in constants(function) for name in names)


def _names(
    function: Function, pragma: Pragma, block: Node, words: Words
) -> Iterator[tuple[str, str]]:
    """What `variable=` or `port=` names, and whether it is the kind of thing the pragma is for."""
    value = words.options.get("variable") or words.options.get("port", "")
    if words.name == "INTERFACE" and value == "return":
        return
    for name in value.split(","):
        if words.name == "INTERFACE" and name not in [p.name for p in function.parameters]:
            yield "pragma-variable", f"no argument {name!r}"
            continue
        found = lookup(function, name, block, pragma.offset)
        if found is None:
            yield "pragma-variable", f"{words.name}: no {name!r} is declared here"
        elif words.name in ("ARRAY_PARTITION", "ARRAY_RESHAPE"):
            dim = words.options.get("dim", "1")
            if rank(found.type) == 0:
                yield "pragma-variable", f"{words.name}: {name} is no array"
            elif dim.isdigit() and int(dim) > rank(found.type):
                text = f"{words.name}: {name} has {rank(found.type)} dimensions, not {dim}"
                yield "pragma-value", text
        elif words.name == "STREAM" and not (is_stream(found.type) or rank(found.type)):
            yield "pragma-variable", f"STREAM: {name} is neither a stream nor an array"
