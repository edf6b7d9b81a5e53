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

/// (x·q + half) >> (31 − s): one rounding, ties toward +infinity. The half is added after all bits
/// but one have gone, so no second shifter makes it.
inline Int<32> single_round(Int<32> x, Int<32> q, Int<32> s) {
  const Shift right = Shift(30 - int(s));  // 0..61
  return saturate32((((Int<64>(x) * Int<64>(q)) >> right) + 1) >> 1);
}

/// gemmlowp: x << left saturates; the doubling high product rounds; the right shift rounds again,
/// ties away from zero.
inline Int<32> double_round(Int<32> x, Int<32> q, Int<32> s) {
  const Shift left = Shift(s > 0 ? int(s) : 0), right = Shift(s < 0 ? -int(s) : 0);
  const Int<32> shifted = saturate32(Int<64>(UInt<64>(Int<64>(x)) << left));
  const Int<64> p = Int<64>(shifted) * Int<64>(q);
  const Int<64> nudge = p >= 0 ? Int<64>(1LL << 30) : Int<64>(1 - (1LL << 30));
  const Int<64> sum = p + nudge;
  // Division by 2^31 that truncates toward zero. (−2^31)² saturates: the only case above int32.
  const Int<64> toward = sum < 0 ? Int<64>((1LL << 31) - 1) : Int<64>(0);
  const Int<64> high = saturate32((sum + toward) >> 31);
  const Int<64> away = high - (high < 0 && s < 0 ? 1 : 0);  // a tie below zero goes down
  return Int<32>((((away * 2) >> right) + 1) >> 1);
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

/// rint(float32(x)·float32(M)) in integers: no floating-point core, and the same in every tool.
/// `bits` is M as float32; it is 0 or at least 2^-32 in magnitude, never subnormal. The codes of
/// infinities and NaNs are taken for large numbers: what is not 0 saturates.
inline Int<32> float_even(Int<32> x, Int<32> bits, Int<32>) {
  const UInt<32> pattern = UInt<32>(bits);
  const int exponent = int((pattern >> 23) & 255) - 150;
  const UInt<64> significand = UInt<64>((pattern & 0x7fffff) | 0x800000);
  if (exponent == -150 || x == 0) return 0;
  const bool negative = (x < 0) != (bits < 0);
  const UInt<64> magnitude = UInt<64>(x < 0 ? Int<64>(-Int<64>(x)) : Int<64>(x));
  const int first = excess_bits(magnitude);
  const UInt<64> p = UInt<64>(shift_even(magnitude, first) * significand);
  const int second = excess_bits(p);
  const UInt<64> rounded = shift_even(p, second);
  const int power = exponent + first + second;  // value = rounded · 2^power
  Int<64> result;
  if (power > 8) {
    result = Int<64>(1) << 40;  // saturates
  } else if (power >= 0) {
    result = Int<64>(rounded << power);
  } else {
    result = Int<64>(shift_even(rounded, power < -62 ? 62 : -power));
  }
  return saturate32(negative ? Int<64>(-result) : result);
}
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
#endif

}  // namespace weft
