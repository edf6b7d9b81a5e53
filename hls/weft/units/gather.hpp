/// Bitmask and gather: a tree of multipliers that takes the weights of one output after another, as
/// fast as a memory port brings them, and gathers the activations that they meet. Without masks it
/// is the dense product of a few rows, for which the array would wait for its tiles.
///
/// sparse/bitmask.hpp reads the stream. A clock takes a window of up to four blocks with at most
/// kRows weights: prefix sums over the mask say where its activations go, log2 stages move them
/// together, and there they meet the next weights, which lie side by side already.
#pragma once
#include "sparse/bitmask.hpp"
#include "units/compressed.hpp"
#include "units/multiplier.hpp"

namespace weft {

constexpr int kGatherRows = 8;  // rows of activations that share the weights

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
