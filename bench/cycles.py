"""Predicted cycles: a BERT-base layer, and SCALE-Sim's counts."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np

import weft

from .row import Row, absent, at_least, at_most, interleaved

TOKENS, HIDDEN, INNER = 128, 768, 3072
GEMMS = (  # output, input, K, N
    ("q", "x", HIDDEN, HIDDEN),
    ("k", "x", HIDDEN, HIDDEN),
    ("v", "x", HIDDEN, HIDDEN),
    ("out", "v", HIDDEN, HIDDEN),
    ("up", "out", HIDDEN, INNER),
    ("down", "up", INNER, HIDDEN),
)


def bert_layer():
    """The six weight GEMMs of an encoder layer (BERT, 2019): a sample is a token."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(3)
    graph = helper.make_graph(
        [helper.make_node("MatMul", [a, f"w_{y}"], [y], y) for y, a, _, _ in GEMMS],
        "bert_layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", HIDDEN])],
        [
            helper.make_tensor_value_info(y, TensorProto.FLOAT, ["N", HIDDEN])
            for y in ("q", "k", "down")
        ],
        [
            numpy_helper.from_array(rng.normal(0, 0.04, (k, n)).astype(np.float32), f"w_{y}")
            for y, _, k, n in GEMMS
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    return model


def bert_rows(folder) -> list[Row]:
    """How busy the array is, by csim's count, and what the estimate says and takes."""
    import onnx

    path = folder / "bert_layer.onnx"
    onnx.save(bert_layer(), str(path))
    x = np.random.default_rng(4).normal(size=(16, HIDDEN)).astype(np.float32)
    overlay = weft.load_overlay("edge")
    program = weft.compile(path, overlay, calibration=x, batch=TOKENS)
    (took,) = interleaved(lambda: weft.estimate(program, batch=TOKENS), seconds=1.0)
    tokens = np.random.default_rng(5).normal(size=(TOKENS, HIDDEN)).astype(np.float32)
    with weft.open(program, "csim") as session:
        run = session.run({"x": tokens}, detail=True)[1]
    same = run.cycles == weft.estimate(program, batch=TOKENS).cycles
    peak = overlay.rows * overlay.cols
    busy, theirs = (
        100.0 * run.macs / (run.cycles * peak),
        100.0 * run.macs / (scalesim_cycles(overlay) * peak),
    )
    what = f"BERT-base layer, weight GEMMs, S={TOKENS}, 32×32 array"
    return [
        at_least(f"{what}: utilization (peer: no overlap of loading)", busy, 90, "%", theirs),
        Row(f"{what}: estimated cycles equal csim's", int(same), None, "", "1", same),
        at_most(f"{what}: time of the estimate", took * 1e3, 1.0, "ms"),
    ]


def scalesim_cycles(overlay) -> int:
    """Cycles of the same GEMMs where a tile is loaded before it computes, as SCALE-Sim counts."""
    from weft.units.systolic import array_clocks, gemm_folds

    plain = replace(overlay, multiplier="single", bus_bytes=overlay.rows)
    return sum(
        array_clocks(TOKENS, gemm_folds(n, k, plain), plain, overlap=False).total - 1
        for _, _, k, n in GEMMS
    )


def scalesim_row(table) -> Row:
    """Our clocks without overlap, less one (SCALE-Sim reports the last index), row by row."""
    from weft.units.systolic import array_clocks, gemm_folds

    base = weft.load_overlay("lab")
    same = total = 0
    with table.open() as file:
        for row in csv.DictReader(file):
            if row["dataflow"] != "ws":
                continue
            rows, cols, m, n, k = (
                int(row[key]) for key in ("array_rows", "array_cols", "M", "N", "K")
            )
            array = replace(base, rows=rows, cols=cols, bus_bytes=rows)
            folds = gemm_folds(n, k, array)
            clocks = array_clocks(m, folds, array, overlap=False)
            same += clocks.total - 1 == int(row["total_cycles"])
            total += 1
    metric = "weight-stationary cycles equal to SCALE-Sim 3.0.0"
    return Row(metric, same, total, "configurations", "all", same == total > 0)


def rows(folder, data) -> list[Row]:
    """Both."""
    table = data.parent / "spec" / "scalesim.csv" if data else None
    made = bert_rows(folder)
    if table is None or not table.is_file():
        reason = "SCALE-Sim's counts are not here"
        made.append(absent("weight-stationary cycles equal to SCALE-Sim 3.0.0", reason))
    else:
        made.append(scalesim_row(table))
    return made
