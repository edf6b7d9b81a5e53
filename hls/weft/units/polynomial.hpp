/// `dlc`: range reduction, then a polynomial with fixed coefficients (digital logic circuit, Cheng
/// et al., DAC 2017). Golden model: host/weft/units/polynomial.py.
///
/// Cost per lane, by count: PolynomialExp of order 3: 4 DSPs (x·log2 e, three of Horner), a shifter
/// of 25 places, 120 LUTs; NewtonReciprocal: 5 DSPs; PolynomialRsqrt of order 3: 3 DSPs. Reciprocal
/// and root run once per row in softmax and norm. No divider.
#pragma once
#include "units/fixed.hpp"

namespace weft {

constexpr int kPowerFraction = 14;  // of t = x·log2(e)

/// t = x·log2(e) for x in [−16, 0] with kIn fraction bits; what lies outside is moved inside.
template <int kIn> inline Int<32> log2e_times(Int<32> x) {
  WEFT_INLINE
  static_assert(kIn >= 8 && kIn <= 12, "wider inputs overflow the 32-bit product");
  const Int<18> inside = Int<18>(clamped(x, -(kLeastExponent << kIn), 0));
  return Int<32>(Int<32>(inside * Int<16>(kLog2e)) >> kIn);
}

/// c[0] + v·(c[1] + v·(c[2] + ...)); c with 16 fraction bits, v in [0, 1) with kFraction.
template <int kOrder, int kFraction>
inline Int<32> horner(const Int<18> (&c)[kOrder + 1], Int<17> v) {
  WEFT_INLINE
  Int<32> y = Int<32>(c[kOrder]);
terms:
  for (int i = kOrder - 1; i >= 0; --i) {
    WEFT_UNROLL
    y = Int<32>(Int<32>(c[i]) + Int<32>(Int<32>(Int<18>(y) * v) >> kFraction));
  }
  return y;
}

/// exp(x), x <= 0: exp(x) = 2^u · 2^v, u = floor(t), v = t − u by a polynomial.
/// In: kIn fraction bits. Out: 15 fraction bits, 0..32768.
template <int kIn, int kOrder> struct PolynomialExp {
  Int<18> c[kOrder + 1];

  template <typename Source> void load(Source &from) {
  terms:
    for (int i = 0; i <= kOrder; ++i) c[i] = Int<18>(from.next());
  }
  Int<32> operator()(Int<32> x) const {
    WEFT_INLINE
    const Int<32> t = log2e_times<kIn>(x);
    const int u = int(t >> kPowerFraction);
    const Int<17> v = Int<17>(t & ((1 << kPowerFraction) - 1));
    const Int<32> y = rounded(horner<kOrder, kPowerFraction>(c, v), 1 - u);
    return clamped(y, 0, kOne);
  }
};

/// 1/w, w in [1, 2): seed 24/17 − 8/17·w, then two steps of Newton: y = y·(2 − w·y).
/// In and out: 15 fraction bits.
struct NewtonReciprocal {
  template <typename Source> void load(Source &) {}
  Int<32> operator()(Int<32> w) const {
    WEFT_INLINE
    const Int<18> x = Int<18>(w);
    Int<32> y = Int<32>(46261 - Int<32>(Int<32>(x * Int<15>(15420)) >> 15));
  steps:
    for (int step = 0; step < 2; ++step) {
      WEFT_UNROLL
      const Int<32> product = Int<32>(Int<32>(Int<32>(x * Int<17>(y)) + (1 << 14)) >> 15);
      const Int<17> rest = Int<17>(2 * kOne - product);
      y = Int<32>(Int<32>(Int<32>(Int<17>(y) * rest) + (1 << 14)) >> 15);
    }
    return clamped(y, kOne / 2, kOne);
  }
};

/// 1/sqrt(w), w in [1, 4): below 2 one polynomial, above another (the same, times sqrt(1/2)).
/// In: 14 fraction bits. Out: 15.
template <int kOrder> struct PolynomialRsqrt {
  Int<18> low[kOrder + 1], high[kOrder + 1];

  template <typename Source> void load(Source &from) {
  terms:
    for (int i = 0; i <= kOrder; ++i) {
      low[i] = Int<18>(from.next());
      high[i] = Int<18>(from.next());
    }
  }
  Int<32> operator()(Int<32> w) const {
    WEFT_INLINE
    const bool upper = w >= kOne;
    const Int<17> v = Int<17>((upper ? w : Int<32>(w << 1)) - kOne);
    Int<18> c[kOrder + 1];
  choose:
    for (int i = 0; i <= kOrder; ++i) {
      WEFT_UNROLL
      c[i] = upper ? high[i] : low[i];
    }
    return clamped(rounded(horner<kOrder, 15>(c, v), 1), kOne / 2, kOne);
  }
};

// Coefficients are registers, read by every lane.
#define WEFT_PARTITION_POLYNOMIAL(unit) \
  WEFT_HLS(ARRAY_PARTITION variable = unit.c type = complete dim = 1)
#define WEFT_PARTITION_POLYNOMIAL_RSQRT(unit)                           \
  WEFT_HLS(ARRAY_PARTITION variable = unit.low type = complete dim = 1) \
  WEFT_HLS(ARRAY_PARTITION variable = unit.high type = complete dim = 1)

}  // namespace weft
