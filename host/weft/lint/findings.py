"""What a rule says when it is broken."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path


@dataclass(frozen=True)
class Rule:
    """Why something is refused, and what to write instead."""

    why: str
    remedy: str


RULES: dict[str, Rule] = {
    "dynamic-memory": Rule(
        "hardware has no heap", "declare an array of constant size, static in its process"
    ),
    "recursion": Rule("hardware has no call stack", "write a loop"),
    "virtual": Rule("calls must be known at compile time", "use a template parameter"),
    "exception": Rule("hardware can't unwind", "return a status"),
    "container": Rule("the standard library allocates at run time", "use arrays and Vec"),
    "function-pointer": Rule(
        "calls must be known at compile time", "use a template parameter or a switch"
    ),
    "pointer-cast": Rule("a memory has one element type in hardware", "convert element by element"),
    "float": Rule(
        "floating-point cores cost hundreds of LUTs and differ between tools",
        "use integers, or say 'floating point' in the comment above the function",
    ),
    "system-call": Rule(
        "hardware has no operating system, and the tool no source for it",
        "remove it, or keep it under #ifndef __SYNTHESIS__",
    ),
    "tripcount": Rule(
        "a loop without constant bounds has no latency in reports", "add WEFT_TRIPCOUNT(most)"
    ),
    "unroll-bound": Rule(
        "a loop without constant bounds can't be unrolled",
        "give it constant bounds, a factor, or take UNROLL out",
    ),
    "pipeline-loop": Rule(
        "PIPELINE unrolls the loops inside, which needs constant bounds",
        "give the inner loop constant bounds or pipeline that one instead",
    ),
    "pragma-unknown": Rule(
        "an unknown pragma or option is only a warning, and the design loses it",
        "correct the spelling",
    ),
    "pragma-form": Rule("versions differ in how they read positional words", "write option=value"),
    "pragma-value": Rule("a bad argument drops the pragma", "give one of the values it takes"),
    "pragma-variable": Rule(
        "a name is looked up where the pragma stands; one that is not found drops the pragma",
        "name a variable that is declared above the pragma",
    ),
    "pragma-place": Rule("a pragma in another place is ignored", "move it where it takes effect"),
    "interface": Rule(
        "arguments without, or in different, register maps give ports that no driver expects",
        "m_axi once for each pointer, axis once for each stream, and one s_axilite bundle for "
        "all arguments and return",
    ),
    "hdl-name": Rule(
        "ports named like HDL keywords are renamed by the tool", "choose another name"
    ),
    "dataflow-form": Rule(
        "a region that is not canonical runs its processes one after another, or wrongly",
        "only declarations and calls of void functions, arguments plain names",
    ),
    "dataflow-channel": Rule(
        "a channel connects one writer with one reader",
        "one process per side; copy or split what more need",
    ),
    "memory-ports": Rule(
        "more accesses per clock than ports: the loop misses its II",
        "partition the dimension that is accessed in parallel, or read once into a register",
    ),
}


@dataclass(frozen=True)
class Finding:
    """One broken rule at a place in the source."""

    file: str
    line: int
    rule: str
    what: str

    @property
    def why(self) -> str:
        """Why the rule exists."""
        return RULES[self.rule].why

    @property
    def remedy(self) -> str:
        """What to do."""
        return RULES[self.rule].remedy

    def relative(self, root: Path, generated: Path) -> Finding:
        """The same with its file named from `root`; generated files by name only."""
        path = Path(self.file)
        for base in (root, generated):
            if path.is_relative_to(base):
                return replace(self, file=str(path.relative_to(base)))
        return self

    def as_dict(self) -> dict[str, str | int]:
        """For JSON."""
        facts = {"rule": self.rule, "what": self.what, "why": self.why, "remedy": self.remedy}
        return {"file": self.file, "line": self.line, **facts}

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.rule}: {self.what}\n    {self.why}; {self.remedy}"
