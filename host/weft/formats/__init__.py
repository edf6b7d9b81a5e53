"""Number formats: how weights become codes, and codes become operands of the array.

One file per family here and one in hls/weft/formats/; a line below adds them. The place in FORMATS
is the number that instructions know a format by.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from weft.errors import UsageError, unknown
from weft.format import Format
from weft.formats import (
    apot,
    bf16,
    binary,
    codebook,
    flint,
    grouped,
    int8,
    int16,
    integer,
    microscaling,
    minifloat,
    nvfp4,
    olive,
    pot,
    ternary,
)

FORMATS: dict[str, Format] = {
    f.name: replace(f, record="multiplier") if grouped.may_group(f) else f
    for f in (
        int8.INT8,
        int16.INT16,
        *integer.INTEGERS,
        *integer.UNSIGNED,
        *pot.POTS,
        *apot.APOTS,
        *flint.FLINTS,
        *flint.UNSIGNED,
        *minifloat.FLOATS,
        *olive.OLIVES,
        *ternary.TERNARIES,
        *binary.BINARIES,
        *codebook.CODEBOOKS,
        *microscaling.MICROSCALING,
        nvfp4.NVFP4,
        bf16.BF16,
    )
}
BY_NUMBER: dict[int, Format] = dict(enumerate(FORMATS.values()))
NUMBERS: dict[str, int] = {f.name: number for number, f in BY_NUMBER.items()}


@cache
def parse(name: str) -> Format:
    """The format of that name; "int4:g32" has scales for groups of 32 input channels.

    Raises UsageError for an unknown name (with the nearest ones) or size of groups.
    """
    base, _, size = name.partition(":")
    if base not in FORMATS:
        raise UsageError(unknown("number format", base, FORMATS))
    fmt = FORMATS[base]
    if not size:
        return fmt
    if fmt.record != "multiplier" or size not in ("g32", "g64", "g128"):
        those = ", ".join(f.name for f in FORMATS.values() if f.record == "multiplier")
        raise UsageError(f"{name!r}: groups are :g32, :g64 or :g128, of {those}")
    if fmt.hpp == integer.HPP:
        return integer.make(fmt.bits, fmt.asymmetric, int(size[1:]))
    return grouped.make(fmt, int(size[1:]))


def base_name(name: str) -> str:
    """The format without its groups: what an overlay lists and the hardware knows."""
    return name.partition(":")[0]


__all__ = ["BY_NUMBER", "FORMATS", "NUMBERS", "Format", "base_name", "parse"]
