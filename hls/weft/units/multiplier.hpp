/// Products of the array's elements, and how they map to DSPs.
#pragma once
#include "units/precision.hpp"

namespace weft {

/// One product per DSP. |a·w| is at most 2^14, so 16 bits hold it;
inline Int<16> product(Int<8> a, Int<8> w) { return Int<16>(Int<16>(a) * Int<16>(w)); }

/// at most 2^22 with a weight of 16 bits, which the 27×18 multiplier takes as easily.
inline Int<32> product(Int<8> a, Int<16> w) { return Int<32>(Int<32>(a) * Int<32>(w)); }

/// Two products in one DSP48E2: ((w1 << 18) + w0)·a on its 27×18 multiplier (AMD WP486).
/// The low field is the sum modulo 2^18, taken as signed; subtracting it leaves the high one.
/// Both are added outside the DSP: in the chain the low field would overflow after 7 products.
inline void packed_product(Int<8> a, Int<8> w0, Int<8> w1, Int<16> &low, Int<16> &high) {
  const Int<27> high_field = Int<27>(UInt<27>(Int<27>(w1)) << 18);
  const Int<27> pair = Int<27>(high_field + Int<27>(w0));
  const Int<45> both = Int<45>(Int<45>(pair) * Int<45>(a));
  // Sign extension of the low 18 bits by shifts, so that native integers do the same as ap_int.
  const Int<64> field = (Int<64>(UInt<64>(both) << 46)) >> 46;
  low = Int<16>(field);
  high = Int<16>((Int<64>(both) - field) >> 18);
}

/// The cell of the plain array: int8 activations, weights as the decoder left them.
struct IntegerCell {
  using Activation = Int<8>;
  using Weight = Operand;
  static constexpr int kShare = kProductsPerDsp, kLatency = 1;
  static constexpr bool kFloat = false;

  void begin(const MatMul &) {}
  int weight_rows() const { return 1; }
  Activation activation(const Word (&words)[kActivationWords], int lane) const {
    return words[0][lane];
  }
  Weight weight(const TileWord (&rows)[kActivationWords], int c) const { return rows[0][c]; }

  /// Sums of a row of cells: those from above, and a product each.
  SumWord row(const SumWord &above, const Vec<Int<8>, kCols> &activations,
              const TileWord &weights) const {
    WEFT_INLINE
    SumWord sums;
#ifdef WEFT_AP_INT
    if (kProductsPerDsp == 2) {
    pairs:
      for (int c = 0; c < kCols; c += kProductsPerDsp) {
        WEFT_UNROLL
        const int d = c + kProductsPerDsp - 1;
        Int<16> low, high;
        packed_product(activations[c], Int<8>(weights[c]), Int<8>(weights[d]), low, high);
        sums[c] = above[c] + low;
        sums[d] = above[d] + high;
      }
      return sums;
    }
#endif
  macs:
    for (int c = 0; c < kCols; ++c) {
      WEFT_UNROLL
      sums[c] = above[c] + product(activations[c], weights[c]);
    }
    return sums;
  }
};

}  // namespace weft
