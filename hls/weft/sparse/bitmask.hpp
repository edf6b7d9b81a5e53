/// Bitmask: a bit per weight, and the weights that are there (host/weft/lower/gather.py).
///
/// The stream comes in packets: a row of masks (a bit per weight of eight channel blocks, outputs
/// one behind the other), then the rows of values that begin there; values run on from packet to
/// packet. A codebook may lead it, and masks may be left out where all weights are there.
#pragma once
#include "sparse/rows.hpp"

namespace weft {

constexpr int kGatherWindow = 4;  // channel blocks of a clock, from as many banks
constexpr int kMasks = 8;         // channel blocks of a packet
constexpr int kValueRows = 32;    // of the ring: two packets of eight, and what is half used
constexpr int kBookEntries = 16;
constexpr int kGatherLanes = kGatherWindow * kRows;
constexpr int kLaneStages = kRows >= 128  ? 9
                            : kRows >= 64 ? 8
                            : kRows >= 32 ? 7
                            : kRows >= 16 ? 6
                                          : 5;  // log2 of the lanes of a window
static_assert(!kHasGather || (kRows >= 8 && kRows <= 128), "a mask is whole bytes of a row");

constexpr int kBookCodes = 1, kAllThere = 2;  // MatMul.codes: 4-bit codes, no masks

/// Blocks of a packet that a clock takes together, and their weights.
struct Window {
  int blocks, weights;
};

/// The masks of two packets.
struct MaskRows {
  Int<8> row[2][kRows];

  bool bit(int packet, int block, int lane) const {
    const int at = block * kRows + lane;
    return ((int(row[packet & 1][(at >> 3) & (kRows - 1)]) >> (at & 7)) & 1) != 0;
  }
  /// Weights of a channel block: a counter of kRows bits.
  int weights(int packet, int block) const {
    WEFT_INLINE
    int count = 0;
  bits:
    for (int lane = 0; lane < kRows; ++lane) {
      WEFT_UNROLL
      count += bit(packet, block, lane) ? 1 : 0;
    }
    return count;
  }
  /// Whether there are weights behind the first `blocks` blocks.
  bool beyond(int packet, int blocks) const {
    WEFT_INLINE
    bool found = false;
  blocks:
    for (int block = 0; block < kMasks; ++block) {
      WEFT_UNROLL
      found |= block >= blocks && weights(packet, block) != 0;
    }
    return found;
  }
  int all_weights(int packet) const {
    WEFT_INLINE
    int count = 0;
  blocks:
    for (int block = 0; block < kMasks; ++block) {
      WEFT_UNROLL
      count += weights(packet, block);
    }
    return count;
  }
  /// The largest window from a block on: up to `left` blocks, no more weights than multipliers.
  Window window(int packet, int first, int left) const {
    WEFT_INLINE
    Window w = {0, 0};
    bool open = true;
  blocks:
    for (int q = 0; q < kGatherWindow; ++q) {
      WEFT_UNROLL
      const int count = weights(packet, (first + q) & (kMasks - 1));
      open = open && q < left && w.weights + count <= kRows;
      if (open) {
        w.weights += count;
        ++w.blocks;
      }
    }
    return w;
  }
};

/// Rows of values: even and odd ones in a memory each, as two neighbours are read in a clock.
struct ValueRing {
  static constexpr int kDepth = kValueRows / 2;
  Int<8> even[kDepth][kRows], odd[kDepth][kRows];

  void write(int row, const Word &values) {
    WEFT_INLINE
    const int at = (row >> 1) & (kDepth - 1);
    if ((row & 1) == 0) put(even[at], values);
    if ((row & 1) != 0) put(odd[at], values);
  }
  /// kRows codes from number `first` on: a shifter of log2 stages over two rows.
  void read(Int<64> first, bool nibbles, Int<8> (&codes)[kGatherLanes]) const {
    WEFT_INLINE
    const int log = kLaneStages - (nibbles ? 1 : 2);  // log2 of the codes of a row
    const int row = int(first >> log), shift = int(first) & ((1 << log) - 1);
    const Word low = value_of(even[((row + 1) >> 1) & (kDepth - 1)]);
    const Word high = value_of(odd[(row >> 1) & (kDepth - 1)]);
    const bool swap = (row & 1) != 0;
  codes:
    for (int i = 0; i < kGatherLanes; ++i) {
      WEFT_UNROLL
      const int half = i >> 1, whole = i & (2 * kRows - 1), r = half & (kRows - 1);
      const int q = whole & (kRows - 1);
      const Int<8> pair = (half < kRows) != swap ? low[r] : high[r];
      const Int<8> byte = (whole < kRows) != swap ? low[q] : high[q];
      codes[i] = nibbles ? Int<8>((int(pair) >> (4 * (i & 1))) & 15) : byte;
    }
  stages:
    for (int s = 0; s < kLaneStages - 1; ++s) {
      WEFT_UNROLL
      for (int i = 0; i + (1 << s) < kGatherLanes; ++i) {
        WEFT_UNROLL
        if (((shift >> s) & 1) != 0) codes[i] = codes[i + (1 << s)];
      }
    }
  }
};

/// The stream's side: packets and rows of values, one row per turn of the port.
struct GatherFeed {
  StreamRows rows;
  int wait;             // clocks until the port brings the next row
  int packets, opened;  // all of them; those whose masks are there
  Int<64> blocks;       // channel blocks of all outputs
  Int<64> weights;      // of the packets that are open
  int value_rows;       // that are there,
  int due;              // and that the open packets need in all
  bool dense, nibbles;

  void begin(const MatMul &f) {
    rows.begin(f);
    wait = opened = value_rows = due = 0;
    weights = 0;
    blocks = Int<64>(f.tiles) * kCols * Int<64>(f.blocks);
    packets = int((blocks + kMasks - 1) / kMasks);
    nibbles = (int(f.codes) & kBookCodes) != 0;
    dense = (int(f.codes) & kAllThere) != 0;
  }
  /// Rows of values that hold `count` weights.
  int rows_of(Int<64> count) const {
    const int log = kLaneStages - (nibbles ? 1 : 2);
    return int((count + ((1 << log) - 1)) >> log);
  }
  /// Blocks of a packet that there are: fewer than kMasks in the last one.
  int blocks_of(int packet) const {
    const Int<64> left = Int<64>(blocks - Int<64>(packet) * kMasks);
    return left < kMasks ? int(left) : kMasks;
  }
  /// One clock; `used` packets are done with.
  void step(int used, MaskRows &masks, ValueRing &ring, WeightStream &weights_stream,
            Fault &fault) {
    WEFT_INLINE
    if (wait > 0) {
      --wait;
      return;
    }
    const bool opens = value_rows == due && opened < packets && opened - used < 2;
    if (opens && dense) open(blocks_of(opened) * kRows);
    if (!(opens && !dense) && value_rows == due) return;  // nothing to read
    const Word row = narrowed(rows.next(weights_stream, fault));
    wait = kBeats - 1;
    if (opens && !dense) {
      put(masks.row[opened & 1], row);
      if (masks.beyond(opened, blocks_of(opened))) fault.raise(rows.number() - 1);
      open(masks.all_weights(opened));
    } else {
      ring.write(value_rows, row);
      ++value_rows;
    }
  }

 private:
  void open(int count) {
    weights += count;
    due = rows_of(weights);
    ++opened;
  }
};

using Book = Int<16>[kBookEntries];

/// The codebook in front of the packets: 16 numbers of 16 bits, low bytes first.
inline void take_book(GatherFeed &feed, WeightStream &weights, Book &book, Counters &counters,
                      Fault &fault) {
  WEFT_INLINE
  constexpr int kBytes = 2 * kBookEntries;
  Word row = filled(0);
entries:
  for (int i = 0; i < kBookEntries; ++i) {
    WEFT_PIPELINE
    const int at = (2 * i) & (kRows - 1);
    if (at == 0) row = narrowed(feed.rows.next(weights, fault));
    book[i] = Int<16>((UInt<16>(row[at]) & 0xff) | (UInt<16>(row[at + 1]) << 8));
  }
  if (book[0] != 0) fault.raise(0);
  counters.weight_shift += (kBytes + kRows - 1) / kRows * kBeats;
}

}  // namespace weft
