"""HG-PIPE's integer DeiT: equal to its published results, and to plain formulas, everywhere."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import weft
from weft.config import Overlay, load_overlay
from weft.device import open_device
from weft.errors import CapacityError, ModelError, UsageError
from weft.estimate import estimate
from weft.frontend.hgpipe import HEADS, read
from weft.frontend.hgpipe_program import compile_network
from weft.runtime import Session
from weft.units.table_ops import residual

DATA = Path(__file__).parents[3] / "shared/data/deit_tiny_w3a3/deit_tiny_w3a3.npz"
UNITS = ("requant", "vector", "lookup", "attention", "norm")
SIZES = {"units": UNITS, "wide_words": 4096, "operand_words": 4096}
SMALL = Overlay(
    "8x8hg", 8, 8, 8, 2048, 64, 16, 64, softmax=("pwl", "table"), norm=("table",),
    **{**SIZES, "wide_words": 512, "operand_words": 512},
)  # fmt: skip
TOKENS, LANES = 11, 8


@pytest.fixture(scope="module")
def deit():
    """The overlay, the published network and its arrays; or why there are none."""
    if not DATA.exists():
        pytest.skip(f"needs {DATA}: weights of hguq/HG-PIPE, which do not come with weft")
    edge = load_overlay("edge")
    formats = (*edge.formats, *({"int3"} - set(edge.formats)))
    tables = {"softmax": ("pwl", "table"), "norm": ("table",), "formats": formats}
    return (replace(edge, name="edgehg", **SIZES, **tables).verify(), *read(DATA))


def ran(program, device, x):
    """Outputs of a program, and what it took."""
    session = Session(program, open_device(device))
    found = session.run({"tokens": x.reshape(1, *program.inputs[0].shape[1:])}, detail=True)
    session.device.close()
    return found


@pytest.mark.parametrize("device", ["golden", "csim"])
def test_every_block_and_all_logits_are_the_published_ones(deit, device):
    overlay, network, arrays = deit
    count = len(network.blocks)
    assert count == 12
    program = compile_network(network, overlay, 196, kept=range(count))
    out, took = ran(program, device, arrays["attn_0_input"])
    for i in range(count):
        np.testing.assert_array_equal(out[f"block_{i}"].ravel(), arrays[f"mlp_{i}_output"])
    np.testing.assert_array_equal(out["logits"].ravel(), arrays["head_output"])
    assert took.cycles == estimate(program).cycles
    assert took.macs / (took.cycles * overlay.rows * overlay.cols) > 0.8


def small_arrays(rng):
    """A network of two blocks in the layout of the published one, with random tables."""
    channels, hidden, classes, arrays = HEADS * LANES, 40, 19, {}

    def linear(name, n, k, most=4):
        arrays[f"{name}_weight"] = rng.integers(-most, most, n * k)
        arrays[f"{name}_bias"] = rng.integers(-300, 300, n)

    def table(name, low, high):
        entries = int(rng.integers(20, 65))
        arrays[f"{name}_table_m"] = rng.integers(low, high + 1, entries)
        arrays[f"{name}_scalars"] = np.array(
            [rng.integers(-50, 200), rng.integers(0, 4), entries - 1]
        )

    def norm(name, bits):
        arrays[f"{name}_lnw_m"] = rng.integers(-10000, 65000, channels)
        arrays[f"{name}_lnb_m"] = rng.integers(-(1 << 37), 1 << 37, channels)
        arrays[f"{name}_rsqrt_table_m"] = np.sort(rng.integers(200, 3800, 128))[::-1]
        scalars = [round((1 << 23) / channels), 23, -int(rng.integers(1 << 20)), 17, 127, 35, bits]
        arrays[f"{name}_scalars"] = np.array(scalars)

    def softmax(name):
        arrays[f"{name}_exp_opp_table_m"] = np.sort(rng.integers(0, 32769, 32))[::-1]
        for part in ("one", "two"):
            arrays[f"{name}_recip_scaled_table_m_{part}"] = np.sort(rng.integers(8, 250, 64))[::-1]
        ends = [-25000, 11, 63, 32768, 16, -100000, 13, 63, 524288, 20, 3]
        arrays[f"{name}_scalars"] = np.array([8, 5, 31, *ends])

    for i in range(2):
        norm(f"attn_{i}_lnq", 3)
        norm(f"mlp_{i}_lnq", 3)
        for part in "qkvo":
            linear(f"attn_{i}_gen_{part}_matmul", channels, channels)
        for part in "qkva":
            table(f"attn_{i}_{part}_q", -4, 3)
        softmax(f"attn_{i}_softmaxq")
        linear(f"mlp_{i}_matmul1", hidden, channels)
        table(f"mlp_{i}_geluq", 0, 7)
        linear(f"mlp_{i}_matmul2", channels, hidden)
        for part in ("attn", "mlp"):
            arrays[f"{part}_{i}_scalars"] = np.array([rng.integers(1 << 18, 1 << 21), 20])
    norm("head_lnq", 8)
    linear("head_matmul", classes, channels, 128)
    return arrays


@pytest.fixture
def small(tmp_path):
    """A file of a small network."""
    arrays = small_arrays(np.random.default_rng(5))
    np.savez(tmp_path / "small.npz", **arrays)
    return tmp_path / "small.npz", arrays


def plain_linear(layer, x):
    return x @ layer.w.T + layer.bias


def plain_norm(norm, x):
    return norm.norm(x, norm.weight, norm.bias)


def plain_block(block, x):
    """A layer by the formulas of weft.units.table_ops, in int64."""
    h = plain_norm(block.before, x)
    layers = (block.q, block.k, block.v)
    q, k, v = (t(plain_linear(w, h)) for t, w in zip(block.tables[:3], layers, strict=True))
    split = (np.split(y, HEADS, axis=1) for y in (q, k, v))
    heads = [block.softmax(a @ b.T) @ c for a, b, c in zip(*split, strict=True)]
    o = plain_linear(block.o, block.tables[3](np.concatenate(heads, axis=1)))
    x = residual(x, o, block.first.multiplier, block.first.shift)
    up = block.gelu(plain_linear(block.up, plain_norm(block.between, x)))
    return residual(x, plain_linear(block.down, up), block.second.multiplier, block.second.shift)


@pytest.mark.parametrize("device", ["golden", "csim"])
def test_a_small_network_is_its_formulas(small, device):
    network, _ = read(small[0])
    rng = np.random.default_rng(6)
    program = compile_network(network, SMALL, TOKENS, kept=[0, 1])
    for spread in (3, 300, 3000):
        x = rng.integers(-spread, spread, (TOKENS, network.channels))
        out, _ = ran(program, device, x.astype(np.float32))
        for i, block in enumerate(network.blocks):
            x = plain_block(block, x)
            assert np.abs(x).max() < 1 << 15
            np.testing.assert_array_equal(out[f"block_{i}"][0], x)
        logits = plain_linear(network.head, plain_norm(network.norm, x[:1]))
        np.testing.assert_array_equal(out["logits"], logits)


def test_weights_of_three_bits_take_three_bits(small):
    network, _ = read(small[0])
    plain = compile_network(network, SMALL, TOKENS)
    packed = compile_network(network, replace(SMALL, formats=("int8", "int3")), TOKENS)
    assert packed.weights.nbytes < plain.weights.nbytes
    x = np.random.default_rng(0).integers(-200, 200, (TOKENS, network.channels))
    logits = [ran(p, "golden", x.astype(np.float32))[0] for p in (plain, packed)]
    np.testing.assert_array_equal(logits[0]["logits"], logits[1]["logits"])


def test_the_program_survives_its_file(small, tmp_path):
    program = compile_network(read(small[0])[0], SMALL, TOKENS)
    program.save(tmp_path / "p.weft")
    x = np.ones((TOKENS, 3 * LANES), np.float32)
    again = weft.Program.load(tmp_path / "p.weft")
    np.testing.assert_array_equal(
        ran(program, "golden", x)[0]["logits"], ran(again, "golden", x)[0]["logits"]
    )


def change(name, value):
    return lambda arrays: arrays.update({name: value})


BAD = {
    "missing": (lambda a: a.pop("attn_1_k_q_table_m"), "'attn_1_k_q_table_m' is missing"),
    "size": (change("attn_0_gen_q_matmul_weight", np.zeros(7, int)), "shape"),
    "8 bits": (change("head_matmul_weight", np.full(19 * 24, 200)), "8 bits"),
    "bound": (change("mlp_0_geluq_scalars", np.array([1, 1, 64])), "entries"),
    "shift": (change("mlp_0_geluq_scalars", np.array([1, -1, 5])), "entries"),
    "heads": (change("head_lnq_lnw_m", np.zeros(25, int)), "head_lnq_lnb_m"),
    "no blocks": (lambda a: a.pop("attn_0_lnq_lnw_m"), "0 blocks"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_named(small, tmp_path, case):
    spoil, text = BAD[case]
    arrays = dict(small[1])
    spoil(arrays)
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(ModelError, match=text):
        read(tmp_path / "bad.npz")


def test_what_is_no_npz_is_refused(tmp_path):
    (tmp_path / "x.npz").write_bytes(b"PK not really")
    for path in (tmp_path / "x.npz", tmp_path / "missing.npz"):
        with pytest.raises(ModelError, match="npz"):
            read(path)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"units": ("requant", "vector", "lookup")}, "unit attention"),
        ({"norm": ("pwl",)}, "unit norm"),
        ({"wide_words": 40}, "wide_words = 40"),
        ({"operand_words": 40}, "operand_words = 40"),
        ({"accumulator_rows": 16, "rows": 16, "cols": 16}, "whole words"),
    ],
)
def test_overlays_that_lack_something_are_named(small, change, text):
    network, _ = read(small[0])
    with pytest.raises(CapacityError, match=text):
        compile_network(network, replace(SMALL, **change), TOKENS)


def test_blocks_that_are_not_there_are_refused(small):
    with pytest.raises(UsageError, match="block 2"):
        compile_network(read(small[0])[0], SMALL, TOKENS, kept=[2])


def test_tables_of_other_sizes_are_refused(small):
    arrays = dict(small[1])
    arrays["attn_0_softmaxq_exp_opp_table_m"] = arrays["attn_0_softmaxq_exp_opp_table_m"][:16]
    arrays["attn_0_softmaxq_scalars"] = arrays["attn_0_softmaxq_scalars"].copy()
    arrays["attn_0_softmaxq_scalars"][2] = 15
    np.savez(small[0], **arrays)
    with pytest.raises(CapacityError, match=r"0\.exp: 16 entries"):
        compile_network(read(small[0])[0], SMALL, TOKENS)
