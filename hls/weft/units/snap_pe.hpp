/// A PE of the SNAP engine: associative index matching, sequence decoder, multipliers, level 1 of
/// the reduction (Zhang et al., SNAP, JSSC 2021).
#pragma once
#include "units/snap_plan.hpp"

namespace weft {

/// Activations of a bundle that differ from the zero point, less it.
struct SnapActivations {
  Vec<Int<16>, kSnapBundle> value;  // of 9 bits
  Vec<SnapIndex, kSnapBundle> index;
  Int<16> count;
};

/// What both operands of a multiplier are.
struct SnapPair {
  Int<8> weight;
  Int<16> activation;
};

/// Pairs of a bundle, waiting for the multipliers.
struct SnapMatches {
  Vec<SnapPair, kSnapBundle> pair;
  int count;
  bool valid, ends;  // there is a bundle; it is the last one of its output
};

/// Associative index matching: a comparator for every weight and activation, and for every weight
/// an encoder that says whether and where its channel is. What matches moves together.
inline void snap_match(const SnapWeights &w, const SnapActivations &a, SnapMatches &out) {
  WEFT_INLINE
  int count = 0;
weights:
  for (int i = 0; i < kSnapBundle; ++i) {
    WEFT_UNROLL
    int position = 0;
    bool hit = false;
  activations:
    for (int j = 0; j < kSnapBundle; ++j) {
      WEFT_UNROLL
      const bool equal = w.index[i] == a.index[j] && j < int(a.count);
      position |= equal ? j : 0;
      hit = hit || equal;
    }
    if (hit && i < int(w.count)) {
      out.pair[count] = {w.value[i], a.value[position]};
      ++count;
    }
  }
  out.count = count;
}

/// The memories of a PE, two banks each: one is filled while the other is used.
struct SnapMemory {
  SnapWeights weights[2 * kSnapDepth];
  Int<16> filled[2][kSnapDepth];  // bundles of each output
  SnapActivations activations[2 * kSnapDepth];
  Int<32> sums[2][kSnapDepth];
};

/// A stage as a PE sees it.
struct SnapStage {
  int positions, slots;   // positions; outputs of this PE
  int stride, column;     // sums of a position, bundles of an output: both at most
  int weight_bank, bank;  // of weights; of activations and sums
};

/// Counts the bundles of a stage: position by position, output by output.
struct SnapCursor {
  int position, slot, entry;

  bool more(const SnapStage &s) const { return position < s.positions && s.slots > 0; }
  void next(const SnapStage &s, bool ends) {
    entry = ends ? 0 : entry + 1;
    if (!ends) return;
    slot = slot == s.slots - 1 ? 0 : slot + 1;
    if (slot == 0) ++position;
  }
};

/// One PE. In a clock it multiplies up to kSnapMacs pairs; meanwhile the pairs of the next bundle
/// are found. What is left of a bundle goes with the first pairs of the next one of the same
/// output, and all of them meet in one sum: that is level 1 of the reduction.
struct SnapPe {
  SnapMatches present, next;
  int head;   // pairs of `present` that are done
  int left;   // and those that are not
  bool ends;  // `present` is the last bundle of its output
  Int<32> sum;
  SnapCursor fetch, out;

  void begin() {
    next.valid = false;
    head = left = 0;
    ends = false;
    sum = 0;
    fetch = out = {0, 0, 0};
  }
  bool busy(const SnapStage &s) const { return out.more(s); }

  /// The pair for multiplier i: of what is left, then of the next bundle.
  SnapPair operand(int i, bool both) const {
    WEFT_INLINE
    const SnapPair none = {0, 0};
    if (i < left) return present.pair[head + i];
    return both && i - left < next.count ? next.pair[i - left] : none;
  }
  /// A clock. `book` has the values of codes, if `coded`.
  void step(const SnapStage &s, bool coded, const Int<16> (&book)[kSnapCodes], SnapMemory &m) {
    WEFT_INLINE
    const bool both = next.valid && left < kSnapMacs && !ends;
    UInt<32> products = 0;
  multipliers:
    for (int i = 0; i < kSnapMacs; ++i) {
      WEFT_UNROLL
      const SnapPair p = operand(i, both);
      const Int<16> weight = coded ? book[int(p.weight) & (kSnapCodes - 1)] : Int<16>(p.weight);
      products += UInt<32>(Int<32>(weight) * Int<32>(p.activation));
    }
    sum = Int<32>(UInt<32>(sum) + products);  // wraps
    take(both);
    if (ends && left == 0) {
      m.sums[s.bank][out.position * s.stride + out.slot] = sum;
      sum = 0;
      ends = false;
      out.next(s, true);
    }
    if (!next.valid) find(s, m);
  }

 private:
  /// Moves on by what the multipliers took; the next bundle becomes the present one.
  void take(bool both) {
    WEFT_INLINE
    if (both) {
      const int of_next = kSnapMacs - left < next.count ? kSnapMacs - left : next.count;
      present = next;
      ends = next.ends;
      next.valid = false;
      head = of_next;
      left = present.count - of_next;
    } else {
      const int done = left < kSnapMacs ? left : kSnapMacs;
      head += done;
      left -= done;
    }
  }
  /// Finds the pairs of the next bundle; an output without weights has one without pairs.
  void find(const SnapStage &s, const SnapMemory &m) {
    WEFT_INLINE
    if (!fetch.more(s)) return;
    const int filled = int(m.filled[s.weight_bank][fetch.slot]);
    next.count = 0;
    next.valid = true;
    next.ends = fetch.entry + 1 >= filled;
    if (filled > 0) {
      const SnapWeights &w =
          m.weights[s.weight_bank * kSnapDepth + fetch.slot * s.column + fetch.entry];
      const int at = fetch.position * s.column + int(w.bundle);
      snap_match(w, m.activations[s.bank * kSnapDepth + at], next);
    }
    fetch.next(s, next.ends);
  }
};

}  // namespace weft
