"""Calls the C++ of the nonlinear units: one library of all their types, per form of simulation."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

import kernel
from weft.units.fixed import Codes, Unit

LANES = 32
FORMS = ("cycle", "exact")  # native integers, ap_int

HEAD = r"""
#include "units/cordic.hpp"
#include "units/gate.hpp"
#include "units/norm.hpp"
#include "units/polynomial.hpp"
#include "units/segments.hpp"
#include "units/softermax.hpp"
#include "units/table_ops.hpp"
using namespace weft;

template <typename Unit> Unit &loaded(const int *words, int count) {
  static Unit unit;
  static Int<32> content[1 << 14];
  for (int i = 0; i < count; ++i) content[i] = words[i];
  ParameterWords from{content};
  unit.load(from);
  return unit;
}
"""

ELEMENT = """
extern "C" void {name}(const int *words, int count, int n, const int *x, int *y) {{
  const auto &unit = loaded<{cpp}>(words, count);
  for (int i = 0; i < n; ++i) y[i] = int(unit(Int<32>(x[i])));
}}
"""

SOFTMAX = """
extern "C" void {name}(const int *words, int count, int n, const int *x, int *y, int rows) {{
  const auto &unit = loaded<{cpp}>(words, count);
  static Scores<32> in[128];
  static Shares<32> out[128];
  for (int r = 0; r < rows; ++r, x += n, y += n) {{
    for (int i = 0; i < (n + 31) / 32 * 32; ++i) in[i / 32][i % 32] = i < n ? x[i] : kMasked;
    softmax_row<32, 128>(unit, in, out, (n + 31) / 32);
    for (int i = 0; i < n; ++i) y[i] = int(out[i / 32][i % 32]);
  }}
}}
"""

NORM = """
extern "C" void {name}(const int *words, int count, int n, const int *x, int *y, int rows,
                       const int *gamma, const int *beta, int shift, int epsilon) {{
  const auto &unit = loaded<{cpp}>(words, count);
  static Inputs<32> in[128];
  static Vec<Int<16>, 32> out[128];
  static Affine<32> by[128];
  for (int i = 0; i < (n + 31) / 32 * 32; ++i) {{
    by[i / 32].gamma[i % 32] = i < n ? gamma[i] : 0;
    by[i / 32].beta[i % 32] = i < n ? beta[i] : 0;
  }}
  for (int r = 0; r < rows; ++r, x += n, y += n) {{
    for (int i = 0; i < (n + 31) / 32 * 32; ++i) in[i / 32][i % 32] = i < n ? x[i] : 0;
    norm_row<32>(unit, in, out, by, n, Int<64>(epsilon), shift);
    for (int i = 0; i < n; ++i) y[i] = int(out[i / 32][i % 32]);
  }}
}}
"""


def kind_of(cpp: str) -> str:
    """Which of the wrappers serves a type."""
    if "oftmax<" in cpp or cpp.startswith("Softermax<"):
        return SOFTMAX
    return NORM if cpp.startswith(("Norm<", "INorm")) else ELEMENT


@cache
def library(types: tuple[str, ...], form: str) -> ctypes.CDLL:
    """Functions t0, t1, ... of these C++ types."""
    parts = (kind_of(cpp).format(name=f"t{i}", cpp=cpp) for i, cpp in enumerate(types))
    return kernel.unit_library(HEAD + "".join(parts), kernel.OVERLAYS["4x4"], form)


def pointer(array: NDArray[np.int32]) -> Any:
    """Of the first element."""
    return array.ctypes.data_as(ctypes.c_void_p)


def run(types: tuple[str, ...], form: str, unit: Unit, x: Codes, **options: Any) -> Codes:
    """What the hardware of `unit`, one of `types`, gives for x; row units take [rows, n]."""
    call = getattr(library(types, form), f"t{types.index(unit.cpp)}")
    words = np.array(unit.words(), np.int32)
    codes = np.ascontiguousarray(x, np.int32)
    y = np.zeros_like(codes)
    n = codes.shape[-1]
    more: list[Any] = []
    if kind_of(unit.cpp) != ELEMENT:
        more.append(codes.size // n)
    if kind_of(unit.cpp) == NORM:
        for name, default in (("gamma", 1 << 12), ("beta", 0)):
            full = np.broadcast_to(np.asarray(options.get(name, default), np.int32), (n,)).copy()
            more.append(pointer(full))
        more += [options.get("shift", 10), options.get("epsilon", 0)]
    call(pointer(words), len(words), n, pointer(codes), pointer(y), *more)
    return y.astype(np.int64)
