/// Norm: LayerNorm or RMSNorm of rows of the wide buffer. One pass takes the statistics of all
/// rows and makes each row's offset and factor behind its last word; a second one writes codes to
/// the unified buffer and, where the normalized row is a residual itself, int16 in place of the
/// input. A word per clock in both, so that 2·rows·blocks clocks are all. With `ranges` a pass
/// between them finds each row's magnitude, which its codes then are parts of. Golden model:
/// host/weft/units/normalize.py.
#pragma once
#include "units/activate.hpp"
#include "units/ranges.hpp"

namespace weft {

/// Rows and blocks of a Norm, blocks innermost, with the words that they lie in.
struct NormWalk {
  int blocks, row, block;
  int source_col, source_block, target_col, target_block;
  int source_row, source, target_row, target;

  void begin(const Norm &f) {
    blocks = int(f.blocks);
    source_col = int(f.source_col), source_block = int(f.source_block);
    target_col = int(f.target_col), target_block = int(f.target_block);
    row = block = 0;
    source_row = source = int(f.source);
    target_row = target = int(f.target);
  }
  bool last_block() const { return block == blocks - 1; }
  void next() {
    if (!last_block()) {
      ++block;
      source += source_block, target += target_block;
      return;
    }
    block = 0;
    ++row;
    source_row += source_col, target_row += target_col;
    source = source_row, target = target_row;
  }
};

/// A word whose lanes beyond the row's elements are 0: padding counts in nothing.
inline WideWord within(const WideWord &x, int left) {
  WEFT_INLINE
  WideWord word;
lanes:
  for (int c = 0; c < kCols; ++c) {
    WEFT_UNROLL
    word[c] = c < left ? x[c] : Int<16>(0);
  }
  return word;
}

inline Int<64> epsilon_of(const Norm &f) {
  return Int<64>((Int<64>(f.epsilon_high) << 32) + Int<64>(f.epsilon_low));
}

/// Statistics of every row, and what they make of it.
inline void norm_statistics(const Norm &f, int words, Memories &m) {
  WEFT_INLINE
  const int method = int(f.method), elements = int(f.elements);
  const Int<64> epsilon = epsilon_of(f);
  NormWalk at;
  at.begin(f);
  Sums sums;
  sums.clear();
statistics:
  for (int i = 0; i < words; ++i) {
    WEFT_PIPELINE
    WEFT_TRIPCOUNT(kWideWords)
    if (at.block == 0) sums.clear();
    sums.add(within(value_of(m.wide[at.source]), elements - at.block * kCols));
    if (at.last_block())
      m.norm_rows[at.row] = m.norms.row(method, sums, f.rms != 0, elements, epsilon);
    at.next();
  }
}

/// y of a word's lanes as int16: (z·gamma + beta) / 2^shift, or what a table makes of them.
template <typename Normal>
inline WideWord affine_lanes(const Normal &normal, const WideWord &x, const ParameterWord &p,
                             int left) {
  WEFT_INLINE
  WideWord y;
lanes:
  for (int c = 0; c < kCols; ++c) {
    WEFT_UNROLL
    const Int<32> z = c < left ? normal(x[c]) : Int<32>(0);
    const int shift = p.shift[c] < 1 ? 1 : int(p.shift[c]);
    y[c] = affine(z, Int<16>(p.multiplier[c]), p.bias[c], shift);
  }
  return y;
}

struct RootLane {
  NormRow row;
  int elements;
  Int<32> operator()(Int<16> x) const { return root_normal(x, row, elements); }
};
struct IntegerLane {
  NormRow row;
  Int<32> operator()(Int<16> x) const { return integer_normal(x, row); }
};

inline WideWord table_lanes(const NormRow &row, const WideWord &x, const ParameterWord &p,
                            int left) {
  WEFT_INLINE
  WideWord y;
lanes:
  for (int c = 0; c < kCols; ++c) {
    WEFT_UNROLL
    const Int<64> high = Int<64>(UInt<64>(Int<64>(p.negative_multiplier[c])) << 32);
    const Int<64> bias = Int<64>(high + Int<64>(UInt<32>(p.bias[c])));
    const Int<32> from = c < left ? Int<32>(x[c]) : row.offset;
    y[c] = table_normal(Int<16>(from), row, p.multiplier[c], bias);
  }
  return y;
}

/// A normalized word in the scale of its codes; a table's is in it already.
inline SumWord norm_scaled(const WideWord &y, const ParameterWord &p, bool scales) {
  WEFT_INLINE
  SumWord whole;
lanes:
  for (int c = 0; c < kCols; ++c) {
    WEFT_UNROLL
    const Int<32> x = Int<32>(y[c]);
    const Int<32> scaled = single_round(x, p.negative_multiplier[c], p.negative_shift[c]);
    whole[c] = scales ? scaled : x;
  }
  return whole;
}

inline Word norm_codes(const SumWord &scaled, const Norm &f) {
  WEFT_INLINE
  const Int<32> zero = Int<32>(f.zero_point);
  const Int<32> least = Int<32>(Int<32>(f.low) - zero), most = Int<32>(Int<32>(f.high) - zero);
  SumWord whole;
lanes:
  for (int c = 0; c < kCols; ++c) {
    WEFT_UNROLL
    const Int<32> above = scaled[c] < least ? least : scaled[c];
    whole[c] = Int<32>((above > most ? most : above) + zero);
  }
  return low_bytes(whole);
}

/// What a word becomes: y, as int16, and that in the scale of its codes.
struct Normalized {
  WideWord y;
  SumWord scaled;
};

/// One instance serves both passes that need it: the multipliers of a lane are in it.
WEFT_SHARED Normalized normal_word(const Norm &f, const WideWord &x, const ParameterWord &p,
                                   const NormRow &row, int left) {
  WEFT_FUNCTION
  const int kind = NormMethods::kind(int(f.method), f.rms != 0), elements = int(f.elements);
  const bool table = kHasTableNorm && kind == kTableKind;
  Normalized n;
  if (table) {
    n.y = table_lanes(row, x, p, left);
  } else if (kHasIntegerNorm && kind == kIntegerKind) {
    n.y = affine_lanes(IntegerLane{row}, x, p, left);
  } else {
    n.y = affine_lanes(RootLane{row, elements}, x, p, left);
  }
  n.scaled = norm_scaled(n.y, p, !table);
  return n;
}

/// Elements of a row from the present word on.
inline int left_of(const Norm &f, const NormWalk &at) { return int(f.elements) - at.block * kCols; }

/// The word that a walk has come to.
inline Normalized normal_word_at(const Norm &f, const NormWalk &at, const Memories &m) {
  WEFT_INLINE
  return normal_word(f, value_of(m.wide[at.source]), m.parameters.read(int(f.parameter) + at.block),
                     m.norm_rows[at.row], left_of(f, at));
}

/// The magnitude of every row.
inline void norm_ranges(const Norm &f, int words, Memories &m) {
  WEFT_INLINE
  NormWalk at;
  at.begin(f);
  Int<16> largest = 0;
ranges:
  for (int i = 0; i < words; ++i) {
    WEFT_PIPELINE
    WEFT_TRIPCOUNT(kWideWords)
    const SumWord x = range_values(normal_word_at(f, at, m).scaled);
    largest = magnitude(at.block == 0 ? Int<16>(0) : largest, x, left_of(f, at));
    if (at.last_block()) m.magnitudes[at.row] = largest;
    at.next();
  }
}

inline void norm_output(const Norm &f, int words, Memories &m) {
  WEFT_INLINE
  const bool ranged = kHasRanges && f.ranges != 0;
  NormWalk at;
  at.begin(f);
output:
  for (int i = 0; i < words; ++i) {
    WEFT_PIPELINE
    WEFT_TRIPCOUNT(kWideWords)
    WEFT_HLS(DEPENDENCE variable = m.wide type = inter dependent =
                 false)  // the check keeps words apart
    const Normalized n = normal_word_at(f, at, m);
    SumWord codes = n.scaled;
    if (ranged) codes = range_codes(range_values(codes), range_of(m.magnitudes[at.row]));
    m.buffer.write(at.target, norm_codes(codes, f));
    if (f.keep != 0) put(m.wide[at.source], n.y);
    at.next();
  }
}

/// Norm: wide buffer → unified buffer.
inline void normalize(const Norm &f, Memories &m, Counters &counters) {
  WEFT_FUNCTION
  WEFT_HLS(ALLOCATION function instances = normal_word limit = 1)
  const bool ranged = kHasRanges && f.ranges != 0;
  const int words = int(f.rows) * int(f.blocks);
  norm_statistics(f, words, m);
  if (ranged) norm_ranges(f, words, m);
  norm_output(f, words, m);
  counters.vector += Int<64>(words) * (ranged ? 3 : 2);
}

}  // namespace weft
