"""Register map, .hwh and .bit files: what needs no pynq."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from importlib.util import find_spec

import pytest

from weft.config import data_root, load_overlay
from weft.device import bitfile, open_device
from weft.device.bitfile import Bitstream
from weft.device.registers import (
    ARGUMENTS,
    VLNV,
    Argument,
    arguments,
    built_mhz,
    family_of,
    hardware_handoff,
    register_map,
)
from weft.errors import DeviceError, MissingDependency


def test_arguments_are_those_of_the_top_function():
    text = (data_root() / "hls" / "weft" / "top.cpp").read_text()
    signature = re.search(r"void weft_kernel\((.*?)\) \{", text, re.DOTALL)[1]
    fixed = signature.partition("WEFT_EACH_PORT")[0]  # the rest: arguments(weight_ports)
    parts = [part.split() for part in fixed.replace("\n", " ").split(",")]
    found = []
    for words in parts:
        name = words[-1]
        kind = "pointer" if "*" in name else "memory" if "[" in name else "scalar"
        found.append((name.strip("*").partition("[")[0], kind))
    assert found == [(a.name, a.kind) for a in ARGUMENTS]


def test_offsets_follow_the_rules_of_the_tool():
    at = {r.name: r.offset for r in register_map()}
    assert [at[n] for n in ("CTRL", "GIER", "IP_IER", "IP_ISR")] == [0, 4, 8, 12]
    assert (at["program_1"], at["program_2"], at["weights_1"]) == (0x10, 0x14, 0x1C)
    assert (at["loads_1"], at["stores_1"]) == (0x28, 0x34)
    scalars = ("code", "first", "segments", "batch", "tokens", "position", "origin", "source")
    assert [at[n] for n in scalars] == [0x40, 0x48, 0x50, 0x58, 0x60, 0x68, 0x70, 0x78]
    assert (at["memory_rows"], at["weight_rows"]) == (0x80, 0x88)
    assert at["Memory_results"] == 0x100  # aligned to its size, of 128 bytes
    larger = register_map((Argument("a", "scalar"), Argument("table", "memory", 64)))
    assert larger[-1].offset == 0x100


@pytest.mark.parametrize("family", ["zynq", "zynqmp"])
@pytest.mark.parametrize("interrupt", [True, False])
def test_handoff_holds_kernel_clock_and_interrupt(family, interrupt, tmp_path):
    path = tmp_path / "a.hwh"
    path.write_text(hardware_handoff("a", family, 100.0, interrupt=interrupt))
    modules = {m.get("INSTANCE"): m for m in ET.parse(path).iter("MODULE")}
    assert modules["weft_kernel_0"].get("VLNV") == VLNV
    assert ("axi_intc_0" in modules) == interrupt
    assert len(list(modules["weft_kernel_0"].iter("REGISTER"))) == len(register_map())
    width = next(p for p in modules["weft_kernel_0"].iter("PARAMETER")).get("VALUE")
    assert 2 ** int(width) == 0x100 + 0x100  # up to the end of the report, and no more
    assert built_mhz(path) == pytest.approx(100.0, rel=0.01)


@pytest.mark.parametrize("ports", [1, 4])
def test_ports_that_read_the_cache_have_a_pointer_each_behind_all(ports, tmp_path):
    text = (data_root() / "hls" / "weft" / "top.cpp").read_text()
    assert "const weft::Beat *cache_port_##p" in text
    before, after = arguments(ports), arguments(ports, True)
    assert after[: len(before)] == before
    more = [(a.name, a.kind, a.to) for a in after[len(before) :]]
    assert more == [(f"cache_port_{p}", "pointer", "memory") for p in range(ports)]
    assert {a.to for a in before[len(ARGUMENTS) :]} <= {"weights"}
    path = tmp_path / "a.hwh"
    path.write_text(hardware_handoff("a", "zynqmp", 300.0, weight_ports=ports, cached=True))
    registers = {r.get("NAME") for r in ET.parse(path).iter("REGISTER")}
    assert {f"cache_port_{p}_{word}" for p in range(ports) for word in (1, 2)} <= registers


@pytest.mark.parametrize("ports", [1, 2, 4])
def test_further_weight_ports_are_pointers_behind_the_other_arguments(ports, tmp_path):
    text = (data_root() / "hls" / "weft" / "top.cpp").read_text()
    assert "const weft::Beat *weight_port_##p" in text
    more = arguments(ports)[len(ARGUMENTS) :]
    assert [(a.name, a.kind) for a in more] == [
        (f"weight_port_{p}", "pointer") for p in range(1, ports)
    ]
    at = {r.name: r.offset for r in register_map(arguments(ports))}
    assert {name: at[name] for name in at if "port" not in name} == {
        r.name: r.offset for r in register_map()
    }
    path = tmp_path / "a.hwh"
    path.write_text(hardware_handoff("a", "zynqmp", 300.0, weight_ports=ports))
    registers = {r.get("NAME") for r in ET.parse(path).iter("REGISTER")}
    assert {name for name in registers if "port" in name} == {
        f"weight_port_{p}_{word}" for p in range(1, ports) for word in (1, 2)
    }
    width = {p.get("VALUE") for p in ET.parse(path).iter("PARAMETER")
             if p.get("NAME") == "C_S_AXI_CONTROL_ADDR_WIDTH"}  # fmt: skip
    assert width == {"9"}


def test_clock_of_a_handoff_without_one_is_unknown(tmp_path):
    path = tmp_path / "a.hwh"
    path.write_text("<EDKSYSTEM/>")
    assert built_mhz(path) is None


def test_families():
    assert (family_of("xc7z020clg400-1"), family_of("xck26-sfvc784-2LV-c")) == ("zynq", "zynqmp")


class TestBitstream:
    stream = Bitstream("tiny", "xck26", "2000/01/01", bytes(range(200)))

    def test_survives_a_file(self, tmp_path):
        path = tmp_path / "a.bit"
        path.write_bytes(self.stream.encode())
        assert Bitstream.decode(path) == self.stream

    @pytest.mark.parametrize("keep", [1, 30, 150, -1])
    def test_truncated_says_so(self, tmp_path, keep):
        path = tmp_path / "a.bit"
        path.write_bytes(self.stream.encode()[:keep])
        with pytest.raises(DeviceError, match=r"truncated|can't be read"):
            Bitstream.decode(path)

    def test_hostile_headers_end(self, tmp_path):
        path = tmp_path / "a.bit"
        for content in (b"", b"\0" * 64, b"\xff" * 64, b"\x00\x09" + b"a\0\0" * 100):
            path.write_bytes(content)
            with pytest.raises(DeviceError):
                Bitstream.decode(path)


class TestChecks:
    overlay = load_overlay("tiny")

    def put(self, folder, name):
        path = folder / name
        path.write_bytes(TestBitstream.stream.encode())
        path.with_suffix(".hwh").write_text("")
        return path

    def test_name_holds_the_digest(self, tmp_path):
        name = bitfile.file_name(self.overlay)
        assert re.fullmatch(r"tiny-[0-9a-f]{16}\.bit", name)
        assert bitfile.check(self.put(tmp_path, name), self.overlay) == TestBitstream.stream

    def test_another_digest_is_refused(self, tmp_path):
        path = self.put(tmp_path, "tiny-0123456789abcdef.bit")
        with pytest.raises(DeviceError, match="design 0123456789abcdef; the program needs"):
            bitfile.check(path, self.overlay)

    def test_missing_files_are_named(self, tmp_path):
        with pytest.raises(DeviceError, match="no such bitstream"):
            bitfile.check(tmp_path / "none.bit", self.overlay)
        path = self.put(tmp_path, "any.bit")
        path.with_suffix(".hwh").unlink()
        with pytest.raises(DeviceError, match=r"any\.hwh: missing"):
            bitfile.check(path, self.overlay)

    def test_found_where_the_variable_says(self, tmp_path, monkeypatch):
        monkeypatch.setenv("WEFT_BITSTREAMS", str(tmp_path))
        monkeypatch.chdir(tmp_path)
        self.put(tmp_path, "tiny-0123456789abcdef.bit")
        with pytest.raises(DeviceError, match=r"Of other versions there are: tiny-0123456789abcd"):
            bitfile.find(self.overlay)
        path = self.put(tmp_path, bitfile.file_name(self.overlay))
        assert bitfile.find(self.overlay) == path


@pytest.mark.skipif(find_spec("pynq") is not None, reason="pynq is installed here")
@pytest.mark.parametrize("name", ["pynq", "simboard"])
def test_without_pynq_the_message_says_what_to_install(name):
    with pytest.raises(MissingDependency, match=r"pip install 'weft\[board\]'"):
        open_device(name)
