"""Engines of compressed weights: a stream of their own instead of tiles, golden model and clocks.

How long such an engine takes depends on what it is given: on the weights' zeros, and where it
skips them on the activations'. So its golden model counts the clocks of a run, and `clocks` knows
only the least, the drain.
"""

from __future__ import annotations

from weft import isa
from weft.state import ISSUE_CLOCKS, Clocks, FaultError, Fields, State, Sums
from weft.units import eie, gather, snap, window
from weft.units.compressed_engine import Compressed

ENGINES: dict[str, Compressed] = {e.name: e for e in (eie.ENGINE, snap.ENGINE, gather.ENGINE)}
assert set(ENGINES) <= set(isa.COMPRESSED)


def is_compressed(f: Fields) -> bool:
    """Whether a MatMul's engine takes compressed weights."""
    return f["engine"] < len(isa.ENGINES) and isa.ENGINES[f["engine"]] in isa.COMPRESSED


def golden(state: State, f: Fields, batch: int) -> None:
    """MatMul on compressed weights: leaves sums and the clocks that they took."""
    engine = _check(state, f, batch)
    state.need(f["rows"])
    sums, clocks = engine.run(state, f, batch)
    sources = ((0, *window.source_range(f, batch)),)
    state.sums = Sums(sums, f["out_h"], f["out_w"], sources, repeat=f["tiles"] == 1)
    state.pending, state.open_rows, state.staying = True, 0, None
    least = least_clocks(f, batch)
    state.taken = Clocks(**{name: n + vars(least)[name] for name, n in vars(clocks).items()})


def least_clocks(f: Fields, batch: int) -> Clocks:
    """Clocks that do not depend on data: issue, and a clock per word that leaves."""
    return Clocks(ISSUE_CLOCKS, drain=f["tiles"] * window.positions(f, batch))


def _check(state: State, f: Fields, batch: int) -> Compressed:
    """The engine, in the order of hls/weft/check.hpp; raises FaultError."""
    window.check(state, f, batch)
    if f["tiles"] == 0 or (not f["last"] and f["tiles"] != 1):
        raise FaultError(2, f"tiles = {f['tiles']}, last = {f['last']}")
    name = isa.ENGINES[f["engine"]]
    if name not in state.overlay.engines:
        raise FaultError(2, f"engine {name} is none of {', '.join(state.overlay.engines)}")
    engine = ENGINES[name]
    if engine.point and window.taps(f) != 1:
        raise FaultError(2, f"engine {name} takes one tap, not {window.taps(f)}")
    if not (f["first"] and f["last"]) or f["shift"] or not engine.legal(f, state.overlay, batch):
        raise FaultError(2, f"engine {name}: first, last, shift or codes = {f['codes']}")
    m, limit = window.positions(f, batch), state.overlay.accumulator_rows
    if m * f["tiles"] > limit:
        raise FaultError(4, f"{m} rows of {f['tiles']} tiles, of {limit}")
    return engine
