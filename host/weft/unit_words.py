"""Numbers of a unit's test bench as 32-bit words, and what an exported unit is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

from weft import isa
from weft.config import Overlay
from weft.errors import CapacityError

Words = NDArray[np.uint32]
Run = tuple[Words, Words]  # operands, results


@dataclass(frozen=True)
class ExportUnit:
    """A unit that can stand alone: what it is, and runs of it for an overlay.

    Where it has memory ports, `memory_rows` rows are behind them: operands begin with what they
    hold, and results end with what they hold afterwards. `settings`: sizes that it is exported
    with unless told otherwise; `formats`: it reads every number format; `engines`: what else of the
    array it needs; `parts`: other settings of the overlay that it is there with.
    """

    name: str
    title: str
    runs: Callable[[Overlay, Generator], list[Run]]
    memory_rows: int = 0
    settings: Mapping[str, str] = field(default_factory=dict)
    formats: bool = False
    engines: tuple[str, ...] = ("systolic",)
    parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def words(*parts: ArrayLike) -> Words:
    """int32 numbers and rows of int8 codes (four to a word) as one sequence of words."""
    found = []
    for part in parts:
        array = np.ascontiguousarray(part)
        codes = array.dtype == np.int8
        found.append(array.reshape(-1).view("<u4") if codes else _unsigned(array))
    return np.concatenate(found)


def _unsigned(array: NDArray[Any]) -> Words:
    return (array.reshape(-1).astype(np.int64) & 0xFFFFFFFF).astype(np.uint32)


def random_codes(rng: Generator, *shape: int) -> NDArray[np.int8]:
    """Codes of 8 bits, all of them equally likely."""
    return rng.integers(-128, 128, shape).astype(np.int8)


def fields(instruction: isa.Instruction, **values: int) -> dict[str, int]:
    """All fields of an instruction; those that are not named are 0."""
    return {field.name: values.get(field.name, 0) for field in instruction.fields}


def need(unit: str, overlay: Overlay, **sizes: int) -> None:
    """Raises CapacityError where the vectors of a unit take more of something than there is."""
    for name, least in sizes.items():
        there = getattr(overlay, name)
        if there < least:
            raise CapacityError(
                f"the vectors of unit {unit!r} take {name} = {least}, the overlay has {there}: "
                f"--set {name}={least}"
            )


def clock_words(*counts: int) -> Words:
    """Counts of clocks, two words each, the low one first."""
    return words([part for count in counts for part in (count & 0xFFFFFFFF, count >> 32)])
