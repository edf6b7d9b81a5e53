"""Which engine multiplies the codes of a layer, and how many of them at once."""

from __future__ import annotations

from dataclasses import dataclass

from weft import isa
from weft.units.bf16 import LEAST_PACE


@dataclass(frozen=True)
class Precision:
    """The fields of MatMul that say what its codes are (docs/isa.md)."""

    engine: str = "systolic"
    words: int = 1
    activation_bits: int = 8
    weight_bits: int = 8
    codes: int = 0
    shift: int = 0

    @property
    def products(self) -> int:
        """Products of a cell per clock."""
        return self.words * 8 // self.activation_bits

    @property
    def weight_rows(self) -> int:
        """Stream rows of a tile row, where a cell takes several codes."""
        return max(1, self.products * self.weight_bits // 8)

    @property
    def per_byte(self) -> int:
        """Activations in a byte."""
        return 8 // min(self.activation_bits, 8)

    @property
    def is_float(self) -> bool:
        """Whether sums are float32."""
        return self.engine == "bf16"

    @property
    def is_compressed(self) -> bool:
        """Whether the engine takes rows of its own instead of tiles."""
        return self.engine in isa.COMPRESSED

    def fields(self) -> dict[str, int]:
        """The fields."""
        return {
            "engine": isa.ENGINES.index(self.engine),
            "words": self.words,
            "activation_bits": self.activation_bits,
            "weight_bits": self.weight_bits,
            "codes": self.codes,
            "shift": self.shift,
        }

    def pace(self, memory: int) -> int:
        """Clocks per tile row, of which the memory asks for `memory`."""
        return max(memory, LEAST_PACE) if self.is_float else memory


PLAIN_PRECISION = Precision()
