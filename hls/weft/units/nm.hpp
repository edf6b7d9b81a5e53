/// The cell of N:M sparse weights: of each M activations a cell multiplies the one that the
/// position beside its weight names (sparse tensor cores: Mishra et al., 2021; here any N < M up to
/// the overlay's).
///
/// Row r of the array holds slot r mod N of group r / N, and the M activations of that group move
/// along it. A clock reads `words` channel blocks, the largest power of two that N · words ≤ M
/// allows, so a fold takes as many blocks, and N : M of M / N a power of two fills all rows.
#pragma once
#include "sparse/nm.hpp"
#include "units/multiplier.hpp"

namespace weft {

struct NmWeight {
  Operand value;
  UInt<4> position;
};

struct NmCell {
  using Activation = Vec<Int<8>, kLargestGroup>;
  using Weight = NmWeight;
  static constexpr int kShare = 1, kLatency = 1;  // columns want different activations of a group
  static constexpr bool kFloat = false;
  Pattern pattern;

  void begin(const MatMul &f) { pattern.begin(f); }
  int weight_rows() const { return 1; }
  int index_rows() const { return pattern.index_rows(); }

  /// The activations of the group in row `lane`: for each byte a multiplexer over the patterns that
  /// there are (6 for M up to 4, 28 up to 8), as N and M choose among constants.
  Activation activation(const Word (&words)[kActivationWords], int lane) const {
    WEFT_INLINE
    Activation group;
  clear:
    for (int j = 0; j < kLargestGroup; ++j) {
      WEFT_UNROLL
      group[j] = 0;
    }
#ifdef WEFT_AP_INT
  patterns:
    for (int log = 1; log <= kGroupLogs; ++log) {
      WEFT_UNROLL
      for (int n = 1; n < kLargestGroup; ++n) {
        WEFT_UNROLL
        if (log != pattern.log_group || n != pattern.kept || n >= (1 << log)) continue;
        take_group(words, (lane / n) << log, 1 << log, group);
      }
    }
#else
    take_group(words, (lane / pattern.kept) << pattern.log_group, pattern.group(), group);
#endif
    return group;
  }
  Weight weight(const TileWord (&rows)[kActivationWords], int c) const { return {rows[0][c], 0}; }

  SumWord row(const SumWord &above, const Vec<Activation, kCols> &activations,
              const Vec<Weight, kCols> &weights) const {
    WEFT_INLINE
    SumWord sums;
  columns:
    for (int c = 0; c < kCols; ++c) {
      WEFT_UNROLL
      const Int<8> met = chosen(activations[c], int(weights[c].position));
      sums[c] = Int<32>(above[c] + product(met, weights[c].value));
    }
    return sums;
  }

  bool ascends(const TilePositions &index, int row, int c) const {
    WEFT_INLINE
    return positions_ascend(pattern, index, row, c);
  }

 private:
  /// The multiplexer of a cell: 8 bits of M ways.
  static Int<8> chosen(const Activation &group, int position) {
    WEFT_INLINE
#ifdef WEFT_AP_INT
    Int<8> found = 0;
  ways:
    for (int j = 0; j < kLargestGroup; ++j) {
      WEFT_UNROLL
      if (position == j) found = group[j];
    }
    return found;
#else
    return group[position & (kLargestGroup - 1)];
#endif
  }
  /// Channels first..first+count−1 of the words, side by side.
  static void take_group(const Word (&words)[kActivationWords], int first, int count,
                         Activation &group) {
    WEFT_INLINE
  bytes:
    for (int j = 0; j < kLargestGroup; ++j) {
      WEFT_UNROLL
      const int channel = first + j;
      if (j < count && channel < kActivationWords * kRows)
        group[j] = words[channel / kRows][channel % kRows];
    }
  }
};

}  // namespace weft
