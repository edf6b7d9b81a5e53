"""Generated C++: deterministic texts, a test bench whose vectors are the golden model's."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from weft import codegen, testbench
from weft.config import load_overlay
from weft.errors import CapacityError, MissingDependency

DEPTH = 8192


def test_same_overlay_same_text():
    overlay = load_overlay("tiny")
    code = (
        "from weft import codegen, testbench; from weft.config import load_overlay; import hashlib;"
        "o = load_overlay('tiny'); t = {**codegen.headers(o), 'v': testbench.vectors(o, 8192)};"
        "print(hashlib.sha256(repr(sorted(t.items())).encode()).hexdigest())"
    )
    runs = {subprocess.check_output([sys.executable, "-c", code], text=True) for _ in range(2)}
    assert len(runs) == 1
    assert codegen.headers(overlay) == codegen.headers(overlay)


def test_headers_carry_geometry_and_design_id():
    overlay = load_overlay("edge")
    text = codegen.headers(overlay)["config.hpp"]
    assert f"kRows = {overlay.rows};" in text
    design = re.search(r"kDesignLow = 0x(\w+)u, kDesignHigh = 0x(\w+)u", text)
    assert design is not None
    assert design[2] + design[1] == overlay.digest()


def test_vectors_are_worth_comparing():
    """Neither segment leaves its memory as it was, or all the same."""
    overlay = load_overlay("tiny")
    text = testbench.vectors(overlay, DEPTH)
    rows = re.search(r"kMemoryRows = (\d+)", text)
    assert rows is not None
    first, second = re.findall(r"^\{(.*?)\}", text.partition("kExpected")[2], re.M | re.S)[:2]
    memory = re.search(r"kMemory\[kMemoryBytes\] = \{\n(.*?)\}", text, re.S)
    assert memory is not None
    start, middle, end = ([int(v) for v in t.split(",")] for t in (memory[1], first, second))
    assert len(start) == len(middle) == len(end) == int(rows[1]) * overlay.lanes
    written = [i for i, (a, b) in enumerate(zip(start, middle, strict=True)) if a != b]
    pooled = [i for i, (a, b) in enumerate(zip(middle, end, strict=True)) if a != b]
    assert len(written) > 50
    assert len({middle[i] for i in written}) > 25
    assert len({end[i] for i in pooled}) > 20


def test_the_bench_says_when_a_port_is_too_shallow():
    with pytest.raises(CapacityError, match=r"needs \d+ elements.*declare a depth of 100"):
        testbench.vectors(load_overlay("tiny"), 100)


def test_without_jinja2(monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    codegen._environment.cache_clear()
    with pytest.raises(MissingDependency, match=r"weft\[compile\]"):
        codegen.headers(load_overlay("tiny"))
