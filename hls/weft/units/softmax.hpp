/// Softmax of a row of scores: exponentials of what lies below the row's maximum, over their sum.
/// Golden model: host/weft/units/softmax.py.
///
/// Scores are int16; the code −32768 marks a masked position: its probability is exactly 0, and a
/// row of nothing else gives zeros. A row is walked word by word, one element per lane and clock:
/// `maximum` (which the epilogue that makes the scores may do as they pass), `sum`, whose
/// exponentials are kept, 16 bits each, where the scores were, and, after `finish`, `output`. The
/// sums are exact integers: neither order nor word size shows in the result.
///
/// Cost per lane: the exponential, 1 DSP for e/sum (none in ShiftSoftmax), 60 LUTs.
#pragma once
#include "units/ibert.hpp"
#include "units/wang.hpp"

namespace weft {

constexpr int kMasked = -32768;
template <int kLanes> using Scores = Vec<Int<16>, kLanes>;
template <int kLanes> using Shares = Vec<UInt<16>, kLanes>;

/// Largest code of a probability: 1.0 where there is a bit for it, else as near as there is.
template <int kOut> constexpr int most_share() {
  return kOut >= 15 ? (1 << kOut) : (1 << kOut) - 1;
}

/// e/sum as e · 1/w · 2^−k, the sum being w·2^k. Exponentials have 15 fraction bits, and the
/// largest of a row is at least 1/2: k is −1 or more.
template <typename Reciprocal> struct ByReciprocal {
  struct State {
    Int<32> factor;
    int exponent;
  };
  Reciprocal reciprocal;

  template <typename Source> void load(Source &from) { reciprocal.load(from); }
  State of(Int<32> sum) const {
    const Normal n = normalized(UInt<64>(sum));
    if (sum == 0) return {0, 0};
    return {reciprocal(n.mantissa), n.exponent};
  }
  /// `below`: e is this many powers of two less.
  template <int kOut> Int<32> share(Int<32> e, const State &s, int below = 0) const {
    WEFT_INLINE
    return rounded(Int<32>(Int<17>(e) * Int<17>(s.factor)), 30 - kOut + s.exponent + below);
  }
};

/// e/sum as I-BERT does it: e · floor(2^32 / sum), low bits cut or (kRound) rounded.
template <bool kRound> struct ByQuotient {
  struct State {
    Int<64> factor;
  };
  template <typename Source> void load(Source &) {}
  State of(Int<32> sum) const {
    return {sum < 1 ? Int<64>(0) : Int<64>((Int<64>(1) << 32) / Int<64>(sum))};
  }
  template <int kOut> Int<32> share(Int<32> e, const State &s) const {
    WEFT_INLINE
    const Int<64> product = Int<64>(e) * s.factor;
    return Int<32>(kRound ? rounded_wide(product, 32 - kOut) : Int<64>(product >> (32 - kOut)));
  }
};

/// The largest score of a row so far; masked positions are the smallest there are.
template <int kLanes> inline void row_maximum(const Scores<kLanes> &x, Int<32> &maximum) {
  WEFT_INLINE
lanes:
  for (int c = 0; c < kLanes; ++c) {
    WEFT_UNROLL
    maximum = Int<32>(x[c]) > maximum ? Int<32>(x[c]) : maximum;
  }
}

/// A row that has not begun.
template <typename Row> inline void open_row(Row &row) {
  row.maximum = kMasked;
  row.sum = 0;
}

/// Exponentials of a word of scores, kept, and added to the row's sum.
template <int kLanes, typename Unit>
inline Shares<kLanes> row_exponentials(const Unit &unit, const Scores<kLanes> &x,
                                       typename Unit::Row &row) {
  WEFT_INLINE
  Shares<kLanes> kept;
  Int<32> sum = row.sum;
lanes:
  for (int c = 0; c < kLanes; ++c) {
    WEFT_UNROLL
    const Int<32> e = unit.exponential(c, Int<32>(x[c]), row);
    kept[c] = UInt<16>(e);
    sum = Int<32>(sum + e);
  }
  row.sum = sum;
  return kept;
}

/// `Exp` gives exponentials with 15 fraction bits (PerLane, where it is a table), `Divide` their
/// share of the sum; kOut is the probabilities' fraction bits.
template <typename Exp, typename Divide, int kOut> struct Softmax {
  struct Row {
    Int<32> maximum, sum;
    typename Divide::State share;
  };
  template <int kLanes> using Kept = Shares<kLanes>;  // exponentials
  Exp exp;
  Divide divide;

  template <typename Source> void load(Source &from) {
    exp.load(from);
    divide.load(from);
  }
  void begin(Row &row) const { open_row(row); }
  template <int kLanes> void maximum(const Scores<kLanes> &x, Row &row) const {
    WEFT_INLINE
    row_maximum(x, row.maximum);
  }
  Int<32> exponential(int lane, Int<32> x, const Row &row) const {
    WEFT_INLINE
    const Int<32> e = lane_of(exp, lane)(Int<32>(x - row.maximum));
    return x == kMasked ? Int<32>(0) : e;
  }
  template <int kLanes> Kept<kLanes> sum(const Scores<kLanes> &x, Row &row) const {
    WEFT_INLINE
    return row_exponentials(*this, x, row);
  }
  void finish(Row &row) const { row.share = divide.of(row.sum); }

  template <int kLanes> Shares<kLanes> output(const Kept<kLanes> &kept, const Row &row) const {
    WEFT_INLINE
    Shares<kLanes> y;
  lanes:
    for (int c = 0; c < kLanes; ++c) {
      WEFT_UNROLL
      const Int<32> e = Int<32>(kept[c]);
      y[c] = UInt<16>(clamped(divide.template share<kOut>(e, row.share), 0, most_share<kOut>()));
    }
    return y;
  }
};

/// Wang 2018: y = exp(x − ln(sum)) by the same block with another offset. In: kIn fraction bits.
template <int kIn, int kOut> struct ShiftSoftmax {
  struct Row {
    Int<32> maximum, sum, log;  // log2(sum) with kIn fraction bits
  };
  template <int kLanes> using Kept = Shares<kLanes>;  // −log2 of the exponentials, 0..23.0
  static constexpr int kNothing = 65535;              // of a masked score
  static_assert(kIn <= 11, "a logarithm would not fit 16 bits");
  Int<18> d1, d2, c;  // 15 fraction bits

  template <typename Source> void load(Source &from) {
    d1 = Int<18>(from.next());
    d2 = Int<18>(from.next());
    c = Int<18>(from.next());
  }
  void begin(Row &row) const { open_row(row); }
  template <int kLanes> void maximum(const Scores<kLanes> &x, Row &row) const {
    WEFT_INLINE
    row_maximum(x, row.maximum);
  }
  static Int<32> log2_below(Int<32> x, const Row &row) {
    WEFT_INLINE
    return by_log2e(clamped(Int<32>(x - row.maximum), -(kLeastExponent << kIn), 0));
  }
  template <int kLanes> Kept<kLanes> sum(const Scores<kLanes> &x, Row &row) const {
    WEFT_INLINE
    Kept<kLanes> kept;
    Int<32> sum = row.sum;
  lanes:
    for (int i = 0; i < kLanes; ++i) {
      WEFT_UNROLL
      const Int<32> score = Int<32>(x[i]), t = log2_below(score, row);
      const Int<32> e = shift_power<kIn>(t, d1);
      sum = Int<32>(sum + (score == kMasked ? Int<32>(0) : e));
      kept[i] = UInt<16>(score == kMasked ? Int<32>(kNothing) : Int<32>(-t));
    }
    row.sum = sum;
    return kept;
  }
  void finish(Row &row) const {
    const Normal n = normalized(UInt<64>(row.sum));  // w with 15 bits, the sum has 15 as well
    const Int<32> log = Int<32>((n.exponent * kOne) + n.mantissa - kOne + Int<32>(c));
    row.log = Int<32>(log >> (15 - kIn));
  }
  template <int kLanes> Shares<kLanes> output(const Kept<kLanes> &kept, const Row &row) const {
    WEFT_INLINE
    Shares<kLanes> y;
  lanes:
    for (int i = 0; i < kLanes; ++i) {
      WEFT_UNROLL
      const Int<32> below = Int<32>(kept[i]);
      const Int<32> t = Int<32>(-below - row.log);
      const Int<32> share = Int<32>(shift_power<kIn>(t, d2) >> (15 - kOut));
      const Int<32> most = clamped(share, 0, most_share<kOut>());
      y[i] = UInt<16>(below == kNothing ? Int<32>(0) : most);
    }
    return y;
  }
};

/// A whole row of `words` words; lanes beyond its end are masked.
template <int kLanes, int kMostWords, typename Unit>
inline void softmax_row(const Unit &unit, const Scores<kLanes> *x, Shares<kLanes> *y, int words) {
  WEFT_INLINE
  typename Unit::Row row;
  typename Unit::template Kept<kLanes> kept[kMostWords];
  unit.begin(row);
maximum:
  for (int i = 0; i < words; ++i) {
    WEFT_PIPELINE
    WEFT_TRIPCOUNT(kMostWords)
    unit.maximum(x[i], row);
  }
sum:
  for (int i = 0; i < words; ++i) {
    WEFT_PIPELINE
    WEFT_TRIPCOUNT(kMostWords)
    kept[i] = unit.sum(x[i], row);
  }
  unit.finish(row);
output:
  for (int i = 0; i < words; ++i) {
    WEFT_PIPELINE
    WEFT_TRIPCOUNT(kMostWords)
    y[i] = unit.output(kept[i], row);
  }
}

}  // namespace weft
