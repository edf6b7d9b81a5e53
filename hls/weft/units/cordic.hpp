/// CORDIC (Walther, 1971): rotations by shifts and additions. Golden model: cordic.py.
///
/// Cost per lane, by count: CordicExp of 16 steps is 48 adders of 22 bits in a pipeline, about
/// 1,100 LUTs, and one constant product for the range reduction; CordicReciprocal 34 adders of 18
/// bits, 620 LUTs. No divider.
#pragma once
#include "units/polynomial.hpp"

namespace weft {

constexpr int kCordicFraction = 20;

/// x + by, or x − by: an adder whose second input is inverted or not. Native lanes become vectors
/// only where no branch can come of it.
inline Int<32> turned(Int<32> x, Int<32> by, bool up) {
  WEFT_INLINE
#ifdef WEFT_AP_INT
  return up ? Int<32>(x + by) : Int<32>(x - by);
#else
  const Int<32> down = up ? 0 : -1;
  return Int<32>(x + ((by ^ down) - down));
#endif
}

/// exp(x), x <= 0: x = k·ln2 + r, then a hyperbolic rotation by r from (1/K, 0): X + Y = exp(r).
/// Steps 1, 2, 3, 4, 4, 5, ..., 13, 13, 14: without the repeats the rotation does not converge.
/// In: kIn fraction bits. Out: 15 fraction bits, 0..32768.
template <int kIn, int kSteps> struct CordicExp {
  static_assert(kSteps >= 5 && kSteps <= 20, "beyond 20 steps the fraction bits end");
  static_assert(kSteps % 4 == 0, "steps come in fours");
  Int<24> angle[kSteps], start, ln2;

  template <typename Source> void load(Source &from) {
    start = Int<24>(from.next());
    ln2 = Int<24>(from.next());
  angles:
    for (int i = 0; i < kSteps; ++i) angle[i] = Int<24>(from.next());
  }
  static constexpr int shift_of(int step) {
    return step < 4 ? step + 1 : step < 14 ? step : step - 1;
  }
  Int<32> operator()(Int<32> x) const {
    WEFT_INLINE
    const Int<32> inside = clamped(x, -(kLeastExponent << kIn), 0);
    const Int<8> k = Int<8>(log2e_times<kIn>(inside) >> kPowerFraction);
    Int<32> z = Int<32>(Int<32>(inside << (kCordicFraction - kIn)) - Int<32>(k * ln2));
    Int<32> a = Int<32>(start), b = 0;
  fours:
    for (int four = 0; four < kSteps; four += 4) {
      WEFT_UNROLL
    steps:
      for (int j = 0; j < 4; ++j) {
        WEFT_UNROLL
        const int i = four + j;
        const Int<32> from_a = Int<32>(a >> shift_of(i)), from_b = Int<32>(b >> shift_of(i));
        const bool up = z >= 0;
        a = turned(a, from_b, up);
        b = turned(b, from_a, up);
        z = turned(z, Int<32>(angle[i]), !up);
      }
    }
    const Int<32> y = rounded(Int<32>(a + b), kCordicFraction - 15 - int(k));
    return clamped(y, 0, kOne);
  }
};

/// 1/w, w in [1, 2): linear vectoring drives 1 − w·q to 0. In and out: 15 fraction bits.
struct CordicReciprocal {
  template <typename Source> void load(Source &) {}
  Int<32> operator()(Int<32> w) const {
    WEFT_INLINE
    const Int<32> divisor = Int<32>(w << 2);  // two guard bits
    Int<32> rest = Int<32>((kOne << 2) - divisor), q = Int<32>(1 << 17);
  fours:
    for (int four = 1; four <= 16; four += 4) {
      WEFT_UNROLL
    steps:
      for (int j = 0; j < 4; ++j) {
        WEFT_UNROLL
        const int i = four + j;
        const bool up = rest >= 0;
        rest = turned(rest, Int<32>(divisor >> i), !up);
        q = turned(q, Int<32>(1 << (17 - i)), up);
      }
    }
    return clamped(rounded(q, 2), kOne / 2, kOne);
  }
};

// Angles are registers, read by every lane.
#define WEFT_PARTITION_CORDIC(unit) \
  WEFT_HLS(ARRAY_PARTITION variable = unit.angle type = complete dim = 1)

}  // namespace weft
