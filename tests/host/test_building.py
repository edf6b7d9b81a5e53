"""Builds from overlay to bitstream, with a stand-in for the vendor's tools that runs scripts."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from weft import cli, project
from weft.config import board_names, load_board
from weft.errors import BuildError, MissingDependency, UsageError
from weft.vendor import folder, matrix, tools
from weft.vendor.reports import read_synthesis
from weft.vendor.run import check_estimate, run

STANDIN = Path(__file__).with_name("standin.tcl")
STEPS = ("hls_ip", "block_design", "bitstream")
TOOLS = ("vitis-run", "vivado", "v++")


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared_data: Path) -> Path:
    """The stand-ins are on the PATH; a file that names every call of one: "tool script"."""
    tclsh = shutil.which("tclsh")
    if tclsh is None:
        pytest.skip("no tclsh, which reads the generated scripts")
    place = tmp_path / "bin"
    place.mkdir()
    for name in TOOLS:
        script(place / name, f'exec {tclsh} {STANDIN} {name} "$@"')
    monkeypatch.setenv("PATH", f"{place}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("STANDIN_REPORTS", str(shared_data / "vitis_reports"))
    monkeypatch.setenv("STANDIN_CALLS", str(tmp_path / "calls"))
    monkeypatch.setattr(tools, "POLL_S", 0.02)
    return tmp_path / "calls"


def called(calls: Path) -> list[str]:
    return calls.read_text().splitlines() if calls.exists() else []


ALL = ["vitis-run run_hls", "vivado block_design", "vivado bitstream"]


def test_from_overlay_to_bitstream(calls, tmp_path):
    plan, where = project.plan("tiny", "Pynq-Z2"), tmp_path / "build"
    seen = []
    outcome = run(plan, where, progress=lambda step, line: seen.append(step))
    assert called(calls) == ALL
    assert [(s.name, s.state) for s in outcome.steps] == [(name, "done") for name in STEPS]
    assert set(seen) <= set(STEPS)
    assert [p.name for p in outcome.products] == list(plan.products.values())
    assert all(p.is_file() for p in outcome.products)
    assert outcome.timing is not None
    assert outcome.timing.wns_ns == 0.068
    assert outcome.utilization is not None
    assert outcome.utilization.used["dsp"] == 66
    assert outcome.synthesis is not None
    assert outcome.synthesis.resources["LUT"] == 2532
    assert any("200-885" in m and "partition or reshape" in m for m in outcome.messages)
    assert any("'table'" in m and "2 clocks instead of 1" in m for m in outcome.messages)
    assert {p.name for p in (where / "logs").iterdir()} == {f"{name}.log" for name in STEPS}
    assert not list(where.rglob("*partial*"))


def test_finished_steps_are_kept(calls, tmp_path):
    plan, where = project.plan("tiny", "Pynq-Z2"), tmp_path / "build"
    first = run(plan, where)
    again = run(plan, where)
    assert called(calls) == ALL
    assert [s.state for s in again.steps] == ["kept"] * 3
    assert (again.timing, again.utilization) == (first.timing, first.utilization)
    assert again.messages == first.messages
    (where / "results" / "timing.rpt").unlink()  # what is gone is made again
    assert [s.state for s in run(plan, where).steps] == ["kept", "kept", "done"]
    assert (where / "logs" / "bitstream.1.log").is_file()


# Every generated script is read by the stand-in, which knows pins, nets and clocks.
@pytest.mark.parametrize("board", [b for b in board_names() if load_board(b).family != "alveo"])
def test_block_designs_connect_what_exists(board, calls, tmp_path, monkeypatch):
    part = load_board(board).part
    monkeypatch.setenv("STANDIN_PART", part)
    run(project.plan("tiny", board), tmp_path / "build")
    assert called(calls) == ALL
    log = (tmp_path / "build" / "logs" / "block_design.log").read_text()
    assert "validated: 8 cells" in log


@pytest.mark.parametrize("board", [b for b in board_names() if load_board(b).family == "alveo"])
def test_cards_are_linked(board, calls, tmp_path):
    outcome = run(project.plan("tiny", board, force=True), tmp_path / "build")
    assert [line.split()[0] for line in called(calls)] == ["vitis-run", "v++"]
    assert [p.suffix for p in outcome.products] == [".xclbin"]
    assert outcome.timing is not None


def test_cards_need_their_timing_too(calls, tmp_path, monkeypatch):
    monkeypatch.setenv("STANDIN_FAIL", "timing")
    with pytest.raises(BuildError, match="Timing constraints are not met"):
        run(project.plan("tiny", "Alveo-U50", force=True), tmp_path / "build")
    assert not list((tmp_path / "build").glob("*.xclbin"))


def test_older_tools(calls, tmp_path, monkeypatch):
    """vitis_hls -f without vitis-run; a Vivado that keeps the handoff under .srcs."""
    (tmp_path / "bin" / "vitis-run").rename(tmp_path / "bin" / "vitis_hls")
    text = (tmp_path / "bin" / "vitis_hls").read_text()
    script(
        tmp_path / "bin" / "vitis_hls", text.replace("vitis-run", "vitis_hls").partition("\n")[2]
    )
    monkeypatch.setenv("STANDIN_HANDOFF", "srcs")
    assert run(project.plan("tiny", "Pynq-Z2"), tmp_path / "build").products
    assert called(calls)[0] == "vitis_hls run_hls"


def test_missing_board_files(calls, tmp_path, monkeypatch):
    monkeypatch.setenv("STANDIN_BOARDS", "")
    plan = project.plan("tiny", "Pynq-Z2")
    with pytest.raises(BuildError, match=r"board files of Pynq-Z2.*WEFT_NO_BOARD_FILES=1"):
        run(plan, tmp_path / "build")
    monkeypatch.setenv("WEFT_NO_BOARD_FILES", "1")
    monkeypatch.setenv("STANDIN_PRESET", "0")
    assert run(plan, tmp_path / "build").products


def test_timing_that_is_not_met_gives_no_bitstream(calls, tmp_path, monkeypatch):
    plan, where = project.plan("tiny", "Pynq-Z2"), tmp_path / "build"
    monkeypatch.setenv("STANDIN_FAIL", "timing")
    for _ in range(2):  # the second time neither
        with pytest.raises(BuildError, match=r"Timing constraints are not met\..*lower clock_mhz"):
            run(plan, where)
        assert not list(where.glob("*.bit"))
    monkeypatch.delenv("STANDIN_FAIL")
    (where / "work" / "weft_vivado" / "impl_1.status").unlink()
    assert [s.state for s in run(plan, where).steps] == ["kept", "kept", "done"]


def test_another_part_is_refused(calls, tmp_path, monkeypatch):
    monkeypatch.setenv("STANDIN_PART", "xc7z010clg400-1")
    with pytest.raises(BuildError, match="xc7z010clg400-1, but Pynq-Z2 carries xc7z020"):
        run(project.plan("tiny", "Pynq-Z2"), tmp_path / "build")


@pytest.mark.parametrize("step", ["run_hls", "block_design", "bitstream"])
def test_a_tool_that_fails(step, calls, tmp_path, monkeypatch):
    plan, where = project.plan("tiny", "Pynq-Z2"), tmp_path / "build"
    monkeypatch.setenv("STANDIN_FAIL", "exit")
    monkeypatch.setenv("STANDIN_STEP", step)
    with pytest.raises(
        BuildError, match=r"failed: \[HLS 200-70\] Pre-synthesis failed.*log: .*logs"
    ):
        run(plan, where)
    monkeypatch.delenv("STANDIN_FAIL")
    outcome = run(plan, where)
    done = {"run_hls": 0, "block_design": 1, "bitstream": 2}[step]
    assert [s.state for s in outcome.steps] == ["kept"] * done + ["done"] * (3 - done)


def test_a_tool_that_leaves_nothing(calls, tmp_path, monkeypatch):
    monkeypatch.setenv("STANDIN_FAIL", "silent")
    monkeypatch.setenv("STANDIN_STEP", "run_hls")
    with pytest.raises(BuildError, match=r"ended without results/weft_kernel_csynth\.xml"):
        run(project.plan("tiny", "Pynq-Z2"), tmp_path / "build")


def test_estimates_are_held_against_the_board(shared_data):
    board = load_board("Pynq-Z2")
    found = read_synthesis(shared_data / "vitis_reports" / "hls4ml_myproject_csynth.xml")
    assert check_estimate(found, board) == []
    with pytest.raises(BuildError, match="DSP 73 of 60; take a smaller overlay"):
        check_estimate(found, dataclasses.replace(board, dsp=60))
    (remark,) = check_estimate(found, dataclasses.replace(board, lut=2000))
    assert "LUT 2532 of 2000; Vivado may still fit it" in remark
    (remark,) = check_estimate(dataclasses.replace(found, estimated_ns=5.2), board)
    assert "5.2 ns against 5.0 ns" in remark


def test_blanks_in_the_path(calls, tmp_path):
    with pytest.raises(BuildError, match="has a blank, which Vitis HLS does not take"):
        run(project.plan("tiny", "Pynq-Z2"), tmp_path / "my build")


def test_a_full_disk_is_a_message(calls, tmp_path, monkeypatch):
    plan, where = project.plan("tiny", "Pynq-Z2"), tmp_path / "build"
    folder.write(plan, where)

    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(folder, "put", full)
    with pytest.raises(BuildError, match=r"stamps/hls_ip: No space left.*same command again"):
        run(plan, where)
    monkeypatch.undo()
    assert not (where / "stamps" / "hls_ip").exists()


def build_in_background(where: Path) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-m",
        "weft",
        "build",
        "tiny",
        "--board",
        "Pynq-Z2",
        "-o",
        str(where),
    ]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def hangs_in(log: Path) -> Callable[[], bool]:
    return lambda: log.is_file() and "hanging" in log.read_text()


def test_interrupted_in_the_middle(calls, tmp_path, monkeypatch):
    """Ctrl-C ends the tool, too; the next call goes on with the step that was interrupted."""
    where = tmp_path / "build"
    monkeypatch.setenv("STANDIN_FAIL", "hang")
    monkeypatch.setenv("STANDIN_STEP", "block_design")
    process = build_in_background(where)
    wait_for(hangs_in(where / "logs" / "block_design.log"))
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 130
    monkeypatch.delenv("STANDIN_FAIL")
    outcome = run(project.plan("tiny", "Pynq-Z2"), where)
    assert [s.state for s in outcome.steps] == ["kept", "done", "done"]


def test_killed_in_the_middle(calls, tmp_path, monkeypatch):
    """A tool that outlives its weft keeps the folder; once it has ended, the build goes on."""
    plan, where = project.plan("tiny", "Pynq-Z2"), tmp_path / "build"
    monkeypatch.setenv("STANDIN_FAIL", "hang")
    monkeypatch.setenv("STANDIN_STEP", "impl")
    process = build_in_background(where)
    wait_for(hangs_in(where / "logs" / "bitstream.log"))
    process.kill()
    process.wait()
    monkeypatch.delenv("STANDIN_FAIL")
    with pytest.raises(BuildError, match="another build runs there, or a tool"):
        run(plan, where)
    log = (where / "logs" / "bitstream.log").read_text()
    os.kill(int(log.partition("hanging ")[2].split()[0]), signal.SIGKILL)
    time.sleep(0.2)
    outcome = run(plan, where)
    assert [s.state for s in outcome.steps] == ["kept", "kept", "done"]
    assert "reset impl_1" in (where / "logs" / "bitstream.log").read_text()
    assert outcome.products


def test_a_simulation_killed_while_it_is_built(tmp_path, monkeypatch):
    """No half-written library is left: the next process builds it and runs."""
    cache, mark = tmp_path / "cache", tmp_path / "compiling"
    script(
        tmp_path / "slow",
        f'[ "$1" = --version ] && exec g++ --version\necho $$ > {mark}.new\n'
        f"mv {mark}.new {mark}\nexec sleep 600",
    )
    code = (
        "from weft import build, export; print(build.library(export.SMALL, 'functional'))",
        "import ctypes, sys; ctypes.CDLL(sys.argv[1]).weft_run",
    )
    monkeypatch.setenv("WEFT_CACHE", str(cache))
    monkeypatch.setenv("CXX", str(tmp_path / "slow"))
    process = subprocess.Popen([sys.executable, "-c", code[0]], stdout=subprocess.DEVNULL)
    wait_for(mark.exists)
    process.kill()
    assert process.wait(timeout=5) == -signal.SIGKILL
    os.kill(int(mark.read_text()), signal.SIGKILL)  # the compiler outlives it
    assert list(cache.glob("*.so")) == []
    monkeypatch.delenv("CXX")
    done = subprocess.run(
        [sys.executable, "-c", code[0]], check=True, capture_output=True, text=True, timeout=300
    )
    library = done.stdout.strip()
    assert [str(path) for path in cache.glob("*.so")] == [library]
    subprocess.run([sys.executable, "-c", code[1], library], check=True, timeout=60)


def test_without_tools_it_says_what_to_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    where = tmp_path / "build"
    assert cli.run(["build", "tiny", "--board", "Pynq-Z2", "-o", str(where)]) == 0
    printed = capsys.readouterr().out
    assert f"cd {where}" in printed
    assert "make bitstream" in printed
    assert "no vitis-run or vitis_hls and no vivado" in printed
    assert (where / "src" / "top.cpp").is_file()
    step = project.plan("tiny", "Pynq-Z2").commands[0]
    with pytest.raises(MissingDependency, match=r"settings64\.sh"):
        tools.command_of(step, tools.Local())


def make(where: Path, *targets: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", *targets], cwd=where, capture_output=True, text=True)


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
@pytest.mark.parametrize("board", ["Pynq-Z2", "Alveo-U50"])
def test_make_does_the_same(board, calls, tmp_path):
    """The makefile alone builds; `weft build` then finds every step done, and make again."""
    plan, where = project.plan("tiny", board, force=True), tmp_path / "build"
    folder.write(plan, where)
    done = make(where, "bitstream")
    assert done.returncode == 0, done.stdout + done.stderr
    count = len(called(calls))
    assert count == len(plan.commands)
    assert all((where / name).is_file() for name in plan.products.values())
    assert {s.state for s in run(plan, where).steps} == {"kept"}
    assert make(where, "bitstream").returncode == 0
    assert len(called(calls)) == count
    for target in ("csim", "cosim"):
        done = make(where, target)
        assert done.returncode == 0, done.stdout + done.stderr
    assert make(where, "clean").returncode == 0
    assert {p.name for p in where.iterdir()} - {".lock", "plan.digest"} == {
        name.partition("/")[0] for name in plan.files
    }


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_make_checks_the_timing(calls, tmp_path, monkeypatch):
    where = tmp_path / "build"
    folder.write(project.plan("tiny", "Pynq-Z2"), where)
    monkeypatch.setenv("STANDIN_FAIL", "timing")
    done = make(where, "bitstream")
    assert done.returncode != 0
    assert "Timing constraints are not met." in done.stdout
    assert not list(where.glob("*.bit"))
    assert make(where, "check_timing").returncode != 0


@pytest.fixture
def host(tmp_path, calls, monkeypatch):
    """ssh and scp that reach another folder of this machine; the tools are only found there."""
    home, place = tmp_path / "home", tmp_path / "net"
    home.mkdir()
    place.mkdir()
    there = tmp_path / "bin"
    # A login shell finds the tools; `ssh` is called as: ssh -o .. -o .. host command
    script(
        place / "ssh",
        f"""
while [ "$1" = -o ]; do shift 2; done
echo "$1" >> {tmp_path}/hosts
shift
if [ -n "$CUT" ] && echo "$1" | grep -q "$CUT"; then echo 'Connection reset'; exit 255; fi
export HOME={home} PATH={there}:$PATH
cd {home} && exec sh -c "$1"
""",
    )
    script(
        place / "scp",
        f"""
for a in "$@"; do
  case $a in -q|-r|-o|BatchMode=yes) ;; *) all="$all ${{a#*:}}";; esac
done
cd {home} && exec cp -r $all
""",
    )
    script(there / "bash", 'shift; exec sh -c "$1"')  # no profile of this machine's
    os_path = os.pathsep.join(p for p in os.environ["PATH"].split(os.pathsep) if p != str(there))
    monkeypatch.setenv("PATH", f"{place}{os.pathsep}{os_path}")
    return home


def test_remote(host, calls, tmp_path, capsys):
    where = tmp_path / "build"
    command = ["build", "tiny", "--board", "Pynq-Z2", "-o", str(where), "--remote", "eda@big.host"]
    assert cli.run([*command, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert [s["state"] for s in facts["steps"]] == ["done"] * 3
    assert called(calls) == ALL
    assert set((tmp_path / "hosts").read_text().split()) == {"eda@big.host"}
    (there,) = (host / "weft-builds").iterdir()
    assert (there / "work" / "weft_vivado").is_dir()
    assert not (where / "work" / "weft_vivado").exists()
    assert all(Path(p).is_file() for p in facts["products"])
    assert cli.run(command) == 0
    assert called(calls) == ALL


def test_remote_connection_that_breaks(host, calls, tmp_path, monkeypatch):
    plan, where = project.plan("tiny", "Pynq-Z2"), tmp_path / "build"
    monkeypatch.setenv("CUT", "bitstream.tcl")
    with pytest.raises(BuildError, match=r"connection to big broke.*Connection reset.*again"):
        run(plan, where, tools.Remote("big"))
    monkeypatch.setenv("CUT", "mkdir")
    with pytest.raises(BuildError, match="ssh to big failed"):
        run(plan, where, tools.Remote("big"))
    monkeypatch.delenv("CUT")
    outcome = run(plan, where, tools.Remote("big"))
    assert [s.state for s in outcome.steps] == ["kept", "kept", "done"]


@pytest.mark.parametrize("name", ["-oProxyCommand=x", "a b", "x;y", "", "u@", "@h"])
def test_remote_hosts_are_names(name):
    with pytest.raises(UsageError, match="user@host"):
        tools.Remote(name)


def test_remote_without_ssh(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependency, match="needs ssh"):
        tools.Remote("host")


def test_json_and_dry_run(calls, tmp_path, capsys):
    where = tmp_path / "build"
    command = ["build", "tiny", "--board", "Pynq-Z2", "-o", str(where)]
    assert cli.run([*command, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "src/top.cpp" in shown
    assert "hls_ip: hls hls/run_hls.tcl" in shown
    assert cli.run([*command, "--dry-run", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["digest"] == project.plan("tiny", "Pynq-Z2").digest()
    assert not where.exists()
    assert called(calls) == []
    assert cli.run([*command, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["timing"]["met"] is True
    assert facts["utilization"]["lut"] == 1526
    assert facts["next"] == []


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["tiny", "-o", "x"], 2),
        (["--board", "Pynq-Z2", "-o", "x"], 2),
        (["tiny", "--board", "Pynq-Z2"], 2),
        (["tiny", "--board", "Pynq-Z2", "-o", "x", "--dask", "tcp://h:1"], 2),
        (["--all", "-o", "x", "--dry-run"], 2),
        (["tiny", "--board", "Pynq", "-o", "x"], 2),
        (["edge", "--board", "Pynq-Z2", "-o", "x"], 4),
        (["tiny", "--board", "Pynq-Z2", "-o", "x", "--jobs", "0"], 2),
    ],
)
def test_wrong_usage(arguments, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.run(["build", *arguments]) == code
    assert list(tmp_path.iterdir()) == []


def test_a_matrix_here(calls, tmp_path, capsys):
    """Pynq-Z1 and Z2 carry the part of the stand-in's report; the others are refused after HLS."""
    boards = ["--board", "Pynq-Z1", "--board", "Pynq-Z2"]
    command = ["build", "--all", *boards, "-o", str(tmp_path / "all"), "--json"]
    assert cli.run(command) == 0
    rows = json.loads(capsys.readouterr().out)["builds"]
    states = {(r["overlay"], r["board"]): r["state"] for r in rows}
    assert states["tiny", "Pynq-Z1"] == states["tiny", "Pynq-Z2"] == "built"
    assert states["edge", "Pynq-Z2"] == "does not fit"
    assert list((tmp_path / "all" / "tiny-Pynq-Z2").glob("tiny-*.bit"))


def test_one_failure_stops_no_other(calls, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("STANDIN_PART", "xc7z020clg400-1")
    boards = ["--board", "ZedBoard", "--board", "Pynq-Z2"]
    assert cli.run(["build", "tiny", "--all", *boards, "-o", str(tmp_path / "all")]) == 9
    printed = capsys.readouterr()
    assert "1 of 2 failed: tiny-ZedBoard" in printed.err
    assert "built" in printed.out


def test_dask_is_optional(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "distributed", None)
    fitting, _ = matrix.pairs(["tiny"], ["Pynq-Z2"])
    with pytest.raises(MissingDependency, match=r"weft\[dask\]"):
        matrix.build_all(fitting, tmp_path, dask="tcp://127.0.0.1:1")


@pytest.mark.filterwarnings("ignore")  # of Dask's own
def test_a_matrix_on_a_cluster(calls, tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed")
    monkeypatch.setenv("WEFT_CACHE", str(tmp_path / "worker"))
    fitting, _ = matrix.pairs(["tiny"], ["Pynq-Z1", "Pynq-Z2", "KV260"])
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
    ) as cluster:
        address = cluster.scheduler_address
        rows = matrix.build_all(fitting, tmp_path / "all", dask=address)
        assert [(r.board, r.state) for r in rows] == [
            ("Pynq-Z1", "built"),
            ("Pynq-Z2", "built"),
            ("KV260", "failed"),
        ]
        assert "carries xck26" in rows[2].detail
        count = len(called(calls))
        again = matrix.build_all(fitting[:2], tmp_path / "all", dask=address)
        assert [r.state for r in again] == ["built", "built"]
        assert len(called(calls)) == count
    plan = project.plan("tiny", "Pynq-Z2")
    where = tmp_path / "all" / plan.name
    assert {s.state for s in run(plan, where).steps} == {"kept"}


def test_no_scheduler(tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr(distributed, "Client", lambda *a, **k: distributed_failure())
    fitting, _ = matrix.pairs(["tiny"], ["Pynq-Z2"])
    with pytest.raises(BuildError, match="no Dask scheduler answers"):
        matrix.build_all(fitting, tmp_path, dask="tcp://127.0.0.1:9")


def distributed_failure() -> None:
    raise OSError("Timed out trying to connect")
