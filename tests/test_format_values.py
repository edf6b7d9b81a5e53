"""Published values of the number formats, tie rules, and independent oracles."""

from __future__ import annotations

import ctypes
import subprocess

import ml_dtypes
import numpy as np
import pytest

from weft import build
from weft.config import data_root
from weft.formats import FORMATS, apot, bf16, flint, ternary
from weft.graph import Quant

GOLDEN = ((np.arange(32) - 15.5) / 4).astype(np.float32)[None]
HALF = [63, 62, 62, 60, 60, 58, 58, 56, 55, 53, 51, 49, 46, 42, 38, 34]
E3M2 = [63, 63, 63, 62, 62, 61, 61, 60, 60, 58, 58, 56, 55, 53, 50, 44]
E4M3 = [254, 254, 254, 252, 252, 250, 250, 248, 247, 245, 243, 241, 238, 234, 228, 216]
E5M2 = [251, 251, 251, 250, 250, 249, 249, 248, 248, 246, 246, 244, 243, 241, 238, 232]
MX = {
    "mxfp6": (126, [*HALF, 2, 6, 10, 14, 17, 19, 21, 23, 24, 26, 26, 28, 28, 30, 30, 31]),
    "mxfp6_e3m2": (124, [*E3M2, 12, 18, 21, 23, 24, 26, 26, 28, 28, 29, 29, 30, 30, 31, 31, 31]),
    "mxfp8": (120, [*E4M3, *(c - 128 for c in reversed(E4M3))]),
    "mxfp8_e5m2": (113, [*E5M2, *(c - 128 for c in reversed(E5M2))]),
    "mxint8": (128, [c & 255 for c in range(-124, 125, 8)]),
}


def one(name: str) -> Quant:
    return Quant(np.asarray(1, np.float32), format=name)


def rounded(name: str, values: list[float]) -> list[float]:
    return FORMATS[name].quantize(np.array([values], np.float32), one(name))[0].tolist()


def codes(name: str, x: np.ndarray) -> tuple[Quant, np.ndarray]:
    fmt = FORMATS[name]
    quant = fmt.fit(x, 0)
    return quant, fmt.encode(fmt.quantize(x, quant), quant)[0]


def test_flint_sets():
    assert flint.values(2).tolist() == [0, 1, 4, 2]
    assert flint.values(3).tolist() == [0, 1, 2, 3, 16, 8, 4, 6]
    assert flint.values(4).tolist() == [*range(8), 64, 32, 16, 24, 8, 10, 12, 14]
    five = [*range(17), 18, 20, 22, 24, 26, 28, 30, 32, 40, 48, 56, 64, 96, 128, 256]
    assert sorted(flint.values(5)) == five
    for bits in range(2, 8):
        assert len(set(flint.values(bits))) == 1 << bits
        assert flint.values(bits).max() == 4 ** (bits - 1)


def test_apot_sets():
    assert sorted(apot.values(2)) == [0, 1, 2, 4]
    assert sorted(apot.values(3)) == [0, 1, 2, 3, 4, 6, 8, 10]
    assert sorted(apot.values(4)) == [0, 1, 2, 3, 4, 6, 8, 9, 12, 16, 18, 24, 32, 33, 36, 48]
    tail = [10, 12, 14, 16, 17, 20, 21, 24, 28, 32, 34, 36, 38, 48, 52, 64, 65, 68, 69, 72, 76]
    assert sorted(apot.values(5)) == [*range(9), *tail, 96, 100]


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("flint4", [0.5, -0.5, 5, -5, 7, -7, 12, -12], [1, 0, 6, -4, 8, -6, 16, -8]),
        ("uflint4", [9, 20, 24, 28, 48], [10, 24, 24, 32, 64]),
        ("apot4", [0.5, -0.5, 3.5, -3.5, 5, -5, 9, -9], [0, 0, 3, -3, 4, -4, 8, -8]),
        ("int4", [0.5, 1.5, 2.5, -0.5, -1.5, 9, -9], [0, 2, 2, 0, -2, 7, -7]),
        ("e2m1", [0.5, 1.5, 2.5, 3.5, 5, 7, 10, 99], [0, 2, 2, 4, 4, 8, 8, 12]),
        ("pot4", [0.5, 1.5, -1.5, 3, 200], [1, 2, -1, 4, 64]),
        ("binary", [0.0, -0.0, 0.1, -0.1], [1, 1, 1, -1]),
    ],
)
def test_ties(name, given, expected):
    assert rounded(name, given) == expected


def test_power_of_two_set():
    assert FORMATS["pot4"].grid[:8].tolist() == [0, 1, 2, 4, 8, 16, 32, 64]


def test_olive_sequence_and_bytes():
    x = np.array([[3, 1, 100, 5, 2, -250, 60, -400, 30, 33, 39, -7]], np.float32)
    fmt, quant = FORMATS["olive4"], Quant(np.full(1, 4, np.float32), axis=0, format="olive4")
    operands = fmt.quantize(x, quant)
    assert operands[0].tolist() == [1, 0, 24, 0, 0, -64, 16, 0, 7, 7, 12, 0]
    nibbles = fmt.encode(operands, quant)[0]
    packed = nibbles[0::2] | nibbles[1::2] << 4
    assert packed.tolist() == [1, 131, 232, 130, 119, 129]


def test_an_outlier_without_a_partner_becomes_normal():
    assert rounded("olive4", [1, 2, 40]) == [1, 2, 7]
    assert rounded("olive4", [1, 41, 2, -90]) == [0, 48, 0, -96]


@pytest.mark.parametrize("name", MX)
def test_microscaling_codes(name):
    quant, found = codes(name, GOLDEN)
    byte, expected = MX[name]
    assert quant.groups.ravel().tolist() == [byte]
    assert found.tolist() == expected


@pytest.mark.parametrize(
    ("name", "bytes_", "expected"),
    [
        ("mxfp4", [126], "255 255 255 238 222 205 172 138 32 66 84 101 102 119 119 119"),
        ("nvfp4", [126, 126], "255 239 238 222 221 188 171 137 16 50 67 85 101 102 118 119"),
    ],
)
def test_four_bit_floats(name, bytes_, expected):
    quant, found = codes(name, GOLDEN)
    assert quant.groups.ravel().tolist() == bytes_
    published = np.array(expected.split(), np.uint8)
    nibbles = np.stack([published & 15, published >> 4], axis=1).reshape(-1)
    nibbles[nibbles == 8] = 0  # −0, which is not used: its value is that of code 0
    assert found.tolist() == nibbles.tolist()
    if name == "nvfp4":
        assert float(quant.scale[0]) == pytest.approx(0.0014415922, rel=1e-7)


def test_ternary_weight_network():
    w = np.array([[0.9, -0.8, 0.1, -0.05, 0.6, -0.02, 0.3, 0]], np.float32)
    threshold, alpha = ternary.twn(w, 0)
    assert threshold == pytest.approx(0.242375)
    assert alpha == pytest.approx(0.65)
    assert (np.sign(w) * (np.abs(w) > threshold))[0].tolist() == [1, -1, 0, 0, 1, 0, 1, 0]


ELEMENTS = {
    "mxfp4": ml_dtypes.float4_e2m1fn,
    "mxfp6": ml_dtypes.float6_e2m3fn,
    "mxfp6_e3m2": ml_dtypes.float6_e3m2fn,
    "mxfp8": ml_dtypes.float8_e4m3fn,
    "mxfp8_e5m2": ml_dtypes.float8_e5m2,
}


@pytest.mark.oracle
@pytest.mark.parametrize("name", ELEMENTS)
def test_microscaling_equals_ml_dtypes(name):
    """32,768 values, a quarter of them ties of some scale."""
    rng = np.random.default_rng(0)
    x = rng.standard_t(4, size=(32, 1024)).astype(np.float32)
    x[:8] = rng.integers(-128, 129, (8, 1024)) / 16
    fmt, kind = FORMATS[name], ELEMENTS[name]
    quant = fmt.fit(x, 0)
    blocks = x.reshape(32, 32, 32)
    most = np.abs(blocks).max(-1)
    emax = {"mxfp4": 2, "mxfp6": 2, "mxfp6_e3m2": 4, "mxfp8": 8, "mxfp8_e5m2": 15}[name]
    exponent = np.floor(np.log2(most)) - emax
    np.testing.assert_array_equal(quant.groups, exponent + 127)
    limit = np.float32(ml_dtypes.finfo(kind).max)
    power = np.exp2(exponent)[..., None].astype(np.float32)
    near = np.clip(blocks / power, -limit, limit).astype(kind).astype(np.float32)
    np.testing.assert_array_equal(fmt.quantize(x, quant), (near * power).reshape(x.shape))


@pytest.mark.oracle
def test_bf16_equals_ml_dtypes():
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 1 << 32, 1 << 16, dtype=np.uint64).astype(np.uint32)
    bits[::2] = bits[::2] & 0xFFFF0000 | 0x8000  # ties
    x = bits.view(np.float32)
    x = x[np.isfinite(x) & (np.abs(x) > 2.0**-126) & (np.abs(x) < 3.38e38)]
    expected = x.astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(bf16.rounded(x), expected)


SOURCE = """
#include "formats/apot.hpp"
#include "formats/binary.hpp"
#include "formats/flint.hpp"
#include "formats/integer.hpp"
#include "formats/microscaling.hpp"
#include "formats/olive.hpp"
#include "formats/pot.hpp"
#include "formats/ternary.hpp"
using namespace weft;
template <typename D> int one(int code, int partner, int odd) {
  return int(value(D::decode(UInt<8>(code), UInt<8>(partner), odd != 0)));
}
extern "C" {
"""
DECODED = [
    f for f in FORMATS.values() if not f.codebook and f.name not in ("int8", "int16", "bf16")
]


@pytest.fixture(scope="module", params=["native", "ap_int"])
def decoders(request, tmp_path_factory):
    """The hardware's decoders of every format in one library, in either arithmetic."""
    text = SOURCE
    for f in DECODED:
        call = f"one<{f.decoder}>(code, partner, odd)"
        if f.operand == "bf16":
            call = f"int({f.decoder}::bits(UInt<16>(code)))"
        text += f"int {f.name}(int code, int partner, int odd) {{ (void)partner; (void)odd; "
        text += f"return {call}; }}\n"
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "decode.cpp").write_text(text + "}\n")
    compiler, hls = build.find_compiler(), data_root() / "hls"
    flags = ["-O1", "-std=c++14", "-shared", "-fPIC", "-w", f"-I{hls / 'weft'}", f"-I{hls}"]
    if request.param == "ap_int":
        flags += ["-DWEFT_EXACT", "-pthread", "-isystem", str(build.ap_types())]
        if compiler.is_zig:
            flags += ["-D__AP_INT_SPECIAL_H__", "-D__AP_FIXED_SPECIAL_H__"]
    target = folder / "decode.so"
    command = [*compiler.command, *flags, str(folder / "decode.cpp"), "-o", str(target)]
    subprocess.run(command, check=True, capture_output=True)
    return ctypes.CDLL(str(target))


@pytest.mark.parametrize("fmt", DECODED, ids=lambda f: f.name)
def test_hardware_decodes_every_code_as_golden_does(fmt, decoders):
    decode = getattr(decoders, fmt.name)
    count = 1 << fmt.bits
    if fmt.pairs:
        even, odd = np.divmod(np.arange(count * count), count)
        pairs = np.stack([even, odd], axis=-1).astype(np.uint8)
        expected = fmt.decode(pairs, one(fmt.name))
        found = [[decode(a, b, 0), decode(b, a, 1)] for a, b in pairs.tolist()]
    else:
        every = np.arange(3 if fmt.per_byte else count, dtype=np.uint8)[None]
        expected = fmt.decode(every, one(fmt.name))
        found = [[decode(code, 0, 0) for code in every[0].tolist()]]
        if fmt.operand == "bf16":
            expected = (expected + np.float32(0)).view(np.uint32) >> 16
            found = [[0 if bits == 0x8000 else bits for bits in found[0]]]
    np.testing.assert_array_equal(found, expected)
