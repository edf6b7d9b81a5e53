"""The command line on hand-written programs: results, JSON, exit codes, files whole or absent."""

from __future__ import annotations

import io
import json
from shutil import copy

import numpy as np
import pytest
from click.shell_completion import BashComplete
from programs import scaling

import weft
from weft import cli, report
from weft.cli import making, terminal
from weft.demo import MODELS, load_data
from weft.errors import UsageError

X = np.random.default_rng(3).uniform(-40, 40, (6, 5)).astype(np.float32)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with p.weft, in.npz and labelled.npz, made the current one."""
    monkeypatch.chdir(tmp_path)
    scaling().save("p.weft")
    np.savez("in.npz", x=X)
    with weft.open("p.weft", "golden") as session:
        labels = session.run(X).argmax(1)
    labels[0] = (labels[0] + 1) % 5
    np.savez("labelled.npz", x=X, y=labels)
    return tmp_path


@pytest.fixture
def call(capsys):
    """Runs `weft` with the words of a line; gives exit code, standard output, standard error."""

    def run(line: str) -> tuple[int, str, str]:
        code = cli.run(line.split())
        return code, *capsys.readouterr()

    return run


def test_run_saves_what_the_session_gives(folder, call):
    code, out, _ = call("run p.weft in.npz -o out.npz --device golden")
    assert code == 0
    assert "scale_1" in out
    with weft.open("p.weft", "golden") as session:
        np.testing.assert_array_equal(np.load("out.npz")["y"], session.run(X))


def test_run_json_has_the_figures(folder, call):
    code, out, _ = call("run p.weft in.npz -o out.npz --device golden --json")
    figures = json.loads(out)
    assert code == 0
    assert {"cycles", "wall_s", "macs", "bytes", "layers"} <= figures.keys()
    assert figures["samples"] == 6
    assert [layer["name"] for layer in figures["layers"]] == ["scale_0", "scale_1"]


def test_failed_run_leaves_no_file(folder, call):
    np.savez("wide.npz", x=np.zeros((2, 6)))
    code, out, err = call("run p.weft wide.npz -o out.npz --device golden")
    assert code == 6
    assert out == ""
    assert err.startswith("InputError: input 'x'")
    assert sorted(p.name for p in folder.iterdir()) == [
        "in.npz",
        "labelled.npz",
        "p.weft",
        "wide.npz",
    ]


def test_check_equal_and_different(folder, call):
    code, out, _ = call("check p.weft in.npz --device golden")
    assert (code, out.split(":")[0]) == (0, "Equal")
    code, out, _ = call("check p.weft in.npz --device golden --json")
    assert json.loads(out)["equal"] is True


def test_eval_counts(folder, call):
    code, out, _ = call("eval p.weft labelled.npz --device golden --json")
    assert code == 0
    assert json.loads(out) == {"top1": 5 / 6, "n": 6}
    assert "83.33%" in call("eval p.weft labelled.npz --device golden")[1]


def test_eval_needs_labels(folder, call):
    code, _, err = call("eval p.weft in.npz --device golden")
    assert code == 6
    assert "'y'" in err


def test_estimate(folder, call):
    code, out, _ = call("estimate p.weft --json")
    figures = json.loads(out)
    assert code == 0
    assert figures["wall_s"] is None
    assert figures["cycles"] > 0
    figures = json.loads(call("estimate p.weft --board KV260 --batch 4 --json")[1])
    assert figures["wall_s"] > 0
    assert "estimated" in call("estimate p.weft --board Pynq-Z2")[1]
    assert call("estimate p.weft --board kv26")[0] == 2


def test_inspect_program(folder, call):
    code, out, _ = call("inspect p.weft")
    assert code == 0
    assert "accelerator" in out
    assert "x [n, 5] float32" in out
    assert json.loads(call("inspect p.weft --json")[1])["segments"][0]["instructions"] == 9
    assert "Vector" in call("inspect p.weft --disassemble")[1]


@pytest.mark.parametrize(
    "kind", ["overlays", "ops", "formats", "units", "boards", "calibrators", "methods", "isa"]
)
def test_list(kind, call):
    code, out, _ = call(f"list {kind} --json")
    assert code == 0
    rows = json.loads(out)[kind]
    assert rows
    code, out, _ = call(f"list {kind}")
    assert code == 0
    assert str(next(iter(rows[0].values()))) in out


def test_doctor(call):
    code, out, _ = call("doctor --json")
    found = json.loads(out)
    assert code == 0, out
    assert {"python", "numpy", "C++ compiler", "cache folder", "boards"} <= found.keys()
    assert "numpy" in call("doctor")[1]


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("lst", 2, "or 'list'"),
        ("list bords", 2, "Did you mean 'boards'"),
        ("run p.weft in.npz", 2, "--output"),
        ("run p.weft in.npz -o out.txt", 2, "*.npz"),
        ("run p.weft in.npz -o out.npz --device goldn", 2, "Did you mean 'golden'"),
        ("run p.weft in.npz -o out.npz --device golden --form cycle", 2, "form"),
        ("run p.weft absent.npz -o out.npz --device golden", 6, "absent.npz: no such file"),
        ("run p.weft p.weft -o out.npz --device golden", 6, "not an .npz"),
        ("run p.weft in.npz -o out.npz --timeout 0", 2, "--timeout"),
        ("run in.npz in.npz -o out.npz --device golden", 5, "in.npz"),
        ("run absent.weft in.npz -o out.npz", 5, "absent.weft: no such file"),
        ("run p.weft in.npz -o no/out.npz --device golden", 1, "folder no"),
        ("inspect absent.onnx", 3, "absent.onnx"),
        ("inspect m.onnx --disassemble", 2, "weft compile"),
        ("inspect m.onnx --shape x=1,b", 2, "INPUT=1,3,32,32"),
        ("inspect digits.npz", 3, "digits.npz"),
        ("compile digits.onnx -o m.weft", 2, "--calibrate DATA.npz"),
        ("compile digits.onnx -o m.weft --calibrate absent.npz", 6, "absent.npz"),
        ("compile digits.onnx -o m.weft --calibrate two.npz", 6, "['a', 'b'] given"),
        ("compile digits.onnx -o m.weft --calibrate in.npz", 6, "'image'"),
        ("compile digits.onnx -o m.weft --calibrate digits.npz --calibrator max", 2, "minmax"),
        ("compile digits.onnx -o m.weft --calibrate digits.npz --requant round", 2, "single_round"),
        ("compile digits.onnx -o m.weft --calibrate digits.npz --batch 100000", 4, "batch"),
        ("compile digits.onnx -o m.txt", 2, "*.weft"),
        ("compile digits.onnx -o m.weft --overlay lob", 2, "Did you mean 'lab'"),
        ("compile digits.onnx -o m.weft --batch 0", 2, "--batch"),
    ],
)
def test_mistakes_are_one_message_and_a_code(folder, call, line, code, words):
    copy(MODELS / "digits.onnx", folder)
    np.savez("digits.npz", image=np.zeros((2, 1, 8, 8)))
    np.savez("two.npz", a=X, b=X)
    got, _, err = call(line)
    assert not list(folder.glob("m.*"))
    assert got == code, err
    assert words in err
    assert "Traceback" not in err


def test_compile_and_inspect_a_model(folder, call):
    copy(MODELS / "digits.onnx", folder)
    np.savez("digits.npz", image=load_data().calibration)
    code, out, _ = call("inspect digits.onnx --json")
    assert code == 0
    assert {row["where"] for row in json.loads(out)["layers"]} == {"accelerator"}
    assert "systolic" in call("inspect digits.onnx")[1]
    line = "compile digits.onnx -o m.weft --overlay tiny --calibrate digits.npz --batch 3"
    code, out, _ = call(f"{line} --json")
    assert code == 0
    assert json.loads(out)["macs"] == 23_680
    assert weft.load("m.weft").batch == 3
    assert "conv1" in call(line)[1]


def test_debug_shows_the_traceback(folder, call):
    with pytest.raises(weft.WeftError):
        call("--debug inspect absent.weft")


def test_help_and_version(call):
    for name in cli.COMMANDS:
        code, out, _ = call(f"{name} --help")
        assert code == 0
        assert out.startswith("Usage: weft " + name)
    assert call("--version")[1].strip().endswith(weft.__version__)


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (KeyboardInterrupt(), 130, "Interrupted"),
        (PermissionError(13, "Permission denied", "secret.npz"), 1, "secret.npz: Permission"),
    ],
)
def test_interruptions_and_files_out_of_reach(monkeypatch, call, error, code, words):
    def fail(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(cli.cli, "main", fail)
    got, _, err = call("doctor")
    assert got == code
    assert words in err


def test_a_closed_pipe_is_silent(monkeypatch):
    def fail(*args: object, **kwargs: object) -> None:
        raise BrokenPipeError

    shown = io.StringIO()
    monkeypatch.setattr(cli.cli, "main", fail)
    monkeypatch.setattr("sys.stderr", shown)
    assert cli.run([]) == 1
    assert shown.closed


def test_main_leaves_with_the_code(capsys):
    with pytest.raises(SystemExit) as leave:
        cli.main(["list", "nothing"])
    assert leave.value.code == 2


def test_shapes_are_parsed():
    assert making.parse_shapes(()) is None
    assert making.parse_shapes(("x=1,2", "a=b=3")) == {"x": (1, 2), "a=b": (3,)}
    for text in ("x", "x=", "=1", "x=a"):
        with pytest.raises(UsageError, match="expected"):
            making.parse_shapes((text,))


def test_progress_shows_on_a_terminal_only(monkeypatch):
    from rich.console import Console

    for is_terminal in (False, True):
        shown = io.StringIO()
        console = Console(file=shown, force_terminal=is_terminal, width=80)
        monkeypatch.setattr(terminal, "stderr", lambda console=console: console)
        with terminal.bar("Working") as tell:
            tell(1, 2)
        with terminal.stages("Making") as stage:
            stage("of parts")
        assert bool(shown.getvalue()) == is_terminal


def test_json_takes_numpy_and_refuses_the_rest(capsys):
    terminal.print_json({"a": np.float32(0.5), "b": np.arange(2)})
    assert json.loads(capsys.readouterr().out) == {"a": 0.5, "b": [0, 1]}
    with pytest.raises(TypeError):
        terminal.print_json({"a": object()})


@pytest.mark.parametrize(
    ("line", "start", "found"),
    [
        ("", "es", {"estimate"}),
        ("list", "bo", {"boards"}),
        ("compile --overlay", "ti", {"tiny"}),
        ("estimate --board", "KV", {"KV260"}),
        ("run --device", "g", {"golden"}),
        ("check --form", "c", {"cycle"}),
    ],
)
def test_completion(line, start, found):
    words = BashComplete(cli.cli, {}, "weft", "_WEFT_COMPLETE").get_completions(line.split(), start)
    assert {item.value for item in words} == found


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (999, "999"), (1000, "1 k"), (12_480_000, "12.5 M"), (2e13, "20 T")],
)
def test_amounts(value, text):
    assert report.amount(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(2.5, "2.5 s"), (0.0125, "12.5 ms"), (4e-6, "4 µs"), (2e-8, "20 ns")]
)
def test_seconds(value, text):
    assert report.seconds(value) == text
