/// Ranges per row: what Norm makes codes of fills int8 in every row, and the sums of products with
/// these codes are multiplied by the row's magnitude behind the array (per-token quantization: Yao
/// et al., ZeroQuant, NeurIPS 2022). A magnitude is an exact integer, a division of a row makes
/// the factor of its codes. Golden model: host/weft/units/ranges.py.
#pragma once
#include "units/rows.hpp"

namespace weft {

constexpr int kRangeCode = 127;     // of a row's largest element
constexpr int kRangeFraction = 24;  // bits of 127 over a magnitude's mantissa
constexpr int kRangeShift = 12;     // of sums times a magnitude

/// An element as a code: x · factor / 2^shift.
struct RowRange {
  Int<32> factor;  // 17 bits
  int shift;       // 9 to 23
};

/// 127 / largest, the magnitude (0 to 32,767) being w·2^k. A row of zeros gives zeros.
inline RowRange range_of(Int<16> largest) {
  WEFT_INLINE
  const bool none = largest <= 0;
  const Normal n = normalized(UInt<64>(none ? Int<64>(1) : Int<64>(largest)));
  const Int<32> factor = Int<32>(Int<32>(kRangeCode << kRangeFraction) / n.mantissa);
  return {none ? Int<32>(0) : factor, kRangeFraction + n.exponent};
}

/// Results as int16, before their row's magnitude is known.
inline SumWord range_values(const SumWord &scaled) {
  WEFT_INLINE
  SumWord x;
lanes:
  for (int c = 0; c < kCols; ++c) {
    WEFT_UNROLL
    x[c] = clamped(scaled[c], -32767, 32767);
  }
  return x;
}

/// The magnitude of a row with one more word, of whose lanes the first `left` count.
inline Int<16> magnitude(Int<16> before, const SumWord &x, int left) {
  WEFT_INLINE
  Int<32> largest = Int<32>(before);
lanes:
  for (int c = 0; c < kCols; ++c) {
    WEFT_UNROLL
    const Int<32> size = x[c] < 0 ? Int<32>(-x[c]) : Int<32>(x[c]);
    largest = c < left && size > largest ? size : largest;
  }
  return Int<16>(largest);
}

/// Results as codes of their row's range, not yet clamped.
inline SumWord range_codes(const SumWord &x, const RowRange &range) {
  WEFT_INLINE
  SumWord codes;
lanes:
  for (int c = 0; c < kCols; ++c) {
    WEFT_UNROLL
    const Int<64> product = Int<64>(x[c]) * Int<64>(range.factor);
    codes[c] = Int<32>(rounded_wide(product, range.shift));
  }
  return codes;
}

/// What multiplies a row's sums behind the array, with the multiplier that divides those of
/// attention.
inline RowFactor range_factor(Int<16> largest) { return {Int<32>(largest), kRangeShift}; }

/// The same of the tokens that a word's lanes are products with.
inline LaneFactors token_factors(const WideWord &sizes) {
  WEFT_INLINE
  LaneFactors all;
lanes:
  for (int c = 0; c < kCols; ++c) {
    WEFT_UNROLL
    all.factor[c] = Int<32>(sizes[c]);
  }
  all.shift = kRangeShift;
  return all;
}

}  // namespace weft
