/// bf16 numbers with float32 sums, as TPU v2 and v3 have them (Norrie et al., IEEE Micro 2021).
///
/// A product of two bf16 numbers is exact in float32; sums are rounded to nearest even in a fixed
/// order: down the rows of a tile, then tile after tile. Subnormal numbers count as 0, as in the
/// floating-point cores of FPGAs. A float32 travels as its bits, in the registers of integer sums.
#pragma once
#include "units/precision.hpp"
#include "units/requant.hpp"

namespace weft {

constexpr unsigned kNotANumber = 0x7fc00000u;
constexpr int kFloatLatency = 4;  // clocks of multiplication and addition at 300 MHz

/// Bits as floating point, subnormal numbers as 0.
inline float float_of(Int<32> bits) {
  WEFT_INLINE
  const unsigned pattern = unsigned(bits), exponent = pattern & 0x7f800000u;
  union {
    unsigned bits;
    float value;
  } both;
  both.bits = exponent == 0 ? 0u : pattern;
  return both.value;
}

/// Floating point as bits, subnormal numbers and −0 as 0; there is one NaN.
inline Int<32> bits_of(float x) {
  WEFT_INLINE
  union {
    float value;
    unsigned bits;
  } both;
  both.value = x;
  const unsigned exponent = both.bits & 0x7f800000u;
  const bool number = exponent != 0x7f800000u || (both.bits & 0x7fffffu) == 0;
  return Int<32>(exponent == 0 ? 0u : number ? both.bits : kNotANumber);
}

/// Floating point: one addition.
inline Int<32> float_sum(Int<32> a, Int<32> b) {
  WEFT_INLINE
  return bits_of(float_of(a) + float_of(b));
}

/// Floating point: one multiplication.
inline Int<32> float_product(Int<32> a, Int<32> b) {
  WEFT_INLINE
  return bits_of(float_of(a) * float_of(b));
}

/// An integer of up to 24 bits as floating point.
inline Int<32> float_from(Int<32> x) {
  WEFT_INLINE
  return bits_of(float(int(x)));
}

/// Nearest integer of a floating point number, ties to even, saturated to int32.
inline Int<32> rounded_integer(Int<32> bits) {
  WEFT_INLINE
  const int exponent = (int(bits) >> 23) & 255;
  const Int<64> significand = Int<64>((int(bits) & 0x7fffff) | 0x800000);
  const int right = 150 - exponent;  // value = significand / 2^right
  Int<64> magnitude = 0;
  if (right <= -8) {
    magnitude = Int<64>(1) << 40;  // saturates; infinities and NaNs, too
  } else if (right <= 0) {
    magnitude = significand << -right;
  } else if (right < 26) {
    const Int<64> one = 1, kept = significand >> right, rest = significand & ((one << right) - 1);
    const Int<64> half = one << (right - 1);
    magnitude = kept + (rest > half || (rest == half && (kept & 1) == 1) ? 1 : 0);
  }
  if (exponent == 0) magnitude = 0;
  return saturate32(bits < 0 ? Int<64>(-magnitude) : magnitude);
}

/// The bf16 number nearest to a float32, ties to even; what rounds beyond the largest is that.
inline Int<16> rounded_bf16(Int<32> bits) {
  WEFT_INLINE
  const unsigned pattern = unsigned(bits), odd = (pattern >> 16) & 1;
  const unsigned up = (pattern + 0x7fff + odd) >> 16;
  const bool beyond = (up & 0x7f80) == 0x7f80;
  return Int<16>(beyond ? (up & 0x8000) | 0x7f7f : up);
}

struct Bf16Cell {
  using Activation = Int<16>;
  using Weight = Int<16>;
  static constexpr int kShare = 1, kLatency = kFloatLatency;
  static constexpr bool kFloat = true;
  int activation_bits;
  Int<8> zero;

  void begin(const MatMul &f) {
    activation_bits = int(f.activation_bits);
    zero = f.pad;
  }
  int weight_rows() const { return 1; }
  /// A code of int8 less its zero point has 8 significant bits at most: exact in bf16.
  Activation activation(const Word (&words)[kActivationWords], int lane) const {
    WEFT_INLINE
    const Int<32> integer = float_from(Int<32>(words[0][lane]) - Int<32>(zero));
    const Int<16> low = Int<16>(UInt<16>(words[0][lane]) & 0xff);
    const Int<16> pair = Int<16>(low | Int<16>(Int<16>(words[1][lane]) << 8));
    return activation_bits == 8 ? Int<16>(integer >> 16) : pair;
  }
  Weight weight(const TileWord (&rows)[kActivationWords], int c) const {
    return Int<16>(rows[0][c]);
  }

  SumWord row(const SumWord &above, const Vec<Activation, kCols> &activations,
              const Vec<Weight, kCols> &weights) const {
    WEFT_INLINE
    SumWord sums;
  columns:
    for (int c = 0; c < kCols; ++c) {
      WEFT_UNROLL
      const Int<32> a = Int<32>(activations[c]) << 16, w = Int<32>(weights[c]) << 16;
      sums[c] = float_sum(above[c], float_product(a, w));
    }
    return sums;
  }
};

}  // namespace weft
