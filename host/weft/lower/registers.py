"""Rules as instructions: fields that follow the registers of a run become Adjusts in front."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from weft import isa
from weft.isa import Words
from weft.program import Rule

(
    TOKENS, POSITION, TOTAL, ORIGIN, PLACE, SOURCE, COMPLETED, OFFSET, RING,
) = range(len(isa.REGISTERS))  # fmt: skip


@dataclass(frozen=True)
class Follow(Rule):
    """A rule of another register than the tokens, which alone leaves nothing out.

    value = base + ⌈min(most, register − offset) / unit⌉ · scale.
    """

    register: int = TOTAL
    base: int = 0
    drop: bool = False


def follow(
    field: str,
    register: int,
    base: int = 0,
    *,
    offset: int = 0,
    most: int = (1 << 31) - 1,
    unit: int = 1,
    scale: int = 1,
    drop: bool = False,
) -> Follow:
    """A rule of a register for the next instruction."""
    return Follow(0, 0, field, "", offset, most, unit, scale, register, base, drop)


def adjusts(words: Words, rules: Sequence[Rule], sources: Collection[str] = ()) -> Iterator[Words]:
    """The Adjusts of an instruction; `sources` are the inputs whose tokens are a source's."""
    kind = isa.INSTRUCTIONS[int(words[0])]
    names = [field.name for field in kind.fields]
    parts = list(dict.fromkeys(r for r in rules if r.field or getattr(r, "drop", True)))
    most = isa.ADJUSTMENTS * isa.MOST_ADJUSTS
    assert len(parts) <= most, f"{kind.name} follows {len(parts)} rules; {most} are possible"
    for start in range(0, len(parts), isa.ADJUSTMENTS):
        fields: dict[str, int] = {}
        for i, rule in enumerate(parts[start : start + isa.ADJUSTMENTS]):
            own = rule if isinstance(rule, Follow) else None
            counted = SOURCE if rule.input in sources else TOKENS
            unit = rule.unit.bit_length() - 1
            assert 1 << unit == rule.unit, "units are powers of two"
            fields |= {
                f"field_{i}": 1 + names.index(rule.field) if rule.field else 0,
                f"register_{i}": own.register if own else counted,
                f"drop_{i}": int(own.drop if own else True),
                f"unit_{i}": unit,
                f"offset_{i}": rule.offset,
                f"most_{i}": rule.most,
                f"scale_{i}": rule.scale,
                f"base_{i}": own.base if own else 0,
            }
        yield isa.ADJUST.encode(**fields)
