"""The EIE engine under AddressSanitizer and UBSan, fed with corrupted streams."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from test_eie import OVERLAYS, corrupted_case

import kernel
from weft import build, codegen, isa
from weft.state import FaultError, State
from weft.units import eie

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
      (form == 0 ? weft::eie : functional::eie)(f, sizes[0], m, weights, counters, fault);
      weights.end();
      const long long matrix = fault.status == kDone ? (long long)(counters.matrix) : 0;
      std::printf("%d %d %lld\n", fault.status, fault.row, matrix);
    }
  }
  std::fclose(file);
  return 0;
}
"""


def sanitized(folder: Path, overlay) -> Path:
    """The program above, or a skipped test where the compiler has no sanitizers."""
    compiler = build.find_compiler()
    for file, text in codegen.headers(overlay).items():
        (folder / file).write_text(text)
    (folder / "main.cpp").write_text(MAIN)
    command = build.command_line(compiler, "functional", folder, folder / "fuzz")
    command = [str(folder / "main.cpp") if "csim.cpp" in c else c for c in command]
    command = [c for c in command if c not in ("-shared", "-fPIC", "-O3")]
    flags = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    if subprocess.run([*command, *flags], capture_output=True).returncode:
        plain = subprocess.run(command, capture_output=True, text=True)
        assert plain.returncode == 0, plain.stderr
        pytest.skip("the compiler has no sanitizers")
    return folder / "fuzz"


def golden(code: kernel.Code, content: np.ndarray, batch: int) -> tuple[int, int, int]:
    """Status, row and clocks of the MatMul."""
    f = isa.decode(code.words[-2])[1]
    state = State(code.overlay, np.zeros((0, code.overlay.lanes), np.int8), code.weights[-1])
    state.buffer[:], state.stream = content, [code.weights[-1]] if f["rows"] else []
    try:
        return 0, 0, eie.run(state, f, batch)[1].matrix
    except FaultError as error:
        row = re.search(r"row (\d+)", error.detail)
        assert row is not None
        return error.status, int(row[1]), 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["4x4eie", "8x8eie"])
def test_corrupted_streams_stay_in_memory(name: str, tmp_path: Path) -> None:
    program = sanitized(tmp_path, OVERLAYS[name])
    expected = []
    with (tmp_path / "cases").open("wb") as file:
        for seed in range(CASES // 2):
            code, content, batch, _, _ = corrupted_case(seed, name)
            rows = isa.decode(code.words[-2])[1]["rows"]
            file.write(np.array([batch, rows], np.int32).tobytes())
            file.write(code.words[-2].tobytes() + content.tobytes())
            file.write(code.weights[-1].tobytes() if rows else b"")
            expected += 2 * [golden(code, content, batch)]
    result = subprocess.run([program, tmp_path / "cases"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[:2000]
    found = [tuple(map(int, line.split())) for line in result.stdout.splitlines()]
    assert found == expected
    assert sum(status == 10 for status, _, _ in found) > CASES // 4
