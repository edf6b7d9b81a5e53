/// int32 sums times a real scale, rounded, in three modes: TFLite, gemmlowp and ONNX Runtime
/// differ. Golden model: host/weft/units/requant.py.
#pragma once
#include "isa.hpp"
#include "types.hpp"
#ifndef WEFT_AP_INT
#include <cmath>
#include <cstring>
#endif

namespace weft {

#ifdef WEFT_AP_INT
using Shift = int;
#else
using Shift = Int<64>;  // as wide as what it shifts: else g++ does not vectorise the lanes
#endif

constexpr int kShiftLow = -31, kShiftHigh = 30;

inline Int<32> saturate32(Int<64> x) {
  const Int<64> most = 0x7fffffffLL, least = -most - 1;
  const Int<64> below = x > most ? most : x;
  return Int<32>(below < least ? least : below);
}

/// (p + half) >> (31 − s): one rounding, ties toward +infinity. The half is added after all bits
/// but one have gone, so no second shifter makes it.
inline Int<32> round_once(Int<64> p, Int<32> s) {
  const Shift right = Shift(30 - int(s));  // 0..61
  return saturate32(((p >> right) + 1) >> 1);
}

/// gemmlowp shifts left before the product,
inline Int<32> shifted_left(Int<32> x, Int<32> s) {
  const Shift left = Shift(s > 0 ? int(s) : 0);
  return saturate32(Int<64>(UInt<64>(Int<64>(x)) << left));
}

/// takes the rounded high half of twice the product, and rounds again as it shifts right, ties away
/// from zero.
inline Int<32> round_twice(Int<64> p, Int<32> s) {
  const Shift right = Shift(s < 0 ? -int(s) : 0);
  const Int<64> nudge = p >= 0 ? Int<64>(1LL << 30) : Int<64>(1 - (1LL << 30));
  const Int<64> sum = p + nudge;
  // Division by 2^31 that truncates toward zero. (−2^31)² saturates: the only case above int32.
  const Int<64> toward = sum < 0 ? Int<64>((1LL << 31) - 1) : Int<64>(0);
  const Int<64> high = saturate32((sum + toward) >> 31);
  const Int<64> away = high - (high < 0 && s < 0 ? 1 : 0);  // a tie below zero goes down
  return Int<32>((((away * 2) >> right) + 1) >> 1);
}

inline Int<32> single_round(Int<32> x, Int<32> q, Int<32> s) {
  return round_once(Int<64>(x) * Int<64>(q), s);
}

inline Int<32> double_round(Int<32> x, Int<32> q, Int<32> s) {
  return round_twice(Int<64>(shifted_left(x, s)) * Int<64>(q), s);
}

#ifdef WEFT_AP_INT
/// x / 2^shift, ties to even; x not negative, shift 0..62.
inline UInt<64> shift_even(UInt<64> x, int shift) {
  if (shift == 0) return x;
  const UInt<64> one = 1, kept = x >> shift, rest = x & ((one << shift) - 1);
  const UInt<64> half = one << (shift - 1);
  const bool up = rest > half || (rest == half && (kept & 1) == 1);
  return kept + (up ? 1 : 0);
}

/// Bits above the 24 that a float32 significand holds.
inline int excess_bits(UInt<64> x) {
  int excess = 0;
leading_one:
  for (int bit = 24; bit < 50; ++bit) {
    WEFT_UNROLL
    if (((x >> bit) & 1) == 1) excess = bit - 23;
  }
  return excess;
}

/// rint(float32(x)·float32(M)) in integers: no floating-point core, and the same in every tool. The
/// operands as significands of at most 24 bits (2^24 itself included) and the power of two beside.
struct FloatOperands {
  Int<32> magnitude, significand;
  int exponent;
  bool negative, zero;
};

/// `bits` is M as float32; it is 0 or at least 2^-32 in magnitude, never subnormal. The codes of
/// infinities and NaNs are taken for large numbers: what is not 0 saturates.
inline FloatOperands float_operands(Int<32> x, Int<32> bits) {
  const UInt<32> pattern = UInt<32>(bits);
  const int exponent = int((pattern >> 23) & 255) - 150;
  const UInt<64> magnitude = UInt<64>(x < 0 ? Int<64>(-Int<64>(x)) : Int<64>(x));
  const int excess = excess_bits(magnitude);
  FloatOperands f;
  f.magnitude = Int<32>(shift_even(magnitude, excess));
  f.significand = Int<32>((pattern & 0x7fffff) | 0x800000);
  f.exponent = exponent + excess;
  f.negative = (x < 0) != (bits < 0);
  f.zero = exponent == -150 || x == 0;
  return f;
}

/// The product of the significands, rounded to 24 bits and then to an integer.
inline Int<32> round_float(Int<64> p, const FloatOperands &f) {
  if (f.zero) return 0;
  const int excess = excess_bits(UInt<64>(p));
  const UInt<64> rounded = shift_even(UInt<64>(p), excess);
  const int power = f.exponent + excess;  // value = rounded · 2^power
  Int<64> result;
  if (power > 8) {
    result = Int<64>(1) << 40;  // saturates
  } else if (power >= 0) {
    result = Int<64>(rounded << power);
  } else {
    result = Int<64>(shift_even(rounded, power < -62 ? 62 : -power));
  }
  return saturate32(f.negative ? Int<64>(-result) : result);
}

inline Int<32> float_even(Int<32> x, Int<32> bits, Int<32>) {
  const FloatOperands f = float_operands(x, bits);
  return round_float(Int<64>(f.magnitude) * Int<64>(f.significand), f);
}

/// Any mode, with the one 32×32 multiplier (4 DSPs) of a lane: modes differ before and after it.
struct AnyMode {
  int mode;
  Int<32> operator()(Int<32> x, Int<32> q, Int<32> s) const {
    WEFT_INLINE
    const FloatOperands f = float_operands(x, q);
    const Int<32> a = mode == kFloatEven     ? f.magnitude
                      : mode == kDoubleRound ? shifted_left(x, s)
                                             : x;
    const Int<32> b = mode == kFloatEven ? f.significand : q;
    const Int<64> p = Int<64>(a) * Int<64>(b);
    if (mode == kFloatEven) return round_float(p, f);
    return mode == kDoubleRound ? round_twice(p, s) : round_once(p, s);
  }
};
#else
/// The same on the simulating machine's float unit, which rounds to nearest even.
inline Int<32> float_even(Int<32> x, Int<32> bits, Int<32>) {
  const UInt<32> pattern = UInt<32>(bits), infinite = 0x7f800000;
  const UInt<32> finite = (pattern & infinite) == infinite ? pattern - 0x800000 : pattern;
  float scale;
  std::memcpy(&scale, &finite, sizeof scale);
  const float y = std::nearbyintf(float(x) * scale);
  return y >= 2147483648.0f ? 0x7fffffff : y < -2147483648.0f ? -0x7fffffff - 1 : Int<32>(y);
}

/// One mode, known when the simulation is compiled: its lanes become vectors.
template <Int<32> (*kScale)(Int<32>, Int<32>, Int<32>)> struct OneMode {
  Int<32> operator()(Int<32> x, Int<32> q, Int<32> s) const { return kScale(x, q, s); }
};
#endif

}  // namespace weft
