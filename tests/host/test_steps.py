"""Programs of one step: states that stay on the device, parts that run alone, encoder-decoders."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_models import Net
from test_recurrent import Layers

import weft
from weft import cli
from weft.errors import (
    CapacityError,
    DeviceError,
    InputError,
    ModelError,
    ProgramError,
    UsageError,
)
from weft.lower import Steps, lower
from weft.ops import evaluate
from weft.passes.quantize import quantize
from weft.program import Program
from weft.recurrent import (
    Decoding,
    EncoderDecoder,
    Generator,
    StepSession,
    entry_program,
    open_steps,
)
from weft.recurrent.network import ENTRIES, STATES

Arrays = dict[str, np.ndarray]
DEVICES = ["golden", "csim"]


def cell(op: str = "LSTM") -> tuple[Any, Arrays, dict[str, str]]:
    """One step as an ONNX model, inputs to calibrate with, and which output is which state."""
    net = Layers(1, 16, first=True)
    outputs = net.layer(op, 16, 24, states=True)
    states = dict(zip(outputs[1:], net.states, strict=True))
    return net.model(*outputs[1:]), net.feeds(64, first=True), states


@pytest.fixture(scope="module")
def lstm() -> Program:
    """An LSTM's step, its two states on the device."""
    model, feeds, states = cell()
    return weft.compile(model, "lab", calibration=feeds, states=states, batch=8)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("op", ["GRU", "LSTM", "RNN"])
def test_states_stay_as_if_they_crossed_the_host(op: str, device: str) -> None:
    model, feeds, states = cell(op)
    program = weft.compile(model, "lab", calibration=feeds, states=states, batch=8)
    assert (
        program.regions[next(iter(states))].row == program.regions[states[next(iter(states))]].row
    )
    x = np.random.default_rng(1).normal(size=(6, 8, 1, 16)).astype(np.float32)
    first = {name: feeds[name][:8] for name in states.values()}
    with weft.open(program, device) as whole, open_steps(program, device) as steps:
        steps.start(8, first)
        values = dict(first)
        for part in x:
            steps.step(part)
            made = whole.run({"x": part, **values})
            values = {taken: made[name] for name, taken in states.items()}
            for name, value in values.items():
                np.testing.assert_array_equal(steps.state(name), value)
        assert steps.took.steps == 6
        assert steps.took.samples == 48
        assert whole.last is not None
        assert steps.took.cycles == 6 * whole.last.cycles


def test_samples_that_take_no_step_keep_their_states(lstm: Program) -> None:
    """The longest first: those at the back have ended; `keep` brings the rest to the front."""
    x = np.random.default_rng(2).normal(size=(4, 8, 1, 16)).astype(np.float32)
    names = sorted(set(lstm.states.values()))
    with open_steps(lstm) as steps, open_steps(lstm, "golden") as alone:
        steps.start(8)
        for t, count in enumerate((8, 5, 3)):
            steps.step({"x": x[t, :count]})
        ended = {name: steps.state(name) for name in names}
        steps.keep([2, 7, 0])
        steps.step(x[3, :2])
        kept = {name: steps.state(name) for name in names}
        for sample, lengths in enumerate([3, 3, 3, 2, 2, 1, 1, 1]):
            alone.start(1)
            for t in range(lengths):
                alone.step(x[t, sample : sample + 1])
            for name in names:
                np.testing.assert_array_equal(alone.state(name)[0], ended[name][sample])
            if sample in (2, 7):
                place = [2, 7].index(sample)
                alone.step(x[3, place : place + 1])
                for name in names:
                    np.testing.assert_array_equal(alone.state(name)[0], kept[name][place])
        for name in names:
            np.testing.assert_array_equal(kept[name][2], ended[name][0])


def test_states_of_any_network(tmp_path: Path) -> None:
    """A state that only the caller knows of: its output gets the scale of its input."""
    net = Net("n", 12, seed=4)
    net.add_input("before", "n", 20)
    given = net.op("Gemm", "x", net.weights(12, 20), net.weights(20))
    kept = net.op("MatMul", "before", net.weights(20, 20))
    after = net.op("Tanh", net.op("Add", given, kept))
    scores = net.op("Gemm", after, net.weights(20, 3))
    rng = np.random.default_rng(5)
    feeds = {"x": rng.normal(size=(50, 12)), "before": rng.uniform(-1, 1, (50, 20))}
    feeds = {name: value.astype(np.float32) for name, value in feeds.items()}
    model = net.model(after, scores)
    program = weft.compile(model, "lab", calibration=feeds, states={after: "before"})
    program.save(tmp_path / "step.weft")
    again = Program.load(tmp_path / "step.weft")
    assert (again.states, again.entries) == ({after: "before", "before": "before"}, {})
    with open_steps(tmp_path / "step.weft") as steps, open_steps(program, "golden") as golden:
        graph, h = weft.load_model(model), np.zeros((5, 20), np.float32)
        steps.start(5)
        golden.start(5)
        for t in range(5):
            x = feeds["x"][5 * t : 5 * t + 5]
            found = steps.step(x)
            np.testing.assert_array_equal(found[scores], golden.step({"x": x})[scores])
            real = evaluate(graph, {"x": x, "before": h})
            h = real[after]
            errors = np.abs(found[scores] - real[scores])
            assert np.median(errors) < 0.05 * real[scores].std()
        assert np.median(np.abs(steps.state("before") - h)) < 0.02
    plain = weft.compile(model, "lab", calibration=feeds)
    with pytest.raises(UsageError, match=r"keeps no state: compile .* states="):
        open_steps(plain)


def test_wrong_states_and_inputs_are_refused(lstm: Program) -> None:
    hidden, cells = sorted(set(lstm.states.values()))[::-1]
    x = np.zeros((3, 1, 16), np.float32)
    with open_steps(lstm, "golden") as steps:
        for wrong in (0, 9, -1):
            with pytest.raises(InputError, match="holds 1 to 8"):
                steps.start(wrong)
        with pytest.raises(InputError, match=rf"'{hidden}': shape \(3, 1, 23\) given"):
            steps.start(3, {hidden: np.zeros((3, 1, 23), np.float32)})
        with pytest.raises(InputError, match="2 samples of 3"):
            steps.start(3, {hidden: np.zeros((2, 1, 24), np.float32)})
        with pytest.raises(InputError, match="finite"):
            steps.start(1, {cells: np.full((1, 1, 24), np.nan, np.float32)})
        with pytest.raises(InputError, match="no state 'c'"):
            steps.start(3, {"c": x})
        steps.start(2)
        with pytest.raises(InputError, match="of 2 that were started"):
            steps.step(x)
        with pytest.raises(InputError, match="'y'"):
            steps.step({"y": x})
        with pytest.raises(InputError, match="n at least 1"):
            steps.step(x[:0])
        with pytest.raises(UsageError, match="no entry 'decoder'"):
            steps.step(x, "decoder")
        with pytest.raises(InputError, match="no state 'c'"):
            steps.state("c")
        for numbers in ([2], [-1], [0, 0], []):
            with pytest.raises(InputError, match="different numbers below 2"):
                steps.keep(numbers)
        steps.step(x[:2])  # as usable as before
    steps.close()
    for call in (lambda: steps.start(1), lambda: steps.step(x[:1]), lambda: steps.state(hidden)):
        with pytest.raises(DeviceError, match="closed"):
            call()


def test_what_can_not_be_a_state_is_refused() -> None:
    model, feeds, states = cell("GRU")
    output, taken = next(iter(states.items()))
    with pytest.raises(UsageError, match="no input or output 'g0'"):
        weft.compile(model, "lab", calibration=feeds, states={output: "g0"})
    graph = quantize(weft.load_model(model), feeds)
    with pytest.raises(UsageError, match=r"'x': size.*scale"):
        lower(graph, weft.load_overlay("lab"), steps=Steps({output: "h", "x": "h"}))
    floats = weft.load_model(model)
    with pytest.raises(UsageError, match="is not on the accelerator"):
        lower(floats, weft.load_overlay("lab"), steps=Steps({output: taken, taken: taken}))
    with pytest.raises(UsageError, match="no output of entry 'a'"):
        lower(graph, weft.load_overlay("lab"), steps=Steps({}, {"a": ("nothing",)}))


def small(seed: int = 0, hidden: int = 20, size: int = 12) -> EncoderDecoder:
    """A random encoder-decoder that says something."""
    rng = np.random.default_rng(seed)

    def gru() -> tuple[np.ndarray, ...]:
        shapes = ((3 * hidden, size), (3 * hidden, hidden), (3 * hidden,), (3 * hidden,))
        return tuple(rng.normal(0, 0.7, shape).astype(np.float32) for shape in shapes)

    tables = (rng.normal(size=(n, size)).astype(np.float32) for n in (9, 11))
    decoding = Decoding(*tables, start=0, end=1, longest=7, limit=6)
    output = rng.normal(size=(11, hidden)).astype(np.float32), np.zeros(11, np.float32)
    return EncoderDecoder("small", gru(), gru(), output, decoding)  # type: ignore[arg-type]


def sources(count: int, seed: int = 3) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 9, int(rng.integers(1, 8))).tolist() for _ in range(count)]


@pytest.fixture(scope="module")
def program() -> Program:
    """The program of a small encoder-decoder."""
    return small().compile("lab", sources(40), batch=8)


def test_batches_say_what_single_sequences_say(program: Program) -> None:
    """Whatever runs beside a sequence, in whatever order, on whatever device."""
    asked = sources(21)
    with Generator(program) as made, Generator(program, "golden") as golden:
        said = made.run(asked)
        assert golden.run(asked) == said
        assert golden.took.counters == made.took.counters
        assert made.took.cycles == sum(made.took.counters.values()) > 0
        assert made.run(asked[::-1]) == said[::-1]
        assert [made.run([source])[0] for source in asked] == said
        shorter = made.run(asked, limit=2)
        assert shorter == [tokens[:2] for tokens in said]
    assert len({len(tokens) for tokens in said}) > 1
    assert all(1 not in tokens and len(tokens) <= 6 for tokens in said)


@pytest.mark.parametrize("form", ["cycle", "exact"])
def test_every_form_of_the_simulation_says_the_same(form: str, program: Program) -> None:
    tiny = small().compile("tiny", sources(40), batch=4)
    asked = sources(2)
    with Generator(tiny, form=form) as made, Generator(tiny, "golden") as golden:
        assert made.run(asked) == golden.run(asked)
        assert made.took.counters == golden.took.counters


def test_integers_say_mostly_what_floats_say() -> None:
    """The float graph itself, sequence by sequence, against the program."""
    net, asked = small(seed=7, hidden=32), sources(40, seed=9)
    program = net.compile("lab", sources(40))
    graph = net.graph()
    wanted = []
    for source in asked:
        h = np.zeros((1, 32), np.float32)
        feeds = {info.name: np.zeros(info.shape, np.float32) for info in program.inputs}
        for token in source:
            x = net.decoding.source[[token]]
            h = evaluate(graph, {**feeds, "encoder_input": x, "encoder_state": h})["encoder/h"]
        said, last = [], 0
        while len(said) < 6:
            x = net.decoding.target[[last]]
            found = evaluate(graph, {**feeds, "decoder_input": x, "decoder_state": h})
            h, last = found["decoder/h"], int(found["scores"].argmax())
            if last == 1:
                break
            said.append(last)
        wanted.append(said)
    with Generator(program) as made:
        said = made.run(asked)
    assert np.mean([a == b for a, b in zip(said, wanted, strict=True)]) > 0.7


def test_programs_keep_what_decoding_needs(program: Program, tmp_path: Path) -> None:
    path = tmp_path / "small.weft"
    program.save(path)
    again = Program.load(path)
    assert again.entries == program.entries == {"encoder": (0,), "decoder": (1,)}
    assert again.states == program.states == STATES
    asked = sources(5)
    with Generator(path) as one, Generator(program) as two:
        assert one.run(asked) == two.run(asked)
    x = {i.name: np.zeros((3, *i.shape[1:]), np.float32) for i in program.inputs}
    with weft.open(path) as session, pytest.raises(UsageError, match="'encoder', 'decoder'"):
        session.run(x)
    report = weft.check(program, x)
    assert report.equal
    assert report.layers > 20
    assert weft.check(path, x).equal
    parts = [entry_program(program, name) for name in ENTRIES]
    whole = weft.estimate(program, 4)
    assert sum(weft.estimate(part, 4).cycles for part in parts) == whole.cycles
    assert sum(weft.estimate(part, 4).macs for part in parts) == whole.macs
    assert [info.name for info in parts[0].outputs] == ["encoder/h"]
    with StepSession(parts[0], weft.device.open_device("golden")) as steps:
        steps.start(2)
        steps.step(np.zeros((2, 12), np.float32))
    with pytest.raises(UsageError, match="no entry 'middle'"):
        entry_program(program, "middle")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ([], "sequence 1 has 0 tokens; 1 to 7"),
        ([0] * 8, "sequence 1 has 8 tokens"),
        ([9], "sequence 1: token 9; tokens are 0 to 8"),
        ([-1], "token -1"),
    ],
)
def test_wrong_sequences_are_refused_by_place(
    wrong: list[int], words: str, program: Program
) -> None:
    with Generator(program, "golden") as made:
        with pytest.raises(InputError, match=words):
            made.run([[1, 2], wrong])
        with pytest.raises(InputError, match="0 sources"):
            made.run([])
        for limit in (0, 7):
            with pytest.raises(InputError, match=f"limit = {limit}.*1 to 6"):
                made.run([[1]], limit=limit)
        assert made.run([[1, 2]])  # as usable as before
    with pytest.raises(InputError, match=words):
        small().compile("lab", [[1], wrong])
    with pytest.raises(InputError, match="no sequences"):
        small().compile("lab", [])


def test_wrong_networks_are_refused() -> None:
    net = small()
    for change, words in (
        ({"start": 11}, "token start = 11; there are 11"),
        ({"end": -1}, "token end = -1"),
        ({"limit": 0}, "limit = 0"),
        ({"source": net.decoding.source[:, :5]}, "encoder of shapes"),
        ({"target": net.decoding.target[:10]}, "output of shapes"),
        ({"target": np.full((11, 12), np.nan, np.float32)}, "target embeddings"),
    ):
        decoding = replace(net.decoding, **change)  # type: ignore[arg-type]
        with pytest.raises(ModelError, match=words):
            replace(net, decoding=decoding).graph()


def test_other_programs_are_no_encoder_decoders(lstm: Program, program: Program) -> None:
    with pytest.raises(ProgramError, match="no encoder-decoder"):
        Generator(lstm)
    assets = dict(program.assets)
    assets["encoder_decoder.numbers"] = np.array([0, 50, 7, 6])
    with pytest.raises(ProgramError, match="token end = 50"):
        Generator(replace(program, assets=assets))
    assets["encoder_decoder.numbers"] = np.array([0, 1])
    with pytest.raises(ProgramError, match="damaged"):
        Generator(replace(program, assets=assets))


HOSTILE: list[tuple[str, Any, str]] = [
    ("states", {"scores": "state", "encoder_state": "state"}, "lies elsewhere"),
    ("states", {"encoder_input": "state"}, "never written"),
    ("states", {"encoder/h": "state"}, "never read"),
    ("states", {"nothing": "state"}, "no input or output"),
    ("entries", {"encoder": [0], "decoder": [2]}, "segment 2 is not there"),
    ("entries", {"encoder": [0], "decoder": [0]}, "segment 0 is not there, or another's"),
    ("entries", {"encoder": [-1]}, "segment -1"),
    ("entries", {"encoder": ["x"]}, "damaged manifest"),
]


@pytest.mark.parametrize(("key", "value", "words"), HOSTILE)
def test_hostile_files_are_refused(
    key: str, value: Any, words: str, program: Program, tmp_path: Path
) -> None:
    from safetensors import safe_open
    from safetensors.numpy import save_file

    path = tmp_path / "small.weft"
    program.save(path)
    with safe_open(str(path), framework="numpy") as file:
        manifest = json.loads(file.metadata()["weft"])
        blobs = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    manifest[key] = value
    save_file(blobs, str(path), {"weft": json.dumps(manifest)})
    with pytest.raises(ProgramError, match=words):
        Program.load(path)


def test_steps_in_pieces() -> None:
    """Cut into segments a step says the same; where one would read its state again after it has
    left the next one there, it is refused.
    """
    net, asked = small(hidden=64), sources(3)
    with Generator(net.compile("tiny", sources(20)), "golden") as made:
        wanted = made.run(asked)
    for words, pieces in ((40, 2), (32, 3), (24, 5)):
        overlay = replace(weft.load_overlay("tiny"), buffer_words=words)
        program = net.compile(overlay, sources(20), batch=1)
        assert [len(numbers) for numbers in program.entries.values()] == [pieces, pieces]
        with Generator(program, "golden") as made:
            assert made.run(asked) == wanted
    overlay = replace(weft.load_overlay("tiny"), buffer_words=16)
    with pytest.raises(CapacityError, match="'state': the step does not fit on chip in one piece"):
        net.compile(overlay, sources(20), batch=1)


def test_command_line_shows_and_estimates(program: Program, tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "small.weft"
    program.save(path)
    for command in (["inspect", str(path)], ["estimate", str(path), "--board", "KV260"]):
        assert cli.run(command) == 0
    assert "decoder/kept_new" in capsys.readouterr().out
