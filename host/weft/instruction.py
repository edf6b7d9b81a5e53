"""What an instruction is made of: words, fields and their widths, encoding.

Which instructions there are says `weft.isa`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weft.errors import CapacityError

WORDS = 32  # words of 32 bits per instruction
Words = NDArray[np.int32]
ADDRESS, STRIDE, COUNT, MEMORY = 24, 24, 16, 32  # bits of a field


@dataclass(frozen=True)
class Field:
    """One operand: its name, width in bits, whether it is signed, and what it means."""

    name: str
    bits: int
    doc: str
    signed: bool = False

    @property
    def low(self) -> int:
        """Smallest legal value."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def high(self) -> int:
        """Largest legal value."""
        return (1 << (self.bits - self.signed)) - 1


@dataclass(frozen=True)
class Instruction:
    """One kind of instruction."""

    name: str
    opcode: int
    doc: str
    fields: tuple[Field, ...]

    def encode(self, **values: int) -> Words:
        """Words of one instruction; fields that are not named are 0.

        Raises CapacityError if a value does not fit its field.
        """
        words = np.zeros(WORDS, np.int32)
        words[0] = self.opcode
        for index, field in enumerate(self.fields, start=1):
            value = int(values.pop(field.name, 0))
            if not field.low <= value <= field.high:
                raise CapacityError(
                    f"{self.name}.{field.name} = {value} is outside {field.low}..{field.high} "
                    f"({field.doc})"
                )
            words[index] = value if value < 1 << 31 else value - (1 << 32)
        assert not values, f"{self.name} has no field {sorted(values)}"
        return words


def unsigned(bits: int, /, **docs: str) -> tuple[Field, ...]:
    """Unsigned fields of `bits` bits: name → what it means."""
    return tuple(Field(name, bits, doc) for name, doc in docs.items())


def signed(bits: int, /, **docs: str) -> tuple[Field, ...]:
    """Signed fields of `bits` bits: name → what it means."""
    return tuple(Field(name, bits, doc, signed=True) for name, doc in docs.items())
