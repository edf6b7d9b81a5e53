"""What a board's memory delivers of its peak: refresh, row misses, turns of the bus.

Ports read long runs of consecutive addresses, `burst_bytes` at a time and in turns, so the bus of
the memory idles only

- while all banks are refreshed, tRFC every tREFI, after which rows are opened again;
- where a burst finds another row open in its bank: each page of a run is a miss, and so is a burst
  whose bank another port used in between, which is taken to happen by chance. A controller hides
  most of precharge and activate (tRP + tRCD) behind bursts to other banks: EXPOSED is what is left;
- where it turns from reads to writes and back, with rows that are not open.

Ports that take turns on one run are one stream. Latencies are not in it: what is read is known long
before it is used; nor is tCCD_L: the address map of a controller lets consecutive bursts alternate
between groups of banks.
"""

from __future__ import annotations

from dataclasses import dataclass

from weft.config import Board

# UG585 (Zynq-7000 TRM), table "DDR Efficiency": four HP ports, DDR3-1050 of 32 bits, bursts of 16
# words of 64 bits: sequential reads reach 97 % of the peak, random ones 92 %. Random bursts miss
# once for each of 128 bytes, and once more for 1 − (7/8)³ of them; with 2.4 % refresh (2 Gbit
# chips) 92 % leave 1.4 ns per miss, 5 % of tRP + tRCD = 27.5 ns. Sequential reads, which did not
# go into this figure, come out at 96 %.
EXPOSED = 0.05
BURST_BEATS = 64  # of a port: max_read_burst_length in hls/weft/top.cpp


@dataclass(frozen=True)
class Timing:
    """A kind of memory: times in ns, bits of a page per bit of width, banks of a channel."""

    banks: int
    page_bits: int
    trp: float
    trcd: float
    trfc: float
    trefi: float
    twtr: float
    trtw: float
    tcwl: float
    tfaw: float
    burst: int = 8

    @property
    def refresh(self) -> float:
        """Share of the time in which all banks are busy with refreshing."""
        return (self.trfc + self.trp + self.trcd) / self.trefi

    @property
    def miss(self) -> float:
        """What a row miss costs between other bursts."""
        return EXPOSED * (self.trp + self.trcd)


TIMINGS = {
    # JESD79-3, DDR3-1066 (7-7-7 is 13.1 ns, 11-11-11 of DDR3-1600 13.75 ns); 4 Gbit chips.
    "DDR3": Timing(8, 1024, 13.75, 13.75, 260, 7800, 7.5, 3.75, 11.25, 40),
    # JESD79-4, DDR4-2400 17-17-17; 8 Gbit chips of 16 bits (Micron MT40A512M16): two groups of four
    # banks, pages of 2 KiB; tWTR_L, CWL = 12.
    "DDR4": Timing(8, 1024, 14.16, 14.16, 350, 7800, 7.5, 1.67, 10, 30),
    # JESD209-4, 8 Gbit per channel: tRFCab, tREFI; tRPab, tRCD, tWTR, tFAW.
    "LPDDR4": Timing(8, 1024, 21, 18, 280, 3904, 10, 3.75, 10, 40, 16),
    # JESD235, 8 Gbit per channel, a pseudo-channel of 64 bits with pages of 1 KiB.
    "HBM2": Timing(16, 128, 14, 12, 260, 3900, 9, 18, 7, 16, 4),
}


@dataclass(frozen=True)
class Reads:
    """Bytes of `streams` at once, each in runs of `run` consecutive bytes."""

    nbytes: int
    streams: int
    run: int


@dataclass(frozen=True)
class Writes:
    """Pieces of consecutive bytes, and how often the bus turns to them from reading."""

    pieces: int
    piece: int
    turns: int


def peak(board: Board, streams: int) -> float:
    """Bytes per second of the channels that `streams` reach: each stays in one of them."""
    return board.ddr_bytes_per_s * min(streams, board.ddr_channels) / board.ddr_channels


def read_seconds(board: Board, reads: Reads, burst_bytes: int) -> float:
    """Time of reads alone."""
    if not reads.nbytes:
        return 0.0
    timing = TIMINGS[board.memory]
    page = timing.page_bits * board.ddr_bits // 8
    channels = min(reads.streams, board.ddr_channels)
    others = -(-reads.streams // board.ddr_channels) - 1
    shared = 1 - (1 - 1 / timing.banks) ** others
    pages = reads.nbytes / min(page, reads.run)
    turns = reads.nbytes / min(burst_bytes, reads.run)
    lost = (pages + turns * shared) * timing.miss * 1e-9 / channels
    return (reads.nbytes / peak(board, reads.streams) + lost) / (1 - timing.refresh)


def write_seconds(board: Board, writes: Writes) -> float:
    """Time of writes from where reading stops to where it goes on; one port."""
    if not writes.pieces:
        return 0.0
    timing = TIMINGS[board.memory]
    smallest = timing.burst * board.ddr_bits // 8
    burst = -(-writes.piece // smallest) * smallest / peak(board, 1)
    each = max(burst, timing.tfaw * 1e-9 / 4)  # a row of its own each: four activates per tFAW
    # tRP and tRCD come twice: for the first row that is written, and for the row read before.
    turn = timing.trtw + timing.tcwl + timing.twtr + 2 * (timing.trp + timing.trcd)
    return (writes.pieces * each + writes.turns * turn * 1e-9) / (1 - timing.refresh)


def efficiency(board: Board, streams: int, burst_bytes: int) -> float:
    """Share of the peak that `streams` of long runs reach."""
    reads = Reads(1 << 30, streams, 1 << 20)
    return reads.nbytes / read_seconds(board, reads, burst_bytes) / peak(board, streams)
