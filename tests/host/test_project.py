"""Build plans: deterministic, complete, and scripts that connect only what exists."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from weft import project
from weft.build import ap_types
from weft.config import board_names, load_board, load_overlay, overlay_names
from weft.errors import BuildError, OverlayError, UsageError
from weft.vendor import folder, matrix, targets

FAMILIES = {"zynq7000": "Pynq-Z2", "zynqmp": "KV260", "alveo": "Alveo-U55C"}
TCLSH = shutil.which("tclsh")
WARNINGS = ("-Wall", "-Wextra", "-Wconversion", "-Werror", "-Wno-unknown-pragmas")
WARNINGS += ("-Wno-unused-label",)

GENERATED = (b"config.hpp", b"isa.hpp", b"decoders.hpp", b"sim/simulation.hpp")
GENERATED += (b"softmax_methods.hpp", b"norm_methods.hpp")


def test_same_inputs_same_bytes():
    code = "from weft import project; print(project.plan('tiny', 'Pynq-Z2').digest())"
    runs = {
        subprocess.check_output([sys.executable, "-c", code], text=True, cwd=cwd).strip()
        for cwd in ("/", ".")
    }
    assert runs == {project.plan("tiny", "Pynq-Z2").digest()}


def test_whatever_differs_has_another_digest():
    tiny, board = load_overlay("tiny"), load_board("Pynq-Z2")
    plans = [
        project.plan(tiny, board),
        project.plan(tiny, "Pynq-Z1"),
        project.plan(tiny, dataclasses.replace(board, clock_mhz=90)),
        project.plan(dataclasses.replace(tiny, weight_tiles=6), board),
    ]
    assert len({p.digest() for p in plans}) == len(plans)
    changed = dataclasses.replace(plans[0], files={**plans[0].files, "src/top.cpp": b""})
    assert changed.digest() != plans[0].digest()


def test_products_have_the_name_that_the_runtime_looks_for():
    from weft.device.bitfile import file_name

    plan = project.plan("tiny", "Pynq-Z2")
    assert plan.products["results/weft.bit"] == file_name(plan.overlay)
    assert plan.products["results/weft.hwh"] == Path(file_name(plan.overlay)).stem + ".hwh"
    card = project.plan("tiny", FAMILIES["alveo"])
    assert list(card.products) == ["results/weft.xclbin"]


def test_kernel_is_read_from_its_source():
    found = project.kernel()
    assert found.top == "weft_kernel"
    arguments = {a: p.bundle for p in found.ports for a in p.arguments}
    assert set(arguments) == {"program", "weights", "loads", "stores"}
    assert len(set(arguments.values())) == 4
    assert not [name for name in found.sources if name.startswith("sim/")]
    for name, content in found.sources.items():
        for included in re.findall(rb'#include "([^"]+)"', content):
            there = included.decode() in found.sources
            generated = included in GENERATED
            assert there or generated, (name, included)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_its_files(family):
    plan = project.plan("tiny", FAMILIES[family])
    assert plan.board.family == family
    names = set(plan.files)
    assert {"Makefile", "README.md", "src/top.cpp", "src/tb.cpp", "src/vectors.hpp"} <= names
    assert {"src/config.hpp", "src/isa.hpp", "hls/run_hls.tcl", "hls/cosim.tcl"} <= names
    assert ("alveo/link.cfg" in names) == (family == "alveo")
    assert ("vivado/block_design.tcl" in names) == (family != "alveo")
    for name, content in plan.files.items():
        assert content.endswith(b"\n"), name
        assert b"{{" not in content, name
        assert b"{%" not in content, name
    project_tcl = plan.files["hls/project.tcl"].decode()
    assert plan.board.part in project_tcl
    assert f"-flow_target {'vitis' if family == 'alveo' else 'vivado'}" in project_tcl
    clock = re.search(r"-period ([\d.]+)", project_tcl)
    assert clock is not None
    assert float(clock[1]) == pytest.approx(1000 / plan.board.clock_mhz, abs=1e-3)


def test_files_name_no_place_of_this_machine():
    for name, content in project.plan("edge", "KV260").files.items():
        assert f"{Path.home()}/".encode() not in content or str(Path.home()) == "/", name
        assert str(Path(project.__file__).parents[2]).encode() not in content, name


@pytest.mark.parametrize("board", board_names())
def test_ports_of_the_kernel_lead_to_memory(board):
    facts, ports = load_board(board), project.kernel().ports
    if facts.family == "alveo":
        banks = dict(targets.banks(facts, ports))
        kind = "HBM" if facts.memory.startswith("HBM") else "DDR"
        assert set(banks) == {p.bundle for p in ports}
        assert all(bank.startswith(kind) for bank in banks.values())
        by_argument = {a: banks[p.bundle] for p in ports for a in p.arguments}
        assert by_argument["loads"] == by_argument["stores"]
        return
    groups = targets.groups(facts, ports)
    assert sorted(b for g in groups for b in g.bundles) == sorted(p.bundle for p in ports)
    assert len({g.slave for g in groups}) == len(groups) == min(3, facts.axi_ports)
    of = {a: g.slave for g in groups for a in g.ports}
    assert of["program"] == of["weights"]
    assert len({of["weights"], of["loads"], of["stores"]}) == 3
    settings = dict(targets.processing_system(facts, groups).settings)
    on = [name for name, value in settings.items() if "USE_S_AXI" in name.replace("__", "_")]
    assert len(on) == len(groups)


@pytest.mark.parametrize(("number", "expected"), [(1, 1), (2, 2), (4, 3)])
def test_fewer_memory_ports_are_shared(number, expected):
    board = dataclasses.replace(load_board("KV260"), axi_ports=number, ports=())
    groups = targets.groups(board, project.kernel().ports)
    assert len(groups) == expected
    assert sorted(b for g in groups for b in g.bundles) == ["gmem0", "gmem1", "gmem2", "gmem3"]


@pytest.mark.parametrize("board", board_names())
@pytest.mark.parametrize("count", [2, 4])
def test_weight_ports_each_have_a_memory_port_as_far_as_there_are_any(board, count):
    facts, ports = load_board(board), project.kernel(count).ports
    names = ["weights", *(f"weight_port_{p}" for p in range(1, count))]
    bundle = {a: p.bundle for p in ports for a in p.arguments}
    assert len({bundle[name] for name in (*names, "program", "loads", "stores")}) == count + 3
    if facts.family == "alveo":
        banks = dict(targets.banks(facts, ports))
        assert len({banks[bundle[name]] for name in names}) == 1
        return
    groups = targets.groups(facts, ports)
    of = {a: g.slave for g in groups for a in g.ports}
    assert len({of[name] for name in names}) == min(count, facts.axi_ports)
    assert len({*of.values()}) == min(count + 2, facts.axi_ports)
    assert sorted(b for g in groups for b in g.bundles) == sorted(p.bundle for p in ports)


@pytest.mark.parametrize("board", ["KV260", "Alveo-U250"])
def test_weight_ports_that_read_the_cache_have_a_second_pointer(board):
    facts, before = load_board(board), project.kernel(4).ports
    ports = project.kernel(4, True).ports
    assert [p.bundle for p in ports] == [p.bundle for p in before]
    more = {p.bundle: p.arguments[-1] for p in ports if p not in before}
    assert more == {
        "gmem1": "cache_port_0", **{f"gmem_port_{p}": f"cache_port_{p}" for p in (1, 2, 3)}
    }  # fmt: skip
    if facts.family == "alveo":  # they read from either bank
        assert {bank for b, bank in targets.banks(facts, ports) if b in more} == {"DDR[0:1]"}
        assert dict(targets.banks(facts, before))["gmem1"] == "DDR[0]"
    else:
        slaves = [[(g.slave, g.bundles) for g in targets.groups(facts, p)] for p in (before, ports)]
        assert slaves[0] == slaves[1]


@pytest.mark.parametrize("units", [(), ("attention",)], ids=str)
def test_a_kernel_with_four_weight_ports_compiles_and_passes(units, tmp_path):
    """The bench gives all ports the same memory; the scripts connect each of them."""
    tiny = load_overlay("tiny")
    words = {"wide_words": 64, "operand_words": 64} if units else {}
    overlay = dataclasses.replace(
        tiny, engines=("systolic", "matvec"), stream_rows=4, weight_ports=4,
        units=(*tiny.units, *units), **words,
    )  # fmt: skip
    assert overlay.cached == bool(units)
    plan = project.plan(overlay, "KV260")
    script = plan.files["vivado/block_design.tcl"].decode()
    for bundle in ("gmem1", *(f"gmem_port_{p}" for p in range(1, 4))):
        assert len(re.findall(rf"m_axi_{bundle} memory_\d/S\d\d_AXI", script)) == 1
    folder.write(plan, tmp_path / "build")
    done = compile_and_run(compilers()[0], tmp_path / "build")
    assert (done.returncode, done.stdout) == (0, "PASS: 0 differences\n"), done.stdout


def test_what_can_not_be_planned():
    with pytest.raises(UsageError, match="Did you mean 'tiny'"):
        project.plan("tini", "Pynq-Z2")
    with pytest.raises(UsageError, match="no board"):
        project.plan("tiny", "PYNQ")
    with pytest.raises(OverlayError, match="does not fit"):
        project.plan("edge", "Pynq-Z2")
    assert project.plan("edge", "Pynq-Z2", force=True).files
    board = dataclasses.replace(load_board("KV260"), ports=("LPD",), axi_ports=1)
    with pytest.raises(OverlayError, match="no HP port among LPD"):
        project.plan("tiny", board)
    card = dataclasses.replace(load_board("Alveo-U250"), vendor_name="")
    with pytest.raises(BuildError, match="no vendor_name"):
        project.plan("tiny", card)


@pytest.mark.skipif(TCLSH is None, reason="no tclsh")
@pytest.mark.parametrize("board", board_names())
def test_tcl_is_complete(board, tmp_path):
    """Balanced braces and quotes, for every board; test_building.py also runs the scripts."""
    plan = project.plan("tiny", board)
    scripts = {name: text for name, text in plan.files.items() if name.endswith(".tcl")}
    assert len(scripts) >= 4
    for number, text in enumerate(scripts.values()):
        (tmp_path / f"{number}.tcl").write_bytes(text)
    check = (
        "foreach path $argv { set f [open $path]; set text [read $f]; close $f\n"
        "if {![info complete $text]} { puts $path; exit 1 } }"
    )
    (tmp_path / "check").write_text(check)
    paths = sorted(str(p) for p in tmp_path.glob("*.tcl"))
    subprocess.run([str(TCLSH), str(tmp_path / "check"), *paths], check=True)


def compilers() -> list[list[str]]:
    found = [[path] for name in ("g++", "clang++") if (path := shutil.which(name))]
    return found or [[sys.executable, "-m", "ziglang", "c++"]]


def compile_and_run(
    command: list[str], where: Path, *flags: str
) -> subprocess.CompletedProcess[str]:
    """Builds the bench in a project's folder as the vendor's C simulation does, and runs it."""
    options = ["-std=c++14", "-DWEFT_VENDOR", *WARNINGS, "-isystem", str(ap_types()), "-Isrc"]
    if "ziglang" in command:  # see weft.build
        options += ["-D__AP_INT_SPECIAL_H__", "-D__AP_FIXED_SPECIAL_H__", "-fno-sanitize=all"]
    sources = ["src/top.cpp", "src/tb.cpp"]
    built = subprocess.run(
        [*command, *options, *flags, *sources, "-o", "tb"],
        cwd=where,
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr[-3000:]
    return subprocess.run([str(where / "tb")], capture_output=True, text=True, timeout=300)


def test_the_written_folder_alone_compiles_and_passes(tmp_path):
    """A different machine could not tell: nothing outside of the folder but ap_int.h is read."""
    where = tmp_path / "build"
    folder.write(project.plan("tiny", "Pynq-Z2"), where)
    done = compile_and_run(compilers()[0], where)
    assert (done.returncode, done.stdout) == (0, "PASS: 0 differences\n"), done.stdout
    # The bench notices hardware that computes something else.
    source = where / "src" / "units" / "requant.hpp"
    function = re.compile(r"(inline Int<32> round_once\([^)]*\) \{)")
    changed, count = function.subn(r"\1 p += 1LL << 40;", source.read_text())
    assert count == 1
    source.write_text(changed)
    done = compile_and_run(compilers()[0], where)
    assert done.returncode == 1
    assert "FAIL memory[" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("compiler", [*compilers(), [sys.executable, "-m", "ziglang", "c++"]])
@pytest.mark.parametrize("overlay", overlay_names())
def test_every_overlay_compiles_and_passes(overlay, compiler, tmp_path):
    plan = project.plan(overlay, "KV260", force=True)
    folder.write(plan, tmp_path / "build")
    # A 256×256 array takes minutes without optimization; ap_int's own code then warns.
    flags = ("-O2", "-Wno-uninitialized", "-Wno-maybe-uninitialized", "-Wno-unknown-warning-option")
    large = plan.overlay.rows > 32
    done = compile_and_run(compiler, tmp_path / "build", *(flags if large else ()))
    assert (done.returncode, done.stdout) == (0, "PASS: 0 differences\n"), done.stdout


def test_a_folder_is_written_whole_and_only_once(tmp_path):
    plan, where = project.plan("tiny", "Pynq-Z2"), tmp_path / "build"
    where.mkdir()  # an empty folder will do
    folder.write(plan, where)
    on_disk = {str(p.relative_to(where)): p.read_bytes() for p in where.rglob("*") if p.is_file()}
    assert on_disk.pop("plan.digest").decode().strip() == plan.digest()
    assert on_disk == dict(plan.files)
    stamps = {p: p.stat().st_mtime_ns for p in where.rglob("*")}
    folder.write(plan, where)
    assert {p: p.stat().st_mtime_ns for p in where.rglob("*")} == stamps
    assert [p.name for p in tmp_path.iterdir()] == ["build"]


def test_a_damaged_folder_is_mended(tmp_path):
    plan, where = project.plan("tiny", "Pynq-Z2"), tmp_path / "build"
    folder.write(plan, where)
    (where / "src" / "top.cpp").write_text("int")
    (where / "hls" / "csim.tcl").unlink()
    (where / "work").mkdir()
    folder.write(plan, where)
    assert all((where / name).read_bytes() == content for name, content in plan.files.items())


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    plan, other = project.plan("tiny", "Pynq-Z2"), project.plan("tiny", "Pynq-Z1")
    folder.write(other, tmp_path / "other")
    with pytest.raises(BuildError, match=r"holds plan \w{16}, not tiny-Pynq-Z2"):
        folder.write(plan, tmp_path / "other")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("...")
    with pytest.raises(BuildError, match="files that weft did not write"):
        folder.write(plan, tmp_path / "home")
    assert [p.name for p in (tmp_path / "home").iterdir()] == ["thesis.tex"]
    with pytest.raises(BuildError, match="is a file"):
        folder.write(plan, tmp_path / "home" / "thesis.tex")


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    plan, write_bytes, count = project.plan("tiny", "Pynq-Z2"), Path.write_bytes, 0

    def full(path: Path, content: bytes) -> int:
        nonlocal count
        count += 1
        if count > 7:
            raise OSError(28, "No space left on device")
        return write_bytes(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(BuildError, match="No space left"):
        folder.write(plan, tmp_path / "build")
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_a_killed_process_go_away(tmp_path):
    gone = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], stdout=-1, text=True
    )
    left = tmp_path / f".build.partial-{gone.stdout.strip()}"
    left.mkdir()
    (left / "Makefile").write_text("half")
    folder.write(project.plan("tiny", "Pynq-Z2"), tmp_path / "build")
    assert [p.name for p in tmp_path.iterdir()] == ["build"]


def test_every_pair_is_built_or_refused_with_a_reason():
    fitting, refused = matrix.pairs()
    assert ("tiny", "Pynq-Z2") in [(o.name, b.name) for o, b in fitting]
    for row in refused:
        assert re.search(r"(LUT|FF|DSP|BRAM36|URAM) [\d,]+ of [\d,]+", row.detail), row
    plans = [project.plan(o, b) for o, b in fitting]
    assert len({p.name for p in plans}) == len(plans) == len({p.digest() for p in plans})


@pytest.mark.parametrize("overlay", overlay_names())
def test_every_include_is_there(overlay):
    """Decoders of an overlay's formats, too, which only a generated header names."""
    files = project.plan(overlay, "KV260", force=True).files
    known = {"ap_int.h", "hls_stream.h"}
    for name, content in files.items():
        if not name.startswith("src/") or not name.endswith((".hpp", ".cpp")):
            continue
        for found in re.findall(r'^\s*#include "([^"]+)"', content.decode(), re.MULTILINE):
            assert f"src/{found}" in files or found in known or found.startswith("sim/"), name
