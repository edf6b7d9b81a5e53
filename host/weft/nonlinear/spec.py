"""What the registry holds: one way to compute one function."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weft.nonlinear.functions import FUNCTIONS, Fixed, Function
from weft.units.fixed import Codes, Unit


@dataclass(frozen=True)
class Host:
    """The reference: the function in float64, rounded to the nearest output code."""

    function: Function
    cpp = ""
    hpp = ""

    def words(self) -> list[int]:
        """No parameters: there is no hardware."""
        return []

    def __call__(self, x: Codes) -> Codes:
        """Output codes."""
        f = self.function
        return np.minimum(f.output.encode(f.real(f.input.decode(x))), f.top)


def _headers(unit: Any) -> Iterator[str]:
    if not is_dataclass(unit):
        return
    if header := getattr(unit, "hpp", ""):
        yield header
    for field in fields(unit):
        yield from _headers(getattr(unit, field.name))


@dataclass(frozen=True)
class Method:
    """A function by a method.

    `error` is the largest absolute error in values over the whole domain, output rounding included
    (of the norms: where |z| < 8, beyond which the output saturates). Of softmax it is the error of
    a probability, and `row_sum` that of a row's sum; to both, each score of the row adds one output
    step: `row_bounds`. `keeps_argmax`: the largest score has the largest probability. `luts` and
    `dsps` are per lane, by count of operators, not synthesized.
    """

    function: str
    name: str
    make: Callable[[], Unit]
    error: float
    dsps: int
    luts: int
    source: str
    row_sum: float | None = None
    keeps_argmax: bool = True
    note: str = ""

    @cached_property
    def unit(self) -> Unit:
        """The golden model, with its parameters worked out."""
        return self.make()

    @property
    def of(self) -> Function:
        """The function: its real-number form, formats and domain."""
        return FUNCTIONS[self.function]

    @property
    def input(self) -> Fixed:
        """Format of the input codes."""
        return self.of.input

    @property
    def output(self) -> Fixed:
        """Format of the output codes."""
        return self.of.output

    @property
    def domain(self) -> tuple[float, float]:
        """Smallest and largest input value for which `error` holds."""
        low, high = self.input.decode([self.of.low, self.of.high])
        return float(low), float(high)

    def row_bounds(self, n: int) -> tuple[float, float]:
        """(error of a probability, error of the sum) of softmax rows of n scores, at most."""
        rounding = n * self.output.step
        return self.error + rounding, (self.row_sum or 0.0) + rounding

    @property
    def hpp(self) -> str:
        """Header below hls/weft; empty for the host."""
        return self.unit.hpp

    @property
    def headers(self) -> tuple[str, ...]:
        """That header and those of the parts of `cpp`."""
        return tuple(dict.fromkeys(_headers(self.unit)))

    @property
    def cpp(self) -> str:
        """C++ type in namespace weft; empty for the host."""
        return self.unit.cpp

    def golden(self, codes: Codes) -> Codes:
        """Output codes of input codes, bit for bit what the hardware gives."""
        return self.unit(np.asarray(codes, np.int64))

    def __call__(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Real values through the unit: quantized, computed, converted back."""
        return self.output.decode(self.golden(self.input.encode(x)))
