"""Adjust: fields of instructions that follow the registers of a run: tokens, position, origin
and source.

The golden model of hls/weft/adjust.hpp, and what estimates and messages know of a segment by it.
All numbers are of 32 bits and wrap.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from weft import isa
from weft.errors import ProgramError
from weft.state import FaultError, Fields

Registers = tuple[int, ...]  # tokens, position, origin, source; those that are not given are 0


def whole(registers: Registers) -> tuple[int, int, int, int]:
    """All four of them."""
    tokens, position, origin, source = (*registers, 0, 0, 0, 0)[:4]
    return tokens, position, origin, source


def _wrapped(value: int) -> int:
    return (value + (1 << 31) & 0xFFFFFFFF) - (1 << 31)


def check_registers(registers: Registers, limit: int) -> None:
    """Raises FaultError for tokens outside 0..limit (accumulator_rows), others below 0."""
    tokens, *others = whole(registers)
    if not 0 <= tokens <= limit:
        raise FaultError(2, f"tokens {tokens} is outside 0..{limit}")
    for name, value in zip(("position", "origin", "source"), others, strict=True):
        if not 0 <= value < 1 << 31:
            raise FaultError(2, f"{name} {value} is outside 0..{(1 << 31) - 1}")


class Adjuster:
    """Follows the instructions of a segment, and changes those behind an Adjust."""

    def __init__(self, registers: Registers) -> None:
        tokens, position, origin, source = whole(registers)
        total, place = _wrapped(tokens + position), _wrapped(origin + position)
        group = isa.PACKED_GROUP
        offset, completed = position % group, total // group - position // group
        ring = _wrapped(source + offset)
        self._registers = (
            tokens, position, total, origin, place, source, completed, offset, ring,
        )  # fmt: skip
        self._clear()

    def _clear(self) -> None:
        self._values: list[tuple[int, int]] = []  # (word, value), in order
        self._count, self._drops = 0, False

    def take(self, words: isa.Words) -> None:
        """An Adjust. Raises FaultError for a bad one, or one too many."""
        if self._count == isa.MOST_ADJUSTS:
            raise FaultError(6, f"more than {isa.MOST_ADJUSTS} Adjusts before an instruction")
        try:
            f = isa.decode(words)[1]
        except ProgramError as error:
            raise FaultError(2, str(error)) from None
        self._count += 1
        for i in range(isa.ADJUSTMENTS):
            if f[f"register_{i}"] >= len(isa.REGISTERS):
                raise FaultError(2, f"register_{i} = {f[f'register_{i}']}")
            left = self.left(f, i)
            unit = f[f"unit_{i}"]
            units = (left >> unit) + bool(left & (1 << unit) - 1)
            value = _wrapped(f[f"base_{i}"] + f[f"scale_{i}"] * units)
            self._values.append((f[f"field_{i}"], value))
            self._drops |= bool(f[f"drop_{i}"]) and left < 1

    def left(self, f: Fields, i: int) -> int:
        """min(most, register − offset) of adjustment `i` of an Adjust."""
        difference = _wrapped(self._registers[f[f"register_{i}"]] - f[f"offset_{i}"])
        return min(f[f"most_{i}"], difference)

    def apply(self, words: isa.Words) -> isa.Words | None:
        """An instruction as it runs; None for one that is left out.

        Raises FaultError for Adjusts before a Barrier, or of a field that the instruction lacks.
        """
        if not self._count:
            return words
        values, drops = self._values, self._drops
        self._clear()
        kind = isa.INSTRUCTIONS.get(int(words[0]))
        if kind is isa.BARRIER:
            raise FaultError(6, "an Adjust before a Barrier")
        if drops:
            return None
        if kind is None:
            return words
        adjusted = np.array(words)
        for word, value in values:
            if word > len(kind.fields):
                raise FaultError(2, f"an Adjust of word {word}, but {kind.name} has no such field")
            if word:
                adjusted[word] = value
        return adjusted


def resolved(words: isa.Words, registers: Registers) -> Iterator[tuple[int, isa.Words | None]]:
    """(number, words as they run) of a segment's instructions; None for those without effect.

    These are Adjusts and what they leave out. Raises FaultError for a bad one.
    """
    adjuster = Adjuster(registers)
    for number, each in enumerate(words):
        if int(each[0]) == isa.ADJUST.opcode:
            adjuster.take(each)
            yield number, None
        else:
            yield number, adjuster.apply(each)


def running(words: isa.Words, registers: Registers) -> list[int]:
    """Numbers of a segment's instructions that run, the last one in place of a bad one, if any."""
    numbers, last = [], -1
    try:
        for last, each in resolved(words, registers):
            if each is not None:
                numbers.append(last)
    except FaultError:
        numbers.append(last + 1)
    return numbers
