"""Softmax, LayerNorm and GELU in the functional simulation, in ns per element, against numpy.

512 rows of 197 scores (ViT) or 768 elements (BERT-base), one thread. Ours is the hardware source,
natively compiled: statistics and output of whole rows, words of 32 lanes. The peers work in
float32: scipy.special.softmax, torch where it is installed, else numpy.
"""

from __future__ import annotations

import ctypes
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from weft import build, codegen, load_overlay
from weft.nonlinear import METHODS, Method

from .row import Row, absent, at_most, interleaved

ROWS, SCORES, ELEMENTS, LANES = 512, 197, 768, 32
LIMIT_NS = 3.0
SHOWN = {
    "softmax": ("lut", "pwl", "pwl2", "nnlut", "ibert", "shift", "softermax", "dlc", "cordic"),
    "layernorm": ("pwl", "ibert", "dlc"),
    "gelu": ("lut", "pwl", "pwl2", "nnlut", "ibert", "dlc", "cordic"),
}

SOURCE = r"""
using namespace weft;
using Unit = {cpp};
static Unit unit;
extern "C" void load(const Int<32> *words) {{
  ParameterWords from{{words}};
  unit.load(from);
}}
"""
SOFTMAX = r"""
extern "C" void run(const Scores<32> *x, Shares<32> *y, int rows, int words) {
  for (int r = 0; r < rows; ++r) softmax_row<32, 128>(unit, x + r * words, y + r * words, words);
}
"""
NORM = r"""
extern "C" void run(const Inputs<32> *x, Vec<Int<16>, 32> *y, int rows, int words) {
  static Affine<32> by[128];
  for (auto &word : by)
    for (int c = 0; c < 32; ++c) word.gamma[c] = 1 << 12, word.beta[c] = 0;
  for (int r = 0; r < rows; ++r)
    norm_row<32>(unit, x + r * words, y + r * words, by, words * 32, Int<64>(0), 10);
}
"""
ELEMENT = r"""
extern "C" void run(const Vec<Int<16>, 32> *x, Vec<Int<16>, 32> *y, int rows, int words) {
  for (int i = 0; i < rows * words; ++i) {
    const Vec<Int<32>, 32> wide = lanewise(unit, x[i]);
    for (int c = 0; c < 32; ++c) y[i][c] = Int<16>(wide[c]);
  }
}
"""

# The instruction Norm on the overlay's memories, pass by pass; `same` holds it to the hardware's.
INSTRUCTION = r"""
#include "kernel.hpp"
#include "sim/norms.hpp"
using namespace weft;
static Memories m;
static Norm f;
static const int kRowsOf = 512, kBlocks = 24;
extern "C" void load(const short *x) {
  Command none;
  for (int w = 0; w <= kInstructionWords; ++w) none[w] = 0;
  f = Norm::decode(none);
  f.rows = kRowsOf, f.blocks = kBlocks, f.elements = kBlocks * kCols;
  f.source_col = f.target_col = 1, f.source_block = f.target_block = kRowsOf;
  f.low = -128, f.high = 127;
  m.norms.begin();
  for (int i = 0; i < kRowsOf * kBlocks; ++i)
    for (int c = 0; c < kCols; ++c) m.wide[i][c] = Int<16>(*x++);
  ParameterWord p;
  for (int c = 0; c < kCols; ++c) {
    p.bias[c] = 100 * c, p.multiplier[c] = 900, p.shift[c] = 8;
    p.negative_multiplier[c] = 1 << 30, p.negative_shift[c] = -5;
  }
  for (int b = 0; b < kBlocks; ++b) m.parameters.write(b, p);
}
extern "C" void pass1() { norm_statistics(f, kRowsOf * kBlocks, m); }
extern "C" void pass2() { functional::norm_rows(f, m); }
extern "C" int same() {
  static Word codes[kRowsOf * kBlocks];
  pass1(), pass2();
  int ends = 0, other = 0;
  for (int i = 0; i < kRowsOf * kBlocks; ++i) codes[i] = m.buffer.read(i);
  norm_output(f, kRowsOf * kBlocks, m);
  for (int i = 0; i < kRowsOf * kBlocks; ++i) {
    const Word word = m.buffer.read(i);
    for (int c = 0; c < kCols; ++c) {
      other += word[c] != codes[i][c];
      ends += word[c] == -128 || word[c] == 127;
    }
  }
  return other == 0 && ends < kRowsOf * kBlocks * kCols / 2;
}
"""


def instruction(folder: Path) -> list[Row]:
    """The two passes of a Norm over 512 rows of 768 elements."""
    folder = folder / "norm-instruction"
    folder.mkdir(parents=True)
    for file, text in codegen.headers(load_overlay("encoder")).items():
        (folder / file).write_text(text)
    (folder / "unit.cpp").write_text(INSTRUCTION)
    made = compiled(folder)
    x = np.random.default_rng(0).normal(0, 5000, (ROWS * ELEMENTS,))
    codes = np.ascontiguousarray(np.clip(x, -32768, 32767), np.int16)
    made.load(codes.ctypes.data_as(ctypes.c_void_p))
    assert made.same() == 1, "the functional form is the hardware's"
    found = []
    for name, call in (("statistics", made.pass1), ("output", made.pass2)):
        ours, _ = interleaved(call, call, seconds=0.5)
        metric = f"Norm, {name} of {ROWS}×{ELEMENTS}, functional, overlay encoder"
        found.append(at_most(metric, ours * 1e9 / (ROWS * ELEMENTS), LIMIT_NS, "ns/element"))
    return found


def library(method: Method, folder: Path) -> ctypes.CDLL:
    """The unit, built as the functional simulation is."""
    folder = folder / f"{method.function}-{method.name}"
    folder.mkdir(parents=True)
    for file, text in codegen.headers(load_overlay("tiny")).items():
        (folder / file).write_text(text)
    body = SOFTMAX if method.function == "softmax" else NORM if method.of.row else ELEMENT
    includes = "".join(f'#include "{header}"\n' for header in method.headers)
    (folder / "unit.cpp").write_text(includes + SOURCE.format(cpp=method.cpp) + body)
    return compiled(folder)


def compiled(folder: Path) -> ctypes.CDLL:
    """unit.cpp of a folder with an overlay's headers, built as the functional simulation is."""
    command = build.command_line(build.find_compiler(), "functional", folder, folder / "unit.so")
    command = [str(folder / "unit.cpp") if "csim.cpp" in c else c for c in command]
    subprocess.run([*command, "-fvisibility=default"], check=True, capture_output=True)
    return ctypes.CDLL(str(folder / "unit.so"))


def codes_for(method: Method) -> np.ndarray:
    """int16 [rows, whole words]; the lanes that a row leaves over are masked, or absent."""
    rng = np.random.default_rng(0)
    if method.function == "softmax":
        x = np.full((ROWS, -(-SCORES // LANES) * LANES), -32768, np.int16)
        x[:, :SCORES] = np.clip(rng.normal(0, 3000, (ROWS, SCORES)), -32767, 32767)
        return x
    return np.clip(rng.normal(0, 5000, (ROWS, ELEMENTS)), -32768, 32767).astype(np.int16)


def runner(method: Method, folder: Path) -> tuple[Any, np.ndarray]:
    """(the call, its output), checked against the golden model."""
    made, x = library(method, folder), codes_for(method)
    words = np.array(method.unit.words(), np.int32)
    y = np.zeros_like(x, np.uint16 if method.function == "softmax" else np.int16)
    pointer = [a.ctypes.data_as(ctypes.c_void_p) for a in (x, y)]
    made.load(words.ctypes.data_as(ctypes.c_void_p))

    def call() -> None:
        made.run(*pointer, ROWS, x.shape[1] // LANES)

    call()
    width = SCORES if method.function == "softmax" else ELEMENTS
    expected = method.golden(x[:, :width])
    np.testing.assert_array_equal(y[:, :width].astype(np.int64), expected)
    return call, words


def peers(function: str) -> dict[str, Any]:
    """float32 calls by name: the same function on as many elements."""
    rng = np.random.default_rng(0)
    width = SCORES if function == "softmax" else ELEMENTS
    x = rng.normal(0, 3, (ROWS, width)).astype(np.float32)
    if find_spec("torch"):
        import torch

        torch.set_num_threads(1)
        t, nn = torch.from_numpy(x), torch.nn.functional
        calls = {
            "softmax": lambda: nn.softmax(t, -1),
            "layernorm": lambda: nn.layer_norm(t, (width,)),
            "gelu": lambda: nn.gelu(t),
        }
        return {"torch": calls[function]}
    from scipy import special

    def layernorm() -> np.ndarray:
        d = x - x.mean(-1, keepdims=True)
        return d / np.sqrt((d * d).mean(-1, keepdims=True))

    calls = {
        "softmax": lambda: special.softmax(x, -1),
        "layernorm": layernorm,
        "gelu": lambda: 0.5 * x * (1 + special.erf(x * np.float32(0.70710678))),
    }
    return {"numpy" if function == "layernorm" else "scipy": calls[function]}


def rows(folder: Path, data: Path | None = None) -> list[Row]:
    """One row per function and method, ours and the peer's ns per element."""
    made = []
    for function, names in SHOWN.items():
        ((peer, theirs),) = peers(function).items()
        width = SCORES if function == "softmax" else ELEMENTS
        for name in names:
            metric = f"{function} by {name}, {ROWS}×{width}, functional, against {peer}"
            method = METHODS.get((function, name))
            if method is None:
                made.append(absent(metric, "no such method"))
                continue
            ours, other = interleaved(runner(method, folder)[0], theirs, seconds=0.5)
            scale = 1e9 / (ROWS * width)
            made.append(at_most(metric, ours * scale, LIMIT_NS, "ns/element", other * scale))
    return made + instruction(folder)
