/// Exponentials and logarithms by shifts (Wang et al., APCCAS 2018): 2^(u+v) ~ (v + d) << u, and
/// log2(w·2^k) ~ k + w − 1 + c with w in [1, 2) from a leading-one detector. No divider and no
/// multiplier. Golden model: host/weft/units/wang.py.
///
/// Cost per lane, by count: ShiftExp two adders and a shifter of 24 places, 110 LUTs, 0 DSPs; the
/// softmax of softmax.hpp two of them.
#pragma once
#include "units/fixed.hpp"

namespace weft {

/// x·log2(e) with 1.0111b = 1.4375 for log2(e).
inline Int<32> by_log2e(Int<32> x) {
  WEFT_INLINE
  return Int<32>(Int<32>(x + (x >> 1)) - Int<32>(x >> 4));
}

/// 2^t for t <= 0 with kFraction bits; d and the result with 15. Bits that are shifted out go.
template <int kFraction> inline Int<32> shift_power(Int<32> t, Int<18> d) {
  WEFT_INLINE
  const Int<32> u = Int<32>(t >> kFraction);
  const Int<32> v = Int<32>(t & ((1 << kFraction) - 1));
  const int right = u < -31 ? 31 : -int(u);
  return clamped(Int<32>(Int<32>(Int<32>(v << (15 - kFraction)) + Int<32>(d)) >> right), 0, kOne);
}

/// exp(x), x <= 0. In: kIn fraction bits. Out: 15, 0..32768.
template <int kIn> struct ShiftExp {
  Int<18> d;
  template <typename Source> void load(Source &from) { d = Int<18>(from.next()); }
  Int<32> operator()(Int<32> x) const {
    WEFT_INLINE
    return shift_power<kIn>(by_log2e(clamped(x, -(kLeastExponent << kIn), 0)), d);
  }
};

/// 1/w = 2^−log2(w), w in [1, 2). In and out: 15 fraction bits.
struct ShiftReciprocal {
  Int<18> d, c;
  template <typename Source> void load(Source &from) {
    d = Int<18>(from.next());
    c = Int<18>(from.next());
  }
  Int<32> operator()(Int<32> w) const {
    WEFT_INLINE
    return shift_power<15>(Int<32>(kOne - w - Int<32>(c)), d);
  }
};

/// 1/sqrt(w) = 2^(−log2(w)/2), w in [1, 4). In: 14 fraction bits. Out: 15.
struct ShiftRsqrt {
  Int<18> d, c;
  template <typename Source> void load(Source &from) {
    d = Int<18>(from.next());
    c = Int<18>(from.next());
  }
  Int<32> operator()(Int<32> w) const {
    WEFT_INLINE
    // log2: below 2 w − 1, above 1 + w/2 − 1.
    const Int<32> log = w >= kOne ? w : Int<32>(Int<32>(w << 1) - kOne);
    return shift_power<15>(Int<32>(Int<32>(-log - Int<32>(c)) >> 1), d);
  }
};

}  // namespace weft
