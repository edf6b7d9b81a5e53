/// Geometry of the SNAP engine, and how a MatMul is cut to its memories (units/snap.hpp).
#pragma once
#include "sparse/bundles.hpp"

namespace weft {

constexpr int kSnapUnits = kSnapCores * kSnapRows;  // rows of PEs: each has an output of its own
constexpr int kSnapWords = kHasSnap ? kSnapBundle / kRows : 1;  // words of a bundle
constexpr int kSnapStages = 8;  // at least, of a block: the first one's activations load alone
static_assert(!kHasSnap || kSnapBundle % kRows == 0, "a bundle is a whole number of words");

inline int ceil_div(int a, int b) { return (a + b - 1) / b; }

/// A stage is a block of outputs at a group of positions: PEs meet at its end. What a PE has of it
/// fits its memories, kSnapDepth bundles of weights, as many of activations, as many sums.
struct SnapPlan {
  int positions, per_tap, bundles;  // bundles of a tap, and of an output
  int column;                       // bundles of an output that one column of PEs gets
  int outputs, slots, blocks;       // outputs; of a block, per row of PEs; blocks
  int group, groups;                // positions of a stage; stages of a block

  void begin(const MatMul &f, int batch) {
    positions = batch * int(f.out_h) * int(f.out_w);
    per_tap = ceil_div(int(f.blocks), kSnapWords);
    bundles = int(f.kernel_h) * int(f.kernel_w) * per_tap;
    column = ceil_div(bundles, kSnapCols);
    outputs = int(f.tiles) * kCols;
    const int all = ceil_div(outputs, kSnapUnits), fit = kSnapDepth / column;
    slots = ceil_div(all, ceil_div(all, fit));
    blocks = ceil_div(all, slots);
    const int sums = kSnapDepth / slots, part = ceil_div(positions, kSnapStages);
    const int most = part < fit ? (part < sums ? part : sums) : (fit < sums ? fit : sums);
    group = ceil_div(positions, ceil_div(positions, most));
    groups = ceil_div(positions, group);
  }
  /// Whether a MatMul fits: the bundles of an output must.
  static bool legal(const MatMul &f) {
    const Int<64> per_tap = (Int<64>(f.blocks) + kSnapWords - 1) / kSnapWords;
    const Int<64> taps = Int<64>(f.kernel_h) * Int<64>(f.kernel_w);
    const Int<64> bundles = taps * per_tap;
    return bundles <= Int<64>(kSnapCols) * kSnapDepth && f.words == 1 && f.activation_bits == 8 &&
           f.codes <= 1;
  }
  int first_output(int block) const { return block * slots * kSnapUnits; }
  /// Outputs of a block.
  int present(int block) const {
    const int left = outputs - first_output(block), whole = slots * kSnapUnits;
    return left < whole ? left : whole;
  }
  /// Outputs of a block that row `unit` of PEs has.
  int slots_of(int block, int unit) const {
    const int left = present(block) - unit;
    return left <= 0 ? 0 : ceil_div(left, kSnapUnits);
  }
  /// Positions of stage `stage` of a block.
  int positions_of(int stage) const {
    const int left = positions - stage * group;
    return left < group ? left : group;
  }
};

}  // namespace weft
