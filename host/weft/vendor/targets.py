"""What differs between families of boards: processing systems, memory ports, banks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from weft.config import Board
from weft.errors import OverlayError


@dataclass(frozen=True)
class Port:
    """An m_axi bundle of the kernel, and the arguments that use it."""

    bundle: str
    arguments: tuple[str, ...]
    depth: int


@dataclass(frozen=True)
class ProcessingSystem:
    """Pins and settings of a processing system in a block design (UG585, UG1085, UG994)."""

    instance: str
    ip: str
    automation: str
    settings: tuple[tuple[str, str], ...]
    clock: str
    reset: str
    master: str
    master_clock: str
    interrupt: str


@dataclass(frozen=True)
class Group:
    """Kernel ports that share one memory port of the processing system."""

    bundles: tuple[str, ...]
    ports: tuple[str, ...]
    slave: str
    clock: str


# Memory ports in the order in which they are taken. The first three lead to the memory controller
# by different ways, as far as there are any: on Zynq-7000 HP0 and HP1 share one of its ports, HP2
# and HP3 another (UG585); on UltraScale+ HP1 and HP2 share one (UG1085).
_ORDER = {"zynq7000": (0, 2, 1, 3), "zynqmp": (0, 1, 3, 2)}
# Streams that keep a port busy of their own; everything else shares with the first one.
_BUSY = ("loads", "stores")
_WEIGHTS = ("weights", "weight_port_")


def memory_ports(board: Board) -> list[int]:
    """Numbers of the HP ports that a board offers, best first."""
    named = [p for p in board.ports if p.startswith("HP") and p[2:].isdigit()]
    there = [int(p[2:]) for p in named] if board.ports else list(range(board.axi_ports))
    return [n for n in _ORDER[board.family] if n in there]


def groups(board: Board, ports: Sequence[Port]) -> list[Group]:
    """Which kernel ports lead to which memory port: weights (with the program), loads, stores.

    With fewer memory ports than that, neighbours share; of several weight ports each has its own as
    far as there are any, and loads and stores share the last ones. Raises OverlayError without any.
    """
    numbers = memory_ports(board)
    if not numbers:
        raise OverlayError(
            f"board {board.name!r}: no HP port among {', '.join(board.ports) or 'its ports'}"
        )
    weights = [p for p in ports if any(a.startswith(_WEIGHTS) for a in p.arguments)]
    busy = [*weights, *(p for p in ports if set(p.arguments) & set(_BUSY))]
    shares = min(len(numbers), len(busy)) or 1
    members: list[list[Port]] = [[] for _ in range(shares)]
    for port in ports:
        index = busy.index(port) if port in busy else 0
        members[_share(index, len(weights), len(busy), shares)].append(port)
    return [
        Group(
            tuple(p.bundle for p in those),
            tuple(a for p in those for a in p.arguments),
            *_slave(board.family, number),
        )
        for those, number in zip(members, numbers, strict=False)
    ]


def _share(index: int, weights: int, busy: int, shares: int) -> int:
    """The memory port of busy stream `index`, of which the first `weights` bring weights."""
    if weights <= 1 or shares == busy:
        return index * shares // max(1, busy)
    if index < weights:
        return index * min(shares, weights) // weights
    return shares - 1 - (index - weights) % shares


def _slave(family: str, number: int) -> tuple[str, str]:
    if family == "zynq7000":
        return f"S_AXI_HP{number}", f"S_AXI_HP{number}_ACLK"
    return f"S_AXI_HP{number}_FPD", f"saxihp{number}_fpd_aclk"


def processing_system(board: Board, used: Sequence[Group]) -> ProcessingSystem:
    """The block of a Zynq board, set up for these memory ports."""
    numbers = [int(g.slave.removesuffix("_FPD")[-1]) for g in used]
    clock = f"{board.clock_mhz:g}"
    if board.family == "zynq7000":
        return _zynq7000(numbers, clock)
    return _zynqmp(numbers, clock)


def _zynq7000(numbers: Sequence[int], clock: str) -> ProcessingSystem:
    ports = ("USE_M_AXI_GP0", "FPGA_FCLK0_ENABLE", "EN_CLK0_PORT", "EN_RST0_PORT")
    interrupt = ("USE_FABRIC_INTERRUPT", "IRQ_F2P_INTR")
    settings = [(f"PCW_{name}", "1") for name in (*ports, *interrupt)]
    settings.append(("PCW_FPGA0_PERIPHERAL_FREQMHZ", clock))
    for n in numbers:
        settings += [(f"PCW_USE_S_AXI_HP{n}", "1"), (f"PCW_S_AXI_HP{n}_DATA_WIDTH", "64")]
    return ProcessingSystem(
        instance="processing_system7_0",
        ip="processing_system7",
        automation='make_external "FIXED_IO, DDR" Master Disable Slave Disable',
        settings=tuple(settings),
        clock="FCLK_CLK0",
        reset="FCLK_RESET0_N",
        master="M_AXI_GP0",
        master_clock="M_AXI_GP0_ACLK",
        interrupt="IRQ_F2P",
    )


def _zynqmp(numbers: Sequence[int], clock: str) -> ProcessingSystem:
    settings = [
        ("PSU__FPGA_PL0_ENABLE", "1"),
        ("PSU__CRL_APB__PL0_REF_CTRL__FREQMHZ", clock),
        ("PSU__USE__M_AXI_GP0", "1"),
        ("PSU__USE__M_AXI_GP1", "0"),  # presets switch them on; their clocks would hang in the air
        ("PSU__USE__M_AXI_GP2", "0"),
        ("PSU__USE__IRQ0", "1"),
    ]
    for n in numbers:  # GP2 is HP0
        settings += [
            (f"PSU__USE__S_AXI_GP{n + 2}", "1"),
            (f"PSU__SAXIGP{n + 2}__DATA_WIDTH", "128"),
        ]
    return ProcessingSystem(
        instance="zynq_ultra_ps_e_0",
        ip="zynq_ultra_ps_e",
        automation="",
        settings=tuple(settings),
        clock="pl_clk0",
        reset="pl_resetn0",
        master="M_AXI_HPM0_FPD",
        master_clock="maxihpm0_fpd_aclk",
        interrupt="pl_ps_irq0",
    )


@dataclass(frozen=True)
class Channels:
    """Channels of a card's memory: of the weights of each memory, and of activations."""

    weights: tuple[int, ...]
    memory: int


def channels_of(memories: int, there: int) -> Channels:
    """Where weights in so many memories lie on a card with `there` channels, and activations.

    Each has a channel of its own as far as there are any; activations the next one.
    """
    own = max(1, min(memories, there - 1))
    return Channels(tuple(p * own // memories for p in range(memories)), min(own, there - 1))


def reach(board: Board, ports: Sequence[Port], own: bool = False) -> dict[str, tuple[int, int]]:
    """First and last channel that each bundle reaches on an Alveo card.

    Weights lie in one channel, or with `own` in one for each of their ports; activations in
    another, which weight ports that bring keys and values reach, too.
    """
    weights = [p.bundle for p in ports if any(a.startswith(_WEIGHTS) for a in p.arguments)]
    places = channels_of(len(weights) if own else 1, board.ddr_channels)
    found = {}
    for port in ports:
        number = weights.index(port.bundle) if own and port.bundle in weights else 0
        at = places.memory if set(_BUSY) & set(port.arguments) else places.weights[number]
        caches = any(name.startswith("cache_port_") for name in port.arguments)
        found[port.bundle] = (at, max(at, places.memory) if caches else at)
    return found


def banks(board: Board, ports: Sequence[Port], own: bool = False) -> list[tuple[str, str]]:
    """Memory banks of each bundle on an Alveo card, as v++ spells them."""
    kind = "HBM" if board.memory.startswith("HBM") else "DDR"
    return [
        (bundle, f"{kind}[{first}]" if first == last else f"{kind}[{first}:{last}]")
        for bundle, (first, last) in reach(board, ports, own).items()
    ]
