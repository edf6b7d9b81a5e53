"""The vector unit: every operation on random windows, in all forms and against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kernel
from kernel import NANO, OVERLAYS, Code
from weft import isa
from weft.config import load_overlay
from weft.units.vector import ADD, DEPTHWISE, EMPTY_MAX, MAX, MUL, SUM

seeds = st.integers(0, 2**32 - 1)
OPERATIONS = pytest.mark.parametrize("operation", range(5), ids=isa.OPERATIONS)


def random_vector(rng, overlay, operation, batch):
    """Fields of a Vector on contiguous maps, the words before it, and its taps."""
    f = kernel.random_window(rng, overlay, batch) | {"operation": operation}
    f["blocks"] = int(rng.integers(1, 4))
    if operation in (ADD, MUL):
        f |= kernel.simple_window(int(rng.integers(1, 5)), int(rng.integers(1, 4)))
        f |= {"pad_y": 0, "pad_x": 0}
    f |= kernel.strides("source", (f["blocks"], f["height"], f["width"]))
    words = batch * f["source_sample"]
    content = [kernel.codes(rng, words, overlay.lanes)]
    f |= {"zero": int(rng.integers(-128, 128)), "second_zero": int(rng.integers(-128, 128))}
    f |= {"scale": int(rng.integers(-(1 << 15), 1 << 15)), "second": words}
    f["second_scale"] = int(rng.integers(-(1 << 15), 1 << 15))
    if operation in (ADD, MUL):
        f |= kernel.strides("second", (f["blocks"], f["out_h"], f["out_w"]))
        f["second_col"] = int(rng.integers(0, 2))  # 0 broadcasts
        content.append(kernel.codes(rng, words, overlay.lanes))
    f["tap"] = int(rng.integers(0, 3)) if operation == DEPTHWISE else 0
    taps = kernel.codes(rng, f["blocks"] * f["kernel_h"] * f["kernel_w"], overlay.lanes)
    while len(taps) + f["tap"] > overlay.tap_words:
        return random_vector(rng, overlay, operation, batch)
    return f, np.concatenate(content), taps


def program(overlay, f, content, taps, activate):
    """The instructions, and where their output starts."""
    code = Code(overlay)
    if f["operation"] == DEPTHWISE:
        code.feed(taps).add(isa.SET_TABLE, target=1, index=f["tap"], count=len(taps))
    shape = (f["blocks"], f["out_h"], f["out_w"])
    where = kernel.strides("target", shape) | {"target": len(content)}
    code.add(isa.VECTOR, **f).add(isa.ACTIVATE, **where, **activate)
    return code


def plain(f, content, taps, batch, lanes):
    """Sums [block, M, lanes] by the definition's loops."""

    def word(prefix, b, block, y, x):
        place = f.get(prefix, 0) + b * f[f"{prefix}_sample"] + block * f[f"{prefix}_block"]
        return content[place + y * f[f"{prefix}_row"] + x * f[f"{prefix}_col"]].astype(np.int64)

    result = np.zeros((f["blocks"], batch * f["out_h"] * f["out_w"], lanes), np.int64)
    count = f["kernel_h"] * f["kernel_w"]
    for block in range(f["blocks"]):
        for m, (b, oy, ox) in enumerate(np.ndindex(batch, f["out_h"], f["out_w"])):
            terms = []
            for tap, (ky, kx) in enumerate(np.ndindex(f["kernel_h"], f["kernel_w"])):
                iy = oy * f["stride_y"] + ky * f["dilation_y"] - f.get("pad_y", 0)
                ix = ox * f["stride_x"] + kx * f["dilation_x"] - f.get("pad_x", 0)
                if 0 <= iy < f["height"] and 0 <= ix < f["width"]:
                    x = word("source", b, block, iy, ix) - f["zero"]
                    weight = taps[block * count + tap].astype(np.int64)
                    terms.append(x * weight if f["operation"] == DEPTHWISE else x)
            if f["operation"] in (ADD, MUL):
                y = word("second", b, block, oy, ox) - f["second_zero"]
                both = terms[0] * f["scale"] + y * f["second_scale"]
                result[block, m] = both if f["operation"] == ADD else terms[0] * y
            elif f["operation"] == MAX:
                result[block, m] = np.max(terms, axis=0) if terms else EMPTY_MAX
            else:
                result[block, m] = np.sum(terms, axis=0) if terms else 0
    return result


@OPERATIONS
@pytest.mark.parametrize("name", OVERLAYS)
@given(seed=seeds, batch=st.integers(1, 3))
@kernel.examples(6)
def test_every_form_computes_and_counts_alike(name, operation, seed, batch):
    rng, overlay = np.random.default_rng(seed), OVERLAYS[name]
    f, content, taps = random_vector(rng, overlay, operation, batch)
    values = kernel.parameters(rng, f["blocks"] * overlay.lanes, seed % 3)
    activate = {"mode": seed % 3, "parameter_step": 1, "low": -100, "high": 99, "zero_point": 7}
    code = program(overlay, f, content, taps, activate)
    parameters = kernel.set_parameters(Code(overlay, weights=code.weights), values)
    code.words = [*parameters.words, *code.words]
    kernel.check(code, content, batch)


@OPERATIONS
@given(seed=seeds, batch=st.integers(1, 2))
@kernel.examples(6)
def test_sums_are_those_of_plain_loops(operation, seed, batch):
    """One raw byte of four leaves per run: Vector's sums can be drained once only."""
    rng, overlay = np.random.default_rng(seed), OVERLAYS["4x4"]
    f, content, taps = random_vector(rng, overlay, operation, batch)
    expected = plain(f, content, taps, batch, overlay.lanes)
    blocks, m = expected.shape[:2]
    order = np.arange(blocks * m).reshape(batch, blocks, -1).transpose(1, 0, 2).reshape(blocks, m)
    for byte in range(4):
        code = kernel.set_parameters(Code(overlay), (0, 0, 0, 0, 0))
        rest = program(overlay, f, content, taps, {"mode": isa.RAW_BYTE + byte})
        if rest.weights:
            code.feed(rest.weights[0])
            rest.words = rest.words[1:]
        code.words += rest.words
        words, _ = kernel.run(code, content=content, batch=batch)
        got = words[len(content) + order].view(np.uint8)
        np.testing.assert_array_equal(got, (expected >> (8 * byte)) & 255)


@pytest.mark.parametrize("operation", [MAX, SUM, MUL])
def test_the_exact_form_agrees(operation):
    rng = np.random.default_rng(operation)
    f = kernel.simple_window(2, 2) | kernel.strides("source", (1, 2, 2))
    f |= {"operation": operation, "blocks": 1, "zero": -128, "second_zero": 127, "second": 4}
    f |= kernel.strides("second", (1, 2, 2))
    if operation in (MAX, SUM):
        f |= {"kernel_h": 2, "kernel_w": 2, "pad_y": 1, "pad_x": 1}
    code = kernel.set_parameters(Code(NANO), kernel.parameters(rng, 4))
    code.add(isa.VECTOR, **f)
    where = kernel.strides("target", (1, 2, 2)) | {"target": 8}
    code.add(isa.ACTIVATE, **where, low=-128, high=127)
    kernel.check(code, kernel.codes(rng, 8, 4), forms=("exact", *kernel.FORMS))


def test_lab_agrees():
    rng, overlay = np.random.default_rng(5), load_overlay("lab")
    f, content, taps = random_vector(rng, overlay, DEPTHWISE, 2)
    code = program(overlay, f, content, taps, {"mode": isa.RAW_BYTE + 1})
    parameters = kernel.set_parameters(Code(overlay, weights=code.weights), (0, 0, 0, 0, 0))
    code.words = [*parameters.words, *code.words]
    kernel.check(code, content, 2)
