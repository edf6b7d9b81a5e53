"""Binary fixed point as the ap_fixed types of HLS have it: integer codes in int64.

A code q of a type with F fractional bits stands for q · 2**-F. Rounding and overflow follow the
ap_fixed template of the Vitis HLS user guide (UG1399, "Arbitrary Precision Fixed-Point Data
Types"): seven rounding modes and four overflow modes, all of them exact here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from weft.errors import UnsupportedError, unknown

Codes = NDArray[np.int64]
LARGEST_WIDTH = 48  # leaves 15 bits for sums and shifts in int64


def _half(s: int) -> int:
    return 1 << (s - 1)


def _half_even(q: Codes, s: int) -> Codes:
    whole, rest = q >> s, q & ((1 << s) - 1)
    up = (rest > _half(s)) | ((rest == _half(s)) & (whole & 1 == 1))
    return np.asarray(whole + up, np.int64)


def _half_up(q: Codes, s: int) -> Codes:
    return (q + _half(s)) >> s


def _half_down(q: Codes, s: int) -> Codes:
    return (q + _half(s) - 1) >> s


ROUNDING: dict[str, Callable[[Codes, int], Codes]] = {
    "TRN": lambda q, s: q >> s,
    "TRN_ZERO": lambda q, s: np.where(q < 0, -(-q >> s), q >> s),
    "RND": _half_up,
    "RND_MIN_INF": _half_down,
    "RND_INF": lambda q, s: np.where(q < 0, _half_down(q, s), _half_up(q, s)),
    "RND_ZERO": lambda q, s: np.where(q < 0, _half_up(q, s), _half_down(q, s)),
    "RND_CONV": _half_even,
}
OVERFLOW = ("WRAP", "SAT", "SAT_SYM", "SAT_ZERO")


@dataclass(frozen=True)
class FixedType:
    """ap_fixed<width, integer, rounding, overflow>; ap_ufixed if not `signed`."""

    width: int
    integer: int
    signed: bool = True
    rounding: str = "TRN"
    overflow: str = "WRAP"

    def __post_init__(self) -> None:
        if self.rounding not in ROUNDING:
            raise UnsupportedError(unknown("rounding mode", self.rounding, ROUNDING))
        if self.overflow not in OVERFLOW:
            raise UnsupportedError(unknown("overflow mode", self.overflow, OVERFLOW))
        if not 1 <= self.width <= LARGEST_WIDTH or not -64 <= self.integer <= 64:
            raise UnsupportedError(
                f"fixed<{self.width},{self.integer}>: weft evaluates widths of 1 to "
                f"{LARGEST_WIDTH} bits with -64 to 64 integer bits; choose a narrower precision"
            )

    @classmethod
    def of(cls, attribute: Sequence[Any]) -> FixedType:
        """The type from a node's attribute, the inverse of `attribute`."""
        width, integer, signed, rounding, overflow = attribute
        return cls(int(width), int(integer), bool(signed), str(rounding), str(overflow))

    @property
    def attribute(self) -> tuple[Any, ...]:
        """The type as plain values, for a node's attributes."""
        return (self.width, self.integer, self.signed, self.rounding, self.overflow)

    @property
    def frac(self) -> int:
        """Fractional bits."""
        return self.width - self.integer

    @property
    def low(self) -> int:
        """Smallest code."""
        return -(1 << (self.width - 1)) if self.signed else 0

    @property
    def high(self) -> int:
        """Largest code."""
        return (1 << (self.width - self.signed)) - 1

    @property
    def step(self) -> float:
        """What one code is worth."""
        return float(2.0**-self.frac)

    def rounds(self, rounding: str) -> FixedType:
        """The same type with another rounding."""
        return replace(self, rounding=rounding)

    def __str__(self) -> str:
        name = "fixed" if self.signed else "ufixed"
        return f"{name}<{self.width},{self.integer},{self.rounding},{self.overflow}>"


def cast(codes: ArrayLike, frac: int, to: FixedType) -> Codes:
    """Codes of `frac` fractional bits converted to the type `to`: rounded, then its overflow."""
    q, shift = np.asarray(codes, np.int64), frac - to.frac
    if shift > 0:
        q = np.asarray(ROUNDING[to.rounding](q, min(shift, 62)), np.int64)
    elif shift < 0:
        q = _shifted_up(q, -shift, to)
    return overflowed(q, to)


def _shifted_up(q: Codes, shift: int, to: FixedType) -> Codes:
    """q · 2**shift, or anything that overflows `to` in the same way."""
    if to.overflow == "WRAP":
        return q << shift if shift < to.width else np.zeros_like(q)
    limit = (1 << to.width) >> min(shift, to.width) | 1
    return np.clip(q, -limit, limit) << min(shift, to.width)


def overflowed(q: Codes, to: FixedType) -> Codes:
    """Codes at the scale of `to` brought into its range, as its overflow mode says."""
    if to.overflow == "WRAP":
        wrapped = q & ((1 << to.width) - 1)
        return wrapped - ((wrapped > to.high) * (np.int64(1) << to.width) if to.signed else 0)
    if to.overflow == "SAT_ZERO":
        return np.where((q < to.low) | (q > to.high), 0, q)
    low = -to.high if to.overflow == "SAT_SYM" and to.signed else to.low
    return np.clip(q, low, to.high)


def from_real(x: ArrayLike, to: FixedType) -> Codes:
    """Codes of real values (finite), as a conversion from double gives them."""
    scaled = np.ldexp(np.asarray(x, np.float64), to.frac)
    whole = 2.0 ** (to.width + 1)
    scaled = np.fmod(scaled, whole) if to.overflow == "WRAP" else np.clip(scaled, -whole, whole)
    quarters = np.floor(scaled * 4)
    # A last bit that says whether anything was cut off: enough to tell every tie from its sides.
    q = quarters.astype(np.int64) * 2 + (quarters != scaled * 4)
    return cast(q, to.frac + 3, to)


def to_real(codes: ArrayLike, frac: int) -> NDArray[np.float64]:
    """What the codes stand for."""
    return np.asarray(np.ldexp(np.asarray(codes, np.float64), -frac))
