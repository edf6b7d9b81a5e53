"""Engines of compressed weights under AddressSanitizer and UBSan, fed with corrupted streams."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import test_eie
import test_gather
import test_snap
import wide

from weft import build, codegen, isa
from weft.config import Overlay
from weft.state import FaultError, State
from weft.units.compressed import ENGINES

CASES = 2000
MAIN = r"""
#include <cstdio>
#include "check.hpp"
#include "sim/functional.hpp"
using namespace weft;

template <typename T> static bool take(FILE *file, T *to, std::size_t count) {
  return std::fread(to, sizeof(T), count, file) == count;
}

/// Status, row and clocks of every case in a file, by the unit and by its functional form.
int main(int, char **names) {
  FILE *file = std::fopen(names[1], "rb");
  static Memories m;
  std::int32_t sizes[2], words[kInstructionWords];
  while (take(file, sizes, 2) && take(file, words, kInstructionWords)) {
    Command command = {};
    for (int i = 0; i < kInstructionWords; ++i) command[i] = words[i];
    const MatMul f = MatMul::decode(command);
    for (int w = 0; w < kBufferWords; ++w) {
      Word word;
      if (!take(file, &word, 1)) return 1;
      m.buffer.write(w, word);
    }
    std::vector<Word> rows;
    rows.resize(std::size_t(sizes[1]));
    if (!take(file, rows.data(), rows.size())) return 1;
    for (int form = 0; form < 2; ++form) {
      Stream<TileWord> weights("weights", 0);
      for (const Word &row : rows) weights.write(widened(row));
      Counters counters;
      counters.clear();
      Fault fault;
      fault.begin();
      if (form == 0) weft::ENGINE(f, sizes[0], m, weights, counters, fault);
      if (form == 1) functional::ENGINE(f, sizes[0], m, weights, counters, fault);
      weights.end();
      const long long matrix = fault.status == kDone ? (long long)(counters.matrix) : 0;
      std::printf("%d %d %lld\n", fault.status, fault.row, matrix);
    }
  }
  std::fclose(file);
  return 0;
}
"""


@dataclass(frozen=True, eq=False)
class Case:
    """A MatMul, the rows of its stream, what lies in the buffer, and how many samples."""

    fields: dict[str, int]
    rows: np.ndarray
    content: np.ndarray
    batch: int = 1


def eie_cases(overlay: Overlay) -> Iterator[Case]:
    for seed in range(CASES // 2):
        code, content, batch, _, _ = test_eie.corrupted_case(seed, overlay.name)
        yield Case(isa.decode(code.words[-2])[1], code.weights[-1], content, batch)


def gather_cases(overlay: Overlay) -> Iterator[Case]:
    for seed in range(CASES // 2):
        rng = np.random.default_rng(seed)
        f, weights, content = test_gather.layer(rng, overlay, 1, book=bool(seed % 2))
        rows, f = test_snap.corrupted(rng, weights.packed(0, 1), f)
        yield Case(f, rows, wide.placed(content))


def snap_cases(overlay: Overlay) -> Iterator[Case]:
    for seed in range(CASES // 2):
        rng = np.random.default_rng(seed)
        f, weights, content = test_snap.layer(rng, overlay, 1)
        rows, f = test_snap.corrupted(rng, weights.packed(0, f["tiles"]), f)
        yield Case(f, rows, content)


def sanitized(folder: Path, overlay: Overlay, engine: str) -> Path:
    """The program above for an engine, or a skipped test where the compiler has no sanitizers."""
    compiler = build.find_compiler()
    for file, text in codegen.headers(overlay).items():
        (folder / file).write_text(text)
    (folder / "main.cpp").write_text(MAIN.replace("ENGINE", engine))
    command = build.command_line(compiler, "functional", folder, folder / "fuzz")
    command = [str(folder / "main.cpp") if "csim.cpp" in c else c for c in command]
    command = [c for c in command if c not in ("-shared", "-fPIC", "-O3")]
    flags = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    if subprocess.run([*command, *flags], capture_output=True).returncode:
        plain = subprocess.run(command, capture_output=True, text=True)
        assert plain.returncode == 0, plain.stderr
        pytest.skip("the compiler has no sanitizers")
    return folder / "fuzz"


def buffer_of(overlay: Overlay, case: Case) -> np.ndarray:
    """The whole unified buffer."""
    words = np.zeros((overlay.buffer_words, overlay.lanes), np.int8)
    words[: len(case.content)] = case.content
    return words


def golden(overlay: Overlay, engine: str, case: Case) -> tuple[int, int, int]:
    """Status, row and clocks of the MatMul."""
    state = State(overlay, np.zeros((0, overlay.lanes), np.int8), case.rows)
    state.buffer[:] = buffer_of(overlay, case)
    if case.fields["rows"]:
        state.feed(case.rows)
    try:
        return 0, 0, ENGINES[engine].run(state, case.fields, case.batch)[1].matrix
    except FaultError as error:
        row = re.search(r"row (\d+)", error.detail)
        assert row is not None
        return error.status, int(row[1]), 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "overlay", "cases"),
    [
        ("eie", test_eie.OVERLAYS["4x4eie"], eie_cases),
        ("eie", test_eie.OVERLAYS["8x8eie"], eie_cases),
        ("gather", test_gather.OVERLAYS["one beat"], gather_cases),
        ("gather", test_gather.OVERLAYS["two beats"], gather_cases),
        ("snap", test_snap.SMALL, snap_cases),
        ("snap", test_snap.PAPER, snap_cases),
    ],
    ids=lambda value: getattr(value, "name", value if isinstance(value, str) else ""),
)
def test_corrupted_streams_stay_in_memory(
    engine: str, overlay: Overlay, cases: Callable[[Overlay], Iterator[Case]], tmp_path: Path
) -> None:
    program = sanitized(tmp_path, overlay, engine)
    expected = []
    with (tmp_path / "cases").open("wb") as file:
        for case in cases(overlay):
            rows = case.fields["rows"]
            file.write(np.array([case.batch, rows], np.int32).tobytes())
            file.write(isa.MAT_MUL.encode(**case.fields).tobytes())
            file.write(buffer_of(overlay, case).tobytes())
            file.write(np.ascontiguousarray(case.rows).tobytes() if rows else b"")
            expected += 2 * [golden(overlay, engine, case)]
    result = subprocess.run([program, tmp_path / "cases"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[:2000]
    found = [tuple(map(int, line.split())) for line in result.stdout.splitlines()]
    assert found == expected
    assert sum(status == 10 for status, _, _ in found) > CASES // 4
