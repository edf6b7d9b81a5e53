/// Bitmask and gather: a tree of multipliers that takes the weights of one output after another, as
/// fast as a memory port brings them, and gathers the activations that they meet. Without masks it
/// is the dense product of a few rows, for which the array would wait for its tiles.
///
/// The stream comes in packets: a row of masks (a bit per weight of eight channel blocks, outputs
/// one behind the other), then the rows of values that begin there; values run on from packet to
/// packet. A clock takes a window of up to four blocks with at most kRows weights: prefix sums over
/// the mask say where its activations go, log2 stages move them together, and there they meet the
/// next weights, which lie side by side already.
#pragma once
#include "units/compressed.hpp"
#include "units/multiplier.hpp"

namespace weft {

constexpr int kGatherRows = 8;    // rows of activations that share the weights
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

/// The activations of a window on their way to the weights.
struct Gathered {
  Int<8> code[kGatherLanes];
  UInt<10> gap[kGatherLanes];  // lanes before it that have no weight
  bool there[kGatherLanes];

  /// Lane i goes down by gap[i], a power of two per stage, the lowest first: gaps grow by no more
  /// than the way from lane to lane, so no two meet.
  void concentrate() {
    WEFT_INLINE
  stages:
    for (int s = 0; s < kLaneStages; ++s) {
      WEFT_UNROLL
      for (int i = 0; i < kGatherLanes; ++i) {
        WEFT_UNROLL
        const int from = i + (1 << s) < kGatherLanes ? i + (1 << s) : i;
        const bool comes = from != i && there[from] && ((int(gap[from]) >> s) & 1) != 0;
        const bool stays = there[i] && ((int(gap[i]) >> s) & 1) == 0;
        code[i] = comes ? code[from] : code[i];
        gap[i] = comes ? gap[from] : gap[i];
        there[i] = comes || stays;
      }
    }
  }
};

}  // namespace weft
