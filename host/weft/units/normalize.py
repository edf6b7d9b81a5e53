"""Norm: LayerNorm or RMSNorm of rows of the wide buffer; golden model and clocks.

Hardware: hls/weft/units/normalize.hpp. One pass takes the statistics, a second one writes: a word
per clock in each. Lanes beyond the row's elements count in no statistics, and their z is 0. With
`ranges` one more pass finds the magnitude of each row (weft.units.ranges).
"""

from __future__ import annotations

import numpy as np

from weft import isa
from weft.config import Overlay
from weft.state import ISSUE_CLOCKS, Clocks, FaultError, Fields, State, Unit
from weft.units import ranges, requant, window
from weft.units.fixed import Codes
from weft.units.norm import MOST_ELEMENTS, affine
from weft.units.root import TABLE_WORDS, TableRoot, methods

EPSILON_HIGH = 1 << 30  # so that n^2 * variance and what is added stay in 64 bits
_MOST = (1 << 15) - 1


def clocks(f: Fields, overlay: Overlay, batch: int, before: Fields) -> Clocks:
    """Clocks of one Norm."""
    passes = 3 if f.get("ranges") else 2
    return Clocks(ISSUE_CLOCKS, vector=passes * f["rows"] * f["blocks"])


def golden(state: State, f: Fields, batch: int) -> None:
    """Norm: a word of codes per row and channel block, and int16 where they stay."""
    _check(state, f, batch)
    lanes = state.overlay.lanes
    row, block = np.ogrid[: f["rows"], : f["blocks"]]
    source = f["source"] + row * f["source_col"] + block * f["source_block"]
    x = state.wide[source].astype(np.int64).reshape(f["rows"], -1)[:, : f["elements"]]
    planes = state.parameters[f["parameter"] : f["parameter"] + f["blocks"]]
    bias, weight, shift, q, s = requant.unpack_parameters(planes)
    method = methods(state.overlay)[f["method"]]
    wide_bias, wide_weight = bias.astype(np.int64), weight.astype(np.int64)
    if method is None:
        high = q.astype(np.int64) << 32
        y = _by_table(state, x, wide_weight, high + (wide_bias & 0xFFFFFFFF))
        scaled = y
    else:
        epsilon = f["epsilon_high"] << 32 | f["epsilon_low"]
        z = _padded(method.normal(x, bool(f["rms"]), epsilon), len(bias))
        gamma = wide_weight.astype(np.int16)
        y = affine(z, gamma, wide_bias, np.maximum(shift.astype(np.int64), 1))
        scaled = requant.requantize(y, q, s, "single_round").astype(np.int64)
    if f["ranges"]:
        scaled = ranges.values(scaled)
        magnitude = np.abs(scaled[:, : f["elements"]]).max(1)
        state.magnitudes[: f["rows"]], state.ranged = magnitude, f["rows"]
        scaled = ranges.codes(scaled, magnitude)
    code = np.clip(scaled + f["zero_point"], f["low"], f["high"]).astype(np.int8)
    target = f["target"] + row * f["target_col"] + block * f["target_block"]
    state.buffer[target] = code.reshape(f["rows"], f["blocks"], lanes)
    if f["keep"]:
        state.wide[source] = y.reshape(f["rows"], f["blocks"], lanes).astype(np.int16)


def _padded(z: Codes, width: int) -> Codes:
    return np.pad(z, ((0, 0), (0, width - z.shape[1])))


def _by_table(state: State, x: Codes, weight: Codes, bias: Codes) -> Codes:
    """y [rows, blocks · lanes] as int16."""
    table: TableRoot = state.norm_table or TableRoot.of_words([0] * TABLE_WORDS)
    n = x.shape[1]
    beyond = np.broadcast_to(bias[n:] >> table.out_shift, (len(x), len(bias) - n))
    y = np.concatenate([table(x, weight[:n], bias[:n]), beyond], axis=1)
    return np.asarray(np.clip(y, -_MOST - 1, _MOST))


def _check(state: State, f: Fields, batch: int) -> None:
    """Raises FaultError, with the status that the hardware reports."""
    o = state.overlay
    if "norm" not in o.units:
        raise FaultError(1, f"overlay {o.name!r} has no unit norm")
    if batch != 1 or min(f["rows"], f["blocks"]) == 0 or f["method"] >= len(o.norm):
        raise FaultError(
            2, f"batch {batch}, {f['rows']} × {f['blocks']} words, method {f['method']}"
        )
    if f["ranges"] and "ranges" not in o.units:
        raise FaultError(2, f"ranges, but overlay {o.name!r} has no unit ranges")
    n, padded = f["elements"], f["blocks"] * o.lanes
    if not (1 <= n <= MOST_ELEMENTS and padded - o.lanes < n <= padded):
        raise FaultError(2, f"{n} elements in {f['blocks']} words; at most {MOST_ELEMENTS}")
    if f["epsilon_high"] >= EPSILON_HIGH:
        raise FaultError(2, f"epsilon_high = {f['epsilon_high']}, not below {EPSILON_HIGH}")
    for name, memory in (("source", state.wide), ("target", state.buffer)):
        rows, blocks = (f["rows"] - 1) * f[f"{name}_col"], (f["blocks"] - 1) * f[f"{name}_block"]
        last = f[name] + rows + blocks
        if last >= len(memory):
            raise FaultError(3, f"{name} word {last} of {len(memory)}")
    if f["rows"] > o.accumulator_rows:
        raise FaultError(4, f"{f['rows']} of {o.accumulator_rows}")
    if f["parameter"] + f["blocks"] > o.parameter_blocks:
        end = f["parameter"] + f["blocks"] - 1
        raise FaultError(5, f"parameter block {end} of {o.parameter_blocks}")
    steps = f["rows"] - 1, f["blocks"] - 1
    if f["keep"] and not window.distinct((f["source_col"], f["source_block"]), steps):
        raise FaultError(7, "keep, but rows and blocks of the input share words")


UNIT = Unit("normalize", (isa.NORM,), golden, clocks, "LayerNorm, RMSNorm of the wide buffer")
