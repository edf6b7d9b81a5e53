"""The first TPU's workloads on overlay tpu_v1: speed and what its array waits for, as published.

Jouppi et al., ISCA 2017, table 3; networks of the published sizes: tests/host/tpu_networks.py. In
brackets ours over theirs; docs/estimates.md says why some are apart. CNN1 is not there: its shapes,
which decide on it, have not been published.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import weft
from weft.config import Board, load_board
from weft.stalls import Stalls, stalls

from .row import Row

PCIE = 15.75e9  # bytes per second of PCIe Gen3 x16 in theory, the way of activations
WITHIN = 0.15
# Percent of clocks: active, weight stall, weight shift, non-matrix; TOP/s. (The paper's own rows
# disagree on CNN0: 86 TOP/s are 94 % of the peak, but the array is active in 78 % of the clocks.)
TABLE = {
    "MLP0": (12.7, 53.9, 15.9, 17.5, 12.3),
    "MLP1": (10.6, 44.2, 13.4, 31.9, 9.7),
    "LSTM0": (8.2, 58.1, 15.8, 17.9, 3.7),
    "LSTM1": (10.5, 62.1, 17.1, 10.3, 2.8),
    "CNN0": (78.2, 0.0, 0.0, 21.8, 71.7),
}
COUNTERS = ("active", "weight_stall", "weight_shift", "non_matrix")
SPEED = "TOP/s"
# What is known of those that are apart; docs/estimates.md has more.
LESS_ELSE = "the TPU also waits for results and synchronizes"
APART = {
    **{(name, "non_matrix"): LESS_ELSE for name in TABLE},
    ("MLP1", "weight_stall"): LESS_ELSE,
    ("MLP1", "weight_shift"): LESS_ELSE,
    ("LSTM0", "weight_shift"): LESS_ELSE,
    ("LSTM1", "active"): "its table implies 157 rows per tile, not 2 × 96",
    ("LSTM1", SPEED): "its table implies 157 rows per tile, not 2 × 96",
}


@dataclass(frozen=True)
class Found:
    """A workload on the overlay: clocks by what the array does, and operations per second."""

    name: str
    stalls: Stalls
    tops: float

    def ours(self) -> dict[str, float]:
        """Percent by counter, and the speed."""
        shares = self.stalls.shares()
        return {**{name: 100 * shares[name] for name in COUNTERS}, SPEED: self.tops}

    def theirs(self) -> dict[str, float]:
        """The same, as published."""
        return dict(zip((*COUNTERS, SPEED), TABLE[self.name], strict=True))


def tpu() -> Board:
    """A board with the TPU's clock and weight memory: 700 MHz, 34 GB/s."""
    like = load_board("ZCU102")
    return replace(
        like, name="TPU v1", clock_mhz=700, ddr_bytes_per_s=34e9, ddr_efficiency=1.0, axi_bits=512
    )


def run(name: str) -> Found:
    """A workload with its published batch."""
    import tpu_networks

    network = tpu_networks.workload(name, weft.load_overlay("tpu_v1"))
    batch = 4 if network.convolutions else 1  # four samples of 361 positions fill the accumulators
    steps = 2 if network.vectors else 1
    taken = stalls(network.program(batch), tpu(), batch, PCIE)
    macs = tpu_networks.PUBLISHED[name][4] * network.weights * steps
    macs //= 2 if network.convolutions else 1
    return Found(name, taken, 2e-12 * macs / (taken.clocks / 700e6))


def rows(folder, data) -> list[Row]:
    """Every counter of every workload."""
    made = []
    for name in TABLE:
        found = run(name)
        theirs = found.theirs()
        for what, ours in found.ours().items():
            if not theirs[what]:
                continue
            why = APART.get((name, what), "")
            met = None if why else abs(ours / theirs[what] - 1) <= WITHIN
            unit = SPEED if what == SPEED else "% of clocks"
            metric = f"TPU v1, {name}: {what.replace('_', ' ')} ({ours / theirs[what]:.2f} ×)"
            made.append(Row(metric, ours, theirs[what], unit, why or "± 15 %", met))
    return made
