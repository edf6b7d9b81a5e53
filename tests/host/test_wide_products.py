"""Decoders whose products read int16: bits, bounds of sums, functions, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import weft
from weft import isa, ops
from weft.activation import WIDE
from weft.config import load_overlay
from weft.decoder_compiler import compile_decoder
from weft.errors import CapacityError, UsageError
from weft.frontend import decoders, encoder_decoders
from weft.frontend.decoder import INPUT, OUTPUT
from weft.graph import Graph, Node, Quant, Tensor
from weft.lower import lower
from weft.lower.wide_function import CELL, lines
from weft.pair_compiler import compile_pair
from weft.passes.whole_heads import with_tokens
from weft.passes.wide_sums import INT32, largest_sums
from weft.program import AcceleratorSegment
from weft.text.decoder_assets import DecoderAssets
from weft.units import matvec, requant
from weft.units.norm import NORM_FRACTION
from weft.units.rotate import FRACTION

DATA = Path(__file__).resolve().parents[1] / "data"
FOLDER = DATA / "decoders"
NAMES = sorted(path.name for path in FOLDER.iterdir())
LAB = load_overlay("lab")
CURVATURE = 1.2  # of SiLU and GELU: the second derivative is less


@pytest.fixture(scope="module")
def programs():
    """Programs by name, compiled once: a cache of 40 for each of 2 texts."""
    made = {}

    def program(name, **options):
        key = (name, *sorted(options.items()))
        if key not in made:
            settings = {"cache": 40, "slots": 2, "activations": WIDE, **options}
            made[key] = compile_decoder(decoders.load(FOLDER / name), LAB, **settings)
        return made[key]

    return program


def products(program):
    """The fields of every MatMul."""
    return [
        isa.decode(words)[1]
        for segment in program.segments
        if isinstance(segment, AcceleratorSegment)
        for words in segment.words
        if words[0] == isa.MAT_MUL.opcode
    ]


@pytest.mark.parametrize("name", NAMES)
def test_a_cache_changes_no_bit_and_all_products_read_int16(programs, name):
    """Tokens one by one, in parts of 8 at most, and beside another text."""
    program = programs(name)
    assert program.cache.tokens == matvec.ROWS
    assert all(matvec.reads_wide(f) for f in products(program))
    ids = np.load(FOLDER / name / "expected.npz")["ids"][0][:14].tolist()
    with weft.open_decoder(program, "csim") as session:
        whole = session.logits(ids)
        run = session.forward.run
        alone = np.concatenate([run([t], i, 0) for i, t in enumerate(ids)])
        parts = [run(ids[a:b], a, 1) for a, b in ((0, 1), (1, 9), (9, 14))]
    np.testing.assert_array_equal(alone, whole)
    np.testing.assert_array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in NAMES),
        ("llama_gqa", {"weights": "uint4:g32"}),
        ("llama_gqa", {"cache": 32, "cache_bits": 4}),
    ],
)
def test_golden_and_csim_agree(programs, name, options):
    ids = np.load(FOLDER / name / "expected.npz")["ids"][1][:9].tolist()
    found = {}
    for device, own in (("golden", {}), ("csim", {}), ("csim cycle", {"form": "cycle"})):
        with weft.open_decoder(programs(name, **options), device.split()[0], **own) as s:
            logits = [s.forward.run(ids[:8], 0, 1), s.forward.run(ids[8:9], 8, 1)]
            counters = [result.counters for result in s.forward.results]
        found[device] = (np.concatenate(logits), counters)
    for device in ("csim", "csim cycle"):
        np.testing.assert_array_equal(found[device][0], found["golden"][0])
        assert found[device][1] == found["golden"][1]


def steps_of(graph, node, values):
    """How far a node's result may be from its function of codes: a step of what it becomes; of
    norms also one of z, of functions of int16 the curvature in a cell.
    """
    step = float(graph[node.outputs[0]].quant.scale)
    if graph[node.outputs[0]].quant.format != WIDE:
        return step
    if node.op in ("LayerNorm", "RMSNorm"):
        gamma = np.abs(values[node.inputs[1]]).max()
        return 2 * step + float(gamma) * 2.0**-NORM_FRACTION * 2
    if node.op in ("Swish", "Gelu"):
        cell = CELL / 2 * float(graph[node.inputs[0]].quant.scale)
        return 4 * step + CURVATURE / 2 * cell**2
    return step


def scales_bound(graph, feeds, trials=32):
    """How far logits move where every activation and weight moves by up to such steps."""
    random = np.random.default_rng(0)
    still = ops.evaluate(graph, feeds)[OUTPUT]
    worst = 0.0
    for _ in range(trials):
        values = {INPUT: feeds[INPUT]}
        for name, tensor in graph.tensors.items():
            if tensor.data is not None:
                step = tensor.quant.scale if tensor.quant is not None else 0.0
                values[name] = tensor.real() + random.uniform(-1, 1, tensor.shape) * step
        for node in graph:
            y = ops.spec_of(node).reference(node, [values[n] for n in node.inputs if n])[0]
            step = steps_of(graph, node, values)
            values[node.outputs[0]] = (y + random.uniform(-step, step, y.shape)).astype(np.float32)
        worst = max(worst, float(np.abs(values[OUTPUT] - still).max()))
    return worst


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_the_librarys_within_the_bound_of_the_scales(name):
    """Ranges are of the very text, so that nothing saturates."""
    expected = np.load(FOLDER / name / "expected.npz")
    ids = expected["ids"][0][:12]
    decoder = decoders.load(FOLDER / name)
    options = {"cache": 12, "calibration": [ids.tolist()], "calibrator": "minmax"}
    program = compile_decoder(decoder, LAB, activations=WIDE, **options)
    feeds = {INPUT: DecoderAssets.of(decoder).rows(ids, 0)[None]}
    bound = scales_bound(with_tokens(program.graph(), 12), feeds)
    with weft.open_decoder(program, "csim") as session:
        found = session.logits(ids.tolist())
    assert np.abs(found - expected["logits"][0][:12]).max() <= bound


# --- sums -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpt2", "llama_gqa", "qwen3"])
@pytest.mark.parametrize("weights", ["int8", "uint4:g32"])
def test_no_sum_of_a_program_can_leave_int32(programs, name, weights):
    graph = programs(name, weights=weights).graph()
    layers = [node for node in graph if node.op == "Linear"]
    assert all(graph[node.inputs[0]].quant.format == WIDE for node in layers)
    for node in layers:
        assert largest_sums(graph, node, graph[node.inputs[1]].data.T).max() <= INT32


def normed(op="RMSNorm", n=96, outputs=16, size=9):
    """A norm and a Linear behind it, with scales as calibration leaves them."""
    rng = np.random.default_rng(size)
    scale = np.float32(1.25 * 8 / 32767)
    gamma = rng.uniform(-2, 2, n).astype(np.float32)
    w = rng.integers(-127, 128, (n, outputs)).astype(np.int8)
    wide = Quant(scale, format=WIDE)
    tensors = {
        "x": Tensor("x", (1, size, n), quant=wide),
        "g": Tensor("g", (n,), "float32", gamma),
        "h": Tensor("h", (1, size, n), quant=wide),
        "w": Tensor("w", w.shape, "int8", w, Quant(np.float32(0.01))),
        "y": Tensor("y", (1, size, outputs), quant=Quant(np.float32(40), format=WIDE)),
    }
    nodes = (
        Node(op, "norm", ("x", "g"), ("h",), {"epsilon": 1e-5}),
        Node("Linear", "fc", ("h", "w"), ("y",), {"requant": "single_round"}),
    )
    return Graph("normed", tensors, nodes, ("x",), ("y",)).verify()


@pytest.mark.parametrize("op", ["RMSNorm", "LayerNorm"])
def test_rows_of_a_norm_stay_below_the_bound_that_weights_give(op):
    """The worst rows that there are: those of the weights themselves, and one channel alone."""
    graph = normed(op)
    gamma, w = graph["g"].data, graph["w"].data.astype(np.float64)
    bounds = largest_sums(graph, graph.nodes[1], w.T)
    rows = [*(w * gamma[:, None]).T, *np.eye(len(gamma))]
    h = ops.spec_of(graph.nodes[0]).reference(graph.nodes[0], [np.asarray(rows, np.float32), gamma])
    codes = np.clip(np.rint(h[0] / graph["h"].quant.scale), -32767, 32767)
    sums = np.abs(codes @ w).max(0)
    assert (sums <= bounds).all()
    assert (bounds <= np.abs(w).sum(0) * 32767).all()
    if op == "RMSNorm":
        assert (np.abs(np.diag(codes[: w.shape[1]] @ w)) > 0.9 * bounds).all()


def test_sums_that_could_leave_int32_are_refused():
    graph = normed(size=4)
    large = Quant(np.float32(0.01), format="int16")
    w = replace(graph["w"], data=graph["w"].data.astype(np.int16) * 250, quant=large, dtype="int16")
    big = graph.replace(tensors={**graph.tensors, "w": w})
    with pytest.raises(CapacityError, match=r"fc.*beyond int32.*larger scale"):
        lower(big, LAB)


# --- functions ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("op", "attrs"), [("Swish", {"alpha": 1.0}), ("Gelu", {}), ("Gelu", {"approximate": "tanh"})]
)
@pytest.mark.parametrize("reach", [4.0, 30.0])
def test_a_function_of_every_int16_is_straight_lines_through_its_values(op, attrs, reach):
    codes = np.arange(-32768, 32768).clip(-32767)
    quants = [Quant(np.float32(reach / 32767), format=WIDE) for _ in "xy"]
    shape = (1, 64, 1024)
    tensors = {n: Tensor(n, shape, quant=q) for n, q in zip("xy", quants, strict=True)}
    node = Node(op, "f", ("x",), ("y",), {**attrs, "requant": "single_round"})
    graph = Graph("f", tensors, (node,), ("x",), ("y",)).verify()
    program = lower(graph, LAB)
    x = (codes * quants[0].scale).astype(np.float32).reshape(shape)
    found = {}
    for device in ("golden", "csim"):
        with weft.open(program, device) as session:
            found[device] = np.asarray(session.run(x))
    np.testing.assert_array_equal(found["golden"], found["csim"])
    made = np.rint(found["golden"].reshape(-1) / quants[1].scale).astype(np.int64)
    high, low, slope, factor = lines(node, *quants)
    q, s = requant.encode(2.0**-FRACTION / CELL, "single_round")
    cell = requant.requantize(codes << FRACTION, q, s, "single_round")
    assert np.abs(cell - codes / CELL).max() <= 0.5
    rise = np.floor(slope[cell + 128] * (codes - CELL * cell) / factor + 0.5)
    expected = 256 * high[cell + 128].astype(np.int64) + low[cell + 128] + rise
    np.testing.assert_array_equal(made, np.clip(expected, -32767, 32767))
    exact = ops.spec_of(node).reference(node, [x])[0].reshape(-1)
    unit = float(quants[0].scale)
    limit = 4 * unit + CURVATURE / 2 * (CELL / 2 * unit) ** 2
    inside = np.abs(exact) < 127 * 256 * unit
    assert np.abs(made * unit - exact)[inside].max() <= limit


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overlay", "options", "says"),
    [
        ("encoder16", {}, "multiplies int16; matvec does, of overlays decoder.*lab"),
        ("lab", {"tokens": 12}, "int16 of 12 tokens at a time.*--tokens 8"),
    ],
)
def test_what_an_overlay_does_not_take_is_told(overlay, options, says):
    model = decoders.load(FOLDER / "llama_gqa")
    with pytest.raises(CapacityError, match=says):
        compile_decoder(
            model,
            load_overlay(overlay),
            cache=40,
            activations=WIDE,
            calibration=[[1, 2]],
            **options,
        )


def test_it_is_for_decoders_alone():
    model = encoder_decoders.load(DATA / "seq2seq" / "t5")
    with pytest.raises(UsageError, match="sources are read on the array"):
        compile_pair(model, LAB, activations=WIDE)
    graph = normed()
    bare = {n: replace(t, quant=None) for n, t in graph.tensors.items()}
    bare["w"] = replace(bare["w"], data=graph["w"].data.astype(np.float32), dtype="float32")
    with pytest.raises(UsageError, match="int16 are for decoders"):
        weft.compile(
            graph.replace(tensors=bare), LAB, activations=WIDE, calibration=np.ones((2, 9, 96))
        )


def test_ranges_per_row_are_of_int8():
    model = decoders.load(FOLDER / "llama_gqa")
    with pytest.raises(UsageError, match=r"row_ranges|ranges per row"):
        compile_decoder(model, LAB, activations=WIDE, row_ranges=True, calibration=[[1, 2]])


def test_a_function_that_gives_no_int16_is_named():
    """ReLU is part of the layer in front, whose epilogue has it for int8 alone."""
    model = decoders.load(FOLDER / "gpt2")
    graph = model.graph(8, 8)
    relu = tuple(replace(n, op="Relu", attrs={}) if n.op == "Gelu" else n for n in graph.nodes)
    changed = replace(model, build=lambda tokens, cache: graph.replace(nodes=relu))
    with pytest.raises(UsageError, match=r"mlp.c_proj.*Relu.*gives no int16"):
        compile_decoder(changed, LAB, cache=8, activations=WIDE, calibration=[[1, 2]])
