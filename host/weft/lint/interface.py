"""The top function's ports: one register map, one port per pointer, names that HDL allows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from weft.lint.dataflow import is_stream
from weft.lint.findings import Finding
from weft.lint.pragmas import Words
from weft.lint.reach import Program

# Words of Verilog-2005 and VHDL-2008, and those that the tool is known to rename.
_WORDS = """
    abs access after alias all always and architecture array assert assign attribute automatic
    begin block body buf buffer bus case casex casez cell component config configuration constant
    deassign default defparam design disable disconnect downto edge else elsif end endcase
    endconfig endfunction endgenerate endmodule endprimitive endspecify endtable endtask entity
    event exit file for force forever fork function generate generic genvar group guarded if
    ifnone impure in incdir include inertial initial inout input instance integer is join label
    large liblist library linkage literal localparam loop macromodule map medium mod module nand
    negedge new next nmos nor noshowcancelled not notif of on open or others out output package
    parameter pmos port posedge postponed primitive procedure process protected pull0 pull1
    pulldown pullup pulsestyle_onevent pulsestyle_ondetect pure range rcmos real realtime record
    reg register reject release rem repeat report return rnmos rol ror rpmos rtran scalared select
    severity shared showcancelled signal signed sla sll small specify specparam sra srl strength
    strong0 strong1 subtype supply0 supply1 table task then time to tran transport tri triand
    trior trireg type unaffected units unsigned until use variable vectored wait wand weak0 weak1
    when while wire with wor xnor xor
"""
HDL_WORDS = frozenset(_WORDS.split())
_POINTERS = ("POINTER", "CONSTANTARRAY", "INCOMPLETEARRAY")


def check(program: Program) -> Iterator[Finding]:
    """Findings of this file's rules."""
    top = program.top
    modes: dict[str, list[str]] = defaultdict(list)
    bundles = set()
    for pragma, _ in top.pragmas:
        words = Words(pragma.text)
        if words.name == "INTERFACE":
            mode, port = words.options.get("mode", ""), words.options.get("port", "")
            modes[port].append(mode)
            if mode == "s_axilite":
                bundles.add(words.options.get("bundle", "control"))
    mapped = any("s_axilite" in listed or "m_axi" in listed for listed in modes.values())
    if len(bundles) > 1:
        text = f"register maps {', '.join(sorted(bundles))}"
        yield top.finding(top.node, "interface", text)
    for argument in top.parameters:
        if argument.name.lower() in HDL_WORDS:
            yield top.finding(argument, "hdl-name", f"argument {argument.name}")
        wanted = _wanted(argument.type, mapped, modes[argument.name])
        for mode, count in wanted.items():
            if modes[argument.name].count(mode) != count:
                text = f"argument {argument.name} has {modes[argument.name].count(mode)} {mode}"
                yield top.finding(argument, "interface", text)
    if mapped and modes["return"].count("s_axilite") != 1:
        yield top.finding(top.node, "interface", "return is not in the register map")


def _wanted(kind: object, mapped: bool, modes: list[str]) -> dict[str, int]:
    """Mode → how many INTERFACE pragmas of it an argument of that type needs."""
    if is_stream(kind):
        return {"axis": 1, "s_axilite": 0, "m_axi": 0}
    pointer = kind.kind.name in _POINTERS  # type: ignore[attr-defined]
    held = kind.kind.name == "CONSTANTARRAY" and "m_axi" not in modes  # type: ignore[attr-defined]
    return {"s_axilite": int(mapped), "m_axi": int(pointer and not held)}
