"""The kernel's registers, and the .hwh that describes them: one description for every user.

The offsets are those that Vitis HLS gives the arguments of hls/weft/top.cpp (UG1399, S_AXILITE
control register map). A driver takes them from the .hwh of the bitstream, never from here; here is
what the simulated board and the generated block designs are made of.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

VLNV = "xilinx.com:hls:weft_kernel:1.0"
KERNEL = "weft_kernel_0"
CONTROLLER = "axi_intc_0"
RANGE = 0x10000  # bytes of address space of the kernel and of the interrupt controller

# Bits of the control register (ap_ctrl_hs).
START, DONE, IDLE, READY = 1, 2, 4, 8


@dataclass(frozen=True)
class Argument:
    """An argument of the top function: a "pointer", a 32-bit "scalar", or a "memory" of words.

    `to` is which of the program's memories a pointer behind the others leads to.
    """

    name: str
    kind: str
    words: int = 1
    to: str = ""


ARGUMENTS = (
    Argument("program", "pointer"),
    Argument("weights", "pointer"),
    Argument("loads", "pointer"),
    Argument("stores", "pointer"),
    Argument("code", "scalar"),
    Argument("first", "scalar"),
    Argument("segments", "scalar"),
    Argument("batch", "scalar"),
    Argument("tokens", "scalar"),
    Argument("position", "scalar"),
    Argument("origin", "scalar"),
    Argument("source", "scalar"),
    Argument("memory_rows", "scalar"),
    Argument("weight_rows", "scalar"),
    Argument("results", "memory", 32),
)


def arguments(weight_ports: int = 1, cached: bool = False) -> tuple[Argument, ...]:
    """Arguments of a kernel whose weights come through so many ports: a pointer for each further.

    They point to the same memory as `weights`. Where the ports bring keys and values, too
    (`Overlay.cached`), each has a pointer to that of `loads`.
    """

    def further(name: str, first: int, to: str) -> list[Argument]:
        numbers = range(first, weight_ports)
        return [Argument(f"{name}_port_{p}", "pointer", to=to) for p in numbers]

    caches = further("cache", 0, "memory") if cached else []
    return (*ARGUMENTS, *further("weight", 1, "weights"), *caches)


# Words of the report, as hls/weft/kernel.hpp numbers them.
STATUS, INSTRUCTION, SEGMENT, DESIGN, PROGRESS, COUNTERS = 0, 1, 2, 3, 5, 6


@dataclass(frozen=True)
class Register:
    """Name, offset in bytes, size in bits; fields: (name, first bit, bits, access)."""

    name: str
    offset: int
    bits: int = 32
    access: str = "read-write"
    fields: tuple[tuple[str, int, int, str], ...] = ()


_CONTROL = (
    Register(
        "CTRL",
        0x00,
        fields=(
            ("AP_START", 0, 1, "read-write"),
            ("AP_DONE", 1, 1, "read-only"),
            ("AP_IDLE", 2, 1, "read-only"),
            ("AP_READY", 3, 1, "read-only"),
            ("AUTO_RESTART", 7, 1, "read-write"),
        ),
    ),
    Register("GIER", 0x04, fields=(("Enable", 0, 1, "read-write"),)),
    Register("IP_IER", 0x08, fields=(("CHAN0_INT_EN", 0, 1, "read-write"),)),
    Register("IP_ISR", 0x0C, fields=(("CHAN0_INT_ST", 0, 1, "read-write"),)),
)


def register_map(arguments: Sequence[Argument] = ARGUMENTS) -> tuple[Register, ...]:
    """The registers of a kernel with these arguments, in order of their offsets.

    A 64-bit pointer takes two words and a reserved one, a scalar a word and a reserved one, a
    memory is aligned to its size.
    """
    registers = list(_CONTROL)
    offset = 0x10
    for argument in arguments:
        name = argument.name
        if argument.kind == "pointer":
            registers += [Register(f"{name}_{i}", offset + 4 * i - 4) for i in (1, 2)]
            offset += 12
        elif argument.kind == "scalar":
            registers.append(Register(name, offset))
            offset += 8
        else:
            size = 4 * argument.words
            offset = -(-offset // size) * size
            registers.append(Register(f"Memory_{name}", offset, 8 * size))
            offset += size
    return tuple(registers)


@dataclass(frozen=True)
class Family:
    """What the block designs of two generations of PYNQ boards differ in.

    `clocks` are the parameters of the four PL clocks, {i} standing for the clock: enable, two
    divisors, source, and the frequency in MHz that the tools met. `pll_mhz` is what they divide.
    """

    arch: str
    system: str
    instance: str
    vlnv: str
    master: str
    interrupt: str
    base: int
    pll_mhz: float
    clocks: Mapping[str, str]
    others: Mapping[str, str] = field(default_factory=dict)


FAMILIES = {
    "zynq": Family(
        "armv7l",
        "zynq",
        "processing_system7_0",
        "xilinx.com:ip:processing_system7:5.5",
        "M_AXI_GP0",
        "IRQ_F2P",
        0x4000_0000,
        1000.0,
        {
            "enable": "PCW_FPGA_FCLK{i}_ENABLE",
            "divisor0": "PCW_FCLK{i}_PERIPHERAL_DIVISOR0",
            "divisor1": "PCW_FCLK{i}_PERIPHERAL_DIVISOR1",
            "source": "PCW_FCLK{i}_PERIPHERAL_CLKSRC",
            "mhz": "PCW_ACT_FPGA{i}_PERIPHERAL_FREQMHZ",
        },
    ),
    "zynqmp": Family(
        "aarch64",
        "zynquplus",
        "zynq_ultra_ps_e_0",
        "xilinx.com:ip:zynq_ultra_ps_e:3.5",
        "M_AXI_HPM0_FPD",
        "pl_ps_irq0",
        0xA000_0000,
        1499.985,
        {
            "enable": "PSU__FPGA_PL{i}_ENABLE",
            "divisor0": "PSU__CRL_APB__PL{i}_REF_CTRL__DIVISOR0",
            "divisor1": "PSU__CRL_APB__PL{i}_REF_CTRL__DIVISOR1",
            "source": "PSU__CRL_APB__PL{i}_REF_CTRL__SRCSEL",
            "mhz": "PSU__CRL_APB__PL{i}_REF_CTRL__ACT_FREQMHZ",
        },
        {"C_MAXIGP0_DATA_WIDTH": "128", "C_SAXIGP2_DATA_WIDTH": "128"},
    ),
}


def built_mhz(path: Path) -> float | None:
    """The frequency of PL clock 0 in a .hwh: what the design met timing for; None if unknown."""
    names = {family.clocks["mhz"].format(i=0) for family in FAMILIES.values()}
    for parameter in ET.parse(path).iter("PARAMETER"):
        if parameter.get("NAME") in names:
            return float(parameter.get("VALUE", 0)) or None
    return None


def family_of(part: str) -> str:
    """The key in FAMILIES for an AMD part number."""
    return "zynq" if part.startswith("xc7z") else "zynqmp"


def hardware_handoff(
    name: str,
    family: str,
    clock_mhz: float,
    *,
    vlnv: str = VLNV,
    interrupt: bool = True,
    weight_ports: int = 1,
    cached: bool = False,
) -> str:
    """The .hwh of a design that holds the kernel: what PYNQ reads, and no more.

    The clock becomes the nearest that a divisor of the family's PLL gives.
    """
    facts = FAMILIES[family]
    system = ET.Element("EDKSYSTEM", EDWVERSION="1.2", TIMESTAMP="", VIVADOVERSION="2024.1")
    ET.SubElement(system, "SYSTEMINFO", ARCH=facts.system, BOARD="", DEVICE="", NAME=name)
    ET.SubElement(system, "EXTERNALPORTS")
    ET.SubElement(system, "EXTERNALINTERFACES")
    modules = ET.SubElement(system, "MODULES")
    registers = register_map(arguments(weight_ports, cached))
    width = max(r.offset + r.bits // 8 - 1 for r in registers).bit_length()
    kernel = _module(modules, KERNEL, vlnv, {"C_S_AXI_CONTROL_ADDR_WIDTH": str(width)})
    _registers(kernel, registers)
    _bus(kernel, "s_axi_control", "SLAVE")
    wire = ((CONTROLLER, "intr"),) if interrupt else ()
    _port(kernel, "interrupt", "O", wire)
    ranges = {KERNEL: (facts.base, "s_axi_control")}
    if interrupt:
        controller = _module(
            modules, CONTROLLER, "xilinx.com:ip:axi_intc:4.1", {"C_NUM_INTR_INPUTS": "1"}
        )
        _bus(controller, "s_axi", "SLAVE")
        _port(controller, "irq", "O", ((facts.instance, facts.interrupt),))
        _port(controller, "intr", "I", ((KERNEL, "interrupt"),))
        ranges[CONTROLLER] = (facts.base + RANGE, "s_axi")
    _processor(modules, facts, clock_mhz, ranges, interrupt)
    ET.indent(system)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(system, "unicode") + "\n"


def _module(
    parent: ET.Element, instance: str, vlnv: str, parameters: Mapping[str, str]
) -> ET.Element:
    kind = vlnv.split(":")[2]
    module = ET.SubElement(
        parent,
        "MODULE",
        FULLNAME=f"/{instance}",
        HWVERSION=vlnv.rpartition(":")[2],
        INSTANCE=instance,
        IPTYPE="PERIPHERAL",
        IS_ENABLE="1",
        MODCLASS="PERIPHERAL",
        MODTYPE=kind,
        NAME=kind,
        VLNV=vlnv,
    )
    for tag in ("DOCUMENTS", "ADDRESSBLOCKS", "PARAMETERS", "PORTS", "BUSINTERFACES"):
        ET.SubElement(module, tag)
    for key, value in parameters.items():
        ET.SubElement(_part(module, "PARAMETERS"), "PARAMETER", NAME=key, VALUE=value)
    return module


def _part(module: ET.Element, tag: str) -> ET.Element:
    found = module.find(tag)
    return ET.SubElement(module, tag) if found is None else found


def _port(module: ET.Element, name: str, direction: str, wires: Sequence[tuple[str, str]]) -> None:
    port = ET.SubElement(
        _part(module, "PORTS"),
        "PORT",
        DIR=direction,
        NAME=name,
        SIGIS="INTERRUPT",
        SIGNAME=f"{module.get('INSTANCE')}_{name}",
    )
    if direction == "I":
        port.set("LEFT", "0")
        port.set("RIGHT", "0")
    connections = ET.SubElement(port, "CONNECTIONS")
    for instance, pin in wires:
        ET.SubElement(connections, "CONNECTION", INSTANCE=instance, PORT=pin)


def _bus(module: ET.Element, name: str, kind: str) -> None:
    bus = ET.SubElement(
        _part(module, "BUSINTERFACES"),
        "BUSINTERFACE",
        BUSNAME=f"bus_{name}",
        DATAWIDTH="32",
        NAME=name,
        TYPE=kind,
        VLNV="xilinx.com:interface:aximm:1.0",
    )
    ET.SubElement(bus, "PORTMAPS")


def _registers(module: ET.Element, registers: Sequence[Register]) -> None:
    block = ET.SubElement(
        _part(module, "ADDRESSBLOCKS"),
        "ADDRESSBLOCK",
        ACCESS="read-write",
        INTERFACE="s_axi_control",
        NAME="Reg",
        RANGE=str(RANGE),
        USAGE="register",
    )
    entries = ET.SubElement(block, "REGISTERS")
    for register in registers:
        entry = ET.SubElement(entries, "REGISTER", NAME=register.name)
        _property(entry, "DESCRIPTION", register.name)
        _property(entry, "ADDRESS_OFFSET", f"{register.offset:#x}")
        _property(entry, "SIZE", str(register.bits))
        _property(entry, "ACCESS", register.access)
        _property(entry, "IS_ENABLED", "true")
        fields = ET.SubElement(entry, "FIELDS")
        whole = ((register.name, 0, register.bits, register.access),)
        for name, first, bits, access in register.fields or whole:
            item = ET.SubElement(fields, "FIELD", NAME=name)
            _property(item, "DESCRIPTION", name)
            _property(item, "BIT_OFFSET", str(first))
            _property(item, "BIT_WIDTH", str(bits))
            _property(item, "ACCESS", access)


def _property(parent: ET.Element, name: str, value: str) -> None:
    ET.SubElement(parent, "PROPERTY", NAME=name, VALUE=value)


def _processor(
    modules: ET.Element,
    facts: Family,
    clock_mhz: float,
    ranges: Mapping[str, tuple[int, str]],
    interrupt: bool,
) -> None:
    """The processing system: clocks, what it addresses, its interrupt."""
    divisor = min(max(1, round(facts.pll_mhz / clock_mhz)), 63)
    values = {"divisor0": str(divisor), "divisor1": "1", "source": "IOPLL"}
    values["mhz"] = f"{facts.pll_mhz / divisor:.6f}"
    parameters = dict(facts.others)
    for i in range(4):
        values["enable"] = str(int(i == 0))
        parameters |= {key.format(i=i): values[name] for name, key in facts.clocks.items()}
    module = _module(modules, facts.instance, facts.vlnv, parameters)
    if interrupt:
        _port(module, facts.interrupt, "I", ((CONTROLLER, "irq"),))
    _bus(module, facts.master, "MASTER")
    memory = ET.SubElement(module, "MEMORYMAP")
    for instance, (base, port) in ranges.items():
        ET.SubElement(
            memory,
            "MEMRANGE",
            ADDRESSBLOCK="Reg",
            BASENAME="C_BASEADDR",
            BASEVALUE=f"{base:#010x}",
            HIGHNAME="C_HIGHADDR",
            HIGHVALUE=f"{base + RANGE - 1:#010x}",
            INSTANCE=instance,
            IS_DATA="TRUE",
            IS_INSTRUCTION="TRUE",
            MASTERBUSINTERFACE=facts.master,
            MEMTYPE="REGISTER",
            SLAVEBUSINTERFACE=port,
        )
