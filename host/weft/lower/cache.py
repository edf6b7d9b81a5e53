"""Keys or values of earlier tokens, as stages name them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from weft.lower.stage import Rotation


@dataclass(frozen=True)
class Magnitudes:
    """Of a cache whose tokens have ranges of their own: their region in memory, `words` for each
    head of a text, and the first word of memory token_ranges that those of a head come to. `own` is
    where those of a run's tokens lie by themselves; None: behind the others, as in memory.
    """

    name: str
    words: int
    first: int
    own: int | None = None


@dataclass(frozen=True, eq=False)
class Cache:
    """Keys or values in activation memory: `name` is their region, `rotations` make those of each
    head of the source's int16, `place` is the map of a head in the operand buffer, `fresh` the one
    in the unified buffer of a head's new tokens. With fewer `bits` than 8 the newest tokens are in
    the region `ring`, and `packed` is the map in the unified buffer of a group that is full
    (`weft.lower.packed_rows`).
    """

    name: str
    rotations: tuple[Rotation, ...]
    place: str
    fresh: str
    bits: int = 8
    values: bool = False
    magnitudes: Magnitudes | None = None

    @property
    def is_packed(self) -> bool:
        """Whether it has codes of fewer bits."""
        return self.bits < 8

    @property
    def ring(self) -> str:
        """The region of the newest tokens."""
        return f"{self.name}/ring"

    @property
    def packed(self) -> str:
        """The map of a packed group."""
        return f"{self.name}/packed"

    @property
    def scratch(self) -> tuple[str, ...]:
        """Maps on chip."""
        return (self.place, self.fresh, *((self.packed,) if self.is_packed else ()))
