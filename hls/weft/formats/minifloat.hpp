/// Floats of 4 to 8 bits: as integers where their range is small, else as bf16 numbers.
#pragma once
#include "formats/term.hpp"

namespace weft {

/// E2M1 times 2: 0 1 2 3 4 6 8 12.
struct E2M1Integer {
  static Term decode(UInt<8> code, UInt<8>, bool) {
    const int exponent = (int(code) >> 1) & 3, mantissa = int(code) & 1;
    const bool negative = (int(code) & 8) != 0;
    if (exponent == 0) return {negative, UInt<16>(mantissa), 0};
    return {negative, UInt<16>(2 + mantissa), UInt<5>(exponent - 1)};
  }
};

/// E3M0 times 4: 0, then 1 to 64.
struct E3M0Integer {
  static Term decode(UInt<8> code, UInt<8>, bool) {
    const int exponent = int(code) & 7;
    const bool zero = exponent == 0;
    return {(int(code) & 8) != 0, UInt<16>(zero ? 0 : 1), UInt<5>(zero ? 0 : exponent - 1)};
  }
};

/// A float with a sign, `kExponent` and `kMantissa` bits, as bf16. Codes of infinities and NaNs are
/// taken for large numbers. Subnormal numbers are shifted until they begin with 1: a multiplexer of
/// kMantissa + 1 ways.
template <int kExponent, int kMantissa> struct Minifloat {
  static_assert(kExponent <= 5 && kMantissa <= 7, "bf16 holds every value");
  static constexpr int kBias = (1 << (kExponent - 1)) - 1;
  static UInt<16> bits(UInt<16> code) {
    const int fraction = int(code) & ((1 << kMantissa) - 1);
    const int field = (int(code) >> kMantissa) & ((1 << kExponent) - 1);
    const int sign = ((int(code) >> (kExponent + kMantissa)) & 1) << 15;
    int exponent = field - kBias + 127, mantissa = fraction << (7 - kMantissa);
    if (field == 0) {
      int lead = 0;
    leading_one:
      for (int bit = 1; bit < kMantissa; ++bit) {
        WEFT_UNROLL
        if ((fraction >> bit) != 0) lead = bit;
      }
      exponent = 1 - kBias + 127 - kMantissa + lead;
      mantissa = (fraction << (7 - lead)) & 0x7f;
      if (fraction == 0) return 0;
    }
    return UInt<16>(sign | exponent << 7 | mantissa);
  }
};

}  // namespace weft
