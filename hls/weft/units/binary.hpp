/// Cells without multipliers: XNOR and popcount for binary numbers, AND and popcount for ternary
/// weights, adders for int8 activations that meet −1, 0 and +1 (number-format papers: XNOR-Net,
/// TWN; for the ternary planes see BinaryBERT, ACL 2021).
///
/// 1 × 1 bit: 32 products per clock; 1 × 2 bits: 16, the weights' positive plane in the low half of
/// the operand, the negative one in the high half; 8 × 1 and 8 × 2 bits: 4 sums or differences.
#pragma once
#include "units/precision.hpp"

namespace weft {

constexpr int kSignedBits = 1;  // bit of MatMul.codes: activation bits are −1, +1 instead of 0, 1

inline int popcount(unsigned bits) {
  WEFT_INLINE
  unsigned n = bits - ((bits >> 1) & 0x55555555u);  // a tree of adders: 30 LUTs
  n = (n & 0x33333333u) + ((n >> 2) & 0x33333333u);
  n = (n + (n >> 4)) & 0x0f0f0f0fu;
  n += n >> 8;
  return int((n + (n >> 16)) & 63u);
}

struct BinaryCell {
  using Activation = UInt<32>;
  using Weight = UInt<32>;
  static constexpr int kShare = 1, kLatency = 1;
  static constexpr bool kFloat = false;
  Precision precision;
  bool signed_bits;

  void begin(const MatMul &f) {
    precision = precision_of(f);
    signed_bits = (int(f.codes) & kSignedBits) != 0;
  }
  int weight_rows() const { return precision.weight_rows(); }
  Activation activation(const Word (&words)[kActivationWords], int lane) const {
    return packed_lane(words, lane);
  }
  Weight weight(const TileWord (&rows)[kActivationWords], int c) const {
    return packed_column(rows, c);
  }

  SumWord row(const SumWord &above, const Vec<Activation, kCols> &activations,
              const Vec<Weight, kCols> &weights) const {
    WEFT_INLINE
    SumWord sums;
  columns:
    for (int c = 0; c < kCols; ++c) {
      WEFT_UNROLL
      const unsigned a = unsigned(activations[c]), w = unsigned(weights[c]);
      const int sum = precision.activation_bits == 8 ? added(a, w)
                      : precision.weight_bits == 1   ? matched(a, w)
                                                     : selected(a, w);
      sums[c] = Int<32>(above[c] + sum);
    }
    return sums;
  }

 private:
  /// Weights ±1, a bit each.
  int matched(unsigned a, unsigned w) const {
    WEFT_INLINE
    if (signed_bits) return 2 * popcount(~(a ^ w)) - 32;
    return popcount(a & w) - popcount(a & ~w);
  }
  /// Weights −1, 0, +1 as two planes.
  int selected(unsigned a, unsigned w) const {
    WEFT_INLINE
    const unsigned plus = w & 0xffff, minus = w >> 16, bits = a & 0xffff;
    const int sum = popcount(plus & bits) - popcount(minus & bits);
    return signed_bits ? 2 * sum - popcount(plus) + popcount(minus) : sum;
  }
  /// int8 activations, added or subtracted.
  int added(unsigned a, unsigned w) const {
    WEFT_INLINE
    int sum = 0;
  bytes:
    for (int j = 0; j < 4; ++j) {
      WEFT_UNROLL
      const int x = int(Int<8>((a >> (8 * j)) & 0xff));
      const unsigned pair = (w >> (2 * j)) & 3, bit = (w >> j) & 1;
      const bool minus = precision.weight_bits == 1 ? bit == 0 : pair == 3;
      const bool plus = precision.weight_bits == 1 ? bit == 1 : pair == 1;
      sum += minus ? -x : plus ? x : 0;
    }
    return sum;
  }
};

}  // namespace weft
