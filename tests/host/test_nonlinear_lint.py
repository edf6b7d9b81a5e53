"""Every nonlinear unit is what a synthesis tool takes, with as many memory ports as it needs."""

from __future__ import annotations

import re

import pytest

from weft import codegen
from weft.config import data_root, load_overlay
from weft.lint import lint_source
from weft.nonlinear import METHODS

LANES = 8
ELEMENT = [m for m in METHODS.values() if m.name != "host" and not m.of.row]
SOFTMAXES = [m for f, m in METHODS if f == "softmax" and m != "host"]
HEADERS = ("cordic", "gate", "norm", "polynomial", "segments", "softermax", "table_ops")

pytestmark = pytest.mark.slow  # libclang reads all of ap_int for each

PORTS = """
#pragma HLS INTERFACE mode=m_axi port=x bundle=gmem0
#pragma HLS INTERFACE mode=m_axi port=y bundle=gmem1
#pragma HLS INTERFACE mode=m_axi port=w bundle=gmem2
#pragma HLS INTERFACE mode=s_axilite port=x
#pragma HLS INTERFACE mode=s_axilite port=y
#pragma HLS INTERFACE mode=s_axilite port=w
#pragma HLS INTERFACE mode=s_axilite port=return
"""
SOFTMAX = """
  static Scores<8> in[128];
  WEFT_HLS(ARRAY_RESHAPE variable = in type = complete dim = 2)
  static Shares<8> out[128];
  softmax_row<8, 128>(unit, in, out, 128);
"""
NORM = """
  static Inputs<8> in[128];
  static Affine<8> by[128];
  static Vec<Int<16>, 8> out[128];
  WEFT_HLS(ARRAY_PARTITION variable = in.lane type = complete)
  norm_row<8>(unit, in, out, by, 1024, Int<64>(0), 10);
"""


def partitions(cpp: str) -> str:
    """The macros that a unit of this type needs, as its integrator writes them."""
    path = "unit.exp" if cpp.startswith("Softmax<") else "unit"
    path += ".power.line" if "LineExp<" in cpp else ""
    if "PerLane<" in cpp:
        where = "unit.power" if cpp.startswith("Softermax<") else "unit.exp"
        return f"WEFT_PARTITION_LANES({where});"
    for part, macro in (
        ("ShiftSegments<", "SHIFT_SEGMENTS"),
        ("Segments<", "SEGMENTS"),
        ("PolynomialExp<", "POLYNOMIAL"),
        ("CordicExp<", "CORDIC"),
    ):
        if part in cpp.partition("ByReciprocal")[0]:
            return f"WEFT_PARTITION_{macro}({path});"
    return ""


def per_lane(cpp: str) -> str:
    """With a table for each lane, where the exponential is one."""
    cpp = re.sub(r"^Softmax<((?:Lut|Pwl)<\d+>)", rf"Softmax<PerLane<\1, {LANES}>", cpp)
    return re.sub(r"(LinePower<\d+, Pwl<\d+>>)(?=, Pwl)", rf"PerLane<\1, {LANES}>", cpp)


def findings(tmp_path, cpp: str, use: str) -> list[str]:
    hls = data_root() / "hls"
    for file, text in codegen.headers(load_overlay("tiny")).items():
        (tmp_path / file).write_text(text)
    includes = "".join(f'#include "units/{name}.hpp"\n' for name in HEADERS)
    body = f"static {cpp} unit;\n{partitions(cpp)}\nunit.load(from);\n{use}"
    top = f"void top(const int *x, int *y, const Int<32> *w) {{{PORTS}ParameterWords from{{w}};\n"
    (tmp_path / "top.cpp").write_text(f"{includes}using namespace weft;\n{top}{body}\n}}\n")
    found = lint_source(tmp_path / "top.cpp", "top", (tmp_path, hls / "weft", hls))
    mine = [f for f in found if "units" in f.file]
    # The words of `in` and `by` are the caller's to partition.
    return [str(f) for f in mine if not re.search(r"of (in|by)\.", f.what)]


def test_elements_have_no_findings(tmp_path):
    types = dict.fromkeys(m.cpp for m in ELEMENT)
    use = "".join(
        f"{{ static {cpp} u; u.load(from); y[{i}] = int(u(Int<32>(x[{i}]))); }}\n"
        for i, cpp in enumerate(types)
    )
    assert findings(tmp_path, ELEMENT[0].cpp, use) == []


@pytest.mark.parametrize(
    "name", [m.name for f, m in METHODS.items() if f[0] == "softmax" and m.cpp]
)
def test_softmax_reads_each_memory_once_a_clock(tmp_path, name):
    cpp = METHODS["softmax", name].cpp
    assert findings(tmp_path, per_lane(cpp), SOFTMAX) == []
    if name in ("lut", "pwl", "softermax"):  # one table can't serve eight lanes: the lint sees it
        assert any("memory-ports" in text for text in findings(tmp_path, cpp, SOFTMAX))


@pytest.mark.parametrize("name", ["pwl", "ibert", "dlc"])
def test_norms_have_no_findings(tmp_path, name):
    assert findings(tmp_path, METHODS["layernorm", name].cpp, NORM) == []
