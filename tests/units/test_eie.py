"""The EIE engine: golden and every simulation agree in sums, clocks and faults."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kernel
from weft import isa
from weft.config import Overlay
from weft.errors import CapacityError, OverlayError, UsageError
from weft.lower.eie import EieWeights, entries
from weft.state import FaultError, State
from weft.units import eie

ENGINE = isa.ENGINES.index("eie")
EIE = {"engines": ("systolic", "eie"), "eie_pes": 8, "eie_entries": 256, "eie_pointers": 66}
SMALL = replace(kernel.OVERLAYS["4x4"], name="4x4eie", **EIE, eie_queue=2, eie_outputs=8)
# Two beats per row, a PE per column; 16-bit operands in the stream.
WIDE = replace(kernel.OVERLAYS["8x8"], name="8x8eie", **EIE, eie_outputs=40, weight_bits=16)
NANO = replace(kernel.NANO, name="nanoeie", **EIE | {"eie_pes": 4}, eie_queue=1, eie_outputs=8)
OVERLAYS = {o.name: o for o in (SMALL, WIDE, NANO)}


def weights(rng, o: Overlay, n: int, k: int, density: float, coded: bool) -> EieWeights:
    """Random ones, extremes among them."""
    keep = rng.random((n, k)) < density
    if not coded:
        return EieWeights(kernel.codes(rng, n, k) * keep, o.lanes, o.eie_pes)
    book = rng.integers(-(1 << 15), 1 << 15, 16)
    book[-2:] = -(1 << 15), (1 << 15) - 1
    book[0] = 0
    values = (rng.integers(0, 16, (n, k)) * keep).astype(np.uint8)
    return EieWeights(values, o.lanes, o.eie_pes, book.astype(np.int16))


def program(w: EieWeights, o: Overlay, rows: np.ndarray, source: int, **more: int) -> kernel.Code:
    """One MatMul on the stream `rows`, which leaves its codes at word 0."""
    code = kernel.Code(o)
    kernel.set_parameters(code, kernel.parameters(np.random.default_rng(1), w.tiles * o.lanes))
    if len(rows):
        code.feed(rows)
    f = kernel.simple_window(1, 1) | {"engine": ENGINE, "codes": w.codes, "blocks": w.blocks}
    f |= {"tiles": w.tiles, "source": source, "first": 1, "last": 1, "source_block": 1}
    code.add(isa.MAT_MUL, **f | {"rows": len(rows), "pace": w.pace(o)} | more)
    where = {"target_sample": w.tiles * f["out_h"] * f["out_w"], "target_block": 1, "target": 0}
    return code.add(isa.ACTIVATE, **where, low=-128, high=127, parameter_step=1)


def activations(rng, o: Overlay, count: int, density: float, pad: int) -> np.ndarray:
    """Words of codes, some of which are `pad`."""
    x = kernel.codes(rng, count, o.lanes)
    return np.where(rng.random(x.shape) < density, x, np.int8(pad)).astype(np.int8)


DENSITIES = st.sampled_from((0.0, 0.05, 0.3, 1.0))
CASES = {
    "seed": st.integers(0, 1 << 32),
    "name": st.sampled_from(("4x4eie", "8x8eie")),
    "coded": st.booleans(),
    "dense": DENSITIES,
    "active": DENSITIES,
    "pad": st.sampled_from((-128, -3, 0, 127)),
}


def random_case(seed, name, coded, dense, active, pad):
    """Instructions, buffer and batch of a random MatMul that fits."""
    rng = np.random.default_rng(seed)
    o = OVERLAYS[name]
    batch, tiles = int(rng.integers(1, 4)), int(rng.integers(1, 1 + min(8, o.parameter_blocks)))
    n = int(rng.integers((tiles - 1) * o.lanes + 1, tiles * o.lanes + 1))
    w = weights(rng, o, n, int(rng.integers(1, 65)), dense, coded)
    if w.fits(o) is not None:
        w = weights(rng, o, n, int(rng.integers(1, 13)), dense, coded)
    first = o.buffer_words - batch * w.blocks
    x = activations(rng, o, batch * w.blocks, active, pad)
    content = np.zeros((o.buffer_words, o.lanes), np.int8)
    content[first:] = x
    rows = w.packed(0, w.tiles)
    code = program(w, o, rows, first, pad=pad, source_sample=w.blocks)
    return code, content, batch, w, x


@given(**CASES)
@kernel.examples(60)
def test_golden_is_the_simulation(**case):
    code, content, batch, _, _ = random_case(**case)
    kernel.check(code, content, batch)


@given(**CASES)
@kernel.examples(40)
def test_sums_are_the_matrix_product(**case):
    code, content, batch, w, x = random_case(**case)
    f = isa.decode(code.words[-2])[1]
    state = State(code.overlay, np.zeros((0, code.overlay.lanes), np.int8), code.weights[-1])
    state.buffer[:] = content
    state.feed(code.weights[-1])
    sums, clocks = eie.run(state, f, batch)
    dense = np.zeros((w.tiles * w.lanes, w.blocks * w.lanes), np.int64)
    n, k = w.values.shape
    dense[:n, :k] = w.values if w.codebook is None else w.codebook[w.values]
    products = (x.reshape(batch, -1).astype(np.int64) - f["pad"]) @ dense.T
    wrapped = products.astype(np.uint32).astype(np.int32)
    np.testing.assert_array_equal(sums.transpose(1, 0, 2).reshape(batch, -1), wrapped)
    # No PE has an entry per broadcast column less than its clocks.
    counts = w.entries(0, w.tiles).counts
    for vector in x.reshape(batch, -1):
        report = eie.simulate(counts, vector, w.lanes, code.overlay.eie_queue, f["pad"])
        assert report.work.max() <= report.clocks
        assert report.occupancy.sum() == report.clocks * w.pes
    assert clocks.matrix >= batch * -(-w.blocks // 1)


@pytest.mark.parametrize("pad_y", [0, 1, -1])
def test_words_outside_the_map_are_zeros(pad_y):
    rng = np.random.default_rng(3)
    o = SMALL
    w = weights(rng, o, 12, 20, 0.5, True)
    window = {"height": 3, "out_h": 4, "stride_y": 2, "dilation_y": 1, "pad_y": pad_y, "width": 2}
    window |= {"out_w": 3, "stride_x": 1, "pad_x": 1} | kernel.strides("source", (w.blocks, 3, 2))
    first = o.buffer_words - 2 * w.blocks * 6
    content = np.zeros((o.buffer_words, o.lanes), np.int8)
    content[first:] = activations(rng, o, len(content) - first, 0.5, 5)
    target = {"target_sample": 48, "target_block": 12, "target_row": 3, "target_col": 1}
    code = program(w, o, w.packed(0, w.tiles), first, pad=5, **window)
    code.words[-1] = isa.ACTIVATE.encode(**target, low=-128, high=127, parameter_step=1)
    assert kernel.check(code, content, batch=1).any()


@given(**CASES | {"name": st.just("nanoeie"), "pad": st.sampled_from((-128, 127))})
@kernel.examples(6)
def test_exact_simulation(**case):
    code, content, batch, _, _ = random_case(**case)
    kernel.check(code, content, batch, forms=("exact",))


def outcome(code, content, batch, device="golden", **options):
    """Words and counters, or the status of the fault and its row."""
    try:
        words, result = kernel.run(code, device, content=content, batch=batch, **options)
    except FaultError as error:
        row = re.search(r"row (\d+)", error.detail)
        return error.status, row and int(row[1])
    return words.tobytes(), dict(result.counters)


def corrupted(rng, rows: np.ndarray) -> np.ndarray:
    """A stream with some bytes changed, or cut off, or with rows too many."""
    rows = rows.copy()
    kind = rng.integers(0, 4)
    if kind == 0:
        return rows[: rng.integers(0, len(rows))]
    if kind == 1:
        return np.concatenate([rows, kernel.codes(rng, int(rng.integers(1, 700)), rows.shape[1])])
    if kind == 2:  # of an entry, where there are any
        rows[-1 - int(rng.integers(0, min(8, len(rows)))), rng.integers(0, rows.shape[1])] ^= -1
    for _ in range(rng.integers(0, 4)):
        rows[rng.integers(0, len(rows)), rng.integers(0, rows.shape[1])] = rng.integers(-128, 128)
    return rows


def corrupted_case(seed: int, name: str, case: dict | None = None):
    """A random MatMul with a corrupted stream."""
    rng = np.random.default_rng(seed)
    case = case or {"dense": rng.choice([0.05, 0.3]), "active": rng.choice([0.3, 1.0]), "pad": 0}
    case |= {"coded": bool(rng.integers(0, 2)), "seed": seed, "name": name}
    code, content, batch, w, x = random_case(**case)
    rows = corrupted(rng, code.weights[-1])
    first = code.overlay.buffer_words - batch * w.blocks
    code = program(w, code.overlay, rows, first, pad=0, source_sample=w.blocks)
    return code, content, batch, w, x


@given(seed=st.integers(0, 1 << 32), name=st.sampled_from(("4x4eie", "8x8eie")))
@kernel.examples(150)
def test_corrupted_streams_end_alike(seed, name):
    code, content, batch, _, _ = corrupted_case(seed, name)
    expected = outcome(code, content, batch)
    for form in kernel.FORMS:
        assert outcome(code, content, batch, "csim", form=form) == expected, form


@given(seed=st.integers(0, 1 << 32))
@kernel.examples(8)
def test_corrupted_streams_end_alike_in_threads(seed):
    code, content, batch, _, _ = corrupted_case(seed, "nanoeie")
    expected = outcome(code, content, batch)
    assert outcome(code, content, batch, "csim", form="exact") == expected


@pytest.mark.parametrize(
    ("fields", "status"),
    [({"codes": 2}, 2), ({"kernel_h": 2}, 2), ({"blocks": 17}, 2), ({"tiles": 17}, 2),
     ({"first": 0}, 2), ({"out_h": 20, "out_w": 2, "tiles": 2}, 4)],
)  # fmt: skip
def test_matmuls_that_the_engine_does_not_take(fields, status):
    rng = np.random.default_rng(5)
    w = weights(rng, SMALL, 8, 8, 0.5, True)
    code = program(w, SMALL, w.packed(0, w.tiles), 100, **fields)
    assert outcome(code, None, 1) == (status, None)
    for form in kernel.FORMS:
        assert outcome(code, None, 1, "csim", form=form) == (status, None), form


def decoded(found, pes: int) -> np.ndarray:
    """Weights [rows, K] of the only PE, by the rule of the paper: row += zeros + 1."""
    k = len(found.counts)
    w = np.zeros((400, k), np.uint8)
    at = 0
    for column in range(k):
        row = -1
        for _ in range(found.counts[column, 0]):
            row += int(found.zeros[at]) + 1
            w[row, column] = found.value[at]
            at += 1
    return w


@pytest.mark.parametrize(
    ("column", "value", "zeros"),
    [
        ([0, 0, 1, 2] + 18 * [0] + [3], [1, 2, 0, 3], [2, 0, 15, 2]),  # the paper's
        (15 * [0] + [7], [7], [15]),
        (16 * [0] + [7], [0, 7], [15, 0]),
        (17 * [0] + [7], [0, 7], [15, 1]),
        (31 * [0] + [7], [0, 7], [15, 15]),
        (32 * [0] + [7], [0, 0, 7], [15, 15, 0]),
        (47 * [0] + [7], [0, 0, 7], [15, 15, 15]),
        (48 * [0] + [7], [0, 0, 0, 7], [15, 15, 15, 0]),
        (40 * [0], [], []),
    ],
)
def test_gap_rule(column, value, zeros):
    found = entries(np.asarray(column, np.uint8)[:, None], 1, 16)
    assert (found.value.tolist(), found.zeros.tolist()) == (value, zeros)
    assert found.counts.tolist() == [[len(value)]]


@given(seed=st.integers(0, 1 << 32), density=DENSITIES, span=st.sampled_from((16, 256)))
@kernel.examples(60)
def test_columns_come_back(seed, density, span):
    rng = np.random.default_rng(seed)
    w = rng.integers(0, 16, (400, 9)).astype(np.uint8) * (rng.random((400, 9)) < density / 4)
    found = entries(w.astype(np.uint8), 1, span)
    np.testing.assert_array_equal(decoded(found, 1), w)
    assert found.nonzeros == np.count_nonzero(w)


@given(**{name: CASES[name] for name in ("seed", "name", "coded", "dense")})
@kernel.examples(60)
def test_packed_layers_come_back(seed, name, coded, dense):
    rng = np.random.default_rng(seed)
    o = OVERLAYS[name]
    n, k = int(rng.integers(1, 120)), int(rng.integers(1, 60))
    w = weights(rng, o, n, k, dense, coded)
    rows = w.packed(0, w.tiles)
    assert w.fields(0, w.tiles)["rows"] == w.rows(0, w.tiles) == len(rows)
    roomy = replace(o, eie_entries=1 << 14)
    layer = eie.unpacked(roomy, w.shape, rows.view(np.uint8))
    dense = np.zeros((n, k), np.int64)
    real = layer.value != 0
    dense[layer.output[real], layer.column[real]] = layer.value[real]
    np.testing.assert_array_equal(dense, w.values if not coded else w.codebook[w.values])
    assert (layer.row < len(rows)).all()


def test_a_layer_says_why_it_does_not_fit():
    rng = np.random.default_rng(0)
    o = SMALL
    assert weights(rng, o, 8, 8, 0.5, True).fits(o) is None
    for n, k, density, text in (
        (8, 66, 0.1, "68 inputs need 69 of eie_pointers = 66"),
        (65, 8, 0.1, "68 outputs are 9 per PE of eie_outputs = 8"),
        (64, 64, 1, "bytes of entries in a PE, eie_entries = 256"),
    ):
        assert text in (weights(rng, o, n, k, density, True).fits(o) or "")
    without = replace(o, engines=("systolic",))
    assert "no EIE engine" in (weights(rng, o, 8, 8, 0.5, True).fits(without) or "")
    w = weights(rng, o, 65, 8, 0.1, False)
    assert w.fits(o, 0, 16) is None


def test_weights_that_have_no_packed_form():
    with pytest.raises(UsageError, match="takes int8 or codes"):
        EieWeights(np.zeros((4, 4), np.int16), 4, 8)
    with pytest.raises(UsageError, match="come with their codebook"):
        EieWeights(np.zeros((4, 4), np.uint8), 4, 8)
    with pytest.raises(UsageError, match="of which entry 0 is 0"):
        EieWeights(np.zeros((4, 4), np.uint8), 4, 8, np.ones(16, np.int16))
    with pytest.raises(UsageError, match=r"code 16 is outside 0\.\.15"):
        EieWeights(np.full((4, 4), 16, np.uint8), 4, 8, np.zeros(16, np.int16))
    ones = np.ones((260, 256), np.int8)
    with pytest.raises(CapacityError, match="66560 entries in a PE, at most 65535"):
        EieWeights(ones, 1, 1).packed(0, 260)


@pytest.mark.parametrize(
    ("sizes", "text"),
    [
        ({"eie_pes": 6}, "eie_pes = 6 is no multiple of 4 in 4..1024"),
        ({"eie_queue": 0}, "eie_queue = 0"),
        ({"eie_entries": 65_536}, "eie_entries = 65536 is no multiple of 2 in 16..65534"),
        ({"eie_pointers": 65}, "eie_pointers = 65"),
        ({"eie_outputs": 0}, "eie_outputs = 0"),
    ],
)
def test_overlays_that_have_no_such_engine(sizes, text):
    assert SMALL.verify() is SMALL
    with pytest.raises(OverlayError, match=text):
        replace(SMALL, **sizes).verify()


def test_clocks_of_one_vector():
    counts = np.array([[3, 1], [0, 2], [5, 0], [0, 0]])
    # A word arrives after 2 clocks, its first column starts 3 later.
    one = eie.simulate(counts, np.array([1, 0, 0, 0]), lanes=2)
    assert (one.clocks, one.broadcasts, one.unread) == (2 + 3 + 3, 1, 2)
    # PE 0: 3 + 1 (empty) + 5 + 1, PE 1: 1 + 2 + 1 + 1.
    every = eie.simulate(counts, np.ones(4), lanes=2)
    assert every.work.tolist() == [10, 5]
    assert every.empty.tolist() == [2, 2]
    assert every.clocks == 2 + 3 + 10
    nothing = eie.simulate(counts, np.zeros(4), lanes=2)
    assert (nothing.clocks, nothing.broadcasts) == (4, 0)
    # With room for one column the next broadcast waits for its start in both PEs.
    assert eie.simulate(counts, np.ones(4), lanes=2, queue=1).clocks > every.clocks


def test_longer_queues_even_out_the_load():
    rng = np.random.default_rng(0)
    counts = rng.poisson(4, (500, 64))
    reports = [eie.simulate(counts, np.ones(500), 64, queue) for queue in (1, 2, 4, 8, 64)]
    clocks = [r.clocks for r in reports]
    assert clocks == sorted(clocks, reverse=True)
    assert [r.efficiency for r in reports] == sorted(r.efficiency for r in reports)
    assert reports[-1].clocks >= reports[-1].work.max()
