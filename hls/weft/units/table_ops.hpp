/// Softmax and LayerNorm made of integer tables, as HG-PIPE does them (Guo et al., ICCAD 2024);
/// requantization and GELU by table are Lut itself. Golden model: host/weft/units/table_ops.py.
///
/// Cost per lane, by count: softmax 1 DSP (16×16) and a table of 32 entries in LUTs; LayerNorm 4
/// DSPs (14×16, then ×18). No divider: the mean is a product with 2^23/n.
#pragma once
#include "units/norm.hpp"
#include "units/softmax.hpp"
#include "units/table.hpp"

namespace weft {

/// max − x → table of exponentials; their sum → one of two tables of reciprocals, for small sums
/// and large ones; e·reciprocal, shifted, as kBits unsigned bits. Interface: units/softmax.hpp.
template <int kExp, int kOneEntries, int kTwoEntries, int kBits> struct TableSoftmax {
  struct Row {
    Int<32> maximum, sum, reciprocal;
    Int<32> nudge;
    Int<8> shift;
  };
  template <int kLanes> using Kept = Shares<kLanes>;  // exponentials
  Lut<kExp> exp;
  Lut<kOneEntries> small;
  Lut<kTwoEntries> large;
  Int<32> small_nudge, large_nudge, small_bound;
  Int<8> small_shift, large_shift;

  template <typename Source> void load(Source &from) {
    exp.load(from);
    small.load(from);
    large.load(from);
    small_bound = from.next();
    small_nudge = from.next();
    small_shift = Int<8>(from.next());
    large_nudge = from.next();
    large_shift = Int<8>(from.next());
  }
  void begin(Row &row) const { open_row(row); }
  template <int kLanes> void maximum(const Scores<kLanes> &x, Row &row) const {
    WEFT_INLINE
    row_maximum(x, row.maximum);
  }
  Int<32> exponential(int, Int<32> x, const Row &row) const {
    WEFT_INLINE
    const Int<32> e = exp(Int<32>(row.maximum - x));
    return x == kMasked ? Int<32>(0) : e;
  }
  template <int kLanes> Kept<kLanes> sum(const Scores<kLanes> &x, Row &row) const {
    WEFT_INLINE
    return row_exponentials(*this, x, row);
  }
  void finish(Row &row) const {
    const Int<32> step = Int<32>(Int<32>(row.sum + small.index.bias) >> int(small.index.shift));
    const bool above = step > small_bound;
    row.reciprocal = above ? large(row.sum) : small(row.sum);
    row.nudge = above ? large_nudge : small_nudge;
    row.shift = above ? large_shift : small_shift;
  }
  template <int kLanes> Shares<kLanes> output(const Kept<kLanes> &kept, const Row &row) const {
    WEFT_INLINE
    Shares<kLanes> y;
  lanes:
    for (int c = 0; c < kLanes; ++c) {
      WEFT_UNROLL
      const Int<17> e = Int<17>(kept[c]);
      const Int<32> product = Int<32>(Int<32>(e * Int<17>(row.reciprocal)) + row.nudge);
      y[c] = UInt<16>(clamped(Int<32>(product >> int(row.shift)), 0, (1 << kBits) - 1));
    }
    return y;
  }
};

/// mean = (sum·multiplier + half) >> shift; v = sum of (x − mean)², from the two sums; r =
/// table[v]; y = saturated((d·r·weight + bias) >> out, kBits). The affine part needs 39 bits.
template <int kEntries, int kBits> struct TableNorm {
  struct Row {
    Int<32> mean, factor;
  };
  Lut<kEntries> rsqrt;
  Int<32> multiplier;
  Int<8> mean_shift, out_shift;

  template <typename Source> void load(Source &from) {
    rsqrt.load(from);
    multiplier = from.next();
    mean_shift = Int<8>(from.next());
    out_shift = Int<8>(from.next());
  }
  Row finish(const Sums &sums, int elements) const {
    const Int<64> product = Int<64>(sums.sum) * Int<64>(multiplier);
    const Int<64> mean = rounded_wide(product, int(mean_shift));
    const Int<64> cross = Int<64>(Int<64>(mean * Int<64>(sums.sum)) * 2);
    const Int<64> squares = Int<64>(mean * mean * Int<64>(elements));
    const Int<64> power = Int<64>(Int<64>(sums.squares - cross) + squares);
    return {Int<32>(mean), rsqrt(Int<32>(power))};
  }
  Int<8> output(Int<16> x, Int<32> weight, Int<64> bias, const Row &row) const {
    WEFT_INLINE
    const Int<32> scaled = Int<32>(Int<17>(Int<32>(x) - row.mean) * Int<17>(row.factor));
    const Int<64> y = Int<64>(Int<64>(scaled) * Int<64>(weight)) + bias;
    return Int<8>(saturated<kBits>(Int<64>(y >> int(out_shift))));
  }
};

}  // namespace weft
