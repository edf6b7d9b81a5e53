/// Scales of groups, applied to bf16 numbers: by their exponent (MX), or by an E4M3 number (NVFP4).
#pragma once
#include "types.hpp"

namespace weft {

constexpr int kLargestBf16 = 0x7f7f;

/// A bf16 number of exponent field `exponent`: 0 below the normal ones, the largest above them.
inline Int<16> assembled(bool negative, int exponent, int mantissa) {
  WEFT_INLINE
  if (exponent <= 0) return 0;
  const int bits = exponent >= 255 ? kLargestBf16 : (exponent << 7) | mantissa;
  return Int<16>(negative ? bits | 0x8000 : bits);
}

/// x · 2^(byte − 127): an adder of 10 bits.
inline Int<16> scaled_by_exponent(Int<16> x, UInt<8> byte) {
  WEFT_INLINE
  const int exponent = (int(x) >> 7) & 255;
  if (exponent == 0) return 0;
  return assembled(x < 0, exponent + int(byte) - 127, int(x) & 0x7f);
}

/// x · E4M3(byte); x has two significant bits, as E2M1 has, so the product's six fit bf16's eight.
inline Int<16> scaled_by_e4m3(Int<16> x, UInt<8> byte) {
  WEFT_INLINE
  const int exponent = (int(x) >> 7) & 255, significand = 2 + ((int(x) >> 6) & 1);
  const int field = (int(byte) >> 3) & 15, fraction = int(byte) & 7;
  const int scale = field != 0 ? 8 + fraction : fraction;
  const int product = significand * scale;  // at most 45
  if (exponent == 0 || product == 0) return 0;
  int lead = 0;
leading_one:
  for (int bit = 1; bit < 6; ++bit) {
    WEFT_UNROLL
    if ((product >> bit) != 0) lead = bit;
  }
  const int power = exponent - 1 + (field != 0 ? field - 10 : -9);  // of the product's unit
  return assembled(x < 0, power + lead, (product << (7 - lead)) & 0x7f);
}

}  // namespace weft
