"""Sizes of an overlay that belong together: of the weight stream, of engines of sparse weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from weft.errors import OverlayError

if TYPE_CHECKING:
    from weft.config import Overlay


def check_stream(o: Overlay) -> None:
    """Raises OverlayError for a weight stream that can't be that wide."""
    for name in ("stream_rows", "weight_ports"):
        value = getattr(o, name)
        if value & (value - 1):
            raise OverlayError(f"overlay {o.name!r}: {name} = {value} is not a power of two")
    if o.stream_rows > (o.rows if "matvec" in o.engines else 1):
        raise OverlayError(
            f"overlay {o.name!r}: stream_rows = {o.stream_rows}; it is for engine matvec,"
            f" which has {o.rows} in a tile, or 1 without it"
        )
    if o.own_memories and o.weight_ports == 1:
        raise OverlayError(
            f"overlay {o.name!r}: own_memories with weight_ports = 1; it deals weights out to "
            "the memories of several ports"
        )
    if o.operand_words % o.operand_group:
        raise OverlayError(
            f"overlay {o.name!r}: operand_words = {o.operand_words} is no multiple of the "
            f"{o.operand_group} that engine matvec reads in a clock"
        )


def check_sparse(o: Overlay) -> None:
    """Raises OverlayError for sizes that an engine of sparse weights can't have."""
    if o.nm_group not in (2, 4, 8, 16) or ("nm" in o.engines and o.rows < 8):
        raise OverlayError(
            f"overlay {o.name!r}: nm_group = {o.nm_group} on {o.rows} rows; engine nm "
            "takes groups of up to 2, 4, 8 or 16 channels, and needs 8 rows"
        )
    if "eie" in o.engines:
        check_eie(o)
    if "snap" in o.engines and (o.snap_bundle % o.rows or o.snap_bundle % 8):
        raise OverlayError(
            f"overlay {o.name!r}: snap_bundle = {o.snap_bundle} is not a multiple of 8 "
            f"and of its {o.rows} rows; a bundle is a whole number of words"
        )


def check_eie(o: Overlay) -> None:
    """Raises OverlayError for memories of EIE that can't be that large."""
    limits = {
        "eie_pes": (o.cols, 1024, o.cols),
        "eie_queue": (1, 256, 1),
        "eie_entries": (16, 65_534, 2),
        "eie_pointers": (2, 65_536, 2),
        "eie_outputs": (1, 1024, 1),
    }
    for name, (low, high, step) in limits.items():
        value = getattr(o, name)
        if not low <= value <= high or value % step:
            raise OverlayError(
                f"overlay {o.name!r}: {name} = {value} is no multiple of {step} in {low}..{high}"
            )
