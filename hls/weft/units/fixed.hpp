/// Fixed-point pieces of the nonlinear units: clamps, rounding shifts, leading ones, and how their
/// parameters are loaded. Golden model: host/weft/units/fixed.py.
#pragma once
#include "types.hpp"
#ifndef WEFT_AP_INT
#include "sim/rounding.hpp"
#endif

namespace weft {

constexpr int kOne = 1 << 15;       // 1.0 of exponentials, reciprocals and mantissas
constexpr int kLog2e = 23637;       // log2(e), 14 fraction bits
constexpr int kLeastExponent = 16;  // exp(−16) is below half an output step

inline Int<32> clamped(Int<32> x, Int<32> low, Int<32> high) {
  WEFT_INLINE
  const Int<32> above = x < low ? low : x;
  return above > high ? high : above;
}

/// x / 2^shift, ties up; shift 1 or more. The half is added after all bits but one have gone.
inline Int<32> rounded(Int<32> x, int shift) {
  WEFT_INLINE
  const int but_one = shift > 32 ? 31 : shift - 1;
  return Int<32>(Int<32>((x >> but_one) + 1) >> 1);
}

inline Int<64> rounded_wide(Int<64> x, int shift) {
  WEFT_INLINE
  const int but_one = shift > 64 ? 63 : shift - 1;
  return Int<64>(Int<64>((x >> but_one) + 1) >> 1);
}

template <int kBits> inline Int<32> saturated(Int<64> x) {
  WEFT_INLINE
  const Int<64> high = (Int<64>(1) << (kBits - 1)) - 1, low = -high - 1;
  const Int<64> above = x < low ? low : x;
  return Int<32>(above > high ? high : above);
}

/// (x·y + z) / 2^shift, ties up, moved inside kBits bits. The product and the sum have at most 52.
template <int kBits, typename X, typename Y>
inline Int<32> rounded_product(X x, Y y, Int<32> z, int shift) {
  WEFT_INLINE
#ifdef WEFT_AP_INT
  return saturated<kBits>(rounded_wide(Int<64>(Int<64>(x) * Int<64>(y) + Int<64>(z)), shift));
#else
  return sim::rounded_product<kBits>(x, y, z, shift);
#endif
}

/// Bit number of the highest one; 0 for x = 0. A priority encoder, about 64 LUTs; once per row.
inline int leading_one(UInt<64> x) {
  WEFT_INLINE
#ifdef WEFT_AP_INT
  int lead = 0;
bits:
  for (int bit = 1; bit < 64; ++bit) {
    WEFT_UNROLL
    if (((x >> bit) & 1) == 1) lead = bit;
  }
  return lead;
#else
  return 63 - __builtin_clzll(x | 1);
#endif
}

/// A mantissa of 16 bits beside its power of two: value = mantissa · 2^exponent.
struct Normal {
  Int<32> mantissa;  // 0 for the value 0
  int exponent;
};

inline Int<32> aligned(UInt<64> x, int right) {
  WEFT_INLINE
  const int down = right > 0 ? right : 0, up = right < 0 ? -right : 0;
  return Int<32>(UInt<64>(UInt<64>(x >> down) << up));
}

/// Mantissa in [1, 2) with 15 fraction bits: 32768..65535. Cuts what is below.
inline Normal normalized(UInt<64> x) {
  WEFT_INLINE
  const int exponent = leading_one(x) - 15;
  return {aligned(x, exponent), exponent};
}

/// Mantissa in [1, 4) with 14 fraction bits: 16384..65535; the exponent stays even, so that its
/// half is whole under a root.
inline Normal normalized_even(UInt<64> x) {
  WEFT_INLINE
  const int exponent = leading_one(x) / 2 * 2 - 14;
  return {aligned(x, exponent), exponent};
}

/// Parameters come as 32-bit words, one after another: what every unit's `load` reads from.
struct ParameterWords {
  const Int<32> *word;
  Int<32> next() { return *word++; }
};

/// A copy of a unit for each lane. A memory has two ports: where 32 lanes look up Lut or Pwl in one
/// clock, each needs a table of its own (and no wires cross). Units without memories are shared.
template <typename Unit, int kLanes> struct PerLane {
  Unit copy[kLanes];

  template <typename Source> void load(Source &from) {
    const Source first = from;
  copies:
    for (int c = 0; c < kLanes; ++c) {
      from = first;
      copy[c].load(from);
    }
  }
};

// The copies are memories of their own.
#define WEFT_PARTITION_LANES(unit) \
  WEFT_HLS(ARRAY_PARTITION variable = unit.copy type = complete dim = 1)

/// What serves lane c.
template <typename Unit> inline const Unit &lane_of(const Unit &unit, int) { return unit; }
template <typename Unit, int kLanes>
inline const Unit &lane_of(const PerLane<Unit, kLanes> &unit, int c) {
  return unit.copy[c];
}

/// Applies a unit to each lane of a word: one element per lane and clock.
template <typename Unit, typename T, int kLanes>
inline Vec<Int<32>, kLanes> lanewise(const Unit &unit, const Vec<T, kLanes> &x) {
  WEFT_INLINE
  Vec<Int<32>, kLanes> y;
lanes:
  for (int c = 0; c < kLanes; ++c) {
    WEFT_UNROLL
    y[c] = lane_of(unit, c)(Int<32>(x[c]));
  }
  return y;
}

}  // namespace weft
