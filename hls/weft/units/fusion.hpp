/// BitFusion's cell: sixteen 2-bit multipliers that fuse to one product of 8 × 8 bits, two of 8 ×
/// 4, four of 4 × 4, sixteen of 2 × 2 and what lies between (Sharma et al., ISCA 2018, section
/// III).
#pragma once
#include "units/precision.hpp"

namespace weft {

constexpr int kBricks = 16;
constexpr int kSignedActivation = 1, kSignedWeight = 2;  // bits of MatMul.codes

/// A brick: digits of two bits, each signed if it is the top one of a signed number. Two 3-bit
/// operands: 6 LUTs.
inline Int<8> brick(int x, bool x_signed, int y, bool y_signed) {
  WEFT_INLINE
  const Int<4> a = Int<4>(x_signed && x >= 2 ? x - 4 : x);
  const Int<4> b = Int<4>(y_signed && y >= 2 ? y - 4 : y);
  return Int<8>(Int<8>(a) * Int<8>(b));
}

/// What brick `b` gets where activations have 2 << la bits and weights 2 << lw: constants, once the
/// loops over la and lw are unrolled, so a digit is a nine-way multiplexer and no shifter.
struct BrickPlan {
  int activation_digit, weight_digit, shift;
  bool activation_top, weight_top;
};
inline BrickPlan brick_plan(int b, int la, int lw) {
  WEFT_INLINE
  const int product = b >> (la + lw), within = b & ((1 << (la + lw)) - 1);
  const int i = within >> lw, k = within & ((1 << lw) - 1);
  return {(product << la) + i, (product << lw) + k, 2 * (i + k), i == (1 << la) - 1,
          k == (1 << lw) - 1};
}

struct FusionCell {
  using Activation = UInt<32>;
  using Weight = UInt<32>;
  static constexpr int kShare = 1, kLatency = 1;
  static constexpr bool kFloat = false;
  Precision precision;
  bool signed_activations, signed_weights;

  void begin(const MatMul &f) {
    precision = precision_of(f);
    signed_activations = (int(f.codes) & kSignedActivation) != 0;
    signed_weights = (int(f.codes) & kSignedWeight) != 0;
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
    SumWord sums = above;
#ifdef WEFT_AP_INT
  columns:
    for (int c = 0; c < kCols; ++c) {
      WEFT_UNROLL
      sums[c] = Int<32>(above[c] + fused(activations[c], weights[c]));
    }
#else
    for (int j = 0; j < precision.products(); ++j)
      for (int c = 0; c < kCols; ++c)
        sums[c] += code_of(activations[c], j, precision.activation_bits, signed_activations) *
                   code_of(weights[c], j, precision.weight_bits, signed_weights);
#endif
    return sums;
  }

  /// Sum of the products of two operands, brick by brick: the adder tree of a fusion unit.
  Int<32> fused(UInt<32> activations, UInt<32> weights) const {
    WEFT_INLINE
    const int la = log2_of(precision.activation_bits) - 1, lw = log2_of(precision.weight_bits) - 1;
    Int<32> sum = 0;
  bricks:
    for (int b = 0; b < kBricks; ++b) {
      WEFT_UNROLL
      for (int i = 0; i < 3; ++i) {
        WEFT_UNROLL
        for (int k = 0; k < 3; ++k) {
          WEFT_UNROLL
          const BrickPlan p = brick_plan(b, i, k);
          const int x = int(activations >> (2 * p.activation_digit)) & 3;
          const int y = int(weights >> (2 * p.weight_digit)) & 3;
          const Int<8> product =
              brick(x, p.activation_top && signed_activations, y, p.weight_top && signed_weights);
          if (i == la && k == lw) sum = Int<32>(sum + (Int<32>(product) << p.shift));
        }
      }
    }
    return sum;
  }
};

}  // namespace weft
