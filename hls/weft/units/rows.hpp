/// Rows of scores: masks and maxima as the epilogue makes them, exponentials and their sums as the
/// array takes them, and the division that is left for the end: out = Σ e·v / Σ e, so that no
/// probability is ever rounded to a fixed step (Dao et al., FlashAttention, NeurIPS 2022, divide
/// once as well; here the row's maximum is known before its first exponential). Golden model:
/// host/weft/units/rows.py.
#pragma once
#include "memories.hpp"

namespace weft {

constexpr int kMaskedScore = -32768;
constexpr int kMostKeys = 1 << 15;     // of a row: sums of exponentials have 31 bits
constexpr int kRowFraction = 16;       // fraction bits of sums that were divided
constexpr int kExponentFraction = 15;  // of exponentials

/// Scores of tile `tile` of row `row`: those outside the mask are marked, the row's maximum is
/// kept, or goes on.
inline WideWord keep_scores(const WideWord &scores, const Activate &f, int row, int tile,
                            RowTable &rows) {
  WEFT_INLINE
  const int first = tile * kCols, from = row + int(f.left), to = row + int(f.right);
  const bool fresh = tile == 0 && f.running == 0;
  Int<16> maximum = fresh ? Int<16>(kMaskedScore) : rows.maximum[RowTable::kByEpilogue][row];
  WideWord kept;
lanes:
  for (int c = 0; c < kCols; ++c) {
    WEFT_UNROLL
    const int key = first + c;
    const bool seen = key < int(f.keys) && key >= from && key <= to;
    kept[c] = seen ? scores[c] : Int<16>(kMaskedScore);
    maximum = kept[c] > maximum ? kept[c] : maximum;
  }
  rows.put_maximum(row, maximum);
  return kept;
}

/// e^(x − maximum) of a word, 15 fraction bits; 0 where masked. One instance for all that take
/// scores, the array and engine matvec, which never run at once.
WEFT_SHARED SumWord exponentials(const WideWord &x, Int<16> maximum, int method,
                                 const SoftmaxMethods &by) {
  WEFT_FUNCTION
  SumWord e;
lanes:
  for (int c = 0; c < kCols; ++c) {
    WEFT_UNROLL
    const Int<32> below = Int<32>(Int<32>(x[c]) - Int<32>(maximum));
    const Int<32> power = by.exponential(method, c, below);
    e[c] = x[c] == kMaskedScore ? Int<32>(0) : power;
  }
  return e;
}

/// What the sums of a row are multiplied by: factor / 2^shift.
struct RowFactor {
  Int<32> factor;
  int shift;  // −1 or more
};

/// What the lanes of a word are multiplied by: each factor / 2^shift.
struct LaneFactors {
  SumWord factor;
  int shift;
};

inline LaneFactors same_factors(const RowFactor &by) {
  WEFT_INLINE
  LaneFactors all;
lanes:
  for (int c = 0; c < kCols; ++c) {
    WEFT_UNROLL
    all.factor[c] = by.factor;
  }
  all.shift = by.shift;
  return all;
}

/// What makes activations of exponentials: 1.0 becomes `most`,
inline RowFactor code_factor(int most) { return {Int<32>(most), kExponentFraction}; }

/// or they are multiplied by the magnitudes of their tokens' values.
inline LaneFactors value_factors(const WideWord &sizes, int shift) {
  WEFT_INLINE
  LaneFactors all;
lanes:
  for (int c = 0; c < kCols; ++c) {
    WEFT_UNROLL
    all.factor[c] = sizes[c] < 0 ? Int<32>(0) : Int<32>(sizes[c]);
  }
  all.shift = shift;
  return all;
}

/// Exponentials as activations, one product of 17 by 16 bits per lane.
inline Word exponential_codes(const SumWord &e, const LaneFactors &by, int most) {
  WEFT_INLINE
  const Int<32> half = Int<32>(UInt<32>(UInt<32>(1) << by.shift) >> 1);
  Word codes;
lanes:
  for (int c = 0; c < kCols; ++c) {
    WEFT_UNROLL
    const Int<32> product = Int<32>(Int<17>(e[c]) * Int<16>(by.factor[c]));
    const Int<32> scaled = Int<32>(product + half) >> by.shift;
    codes[c] = Int<8>(scaled > most ? Int<32>(most) : scaled);
  }
  return codes;
}

/// Exponentials as shares of their row's sum.
inline Word share_codes(const SumWord &e, const Share &share, int most) {
  WEFT_INLINE
  Word codes;
lanes:
  for (int c = 0; c < kCols; ++c) {
    WEFT_UNROLL
    const Int<64> y = share.of(e[c]);
    codes[c] = Int<8>(y < 0 ? Int<64>(0) : y > most ? Int<64>(most) : y);
  }
  return codes;
}

/// A row's sum with one more word of a fold of the first tile.
template <typename Lanes> inline Int<32> row_sum(Int<32> before, const Lanes &more) {
  WEFT_INLINE
  Int<32> sum = before;
lanes:
  for (int c = 0; c < kCols; ++c) {
    WEFT_UNROLL
    sum = Int<32>(sum + Int<32>(more[c]));
  }
  return sum;
}

/// 1 / total with kRowFraction fraction bits, the total being w·2^k: by 1/w. A row without a key
/// gives 0.
inline RowFactor sum_factor(Int<32> total, const SoftmaxMethods &by) {
  WEFT_INLINE
  const Normal n = normalized(UInt<64>(UInt<32>(total)));
  const Int<32> factor = total == 0 ? Int<32>(0) : by.reciprocal(n.mantissa);
  return {factor, total == 0 ? -1 : 30 - kRowFraction + n.exponent};
}

/// One product per lane.
inline SumWord factored_sums(const SumWord &sums, const LaneFactors &by) {
  WEFT_INLINE
  SumWord y;
lanes:
  for (int c = 0; c < kCols; ++c) {
    WEFT_UNROLL
    const Int<64> product = Int<64>(sums[c]) * Int<64>(by.factor[c]);
    y[c] = saturated<32>(rounded_wide(Int<64>(product * 4), by.shift + 2));
  }
  return y;
}

}  // namespace weft
