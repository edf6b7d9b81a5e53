/// The cell of N:M sparse weights: of each M activations a cell multiplies the one that the
/// position beside its weight names (sparse tensor cores: Mishra et al., 2021; here any N < M up to
/// the overlay's).
///
/// Row r of the array holds slot r mod N of group r / N, and the M activations of that group move
/// along it. A clock reads `words` channel blocks, the largest power of two that N · words ≤ M
/// allows, so a fold takes as many blocks, and N : M of M / N a power of two fills all rows.
#pragma once
#include "units/multiplier.hpp"

namespace weft {

constexpr int kLargestGroup = kNmGroup;                // M at most, a power of two
constexpr int kPositionRows = kHasNm ? kRows / 2 : 1;  // of a tile: 4 bits per weight at most
constexpr int kGroupLogs = kNmGroup >= 16 ? 4 : kNmGroup >= 8 ? 3 : kNmGroup >= 4 ? 2 : 1;
static_assert(!kHasNm || (kNmGroup >= 2 && kNmGroup <= 16 && (kNmGroup & (kNmGroup - 1)) == 0),
              "groups are of 2, 4, 8 or 16 channels");
static_assert(!kHasNm || kRows >= 8, "positions are packed for eight rows");

using TilePositions = Int<8>[kPositionRows][kCols];  // rows of packed positions of a tile

/// N, M and what follows from them, as MatMul.codes has them: N in the low 4 bits, log2 M above.
struct Pattern {
  int kept, log_group, words;

  void begin(const MatMul &f) {
    kept = int(f.codes) & 15;
    log_group = (int(f.codes) >> 4) & 7;
    words = int(f.words);
  }
  int group() const { return 1 << log_group; }
  /// Rows that hold weights.
  int rows() const { return (kept * words * kRows) >> log_group; }
  /// Stream rows of the positions of a tile.
  int index_rows() const { return (kRows / 8) * log_group; }
  bool legal() const {
    if (log_group < 1 || log_group > kGroupLogs || kept < 1 || kept >= group()) return false;
    if (words != 1 && words != 2 && words != 4) return false;
    const bool most = words == 4 || 2 * words * kept > group();
    return words * kept <= group() && most && group() <= words * kRows;
  }
};

/// Position of the weight in row `row`, column `c`: planes of 2 and 1 bits, or of 4.
inline UInt<4> position_at(const TilePositions &rows, int bits, int row, int c) {
  WEFT_INLINE
  const int first = (row >> 3) * bits, r = row & 7;
  if (bits == 4) return UInt<4>((unsigned(rows[first + (r >> 1)][c]) & 0xff) >> (4 * (r & 1)) & 15);
  unsigned low = 0;
  if (bits >= 2) low = (unsigned(rows[first + (r >> 2)][c]) & 0xff) >> (2 * (r & 3)) & 3;
  if (bits == 2) return UInt<4>(low);
  const unsigned high = (unsigned(rows[first + bits - 1][c]) & 0xff) >> r & 1;
  return UInt<4>(low | (high << (bits - 1)));
}

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

  /// Whether the positions of a group ascend from the row above to this one.
  bool ascends(const TilePositions &index, int row, int c) const {
    WEFT_INLINE
    const bool start = row == 0 || row / pattern.kept != (row - 1) / pattern.kept;
    if (row >= pattern.rows() || start) return true;
    const int bits = pattern.log_group;
    return position_at(index, bits, row - 1, c) < position_at(index, bits, row, c);
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
