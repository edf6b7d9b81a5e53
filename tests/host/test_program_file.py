"""Program files: everything comes back; whatever is damaged or foreign is refused by name."""

from __future__ import annotations

import errno
import json
import os
import struct
from dataclasses import fields, is_dataclass, replace

import numpy as np
import pytest
from programs import MAP, scaling, with_host_tail

import weft
from weft import demo
from weft.errors import ProgramError, WeftError
from weft.program import AcceleratorSegment, Program


@pytest.fixture(scope="module")
def digits() -> Program:
    data = demo.load_data()
    return weft.compile(demo.MODELS / "digits.onnx", "tiny", calibration=data.calibration)


def same(a, b) -> bool:
    """Whether two values are equal in every field and element, types included."""
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return np.asarray(a).dtype == np.asarray(b).dtype and np.array_equal(a, b)
    if is_dataclass(a):
        return type(a) is type(b) and all(
            same(getattr(a, f.name), getattr(b, f.name)) for f in fields(a)
        )
    if isinstance(a, dict) or hasattr(a, "keys"):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.parametrize("kind", ["digits", "scaling", "map", "host"])
def test_round_trip(kind, tmp_path, digits):
    program = {
        "digits": lambda: digits,
        "scaling": lambda: scaling(layers=3),
        "map": lambda: scaling(layout=MAP),
        "host": lambda: with_host_tail(scaling()),
    }[kind]()
    program.save(tmp_path / "a.weft")
    again = Program.load(tmp_path / "a.weft")
    for field in fields(Program):
        assert same(getattr(program, field.name), getattr(again, field.name)), field.name
    assert again.disassemble() == program.disassemble()
    again.save(tmp_path / "b.weft")
    assert (tmp_path / "a.weft").read_bytes() == (tmp_path / "b.weft").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.weft", "b.weft"]


def saved(tmp_path, program: Program | None = None) -> tuple[dict, bytes]:
    """(header, blobs) of a saved program."""
    path = tmp_path / "good.weft"
    (program or scaling()).save(path)
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def changed(tmp_path, change, program: Program | None = None):
    """Path of a program whose manifest `change` has altered."""
    header, blobs = saved(tmp_path, program)
    manifest = json.loads(header["__metadata__"]["weft"])
    change(manifest)
    header["__metadata__"]["weft"] = json.dumps(manifest)
    text = json.dumps(header).encode()
    path = tmp_path / "bad.weft"
    path.write_bytes(struct.pack("<Q", len(text)) + text + blobs)
    return path


CHANGES = {
    "format": (lambda m: m.update(format="weft-program-0"), "format 'weft-program-0'"),
    "digest": (lambda m: m.update(overlay_digest="0" * 16), "compile the model again"),
    "other overlay": (lambda m: m["overlay"].update(buffer_words=64), "compile the model again"),
    "impossible overlay": (lambda m: m["overlay"].update(rows=3, cols=3), "rows = 3"),
    "code in a name": (lambda m: m["overlay"].update(name="x\nint y;"), "overlay name"),
    "path in a name": (lambda m: m["overlay"].update(name="../x"), "overlay name"),
    "fraction": (lambda m: m["overlay"].update(tap_words=64.5), "not an integer"),
    "unknown size": (lambda m: m["overlay"].update(colour=1), "damaged manifest"),
    "no overlay": (lambda m: m.pop("overlay"), "damaged manifest"),
    "batch": (lambda m: m.update(batch=0), "batch 0"),
    "text for a batch": (lambda m: m.update(batch="many"), "damaged manifest"),
    "memory": (lambda m: m.update(memory_rows=1 << 40), "rows of activation memory"),
    "small memory": (lambda m: m.update(memory_rows=1), "of 1 in activation memory"),
    "region": (lambda m: m["regions"].pop("x"), "tensor 'x' has no place"),
    "row": (lambda m: m["regions"]["x"].update(row=-1), "rows -1"),
    "scale": (lambda m: m["regions"]["x"]["quant"].update(scale=0), "not positive"),
    "layers": (lambda m: m.update(layers=[]), "names a layer that is not there"),
    "segments": (lambda m: m.update(segments={}), None),
    "kind": (lambda m: m["segments"][0].update(kind="other"), "damaged manifest"),
    "missing blob": (lambda m: m["segments"].append(m["segments"][0]), "is missing"),
    "a list": (lambda m: m.update(regions=[1, 2]), "damaged manifest"),
    "null": (lambda m: m.update(inputs=None), "damaged manifest"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_wrong_manifest_is_refused(tmp_path, name):
    change, text = CHANGES[name]
    path = changed(tmp_path, change)
    if text is None:  # nothing to run, and nothing wrong with that
        assert Program.load(path).segments == ()
        return
    with pytest.raises(ProgramError, match=rf"bad\.weft: .*{text}"):
        Program.load(path)


def test_what_is_no_program_is_refused(tmp_path):
    from safetensors.numpy import save_file

    save_file({"weights": np.zeros(3)}, str(tmp_path / "foreign.weft"))
    with pytest.raises(ProgramError, match="not one that weft wrote"):
        Program.load(tmp_path / "foreign.weft")
    save_file({"weights": np.zeros(3)}, str(tmp_path / "text.weft"), {"weft": "[1]"})
    with pytest.raises(ProgramError, match="damaged manifest"):
        Program.load(tmp_path / "text.weft")
    save_file({"weights": np.zeros(3)}, str(tmp_path / "deep.weft"), {"weft": "[" * 100_000})
    with pytest.raises(ProgramError, match="damaged manifest"):
        Program.load(tmp_path / "deep.weft")
    for name, content in (("empty", b""), ("zip", b"PK\3\4" * 9), ("short", b"\xff" * 8)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ProgramError, match=f"{name}: not a program file, or a damaged one"):
            Program.load(tmp_path / name)
    for name in ("absent", ""):
        with pytest.raises(ProgramError, match="no such file"):
            Program.load(tmp_path / name)


def test_segments_are_checked(tmp_path):
    program = scaling()
    segment = program.segments[0]
    assert isinstance(segment, AcceleratorSegment)
    for words, layers, text in (
        (segment.words[:-1], segment.layers[:-1], "does not end with its one Barrier"),
        (segment.words, segment.layers[:-1], "instructions of shape"),
        (segment.words[:, :-1], segment.layers, "instructions of shape"),
        (segment.words, segment.layers - 9, "names a layer that is not there"),
        (np.full_like(segment.words, 99), segment.layers, "opcode 99"),
    ):
        bad = replace(program, segments=(replace(segment, words=words, layers=layers),))
        bad.save(tmp_path / "bad.weft")
        with pytest.raises(ProgramError, match=text):
            Program.load(tmp_path / "bad.weft")
    replace(program, weights=program.weights[:, :4]).save(tmp_path / "bad.weft")
    with pytest.raises(ProgramError, match="weights of shape"):
        Program.load(tmp_path / "bad.weft")


def damaged(rng, content: bytes) -> bytes:
    """Cut off, one to three bits flipped, or bytes put in; mostly where the header is."""
    kind, (size,) = rng.integers(0, 4), struct.unpack("<Q", content[:8])
    limit = 8 + size if rng.integers(0, 4) else len(content)
    data = bytearray(content)
    if kind == 0:
        return bytes(data[: int(rng.integers(0, len(content)))])
    for _ in range(int(rng.integers(1, 4))):
        place = int(rng.integers(0, limit))
        if kind == 1:
            data[place:place] = rng.bytes(1)
        else:
            data[place] ^= 1 << int(rng.integers(0, 8))
    return bytes(data)


def fuzz(tmp_path, digits, seed: int, count: int) -> int:
    """Loads damaged files; the number that was refused. Nothing but ProgramError may come out."""
    rng, refused = np.random.default_rng(seed), 0
    contents = []
    for program in (with_host_tail(scaling(layout=MAP)), digits):
        program.save(tmp_path / "good.weft")
        contents.append((tmp_path / "good.weft").read_bytes())
    path = tmp_path / "bad.weft"
    for number in range(count):
        path.write_bytes(damaged(rng, contents[number % 2]))
        try:
            loaded = Program.load(path)
            loaded.disassemble()
            if loaded.model is not None:
                loaded.graph()
        except ProgramError as error:
            refused += 1
            assert str(path) in str(error) or "damaged graph" in str(error)  # noqa: PT017
    return refused


def test_damaged_files(tmp_path, digits):
    assert fuzz(tmp_path, digits, 1, 150) > 50


@pytest.mark.slow
def test_many_damaged_files(tmp_path, digits):
    assert fuzz(tmp_path, digits, 2, 2000) > 700


def test_a_damaged_program_never_hangs_a_device(tmp_path):
    """What a flipped bit leaves loadable ends: with results, or with a typed error."""
    rng = np.random.default_rng(5)
    program = scaling(layers=3)
    for _ in range(150):
        segment = program.segments[0]
        words = segment.words.copy()
        row, column = rng.integers(0, len(words)), rng.integers(0, 32)
        words[row, column] ^= np.int32(1) << int(rng.integers(0, 31))
        bad = replace(program, segments=(replace(segment, words=words),))
        try:
            bad.save(tmp_path / "bad.weft")
            with weft.open(tmp_path / "bad.weft", "csim") as session:
                session.run(np.ones((4, 5), np.float32), timeout_s=20)
        except WeftError:
            continue


def test_nothing_is_left_of_a_failed_save(tmp_path, monkeypatch):
    path = tmp_path / "a.weft"
    scaling().save(path)
    before = path.read_bytes()

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("safetensors.numpy.save_file", full)
    with pytest.raises(WeftError, match=r"a\.weft: cannot write \(No space left on device\)"):
        scaling(layers=3).save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.weft"]
    assert path.read_bytes() == before


def test_a_disk_that_takes_no_more_is_told(tmp_path):
    """A limit on the size of files fails as a full disk does: in the middle of a write."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))
    try:
        with pytest.raises(WeftError, match=r"a\.weft: cannot write \("):
            scaling().save(tmp_path / "a.weft")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_folders_must_be_there_and_writable(tmp_path):
    with pytest.raises(WeftError, match="does not exist; create it first"):
        scaling().save(tmp_path / "absent" / "a.weft")
    (tmp_path / "folder.weft").mkdir()
    with pytest.raises(WeftError, match="cannot write"):
        scaling().save(tmp_path / "folder.weft")
    assert [p.name for p in tmp_path.iterdir()] == ["folder.weft"]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_folder_is_told(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(WeftError, match="cannot write there"):
        scaling().save(tmp_path / "locked" / "a.weft")
