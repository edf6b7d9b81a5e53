"""MatMul on engines whose cells take several codes: random programs, and what plain loops say."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

import kernel
from kernel import Code
from weft import engine, isa
from weft.config import Overlay
from weft.units.systolic import ENGINES, folds_per_tile

Fields = dict[str, int]

SIZES = (8, 8, 8, 1024, 64, 8, 64)
OVERLAYS = {
    "wide8": Overlay("wide8", *SIZES, weight_bits=8, engines=("fusion", "shift", "binary")),
    "wide16": Overlay(
        "wide16", *SIZES, weight_bits=16, engines=isa.ENGINES, formats=("int8", "bf16")
    ),
}
NANO = Overlay(
    "nano16", 8, 8, 8, 64, 16, 2, 16, weight_bits=16, engines=isa.ENGINES, formats=("int8", "bf16")
)


def random_fields(rng: Generator, overlay: Overlay, batch: int, precision: Fields) -> Fields:
    """A MatMul of one tile on a map from word 3 on, in the precision given."""
    f = kernel.random_window(rng, overlay, batch)
    f |= {"blocks": int(rng.integers(1, 7)), "tiles": 1, "source": 3, "first": 1, "last": 1}
    f |= kernel.strides("source", (f["blocks"], f["height"], f["width"]))
    f["source_block"] |= 1  # words of a clock lie in different banks
    f["source_sample"] = f["blocks"] * f["source_block"]
    f |= {"pad": int(rng.integers(-128, 128)), "overlap": int(rng.integers(0, 2))} | precision
    rows = 1 if precision["weight_bits"] == 16 else engine.weight_rows(f)
    return f | {"pace": max(rows, 3 if rows == 1 else 1) + int(rng.integers(0, 2))}


def stream_rows(f: Fields, lanes: int) -> int:
    """Stream rows that the MatMul takes."""
    rows = 1 if f["weight_bits"] == 16 else engine.weight_rows(f)
    return f["tiles"] * folds_per_tile(f) * lanes * rows


def sums(content: NDArray[np.int8], rows: NDArray[Any], f: Fields, batch: int) -> NDArray[Any]:
    """Sums [M, columns] by loops over positions, taps and groups, in Python's integers."""
    lanes = content.shape[1]
    kind = ENGINES[isa.ENGINES[f["engine"]]]
    per_row = 1 if f["weight_bits"] == 16 else engine.weight_rows(f)
    weights = kind.weights(rows.reshape(1, folds_per_tile(f), lanes, per_row, lanes), f)[0]
    groups = -(-f["blocks"] // f["words"])
    total = np.zeros((batch * f["out_h"] * f["out_w"], lanes), object)
    for m, (b, oy, ox) in enumerate(np.ndindex(batch, f["out_h"], f["out_w"])):
        taps = np.ndindex(f["kernel_h"], f["kernel_w"], groups)
        for fold, (ky, kx, group) in enumerate(taps):
            iy = oy * f["stride_y"] + ky * f["dilation_y"] - f["pad_y"]
            ix = ox * f["stride_x"] + kx * f["dilation_x"] - f["pad_x"]
            inside = 0 <= iy < f["height"] and 0 <= ix < f["width"]
            words = np.zeros((f["words"], lanes), np.int8)
            for q in range(min(f["words"], f["blocks"] - group * f["words"])):
                at = b * f["source_sample"] + (group * f["words"] + q) * f["source_block"]
                at += iy * f["width"] + ix
                words[q] = content[at] if inside else f["pad"]
            x = kind.activations(words.view(np.uint8)[None, None], f)[0, 0]
            total[m] += np.einsum("rp,rpc->c", x.astype(object), weights[fold].astype(object))
    return total << f["shift"] if f.get("shift") else total


def dense_sums(
    f: Fields, operands: NDArray[Any], content: NDArray[np.int8], batch: int, zero: int = 0
) -> NDArray[np.int64]:
    """Sums [tiles, M, lanes] of codes less `zero` with operands [N, kernel_h, kernel_w, I].

    By loops over positions and taps; `content` begins at the source.
    """
    lanes = content.shape[1]
    n, height, width, channels = operands.shape
    whole = np.zeros((f["tiles"] * lanes, height, width, f["blocks"] * lanes), np.int64)
    whole[:n, :, :, :channels] = operands
    total = np.zeros((batch * f["out_h"] * f["out_w"], f["tiles"] * lanes), np.int64)
    for m, (b, oy, ox) in enumerate(np.ndindex(batch, f["out_h"], f["out_w"])):
        for ky, kx in np.ndindex(height, width):
            iy = oy * f["stride_y"] + ky * f["dilation_y"] - f["pad_y"]
            ix = ox * f["stride_x"] + kx * f["dilation_x"] - f["pad_x"]
            at = b * f["source_sample"] + iy * f["width"] + ix
            inside = 0 <= iy < f["height"] and 0 <= ix < f["width"]
            words = at + np.arange(f["blocks"]) * f["source_block"]
            x = content[words] if inside else np.full((f["blocks"], lanes), f["pad"])
            total[m] += whole[:, ky, kx] @ (x.reshape(-1).astype(np.int64) - zero)
    return total.reshape(len(total), f["tiles"], lanes).transpose(1, 0, 2)


def check(
    rng: Generator,
    overlay: Overlay,
    precision: Fields,
    batch: int = 1,
    forms: tuple[str, ...] = kernel.FORMS,
    small: bool = False,
) -> None:
    """Golden, every form and the plain loops give the same sums and clocks."""
    f = random_fields(rng, overlay, batch, precision)
    if small:
        f |= kernel.simple_window(1, 2) | kernel.strides("source", (2, 1, 3)) | {"blocks": 2}
        f |= {"source_block": 3, "source_sample": 6, "pad_x": 0, "pad_y": 0}
    content = kernel.codes(rng, batch * f["source_sample"], overlay.lanes)
    rows = kernel.codes(rng, stream_rows(f, overlay.lanes), overlay.lanes)
    m, target = batch * f["out_h"] * f["out_w"], 3 + len(content)
    code = kernel.set_parameters(Code(overlay), (0, 0, 0, 0, 0))
    code.feed(rows).add(isa.MAT_MUL, **f)
    where = kernel.strides("target", (1, f["out_h"], f["out_w"]))
    kernel.drain_raw(code, target, m, **where)
    words = kernel.check(code, placed(content), batch, forms)
    expected = sums(content, rows.astype(np.int16), f, batch)
    np.testing.assert_array_equal(kernel.raw_sums(words, target, m), expected.astype(np.int64))


def placed(content: NDArray[np.int8]) -> NDArray[np.int8]:
    """The map behind the three words that a source of 3 leaves free."""
    return np.concatenate([np.full((3, content.shape[1]), 77, np.int8), content])
