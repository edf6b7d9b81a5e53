"""What a run reads from memory and writes there, as the simulated hardware does it, burst by burst.

Predictions assume bytes and bursts (weft.decoder_costs); a trace counts them where they happen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weft.adjust import Registers
from weft.device.base import RunResult
from weft.device.csim import Csim

LOADS, STORES, WEIGHTS, CACHE = range(4)  # what came; CACHE: of activations, by weight ports
KINDS = ("loads", "stores", "weights", "cache")
FIRST_CACHE = 64  # number of the first weight port where it brings these; 2 where it does weights
LONGEST_BURST = 64  # beats: max_read_burst_length in hls/weft/top.cpp
ACCESS = np.dtype(
    [("port", "i4"), ("instruction", "i4"), ("first", "i8"), ("rows", "i8")]
)  # as in hls/sim/trace.hpp


@dataclass(frozen=True)
class Trace:
    """Accesses of a segment, each to consecutive rows of one memory through one port.

    `accesses` has the fields of ACCESS, in the order of each port; the instructions are the
    segment's. Rows of weight ports with memories of their own are those of their memories
    (`weft.device.channels.image_rows`), and an access is all that comes one behind another there.
    A row is `row_bytes` bytes, which take `beats` beats.
    """

    accesses: NDArray[np.void]
    row_bytes: int
    beats: int
    result: RunResult

    def of(self, kind: int) -> NDArray[np.void]:
        """Accesses of LOADS, STORES or (all ports of) WEIGHTS or CACHE."""
        ports = self.accesses["port"]
        kinds = np.where(ports < FIRST_CACHE, np.minimum(ports, WEIGHTS), CACHE)
        found: NDArray[np.void] = self.accesses[kinds == kind]
        return found

    def nbytes(self, kind: int) -> int:
        """Bytes of a kind."""
        return int(self.of(kind)["rows"].sum()) * self.row_bytes

    @property
    def bytes(self) -> int:
        """All bytes; instructions are not in it."""
        return sum(self.nbytes(kind) for kind in range(len(KINDS)))

    def bursts(self, kind: int) -> NDArray[np.int64]:
        """Lengths of bursts in beats: an access, cut where a burst can be no longer."""
        beats = self.of(kind)["rows"] * self.beats
        whole, rest = np.divmod(beats, LONGEST_BURST)
        return np.concatenate([np.full(whole.sum(), LONGEST_BURST), rest[rest > 0]])

    def runs(self, kind: int) -> NDArray[np.int64]:
        """Bytes that an instruction moves at consecutive addresses, whatever port they take."""
        one = self.of(kind)
        if not len(one):
            return np.zeros(0, np.int64)
        follows = (one["first"][1:] == (one["first"] + one["rows"])[:-1]) & (
            one["instruction"][1:] == one["instruction"][:-1]
        )
        starts = np.flatnonzero(np.concatenate([[True], ~follows]))
        return np.asarray(np.add.reduceat(one["rows"], starts), np.int64) * self.row_bytes


def traced(device: Csim, segment: int = 0, batch: int = 1, registers: Registers = (0, 0)) -> Trace:
    """Runs a segment of the loaded program, and what it did to memory.

    Raises UsageError for another form of the simulation than "cycle".
    """
    with device.recording() as accesses:
        result = device.run(segment, batch, registers=registers)
        made = np.frombuffer(accesses(), ACCESS)
    overlay = device.program.overlay
    made = made[made["rows"] > 0]
    if overlay.own_memories:
        made = _by_port(made)
    return Trace(made, overlay.lanes, overlay.beats, result)


def _by_port(made: NDArray[np.void]) -> NDArray[np.void]:
    """What weight ports read, which take turns: the accesses of each, joined where rows follow."""
    weights = (made["port"] >= WEIGHTS) & (made["port"] < FIRST_CACHE)
    own = made[weights]
    own = own[np.lexsort((own["first"], own["port"], own["instruction"]))]
    ends = own["first"] + own["rows"]
    follows = np.zeros(len(own), bool)
    follows[1:] = own["first"][1:] == ends[:-1]
    for name in ("port", "instruction"):
        follows[1:] &= own[name][1:] == own[name][:-1]
    starts = np.flatnonzero(~follows)
    joined = own[starts].copy()
    joined["rows"] = np.add.reduceat(own["rows"], starts) if len(own) else own["rows"]
    return np.concatenate([made[~weights], joined])
