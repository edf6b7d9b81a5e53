/// LayerNorm and RMSNorm of a row: exact integer statistics in one pass, then a root, then one more
/// pass. Golden model: host/weft/units/norm.py.
///
/// `add` takes one element per lane and clock: sum and sum of squares. `finish`, once per row,
/// makes the root's reciprocal. `output` gives z = (n·x − sum) / sqrt(n·squares − sum²), which
/// never rounds the mean, with 10 fraction bits, and y = (z·gamma + beta) / 2^shift, rounded, as
/// int16. RMSNorm is the same with a sum of 0. Padding lanes hold 0 and count in neither.
///
/// Cost per lane, by count: squares 1 DSP, d·r 2 DSPs (29×16), gamma 1 DSP, 170 LUTs. Per row: the
/// root, n·squares 4 DSPs.
#pragma once
#include "units/ibert.hpp"

namespace weft {

constexpr int kMostElements = 4096;  // of a row: n·x then has 28 bits
constexpr int kNormFraction = 10;    // of z, which is at most sqrt(n) = 64

template <int kLanes> using Inputs = Vec<Int<16>, kLanes>;

struct Sums {
  Int<32> sum;      // at most 4096·32768 = 2^27
  Int<64> squares;  // 2^42

  void clear() {
    sum = 0;
    squares = 0;
  }
  template <int kLanes> void add(const Inputs<kLanes> &x) {
    WEFT_INLINE
    static_assert(kLanes <= kMostElements, "the sum of a word would overflow");
    Int<32> total = 0;
    Int<64> power = 0;
  lanes:
    for (int c = 0; c < kLanes; ++c) {
      WEFT_UNROLL
      total = Int<32>(total + Int<32>(x[c]));
      power = Int<64>(power + Int<64>(Int<32>(x[c] * x[c])));
    }
    sum = Int<32>(sum + total);
    squares = Int<64>(squares + power);
  }
};

/// y = (z·gamma + beta) / 2^shift.
template <int kLanes> struct Affine {
  Vec<Int<16>, kLanes> gamma;
  Vec<Int<32>, kLanes> beta;
};

inline Int<16> affine(Int<32> z, Int<16> gamma, Int<32> beta, int shift) {
  WEFT_INLINE
  return Int<16>(rounded_product<16>(Int<18>(z), gamma, beta, shift));
}

/// A word of normalized elements, each with its gamma and beta.
template <int kLanes, typename Unit>
inline Vec<Int<16>, kLanes> affine_word(const Unit &unit, const Inputs<kLanes> &x,
                                        const typename Unit::Row &row, const Affine<kLanes> &by,
                                        int shift) {
  WEFT_INLINE
  Vec<Int<16>, kLanes> y;
lanes:
  for (int c = 0; c < kLanes; ++c) {
    WEFT_UNROLL
    y[c] = affine(unit.normal(x[c], row), by.gamma[c], by.beta[c], shift);
  }
  return y;
}

/// `Rsqrt` takes a mantissa in [1, 4). kCentered: LayerNorm, else RMSNorm.
template <typename Rsqrt, bool kCentered> struct RootNorm {
  struct Row {
    Int<32> offset, factor;  // the sum; 1/root with 15 fraction bits
    int elements, exponent;  // the root's power of two
  };
  Rsqrt rsqrt;

  template <typename Source> void load(Source &from) { rsqrt.load(from); }

  /// `epsilon` is what is added to n²·variance: round(eps·n²/S²).
  Row finish(const Sums &sums, int elements, Int<64> epsilon) const {
    Row row;
    row.elements = elements;
    row.offset = kCentered ? sums.sum : Int<32>(0);
    const Int<64> mean = Int<64>(Int<64>(row.offset) * Int<64>(row.offset));
    const Int<64> power = Int<64>(Int<64>(Int<64>(elements) * sums.squares) - mean);
    const Int<64> variance = Int<64>(power + epsilon);  // 52 bits at most
    const Normal n = normalized_even(UInt<64>(variance));
    row.factor = variance == 0 ? Int<32>(0) : rsqrt(n.mantissa);
    row.exponent = (n.exponent + 14) / 2;
    return row;
  }
  Int<32> normal(Int<16> x, const Row &row) const {
    WEFT_INLINE
    const Int<32> d = Int<32>(Int<32>(x * Int<14>(row.elements)) - row.offset);
    return rounded_product<18>(d, row.factor, 0, 15 - kNormFraction + row.exponent);
  }
  template <int kLanes>
  Vec<Int<16>, kLanes> output(const Inputs<kLanes> &x, const Row &row, const Affine<kLanes> &by,
                              int shift) const {
    WEFT_INLINE
    return affine_word(*this, x, row, by, shift);
  }
};

/// I-BERT's LayerNorm: mean rounded to an integer (ties to even), std = isqrt(sum of squares), not
/// divided by n, f = floor(2^31 / std), y = (x − mean)·f >> 1; z = y·sqrt(n) / 2^30. The squares
/// about the mean follow from the two sums, exactly, so this too is one pass.
struct INorm {
  struct Row {
    Int<32> mean, root;  // root: sqrt(n) with 8 fraction bits
    UInt<32> factor;     // up to 2^31
  };
  template <typename Source> void load(Source &) {}

  Row finish(const Sums &sums, int elements, Int<64>) const {
    const Int<64> n = Int<64>(elements), twice = Int<64>(sums.sum) * 2 + n;
    Int<64> mean = Int<64>(twice / (n * 2));
    if (mean * n * 2 > twice) mean = Int<64>(mean - 1);                      // floor
    if (mean * n * 2 == twice && (mean & 1) == 1) mean = Int<64>(mean - 1);  // tie
    const Int<64> cross = Int<64>(Int<64>(mean * Int<64>(sums.sum)) * 2);
    const Int<64> power = Int<64>(Int<64>(sums.squares - cross) + Int<64>(mean * mean * n));
    const UInt<32> deviation = isqrt(UInt<64>(power));
    // A row of equal elements has no deviation: x − mean is 0, and so is y.
    const Int<64> divisor = deviation == 0 ? Int<64>(1) : Int<64>(deviation);
    const Int<32> root = Int<32>(isqrt(UInt<64>(n) << 16));
    return {Int<32>(mean), root, UInt<32>((Int<64>(1) << 31) / divisor)};
  }
  /// (x − mean)·f >> 1 as (x − mean)·(f >> 1), and half of x − mean more where f is odd: factors of
  /// 17 and 31 bits. No element is further from the mean than the deviation, so 32 bits hold it.
  Int<32> raw(Int<16> x, const Row &row) const {
    WEFT_INLINE
    const Int<17> d = Int<17>(Int<32>(x) - row.mean);
    const Int<32> half = Int<32>(row.factor >> 1);
    const Int<32> rest = (row.factor & 1) == 1 ? Int<32>(d >> 1) : Int<32>(0);
    return Int<32>(Int<64>(Int<64>(d) * Int<64>(half)) + Int<64>(rest));
  }
  Int<32> normal(Int<16> x, const Row &row) const {
    WEFT_INLINE
    return rounded_product<18>(Int<32>(raw(x, row) >> 12), row.root, 0, 16);
  }
  template <int kLanes>
  Vec<Int<16>, kLanes> output(const Inputs<kLanes> &x, const Row &row, const Affine<kLanes> &by,
                              int shift) const {
    WEFT_INLINE
    return affine_word(*this, x, row, by, shift);
  }
};

/// A whole row; lanes beyond its `elements` hold 0.
template <int kLanes, typename Unit>
inline void norm_row(const Unit &unit, const Inputs<kLanes> *x, Vec<Int<16>, kLanes> *y,
                     const Affine<kLanes> *by, int elements, Int<64> epsilon, int shift) {
  WEFT_INLINE
  const int words = (elements + kLanes - 1) / kLanes;
  Sums sums;
  sums.clear();
statistics:
  for (int i = 0; i < words; ++i) {
    WEFT_PIPELINE
    WEFT_TRIPCOUNT(kMostElements)  // with one lane; the pragma takes no expression
    sums.add(x[i]);
  }
  const typename Unit::Row row = unit.finish(sums, elements, epsilon);
output:
  for (int i = 0; i < words; ++i) {
    WEFT_PIPELINE
    WEFT_TRIPCOUNT(kMostElements)  // with one lane; the pragma takes no expression
    y[i] = unit.output(x[i], row, by[i], shift);
  }
}

}  // namespace weft
