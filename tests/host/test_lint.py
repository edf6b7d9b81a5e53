"""Every rule of the lint finds what it is for, and the hardware of every overlay breaks none."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterable
from typing import Any

import pytest

from weft import build, cli, codegen
from weft.config import data_root, load_overlay, overlay_names
from weft.errors import UsageError, WeftError
from weft.lint import RULES, lint, lint_source

PORTS = """
#pragma HLS INTERFACE mode=m_axi port=x bundle=gmem
#pragma HLS INTERFACE mode=s_axilite port=x
#pragma HLS INTERFACE mode=s_axilite port=n
#pragma HLS INTERFACE mode=s_axilite port=return
"""
CLEAN = """
void top(int *x, int n) {
PORTS
  static int table[16];
#pragma HLS ARRAY_PARTITION variable=table type=cyclic factor=2 dim=1
loop:
  for (int i = 0; i < n; ++i) {
#pragma HLS LOOP_TRIPCOUNT min=1 max=16
#pragma HLS PIPELINE II=1
    table[i & 15] = x[i];
  }
}
"""
REGION = """
void make(hls::stream<int> &to) { to.write(1); }
void take(hls::stream<int> &from, int &y) { y = from.read(); }
void both(hls::stream<int> &s) { s.write(s.read() + 1); }
int value(hls::stream<int> &from) { return from.read(); }
void top(int &y) {
#pragma HLS DATAFLOW
  hls::stream<int> s;
BODY
}
"""


def found(tmp_path, code, includes=()):
    """(rule, line) of each finding; BODY and PORTS in `code` are replaced."""
    path = tmp_path / "snippet.cpp"
    head = "#include <hls_stream.h>\n" if "hls::" in code else ""
    path.write_text(head + code.replace("PORTS", PORTS.strip()))
    return [(f.rule, f.line) for f in lint_source(path, "top", includes)]


def inside(statements, before=""):
    """A top function with an argument n that runs `statements`."""
    return f"{before}\nvoid top(int *x, int n) {{\nPORTS\n{statements}\n}}\n"


BAD = {
    "new": ("dynamic-memory", inside("int *p = new int[4]; x[0] = p[n]; delete[] p;")),
    "malloc": (
        "dynamic-memory",
        inside("int *p = (int *)malloc(4); x[0] = *p;", "#include <stdlib.h>"),
    ),
    "recursion": ("recursion", inside("x[0] = f(n);", "int f(int n) { return n ? f(n - 1) : 0; }")),
    "mutual recursion": (
        "recursion",
        inside("x[0] = f(n);", "int g(int);\nint f(int n) { return g(n); }\n"
               "int g(int n) { return n ? f(n - 1) : 0; }"),
    ),
    "virtual": (
        "virtual",
        inside("A a; x[0] = a.f();", "struct A { virtual int f() { return 1; } };"),
    ),
    "throw": ("exception", inside("if (n) throw 1;")),
    "try": ("exception", inside("try { x[0] = n; } catch (...) { }")),
    "vector": ("container", inside("std::vector<int> v; x[0] = v[n];", "#include <vector>")),
    "a field that is a container": (
        "container",
        inside("A a; x[0] = a.v[n];", "#include <vector>\nstruct A { std::vector<int> v; };"),
    ),
    "function pointer": (
        "function-pointer",
        inside("int (*p)(int) = n ? f : g; x[0] = p(n);",
               "int f(int a) { return a; }\nint g(int a) { return -a; }"),
    ),
    "cast": ("pointer-cast", inside("x[0] = *reinterpret_cast<char *>(x);")),
    "float": ("float", inside("x[0] = int(n * 0.5f);")),
    "double in a template": (
        "float",
        inside("x[0] = half<double>(n);", "template <typename T> int half(T a) { return int(a); }"),
    ),
    "printf": ("system-call", inside('printf("%d", n);', "#include <stdio.h>")),
    "no body": ("system-call", inside("x[0] = f(n);", "int f(int);")),
    "loop": ("tripcount", inside("for (int i = 0; i < n; ++i) x[i] = 0;")),
    "while": ("tripcount", inside("while (x[0]) x[0] = x[1];")),
    "loop of a template": (
        "tripcount",
        inside("f<4>(x, n);", "template <int kN> void f(int *x, int n) {\n"
               "  for (int i = 0; i < kN * n; ++i) x[i] = 0;\n}"),
    ),
    "unroll": (
        "unroll-bound",
        inside("for (int i = 0; i < n; ++i) {\n#pragma HLS LOOP_TRIPCOUNT max=9\n"
               "#pragma HLS UNROLL\nx[i] = 0; }"),
    ),
    "loop in a pipelined one": (
        "pipeline-loop",
        inside("for (int i = 0; i < 4; ++i) {\n#pragma HLS PIPELINE\nf(x, n); }",
               "void f(int *x, int n) {\n  for (int i = 0; i < n; ++i) {\n"
               "#pragma HLS LOOP_TRIPCOUNT max=9\nx[i] = 0; }\n}"),
    ),
    "misspelt pragma": ("pragma-unknown", inside("#pragma HLS DATFLOW\nx[0] = n;")),
    "misspelt option": (
        "pragma-unknown",
        inside("int a[4];\n#pragma HLS STREAM variable=a deepth=4\nx[0] = a[n];"),
    ),
    "through a macro": (
        "pragma-unknown",
        inside("P\nx[0] = n;", '#define T(x) #x\n#define H(x) _Pragma(T(HLS x))\n'
               "#define P H(PIPE)"),
    ),
    "positional": (
        "pragma-form",
        inside("int a[4];\n#pragma HLS ARRAY_PARTITION variable=a complete\nx[0] = a[n];"),
    ),
    "no constant": (
        "pragma-value",
        inside("int a[4];\n#pragma HLS ARRAY_PARTITION variable=a type=block factor=n\nx[0]=a[n];"),
    ),
    "cyclic without factor": (
        "pragma-value",
        inside("int a[4];\n#pragma HLS ARRAY_PARTITION variable=a type=cyclic\nx[0] = a[n];"),
    ),
    "no such dimension": (
        "pragma-value",
        inside("int a[4];\n#pragma HLS ARRAY_PARTITION variable=a type=complete dim=2\nx[0]=a[n];"),
    ),
    "unknown kind of memory": (
        "pragma-value",
        inside("int a[4];\n#pragma HLS BIND_STORAGE variable=a type=ram_3p\nx[0] = a[n];"),
    ),
    "no such variable": (
        "pragma-variable",
        inside("int a[4];\n#pragma HLS ARRAY_PARTITION variable=b type=complete\nx[0] = a[n];"),
    ),
    "variable declared below": (
        "pragma-variable",
        inside("#pragma HLS ARRAY_PARTITION variable=a type=complete\nint a[4];\nx[0] = a[n];"),
    ),
    "no such field": (
        "pragma-variable",
        inside("A a;\n#pragma HLS ARRAY_PARTITION variable=a.z type=complete\nx[0] = a.y[n];",
               "struct A { int y[4]; };"),
    ),
    "no array": (
        "pragma-variable",
        inside("int a;\n#pragma HLS ARRAY_RESHAPE variable=a type=complete\nx[0] = a;"),
    ),
    "no such port": ("pragma-variable", inside("#pragma HLS INTERFACE mode=axis port=z\nx[0]=n;")),
    "no such function": (
        "pragma-variable",
        inside("#pragma HLS ALLOCATION function instances=f limit=1\nx[0] = n;"),
    ),
    "unroll outside a loop": ("pragma-place", inside("#pragma HLS UNROLL\nx[0] = n;")),
    "late dataflow": ("pragma-place", inside("x[0] = n;\n#pragma HLS DATAFLOW")),
    "interface below the top": (
        "pragma-place",
        inside("f(n);", "void f(int n) {\n#pragma HLS INTERFACE mode=s_axilite port=n\n}"),
    ),
    "argument without interface": ("interface", "void top(int *x, int n) {\n"
        "#pragma HLS INTERFACE mode=m_axi port=x\n#pragma HLS INTERFACE mode=s_axilite port=x\n"
        "#pragma HLS INTERFACE mode=s_axilite port=return\nx[0] = n;\n}"),
    "two register maps": (
        "interface",
        inside("x[0] = n;").replace("PORTS", PORTS.replace("port=n", "port=n bundle=other")),
    ),
    "return left out": (
        "interface", inside("x[0] = n;").replace("PORTS", PORTS.replace("return", "n")),
    ),
    "HDL word": ("hdl-name", "void top(hls::stream<int> &in) {\n"
                 "#pragma HLS INTERFACE mode=axis port=in\nin.write(1);\n}"),
    "condition in a region": (
        "dataflow-form", REGION.replace("BODY", "make(s); if (y) take(s, y);"),
    ),
    "value in a region": ("dataflow-form", REGION.replace("BODY", "make(s); value(s);")),
    "expression in a region": (
        "dataflow-form",
        REGION.replace("BODY", "make(s); take(s, y); use(y + 1);")
        .replace("void top", "void use(int) {}\nvoid top"),
    ),
    "initializer in a region": (
        "dataflow-form", REGION.replace("BODY", "int z = 1; make(s); take(s, z);"),
    ),
    "two writers": ("dataflow-channel", REGION.replace("BODY", "make(s); make(s); take(s, y);")),
    "two readers": ("dataflow-channel", REGION.replace("BODY", "make(s); take(s, y); both(s);")),
    "no reader": ("dataflow-channel", REGION.replace("BODY", "make(s);")),
    "unused stream": ("dataflow-channel", REGION.replace("BODY", "")),
    "pointer of two processes": (
        "dataflow-channel",
        "void f(int *x) { x[0] = 1; }\nvoid g(int *x) { x[1] = 2; }\n"
        "void top(int *x) {\n#pragma HLS INTERFACE mode=m_axi port=x\n"
        "#pragma HLS INTERFACE mode=s_axilite port=x\n"
        "#pragma HLS INTERFACE mode=s_axilite port=return\n  run(x);\n}".replace(
            "void top", "void run(int *x) {\n#pragma HLS DATAFLOW\n  f(x);\n  g(x);\n}\nvoid top"
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_bad_is_found(name, tmp_path):
    rule, code = BAD[name]
    assert rule in [rule for rule, _ in found(tmp_path, code)]


def test_every_rule_has_a_snippet():
    assert {rule for rule, _ in BAD.values()} | {"memory-ports"} == set(RULES)


def test_clean_code_has_no_findings(tmp_path):
    assert found(tmp_path, CLEAN) == []
    assert found(tmp_path, REGION.replace("BODY", "make(s);\n  take(s, y);")) == []


def pipelined(statements, *, pragmas="", ii=1, before=""):
    code = f"""
static int a[8][8], b[8][8];
{pragmas}
loop:
for (int i = 0; i < 8; ++i) {{
#pragma HLS PIPELINE II={ii}
  {statements}
}}"""
    return inside(code, before)


SPLIT = "#pragma HLS ARRAY_PARTITION variable=a type=complete dim=2"
ONE_EACH = "#pragma HLS BIND_STORAGE variable=a type=ram_s2p"
LANES = "for (int c = 0; c < 8; ++c) "
MEMORY = {
    # statements, pragmas, II, whether they fit
    "two reads": ("b[i][0] = a[i][n] + a[n][i];", "", 1, True),
    "three reads": ("x[i] = a[i][n] + a[n][i] + a[n][n];", "", 1, False),
    "three reads in two clocks": ("x[i] = a[i][n] + a[n][i] + a[n][n];", "", 2, True),
    "the same element thrice": ("x[i] = a[i][n] * a[i][n] + a[i][n];", "", 1, True),
    "a row": (f"int s = 0; {LANES} s += a[i][c]; x[i] = s;", "", 1, False),
    "a row of columns": (f"int s = 0; {LANES} s += a[i][c]; x[i] = s;", SPLIT, 1, True),
    "a column of columns": (f"int s = 0; {LANES} s += a[c][i]; x[i] = s;", SPLIT, 1, False),
    "a diagonal of columns": (f"int s = 0; {LANES} s += a[(i+c)&7][c]; x[i]=s;", SPLIT, 1, True),
    "read, write": ("a[n][i] = a[i][n];", ONE_EACH, 1, True),
    "read, read": ("x[i] = a[n][i] + a[i][n];", ONE_EACH, 1, False),
    "one branch or the other": (
        "if (n) x[i] = a[i][0] + a[i][1]; else x[i] = a[i][2] + a[i][3];", "", 1, True,
    ),
    "both branches": (
        "int y = 0; if (n) y = a[i][0]; x[i] = y + a[i][1] + a[i][2];", "", 1, False,
    ),
    "through a call": ("x[i] = sum(a[i]);", SPLIT, 1, True),
    "through a call, one port": ("x[i] = sum(a[i]);", "", 1, False),
    "a pointer once": ("x[i] = n;", "", 1, True),
    "a pointer twice": ("x[2 * i] = n; x[2 * i + 1] = n;", "", 1, False),
    "a pointer twice in two clocks": ("x[2 * i] = n; x[2 * i + 1] = n;", "", 2, True),
}  # fmt: skip
SUM = "int sum(const int (&v)[8]) { int s = 0; for (int c = 0; c < 8; ++c) s += v[c]; return s; }"


@pytest.mark.parametrize("name", MEMORY)
def test_memory_ports(name, tmp_path):
    statements, pragmas, ii, fits = MEMORY[name]
    rules = [
        rule
        for rule, _ in found(tmp_path, pipelined(statements, pragmas=pragmas, ii=ii, before=SUM))
    ]
    assert rules == ([] if fits else ["memory-ports"])


def test_a_finding_names_the_place_through_includes(tmp_path):
    (tmp_path / "part.hpp").write_text("inline int half(int n) {\n  return int(n * 0.5);\n}\n")
    code = inside("x[0] = half(n);", '#include "part.hpp"')
    path = tmp_path / "snippet.cpp"
    path.write_text(code.replace("PORTS", PORTS.strip()))
    (finding,) = lint_source(path, "top", ())
    assert (finding.file, finding.line, finding.rule) == (str(tmp_path / "part.hpp"), 2, "float")
    assert finding.why in str(finding)
    assert finding.remedy in str(finding)


def test_floating_point_may_be_stated(tmp_path):
    part = "/// Halves in floating point.\nint half(int n) { return int(n * 0.5); }"
    assert found(tmp_path, inside("x[0] = half(n);", part)) == []


def test_function_templates_over_functions_are_static(tmp_path):
    part = "int f(int a) { return a; }\ntemplate <int (*kF)(int)> int g(int a) { return kF(a); }"
    assert found(tmp_path, inside("x[0] = g<f>(n);", part)) == []


def test_code_that_the_top_does_not_reach_may_do_anything(tmp_path):
    part = "#ifndef __SYNTHESIS__\n#error no\n#endif\nvoid test() { delete new int; }"
    assert found(tmp_path, inside("x[0] = n;", part)) == []


def test_source_that_does_not_compile(tmp_path):
    with pytest.raises(WeftError, match=r"snippet.cpp:7: .*undeclared"):
        found(tmp_path, inside("x[0] = z;"))
    with pytest.raises(UsageError, match="no top function 'top'"):
        found(tmp_path, "void topp() {}")


def one_of(cases: Iterable[Any]) -> list[Any]:
    """The first case for every run, the others for the slow one: each takes seconds."""
    first, *others = cases
    return [
        first,
        *(
            pytest.param(*c, marks=pytest.mark.slow)
            if isinstance(c, tuple)
            else pytest.param(c, marks=pytest.mark.slow)
            for c in others
        ),
    ]


@pytest.mark.parametrize("name", one_of(overlay_names()))
def test_the_hardware_is_clean(name):
    assert [str(f) for f in lint(load_overlay(name))] == []


MUTANTS = {
    # file, what is written there, what takes its place, the rule it breaks
    "a memory not partitioned": (
        "memories.hpp",
        "WEFT_HLS(ARRAY_PARTITION variable = m.partial type = complete dim = 2)",
        "",
        "memory-ports",
    ),
    "a row in one clock": (
        "units/transfer.hpp", "WEFT_PIPELINE_EVERY(kBeats)", "WEFT_PIPELINE", "memory-ports",
    ),
    "a delay line as one memory": (
        "units/systolic.hpp", "array.out_skew.line type = complete dim = 2",
        "array.out_skew.line type = complete dim = 1", "memory-ports",
    ),
    "a misspelt memory": (
        "memories.hpp", "variable = m.partial type", "variable = m.partal type", "pragma-variable",
    ),
    "a second reader": (
        "kernel.hpp", "store(to_store, stored,", "store(to_load, stored,", "dataflow-channel",
    ),
    "no trip count": ("units/vector.hpp", "WEFT_TRIPCOUNT(kBufferWords)", "", "tripcount"),
    "a port that is no argument": ("top.cpp", "port = batch", "port = batches", "interface"),
}  # fmt: skip


@pytest.mark.parametrize("name", one_of(MUTANTS))
def test_damage_to_the_hardware_is_found(name, tmp_path):
    file, old, new, rule = MUTANTS[name]
    hls = tmp_path / "hls"
    shutil.copytree(data_root() / "hls", hls)
    text = (hls / "weft" / file).read_text()
    assert old in text
    (hls / "weft" / file).write_text(text.replace(old, new))
    for header, content in codegen.headers(load_overlay("edge")).items():
        (tmp_path / header).write_text(content)
    includes = (tmp_path, hls / "weft", hls)
    findings = lint_source(hls / "weft" / "top.cpp", "weft_kernel", includes)
    assert rule in {f.rule for f in findings}


SIMULATIONS = [(name, "cycle") for name in overlay_names()] + [("tiny", "exact"), ("edge", "exact")]


@pytest.mark.parametrize(("name", "form"), one_of(SIMULATIONS))
def test_the_hardware_compiles_without_warnings(name, form, tmp_path):
    for header, content in codegen.headers(load_overlay(name)).items():
        (tmp_path / header).write_text(content)
    command = build.command_line(build.find_compiler(), form, tmp_path, tmp_path / "out")
    command = [*command, "-fsyntax-only", "-Wall", "-Wextra", "-Wconversion", "-Werror"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_command(capsys, monkeypatch):
    assert cli.run(["lint", "tiny"]) == 0
    assert "tiny" in capsys.readouterr().out
    import weft.lint
    from weft.lint import Finding

    monkeypatch.setattr(weft.lint, "lint", lambda overlay: [Finding("a.hpp", 3, "float", "b")])
    assert cli.run(["lint", "tiny"]) == 1
    assert "a.hpp:3: float: b" in capsys.readouterr().out
    assert cli.run(["lint", "tiny", "--json"]) == 1
    (entry,) = json.loads(capsys.readouterr().out)["tiny"]
    assert (entry["file"], entry["line"], entry["rule"]) == ("a.hpp", 3, "float")
    assert cli.run(["lint", "tinny"]) == 2
