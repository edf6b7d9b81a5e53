"""Hardware units: golden model and clocks here, the same stem in hls/weft/units/."""

from weft import isa
from weft.state import Clocks, Unit
from weft.units import (
    activate,
    attention,
    decode,
    normalize,
    packed_cache,
    rotate,
    systolic,
    transfer,
    vector,
)

UNITS: dict[str, Unit] = {
    u.name: u
    for u in (
        systolic.UNIT,
        vector.UNIT,
        attention.UNIT,
        activate.UNIT,
        normalize.UNIT,
        rotate.UNIT,
        packed_cache.UNIT,
        decode.UNIT,
        transfer.UNIT,
        transfer.READ,
        transfer.WRITE,
    )
}
BY_OPCODE: dict[int, Unit] = {i.opcode: u for u in UNITS.values() for i in u.instructions}

__all__ = ["BY_OPCODE", "UNITS", "Clocks", "Unit", "isa"]
