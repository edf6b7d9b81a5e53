/// ANT's cell: four multipliers of 4 bits, each with a shifter behind it. A code becomes (sign,
/// exponent, base) at the edge of the array; the cell multiplies bases and adds exponents (Guo et
/// al., ANT, MICRO 2022, section 5; OliVe, ISCA 2023, section 4). Numbers of 8 bits are two terms:
/// the four multipliers then make two products of 8 × 4 bits, or one of 8 × 8.
#pragma once
#include "units/precision.hpp"

namespace weft {

constexpr int kTerms = 4;  // of an operand, a byte each: sign, 3 bits of exponent, 4 of base
constexpr int kTermBytes = 8;

inline unsigned term(bool negative, int exponent, int base) {
  return unsigned((negative ? 0x80 : 0) | exponent << 4 | base);
}

/// flint of kBits bits: the exponent follows from the leading zeros.
template <int kBits> unsigned flint_term(bool negative, int code) {
  WEFT_INLINE
  const int top = 1 << (kBits - 1), low = code & (top - 1);
  if ((code & top) == 0) return term(negative, 0, low);
  if (low == 0) return term(negative, 2 * (kBits - 1), 1);
  int zeros = 0;
leading_zeros:
  for (int bit = 0; bit < kBits - 1; ++bit) {
    WEFT_UNROLL
    if ((low >> bit) != 0) zeros = kBits - 2 - bit;
  }
  return term(negative, 2 * zeros, 2 * low);
}

/// The term of a code of 4 bits; `partner` is the other one of its byte. Twelve LUTs per kind.
inline unsigned term_of(int kind, int code, int partner) {
  WEFT_INLINE
  const bool negative = (code & 8) != 0;
  const int low = code & 7;
  if (kind == kUintTerm) return term(false, 0, code);
  if (kind == kFlintTerm) return flint_term<3>(negative, low);
  if (kind == kUflintTerm) return flint_term<4>(false, code);
  if (kind == kPotTerm) return low == 0 ? term(false, 0, 0) : term(negative, low - 1, 1);
  if (kind == kE2m1Term)
    return low < 2 ? term(negative, 0, low) : term(negative, (low >> 1) - 1, 2 + (low & 1));
  const bool victim = code == 8, outlier = partner == 8 && !victim;
  if (kind == kOliveTerm && victim) return 0;
  if (kind == kOliveTerm && outlier) return term(negative, (low >> 1) + 2, 2 + (low & 1));
  return term(negative, 0, negative ? 16 - code : code);
}

/// Terms of the bytes of an operand: two codes of 4 bits each, or the two halves of one of 8.
inline UInt<32> terms_of(UInt<32> operand, int width, int kind, int bytes) {
  WEFT_INLINE
  unsigned terms = 0;
halves:
  for (int i = 0; i < kTerms; ++i) {
    WEFT_UNROLL
    const int byte = int(unsigned(operand) >> (8 * (i >> 1))) & 0xff;
    const int code = (byte >> (4 * (i & 1))) & 15, other = (byte >> (4 * (~i & 1))) & 15;
    const bool high = (i & 1) != 0;
    const unsigned half =
        high ? term(code >= 8, 4, code >= 8 ? 16 - code : code) : term(false, 0, code);
    const unsigned made = width == 8 ? half : term_of(kind, code, other);
    if ((i >> 1) < bytes) terms |= made << (kTermBytes * i);
  }
  return UInt<32>(terms);
}

inline Int<32> term_product(int a, int w) {
  WEFT_INLINE
  const UInt<8> base = UInt<8>((a & 15) * (w & 15));
  const int exponent = ((a >> 4) & 7) + ((w >> 4) & 7);
  const Int<32> magnitude = Int<32>(Int<32>(base) << exponent);
  return ((a ^ w) & 0x80) != 0 ? Int<32>(-magnitude) : magnitude;
}

struct ShiftCell {
  using Activation = UInt<32>;
  using Weight = UInt<32>;
  static constexpr int kShare = 1, kLatency = 1;
  static constexpr bool kFloat = false;
  Precision precision;
  int activation_kind, weight_kind;

  void begin(const MatMul &f) {
    precision = precision_of(f);
    activation_kind = int(f.codes) & 15;
    weight_kind = int(f.codes) >> 4;
  }
  int weight_rows() const { return precision.weight_rows(); }
  Activation activation(const Word (&words)[kActivationWords], int lane) const {
    WEFT_INLINE
    return terms_of(packed_lane(words, lane), precision.activation_bits, activation_kind,
                    precision.words);
  }
  Weight weight(const TileWord (&rows)[kActivationWords], int c) const {
    WEFT_INLINE
    return terms_of(packed_column(rows, c), precision.weight_bits, weight_kind, weight_rows());
  }

  SumWord row(const SumWord &above, const Vec<Activation, kCols> &activations,
              const Vec<Weight, kCols> &weights) const {
    WEFT_INLINE
    const bool wide_a = precision.activation_bits == 8, wide_w = precision.weight_bits == 8;
    SumWord sums;
  columns:
    for (int c = 0; c < kCols; ++c) {
      WEFT_UNROLL
      const unsigned a = unsigned(activations[c]), w = unsigned(weights[c]);
      Int<32> sum = above[c];
    multipliers:
      for (int m = 0; m < kTerms; ++m) {
        WEFT_UNROLL
        // Halves of a wide number meet every half, or the one code, of the other.
        const int i = wide_w ? m >> 1 : m,
                  k = wide_w ? (wide_a ? m & 1 : m) : (wide_a ? m >> 1 : m);
        sum = Int<32>(sum + term_product(int(a >> (kTermBytes * i)) & 0xff,
                                         int(w >> (kTermBytes * k)) & 0xff));
      }
      sums[c] = sum;
    }
    return sums;
  }
};

}  // namespace weft
