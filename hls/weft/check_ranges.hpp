/// Ranges of words that instructions touch, for their checks.
#pragma once
#include "memories.hpp"

namespace weft {

/// What the host gives with a run.
struct Limits {
  int batch;
  UInt<32> memory_rows, weight_rows;
};

struct Range {
  Int<64> first, last;
  bool meets(const Range &other) const { return first <= other.last && other.first <= last; }
};

inline bool in_words(const Range &r, int words) { return r.first >= 0 && r.last < words; }
inline bool in_buffer(const Range &r) { return in_words(r, kBufferWords); }

/// Words of an on-chip buffer; 0 where the overlay has none.
inline int space_words(int space) {
  if (space == kUnifiedSpace) return kBufferWords;
  if (space == kOperandSpace) return kHasAttention ? kOperandWords : 0;
  return space == kWideSpace && kHasWide ? kWideWords : 0;
}

/// The buffer that a window reads.
inline int source_space(const Vector &) { return kUnifiedSpace; }
inline int source_space(const MatMul &f) {
  const bool wide = kHasMatvec && f.engine == kMatvecEngine && f.activation_bits == 16;
  return wide ? kWideSpace : kUnifiedSpace;
}

/// Whether a transfer goes there: the operand buffer is not written back.
inline bool legal_space(const ReadHost &) { return true; }
inline bool legal_space(const WriteHost &f) { return f.space != kOperandSpace; }

/// Positions from the first one to the last, along one axis.
inline Int<64> reach(Int<64> out, Int<64> stride, Int<64> kernel, Int<64> dilation) {
  return Int<64>((out - 1) * stride) + Int<64>((kernel - 1) * dilation);
}

/// How often each stride is taken, from the first word of an output or a residual to its last.
struct Steps {
  Int<64> samples, blocks, rows, cols;
};
inline Range target_range(const Activate &f, const Steps &s) {
  Range r;
  r.first = Int<64>(f.target);
  r.last = r.first + s.samples * Int<64>(f.target_sample) +
           Int<64>(s.blocks >> int(f.pack)) * Int<64>(f.target_block) +
           s.rows * Int<64>(f.target_row) + s.cols * Int<64>(f.target_col);
  return r;
}
inline Range residual_range(const Activate &f, const Steps &s) {
  Range r;
  r.first = Int<64>(f.residual_base);
  r.last = r.first + s.samples * Int<64>(f.residual_sample) + s.blocks * Int<64>(f.residual_block) +
           s.rows * Int<64>(f.residual_row) + s.cols * Int<64>(f.residual_col);
  return r;
}
/// Whether every word is read where it is written.
inline bool in_place(const Activate &f) {
  return f.residual_base == f.target && f.residual_sample == f.target_sample &&
         f.residual_block == f.target_block && f.residual_row == f.target_row &&
         f.residual_col == f.target_col;
}

}  // namespace weft
