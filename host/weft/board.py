"""A board: plain values, checked once; `weft.config.load_board` reads one from its TOML file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from weft.errors import OverlayError


@dataclass(frozen=True)
class Board:
    """One board: its part, clock, memory and fabric (docs/boards.md).

    `ddr_bytes_per_s` is the memory's peak, `ddr_efficiency` what share of it a long burst reaches;
    `ddr_bits` is the width of each of its `ddr_channels`, which work side by side. `axi_ports`
    and `axi_bits` are the ports from the fabric to that memory, and `ports` names them. `shell_*`
    is what the vendor's platform takes of an Alveo card; `power_w` a measured power.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    name: str
    part: str
    clock_mhz: float
    ddr_bytes_per_s: float
    ddr_bytes: int
    axi_ports: int
    axi_bits: int
    lut: int
    ff: int
    dsp: int
    bram36: int
    uram: int
    family: Literal["zynq7000", "zynqmp", "alveo"] = "zynqmp"
    memory: Literal["DDR3", "DDR4", "LPDDR4", "HBM2"] = "DDR4"
    ddr_efficiency: float = 1.0
    ddr_bits: int = 64
    ddr_channels: int = 1
    ports: tuple[str, ...] = ()
    ps_clock_mhz: float = 0.0
    slrs: int = 1
    shell_lut: int = 0
    shell_ff: int = 0
    shell_dsp: int = 0
    shell_bram36: int = 0
    shell_uram: int = 0
    power_w: float | None = None
    vendor_name: str = ""  # of Vivado's board files, or of the Vitis platform

    @property
    def memory_bytes_per_s(self) -> float:
        """What the memory delivers in practice, or its ports at the fabric's clock, if less."""
        ports = self.axi_ports * self.axi_bits / 8 * self.clock_mhz * 1e6
        return min(self.ddr_bytes_per_s * self.ddr_efficiency, ports)

    def verify(self) -> Board:
        """Returns itself; raises OverlayError naming the first figure that can't be right."""
        limits = {
            "clock_mhz": (10, 1000),
            "ddr_bytes_per_s": (1e8, 1e13),
            "ddr_bytes": (1 << 24, 1 << 40),
            "ddr_efficiency": (0.1, 1),
            "ddr_bits": (8, 1024),
            "ddr_channels": (1, 64),
            "axi_ports": (1, 64),
            "axi_bits": (32, 1024),
            "slrs": (1, 8),
            **dict.fromkeys(("lut", "ff", "dsp", "bram36"), (1, 1 << 24)),
            "uram": (0, 1 << 16),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise OverlayError(
                    f"board {self.name!r}: {name} = {value} is outside {low}..{high}"
                )
        for name in ("lut", "ff", "dsp", "bram36", "uram"):
            shell, all_of_it = getattr(self, f"shell_{name}"), getattr(self, name)
            if not 0 <= shell <= all_of_it:
                raise OverlayError(
                    f"board {self.name!r}: [shell] {name} = {shell} is outside 0..{all_of_it}, "
                    "which is what the part has"
                )
        if self.ports and len(self.ports) != self.axi_ports:
            raise OverlayError(
                f"board {self.name!r}: axi_ports = {self.axi_ports}, but {len(self.ports)} names "
                f"in ports ({', '.join(self.ports)})"
            )
        return self
