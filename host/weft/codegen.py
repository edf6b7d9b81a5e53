"""Templates → texts in memory: the C++ that depends on an overlay, and what builds it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from weft import isa
from weft.config import INTEGER_METHOD, TABLE_METHOD, Overlay, data_root
from weft.errors import MissingDependency
from weft.state import ISSUE_CLOCKS

if TYPE_CHECKING:
    from weft.format import Format


def headers(overlay: Overlay) -> dict[str, str]:
    """File name → text of the generated headers; same overlay, same bytes.

    Raises MissingDependency where jinja2 is not installed.
    """
    facts = {
        **isa.template_values(),
        "overlay": overlay,
        "digest": overlay.digest(),
        "issue_clocks": ISSUE_CLOCKS,
        **_decoders(overlay),
        **_softmax(overlay),
        **_norm(overlay),
    }
    names = ("config.hpp", "isa.hpp", "decoders.hpp", "softmax_methods.hpp", "norm_methods.hpp")
    return {name: render(f"hls/templates/{name}.j2", facts) for name in names}


def _decoders(overlay: Overlay) -> dict[str, Any]:
    """What hls/templates/decoders.hpp.j2 needs to know of the overlay's number formats."""
    from weft.formats import BY_NUMBER

    found = [
        Decoder(number, fmt)
        for number, fmt in BY_NUMBER.items()
        if number == 0 or fmt.name in overlay.formats
    ]
    coded = [d for d in found if d.number and not d.format.codebook]
    records = {"multiplier": "kMultiplierRecord", "e8m0": "kExponentRecord", "e4m3": "kE4M3Record"}
    return {
        "headers": sorted({d.format.hpp for d in coded}),
        "code_bits": [(d, d.format.bits) for d in found if d.format.bits != 8],
        "decodes": [(d, "true") for d in found],
        "base_3": [(d, "true") for d in found if d.format.per_byte],
        "pairs": [(d, "true") for d in found if d.format.pairs],
        "codebooks": [(d, "true") for d in found if d.format.codebook],
        "records": [(d, records[d.format.record]) for d in found if d.format.record != "none"],
        "integers": [d for d in coded if d.format.operand != "bf16" and d.format.bits <= 8],
        "floats": [d for d in coded if d.format.operand == "bf16" and d.format.name != "bf16"],
    }


def _softmax(overlay: Overlay) -> dict[str, Any]:
    """What hls/templates/softmax_methods.hpp.j2 needs to know of the overlay's exponentials."""
    if "attention" not in overlay.units:  # what makes units of methods takes a while to import
        return {"softmax": [], "softmax_headers": []}
    from weft.nonlinear import method

    found: list[RowMethod] = []
    headers: list[str] = []
    for index, name in enumerate(overlay.softmax):
        if name == TABLE_METHOD:
            found.append(RowMethod(index, name, True))
            continue
        exp, reciprocal = method("exp", name), method("reciprocal", name)
        words = (tuple(exp.unit.words()), tuple(reciprocal.unit.words()))
        found.append(RowMethod(index, name, False, exp.cpp, reciprocal.cpp, *words))
        headers += [*exp.headers, *reciprocal.headers]
    return {"softmax": found, "softmax_headers": sorted(set(headers))}


def _norm(overlay: Overlay) -> dict[str, Any]:
    """What hls/templates/norm_methods.hpp.j2 needs to know of the overlay's norms."""
    if "norm" not in overlay.units:
        return {"norm": [], "norm_headers": []}
    from weft.nonlinear import method

    found: list[NormMethod] = []
    headers: list[str] = []
    for index, name in enumerate(overlay.norm):
        if name == TABLE_METHOD:
            found.append(NormMethod(index, name, "TableRoot"))
        elif name == INTEGER_METHOD:
            found.append(NormMethod(index, name, "IntegerRoot"))
        else:
            rsqrt = method("rsqrt", name)
            words = tuple(rsqrt.unit.words())
            found.append(NormMethod(index, name, f"MantissaRoot<{rsqrt.cpp}>", words))
            headers += rsqrt.headers
    return {"norm": found, "norm_headers": sorted(set(headers))}


_ROOT_REGISTERS = {
    "<ShiftSegments<": "SHIFT_SEGMENTS",
    "<Segments<": "SEGMENTS",
    "<PolynomialRsqrt<": "POLYNOMIAL_RSQRT",
}


@dataclass(frozen=True)
class NormMethod:
    """A way to make a norm's root by its number in instructions."""

    index: int
    name: str
    cpp: str
    words: tuple[int, ...] = ()

    @property
    def table(self) -> bool:
        """Whether a program loads its words."""
        return self.name == TABLE_METHOD

    @property
    def integer(self) -> bool:
        """Whether it is I-BERT's."""
        return self.name == INTEGER_METHOD

    @property
    def kind(self) -> str:
        """How z follows from a row (hls/weft/units/root.hpp)."""
        return "kTableKind" if self.table else "kIntegerKind" if self.integer else "kRootKind"

    @property
    def member(self) -> str:
        """Its name in the generated struct."""
        return "table" if self.table else f"root{self.index}"

    @property
    def partition(self) -> str:
        """The pragmas that a root by compared lines needs; a table looks up once per clock."""
        for part, macro in _ROOT_REGISTERS.items():
            if part in self.cpp:
                return f"WEFT_PARTITION_{macro}(unit.{self.member}.norm.rsqrt)"
        return ""


_REGISTERS = {
    "ShiftSegments<": "SHIFT_SEGMENTS",
    "Segments<": "SEGMENTS",
    "PolynomialExp<": "POLYNOMIAL",
    "CordicExp<": "CORDIC",
}


@dataclass(frozen=True)
class RowMethod:
    """A way to make exponentials by its number in instructions; a table's words are loaded."""

    index: int
    name: str
    table: bool
    exp: str = ""
    reciprocal: str = ""
    exp_words: tuple[int, ...] = ()
    reciprocal_words: tuple[int, ...] = ()

    @property
    def per_lane(self) -> bool:
        """Whether the exponential looks up in a memory, of which each lane then needs one."""
        return "Lut<" in self.exp or "Pwl<" in self.exp

    @property
    def partition(self) -> str:
        """The pragmas that the exponential needs."""
        unit = f"unit.exp{self.index}"
        if self.table:
            where = "variable = unit.table.exp.value type = complete dim = 1"
            return f"WEFT_HLS(ARRAY_PARTITION {where})"
        if self.per_lane:
            return f"WEFT_PARTITION_LANES({unit})"
        line = ".power.line" if "LineExp<" in self.exp else ""
        for part, macro in _REGISTERS.items():
            if part in self.exp:
                return f"WEFT_PARTITION_{macro}({unit}{line})"
        return ""


@dataclass(frozen=True)
class Decoder:
    """A format by its number in instructions."""

    number: int
    format: Format

    @property
    def name(self) -> str:
        """What the overlay calls it."""
        return self.format.name

    @property
    def decoder(self) -> str:
        """The C++ struct."""
        return self.format.decoder


def render(template: str, facts: dict[str, Any]) -> str:
    """The text of a template, named by its path from the data root; unknown names are errors.

    Raises MissingDependency where jinja2 is not installed.
    """
    return str(_environment().get_template(template).render(facts))


@cache
def _environment() -> Any:
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError:
        raise MissingDependency(
            "generating C++ needs jinja2: pip install 'weft[compile]'"
        ) from None
    return Environment(
        loader=FileSystemLoader(data_root()),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,
    )
