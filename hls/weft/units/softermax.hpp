/// Softermax (Stevens et al., DAC 2021): base 2, and a running maximum rounded up to an integer, so
/// that the sum so far is rescaled by a shift; one pass of statistics instead of two. With the
/// rounding and the 15 fraction bits that rows of more than 64 scores need (the paper's widths lose
/// up to a third of the sum). Golden model: host/weft/units/softermax.py.
///
/// Cost per lane, by count: base change 1 DSP (none where log2(e) is folded into the scores'
/// scale), 2^v 1 DSP and 16 lines in LUTs, e/sum 1 DSP, 260 LUTs.
#pragma once
#include "units/polynomial.hpp"
#include "units/softmax.hpp"
#include "units/table.hpp"

namespace weft {

/// 2^t for t <= 0 with kIn fraction bits: `Line` (Pwl, Segments, ShiftSegments) gives 2^v on [0,
/// 1), 14 fraction bits in, 16 out; then a rounding shift. Out: 15 fraction bits.
template <int kIn, typename Line> struct LinePower {
  Line line;

  template <typename Source> void load(Source &from) { line.load(from); }
  Int<32> operator()(Int<32> t) const {
    WEFT_INLINE
    const Int<32> v = Int<32>(Int<32>(t & ((1 << kIn) - 1)) << (kPowerFraction - kIn));
    return clamped(rounded(line(v), 1 - int(Int<32>(t >> kIn))), 0, kOne);
  }
};

/// x·log2(e), rounded, for scores: |x| < 2^15.
inline Int<32> to_base_two(Int<32> x) {
  WEFT_INLINE
  return rounded(Int<32>(Int<17>(x) * Int<16>(kLog2e)), kPowerFraction);
}

/// exp(x) = 2^(x·log2 e), x <= 0. In: kIn fraction bits. Out: 15.
template <int kIn, typename Line> struct LineExp {
  LinePower<kIn, Line> power;

  template <typename Source> void load(Source &from) { power.load(from); }
  Int<32> operator()(Int<32> x) const {
    WEFT_INLINE
    return power(to_base_two(clamped(x, -(kLeastExponent << kIn), 0)));
  }
};

/// The same interface as units/softmax.hpp; `maximum` has nothing to do. Exponentials are kept as
/// they were made, with the maximum of that time: the difference becomes a shift at the end.
/// kNatural: scores are exponents of e, else of 2. As the sum is rounded when the maximum grows,
/// the word size shows in its last bits.
template <int kIn, int kOut, typename Power, typename Reciprocal, bool kNatural> struct Softermax {
  static constexpr int kNone = -64;  // below the ceiling of every score
  using Divide = ByReciprocal<Reciprocal>;
  struct Row {
    Int<32> maximum, sum;  // maximum: a whole exponent of 2
    typename Divide::State share;
  };
  template <int kLanes> struct Kept {
    Shares<kLanes> exponentials;
    Int<8> maximum;
  };
  Power power;  // LinePower, or PerLane of it
  Divide divide;

  template <typename Source> void load(Source &from) {
    power.load(from);
    divide.load(from);
  }
  void begin(Row &row) const {
    row.maximum = kNone;
    row.sum = 0;
  }
  template <int kLanes> void maximum(const Scores<kLanes> &, Row &) const {}

  static Int<32> exponent(Int<32> x) {
    WEFT_INLINE
    return kNatural ? to_base_two(x) : x;
  }
  Int<32> exponential(int lane, Int<32> x, Int<32> maximum) const {
    WEFT_INLINE
    const Int<32> e = lane_of(power, lane)(Int<32>(exponent(x) - Int<32>(maximum << kIn)));
    return x == kMasked ? Int<32>(0) : e;
  }
  template <int kLanes> Kept<kLanes> sum(const Scores<kLanes> &x, Row &row) const {
    WEFT_INLINE
    Int<32> highest = kMasked;
    row_maximum(x, highest);
    const Int<32> ceiling = Int<32>(Int<32>(exponent(highest) + ((1 << kIn) - 1)) >> kIn);
    const bool grows = highest != kMasked && ceiling > row.maximum;
    const Int<32> now = grows ? ceiling : row.maximum;
    Kept<kLanes> kept;
    Int<32> sum = grows ? rounded(row.sum, int(Int<32>(now - row.maximum))) : row.sum;
  lanes:
    for (int c = 0; c < kLanes; ++c) {
      WEFT_UNROLL
      const Int<32> e = exponential(c, Int<32>(x[c]), now);
      kept.exponentials[c] = UInt<16>(e);
      sum = Int<32>(sum + e);
    }
    kept.maximum = Int<8>(now);
    row.maximum = now;
    row.sum = sum;
    return kept;
  }
  void finish(Row &row) const { row.share = divide.of(row.sum); }

  template <int kLanes> Shares<kLanes> output(const Kept<kLanes> &kept, const Row &row) const {
    WEFT_INLINE
    const int below = int(row.maximum) - int(kept.maximum);
    Shares<kLanes> y;
  lanes:
    for (int c = 0; c < kLanes; ++c) {
      WEFT_UNROLL
      const Int<32> e = Int<32>(kept.exponentials[c]);
      const Int<32> share = divide.template share<kOut>(e, row.share, below);
      y[c] = UInt<16>(clamped(share, 0, most_share<kOut>()));
    }
    return y;
  }
};

}  // namespace weft
