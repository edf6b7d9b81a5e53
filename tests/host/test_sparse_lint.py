"""The decoders of storage formats are what a synthesis tool takes, one clock per iteration."""

from __future__ import annotations

import pytest

from weft import codegen
from weft.config import data_root, load_overlay
from weft.lint import lint_source

pytestmark = pytest.mark.slow  # libclang reads all of ap_int for each

SINK = """
struct Sink {
  int *to;
  void put(int row, int column, Int<16> value) { to[row + column] = int(value); }
};
"""
CALLS = {
    "coo": "decode_coo(rows, cols, count, a, b, values, sink, fault);",
    "csr": "decode_csr(rows, cols, count, a, b, values, sink, fault);",
    "csc": "decode_csc(rows, cols, count, a, b, values, sink, fault);",
    "two_four": "decode_two_four<8>(rows, cols, a, pairs, one, fault);",
    "venom": "decode_venom<8>(rows, cols, 64, 8, lists, a, pairs, one, fault);",
}
PORTS = "".join(
    f"#pragma HLS INTERFACE mode=m_axi port={name} bundle=gmem{i}\n"
    f"#pragma HLS INTERFACE mode=s_axilite port={name}\n"
    for i, name in enumerate(("a", "b", "values", "pairs", "lists", "to"))
) + "".join(
    f"#pragma HLS INTERFACE mode=s_axilite port={name}\n"
    for name in ("rows", "cols", "count", "return")
)
# Two elements leave a clock: to one memory they could not, and to registers they can.
ONE = """
struct Registers {
  int sum[2];
  void put(int row, int column, Int<16> value) { sum[column & 1] += int(value) + row; }
};
"""


@pytest.mark.parametrize("name", CALLS)
def test_decoders_have_no_findings(tmp_path, name):
    hls = data_root() / "hls"
    for file, text in codegen.headers(load_overlay("tiny")).items():
        (tmp_path / file).write_text(text)
    source = (
        f'#include "sparse/{name}.hpp"\n#include "sparse/venom.hpp"\nusing namespace weft;\n'
        f"{SINK}{ONE}void top(int rows, int cols, int count, const UInt<32> *a, "
        "const UInt<32> *b, const Int<16> *values, const ValuePair *pairs, "
        f"const VenomColumns *lists, int *to) {{\n{PORTS}"
        "Sink sink = {to};\nRegisters one = {{0, 0}};\n"
        "WEFT_HLS(ARRAY_PARTITION variable = one.sum type = complete)\n"
        "Fault fault;\nfault.begin();\n"
        f"{CALLS[name]}\nto[0] = fault.status + one.sum[0] + one.sum[1];\n}}\n"
    )
    (tmp_path / "top.cpp").write_text(source)
    found = lint_source(tmp_path / "top.cpp", "top", (tmp_path, hls / "weft", hls))
    assert [str(f) for f in found if "sparse" in f.file] == []
