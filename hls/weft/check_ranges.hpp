/// Ranges of words that instructions touch, for their checks.
#pragma once
#include "memories.hpp"

namespace weft {

/// What the host gives with a run.
struct Limits {
  int batch;
  int tokens, position, origin, source;  // the registers that Adjust refers to
  UInt<32> memory_rows, weight_rows;
};

/// Whether a run can begin.
inline bool legal_run(const Limits &l) {
  return l.batch >= 1 && l.batch <= kAccumulatorRows && l.tokens >= 0 &&
         l.tokens <= kAccumulatorRows && l.position >= 0 && l.origin >= 0 && l.source >= 0;
}

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
  if (space == kRangesSpace) return kHasTokenRanges ? kRangeWords : 0;
  return space == kWideSpace && kHasWide ? kWideWords : 0;
}

/// Words of a buffer that results may go to.
inline int output_words(int space) { return space == kRangesSpace ? 0 : space_words(space); }

/// The buffer that a window reads.
inline int source_space(const Vector &) { return kUnifiedSpace; }
inline int source_space(const MatMul &f) {
  const bool wide = kHasMatvec && f.engine == kMatvecEngine && f.activation_bits == 16;
  return wide ? kWideSpace : kUnifiedSpace;
}

/// Whether a transfer goes there: the operand buffer is not written back.
inline bool legal_space(const ReadHost &) { return true; }
inline bool legal_space(const WriteHost &f) { return f.space != kOperandSpace; }

/// Whether no two words of a walk along some axes are the same one: each stride that is taken
/// reaches further than all shorter ones together.
template <int kAxes>
inline bool distinct(const Int<64> (&strides)[kAxes], const Int<64> (&steps)[kAxes]) {
  bool apart = true;
axes:
  for (int a = 0; a < kAxes; ++a) {
    WEFT_UNROLL
    Int<64> shorter = 0;
  others:
    for (int b = 0; b < kAxes; ++b) {
      WEFT_UNROLL
      if (b != a && strides[b] <= strides[a]) shorter += steps[b] * strides[b];
    }
    if (steps[a] != 0 && strides[a] <= shorter) apart = false;
  }
  return apart;
}

/// Words that an instruction of rows and blocks reads in the wide buffer, and those that it writes.
struct RowRanges {
  Range source, target;
  bool once;  // no two words of the source are the same one

  template <typename Instruction> explicit RowRanges(const Instruction &f) {
    const Int<64> rows = Int<64>(f.rows) - 1, blocks = Int<64>(f.blocks) - 1;
    const Int<64> down = Int<64>(f.source_col), right = Int<64>(f.source_block);
    source.first = Int<64>(f.source);
    source.last = source.first + rows * down + blocks * right;
    target.first = Int<64>(f.target);
    target.last = target.first + rows * Int<64>(f.target_col) + blocks * Int<64>(f.target_block);
    const Int<64> strides[] = {down, right};
    const Int<64> steps[] = {rows, blocks};
    once = distinct(strides, steps);
  }
};

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
/// Whether an Activate may take words of the wide buffer with its sums: to int16, or as a factor
/// of codes.
inline bool legal_residual(const Activate &f) {
  if (f.residual > kFactor || space_words(kWideSpace) == 0) return false;
  const bool codes = f.space == kUnifiedSpace && f.pack == 0 && f.lookup == 0;
  return f.space == kWideSpace || (codes && f.residual == kFactor);
}
/// Whether every word is read where it is written.
inline bool in_place(const Activate &f) {
  return f.residual_base == f.target && f.residual_sample == f.target_sample &&
         f.residual_block == f.target_block && f.residual_row == f.target_row &&
         f.residual_col == f.target_col;
}
/// Whether no word is written twice: in place it would be read again behind its first result.
inline bool written_once(const Activate &f, const Steps &s) {
  const Int<64> strides[] = {Int<64>(f.target_sample), Int<64>(f.target_block),
                             Int<64>(f.target_row), Int<64>(f.target_col)};
  const Int<64> steps[] = {s.samples, s.blocks, s.rows, s.cols};
  return distinct(strides, steps);
}

}  // namespace weft
