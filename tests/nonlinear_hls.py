"""Calls the C++ of the nonlinear units: one library of all their types, per form of simulation."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

import kernel
from weft.nonlinear import METHODS, build
from weft.units import ibert, softermax, softmax
from weft.units.fixed import Codes, Unit

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

extern "C" void normals(int n, const long long *x, int *y) {
  for (int i = 0; i < n; ++i) {
    const Normal odd = normalized(UInt<64>(x[i])), even = normalized_even(UInt<64>(x[i]));
    y[4 * i] = int(odd.mantissa), y[4 * i + 1] = odd.exponent;
    y[4 * i + 2] = int(even.mantissa), y[4 * i + 3] = even.exponent;
  }
}
extern "C" void round_all(int n, const int *x, const int *shift, int *y) {
  for (int i = 0; i < n; ++i) y[i] = int(rounded(Int<32>(x[i]), shift[i]));
}
extern "C" void roots(int n, const long long *x, int *y) {
  for (int i = 0; i < n; ++i) y[i] = int(isqrt(UInt<64>(x[i])));
}

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


TABLE_NORM = """
extern "C" void {name}(const int *words, int count, int n, const int *x, int *y, int rows,
                       const int *weight, const long long *bias) {{
  const auto &unit = loaded<{cpp}>(words, count);
  for (int r = 0; r < rows; ++r, x += n, y += n) {{
    Sums sums;
    sums.clear();
    for (int i = 0; i < n; i += 32) {{
      Inputs<32> in;
      for (int c = 0; c < 32; ++c) in[c] = i + c < n ? x[i + c] : 0;
      sums.add(in);
    }}
    const auto row = unit.finish(sums, n);
    for (int i = 0; i < n; ++i)
      y[i] = int(unit.output(Int<16>(x[i]), Int<32>(weight[i]), Int<64>(bias[i]), row));
  }}
}}
"""

# Options that the registry does not list, and the tables of the published W3A3 network.
OTHERS: dict[str, Unit] = {
    "8 bits, rounded": softmax.Softmax(
        ibert.IExp.of(1 / 1024), softmax.ByQuotient(rounds=True), out=8
    ),
    "base 2": softermax.Softermax(
        build.softermax_of(build.lines)("softmax").power,  # type: ignore[attr-defined]
        build.lines("reciprocal"),
        natural=False,
        out=8,
    ),
}
LANES = "Softmax<PerLane<Lut<1024>, 32>, ByReciprocal<Lut<1024>>, 15>"
TABLES = (LANES, "Lut<64>", "TableSoftmax<32, 64, 64, 3>", "TableNorm<128, 3>", "TableNorm<128, 8>")


def kind_of(cpp: str) -> str:
    """Which of the wrappers serves a type."""
    if cpp.startswith("TableNorm<"):
        return TABLE_NORM
    if "oftmax<" in cpp or cpp.startswith("Softermax<"):
        return SOFTMAX
    return NORM if cpp.startswith(("RootNorm<", "INorm")) else ELEMENT


def _types() -> tuple[str, ...]:
    listed = [m.cpp for m in METHODS.values() if m.cpp]
    return tuple(dict.fromkeys([*listed, *(unit.cpp for unit in OTHERS.values()), *TABLES]))


def group_of(cpp: str) -> str:
    """Types that are compiled together: those of the quick tests, and the other row units."""
    if kind_of(cpp) in (ELEMENT, TABLE_NORM):
        return "quick"
    quick = ("TableSoftmax", "ShiftSoftmax", "INorm", "PerLane")
    quick += ("Polynomial", "IExp", "IRsqrt", "ShiftRsqrt")
    return "quick" if any(part in cpp for part in quick) else "more"


@cache
def library(form: str, group: str = "quick") -> ctypes.CDLL:
    """Functions t0, t1, ... of the types of a group, and those of HEAD."""
    parts = (
        kind_of(cpp).format(name=f"t{i}", cpp=cpp)
        for i, cpp in enumerate(_types())
        if group_of(cpp) == group
    )
    return kernel.unit_library(HEAD + "".join(parts), kernel.OVERLAYS["4x4"], form)


def pointer(array: NDArray[Any]) -> Any:
    """Of the first element."""
    return array.ctypes.data_as(ctypes.c_void_p)


def run(form: str, unit: Unit, x: Codes, cpp: str = "", **options: Any) -> Codes:
    """What the hardware of `unit` gives for x; row units take [rows, n].

    `cpp`: another type that takes the same parameters and must give the same.
    """
    cpp = cpp or unit.cpp
    call = getattr(library(form, group_of(cpp)), f"t{_types().index(cpp)}")
    words = np.array(unit.words(), np.int32)
    codes = np.ascontiguousarray(x, np.int32)
    y = np.zeros_like(codes)
    n = codes.shape[-1]
    more: list[Any] = []
    kind = kind_of(unit.cpp)
    if kind == ELEMENT:
        n = codes.size
    else:
        more.append(codes.size // n)
    if kind == TABLE_NORM:
        weight, bias = np.array(options["weight"], np.int32), np.array(options["bias"], np.int64)
        more += [pointer(weight), pointer(bias)]
    if kind == NORM:
        for name, default in (("gamma", 1 << 12), ("beta", 0)):
            full = np.broadcast_to(np.asarray(options.get(name, default), np.int32), (n,)).copy()
            more.append(pointer(full))
        more += [options.get("shift", 10), options.get("epsilon", 0)]
    call(pointer(words), len(words), n, pointer(codes), pointer(y), *more)
    return y.astype(np.int64)
