/// The checks of Norm.
#pragma once
#include "check_ranges.hpp"
#include "status.hpp"

namespace weft {

constexpr int kEpsilonHigh = 1 << 30;  // so that n²·variance and what is added stay in 64 bits

inline Status check_norm(const Norm &f, int batch) {
  if (!kHasNorm) return kBadOpcode;
  if (f.ranges != 0 && !kHasRanges) return kBadField;
  if (batch != 1 || f.rows == 0 || f.blocks == 0 || int(f.method) >= kNormMethods) return kBadField;
  const Int<64> padded = Int<64>(f.blocks) * kCols, n = Int<64>(f.elements);
  if (n == 0 || n > kMostElements || padded < n || padded - kCols >= n) return kBadField;
  if (Int<64>(f.epsilon_high) >= kEpsilonHigh) return kBadField;
  const RowRanges ranges(f);
  if (!in_words(ranges.source, kWideWords) || !in_buffer(ranges.target)) return kBadBuffer;
  if (f.rows > kAccumulatorRows) return kBadRows;
  if (int(f.parameter) + int(f.blocks) > kParameterBlocks) return kBadTable;
  return f.keep != 0 && !ranges.once ? kBadOverlap : kDone;
}

/// Rows whose magnitudes are known: of the last Norm with ranges.
struct Magnitudes {
  int rows;

  void begin() { rows = 0; }
  Status checked(const Norm &f, int batch) {
    const Status status = check_norm(f, batch);
    if (status == kDone && f.ranges != 0) rows = int(f.rows);
    return status;
  }
  /// Whether sums are those of the same rows, which lie along one axis.
  bool of(int batch, int out_h, int out_w) const {
    return batch == 1 && (out_h == 1 || out_w == 1) && Int<64>(out_h) * Int<64>(out_w) == rows;
  }
};

}  // namespace weft
