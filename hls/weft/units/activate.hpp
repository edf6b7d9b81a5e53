/// The epilogue: sums → bias, requantize, zero point, clamp, lookup → codes. One word per clock.
#pragma once
#include "memories.hpp"
#include "units/bf16.hpp"
#include "units/requant.hpp"
#include "units/window.hpp"

namespace weft {

inline Int<32> biased(Int<32> sum, Int<32> bias) {
  return Int<32>(UInt<32>(sum) + UInt<32>(bias));  // wraps
}

/// Sums that are float32: bias and scale (the parameters hold their bits), then the nearest code,
/// or a byte of the nearest bf16 number. A lower clamp of 0 is a ReLU there.
inline Word float_results(const SumWord &sums, const ParameterWord &p, const Activate &f) {
  WEFT_INLINE
  const Int<32> zero = Int<32>(f.zero_point);
  const Int<32> least = Int<32>(f.low) - zero, most = Int<32>(f.high) - zero;
  Word codes;
lanes:
  for (int c = 0; c < kCols; ++c) {
    WEFT_UNROLL
    const Int<32> x = float_sum(sums[c], p.bias[c]);
    const Int<32> y = float_product(x, x < 0 ? p.negative_multiplier[c] : p.multiplier[c]);
    const Int<32> integer = rounded_integer(y);
    const Int<32> v = integer < least ? least : integer;
    const Int<16> pair = rounded_bf16(f.low == 0 && y < 0 ? Int<32>(0) : y);
    codes[c] = f.mode == kFloatCode ? Int<8>((v > most ? most : v) + zero)
               : f.mode == kBf16Low ? Int<8>(pair & 0xff)
                                    : Int<8>(pair >> 8);
  }
  return codes;
}

/// What results are clamped to, and then moved by; those that meet a word of the wide buffer stay
/// whole until then. Bounds are moved by the zero point: y + zero
/// could overflow, low − zero can't.
struct Bounds {
  Int<32> zero, least, most;
};

inline Bounds bounds_of(const Activate &f) {
  WEFT_INLINE
  const Int<32> zero = Int<32>(f.zero_point), whole = 0x7fffffff;
  if (kHasWide && (f.space == kWideSpace || f.residual != 0))
    return {0, Int<32>(-whole - 1), whole};
  return {zero, Int<32>(Int<32>(f.low) - zero), Int<32>(Int<32>(f.high) - zero)};
}

/// Requantized and clamped sums. In 32 bits: mixing 8 and 32 bits in one loop would make a
/// simulating CPU work in narrow vectors.
template <typename Scale>
inline SumWord scaled(const SumWord &sums, const ParameterWord &p, const Bounds &to,
                      const Scale &scale) {
  WEFT_INLINE
  SumWord clamped;
lanes:
  for (int c = 0; c < kCols; ++c) {
    WEFT_UNROLL
    const Int<32> x = biased(sums[c], p.bias[c]);
    // LeakyReLU and PReLU take another scale below zero; a multiplexer, not a second multiplier.
    const Int<32> above = p.multiplier[c], below = p.negative_multiplier[c];
    const Int<32> above_shift = p.shift[c], below_shift = p.negative_shift[c];
    const Int<32> y = scale(x, x < 0 ? below : above, x < 0 ? below_shift : above_shift);
    const Int<32> v = y < to.least ? to.least : y;
    clamped[c] = (v > to.most ? to.most : v) + to.zero;
  }
  return clamped;
}

/// Byte `index` of each sum.
inline Word raw_bytes(const SumWord &sums, const ParameterWord &p, int index) {
  WEFT_INLINE
  Word codes;
raw:
  for (int c = 0; c < kCols; ++c) {
    WEFT_UNROLL
    codes[c] = Int<8>((biased(sums[c], p.bias[c]) >> (8 * index)) & 0xff);
  }
  return codes;
}

inline SumWord requantized(const SumWord &sums, const ParameterWord &p, const Activate &f) {
  WEFT_INLINE
  const Bounds to = bounds_of(f);
#ifdef WEFT_AP_INT
  return scaled(sums, p, to, AnyMode{int(f.mode)});
#else
  if (f.mode == kSingleRound) return scaled(sums, p, to, OneMode<single_round>());
  if (f.mode == kDoubleRound) return scaled(sums, p, to, OneMode<double_round>());
  return scaled(sums, p, to, OneMode<float_even>());
#endif
}

inline Word low_bytes(const SumWord &sums) {
  WEFT_INLINE
  Word codes;
narrow:
  for (int c = 0; c < kCols; ++c) {
    WEFT_UNROLL
    codes[c] = Int<8>(sums[c]);
  }
  return codes;
}

/// Codes of one word of sums; those for the wide buffer are left in `whole`. One instance serves
/// MatMul, Vector and the second drain: they run one after another, and it holds the widest
/// multipliers of the design.
WEFT_SHARED Word activate(const SumWord &sums, const ParameterWord &p, const Activate &f,
                          const Lookup &lookup, SumWord &whole) {
  WEFT_FUNCTION
  const int mode = int(f.mode);
  if (mode >= kRawByte && mode < kFloatCode) return raw_bytes(sums, p, mode - kRawByte);
  if (kHasBf16 && mode > kFloatCode) return float_results(sums, p, f);
  if (!kHasBf16 || mode != kFloatCode) whole = requantized(sums, p, f);
  Word codes = kHasBf16 && mode == kFloatCode ? float_results(sums, p, f) : low_bytes(whole);
  if (f.lookup != 0) {
  look:
    for (int c = 0; c < kCols; ++c) {
      WEFT_UNROLL
      codes[c] = lookup[c][int(codes[c]) + 128];
    }
  }
  return codes;
}

/// Byte `i` of a part of packed codes: codes of 8 >> kLog bits, the first in the low bits; a single
/// bit says > 0. Wires.
template <int kLog> inline unsigned packed_byte(const Word &codes, int i) {
  WEFT_INLINE
  constexpr int kLanes = kRows >= 8 ? kRows >> kLog : 1, kWidth = 8 >> kLog;
  unsigned byte = 0;
codes_of_a_byte:
  for (int j = 0; j < (1 << kLog); ++j) {
    WEFT_UNROLL
    const int from = ((i & (kLanes - 1)) << kLog) + j;
    const Int<8> code = codes[from < kRows ? from : 0];
    const unsigned bits = kLog == 3 ? (code > 0 ? 1u : 0u) : unsigned(code) & ((1u << kWidth) - 1);
    byte |= bits << (j * kWidth);
  }
  return byte;
}

/// Codes of `8 >> log` bits side by side in part `part` of a word, 0 elsewhere: a multiplexer of
/// three ways per lane.
inline Word packed_codes(const Word &codes, int log, int part) {
  WEFT_INLINE
  Word packed;
lanes:
  for (int i = 0; i < kRows; ++i) {
    WEFT_UNROLL
    const unsigned byte = log == 1   ? packed_byte<1>(codes, i)
                          : log == 2 ? packed_byte<2>(codes, i)
                                     : packed_byte<3>(codes, i);
    packed[i] = (i << log) / kRows == part ? Int<8>(byte) : Int<8>(0);
  }
  return packed;
}

}  // namespace weft
