/// What the methods of an overlay's norms have in common: a row's statistics become an offset, a
/// factor and a power of two, and these make z of an element. Golden model:
/// host/weft/units/root.py.
#pragma once
#include "units/exponential.hpp"
#include "units/norm.hpp"

namespace weft {

/// How z follows from a row: (n·x − offset)·factor / 2^(5 + exponent); I-BERT's LayerNorm, whose
/// exponent is sqrt(n); or a table's (x − offset)·factor, and
/// the shift behind it.
enum RootKind { kRootKind, kIntegerKind, kTableKind };

struct NormRow {
  Int<32> offset, factor;
  Int<16> exponent;
};

/// RMSNorm is a LayerNorm whose sum is taken as 0.
inline Sums seen_sums(const Sums &sums, bool rms) {
  WEFT_INLINE
  Sums seen = sums;
  if (rms) seen.sum = 0;
  return seen;
}

/// By 1/sqrt of a mantissa.
template <typename Rsqrt> struct MantissaRoot {
  RootNorm<Rsqrt, true> norm;

  template <typename Source> void load(Source &from) { norm.load(from); }
  NormRow row(const Sums &sums, bool rms, int elements, Int<64> epsilon) const {
    WEFT_INLINE
    const auto found = norm.finish(seen_sums(sums, rms), elements, epsilon);
    return {found.offset, found.factor, Int<16>(found.exponent)};
  }
};

/// I-BERT's: LayerNorm with a rounded mean; RMSNorm, which it has not, by its integer root.
struct IntegerRoot {
  INorm layer;
  RootNorm<IRsqrt, true> root;

  template <typename Source> void load(Source &) {}
  NormRow row(const Sums &sums, bool rms, int elements, Int<64> epsilon) const {
    WEFT_INLINE
    const auto by_root = root.finish(seen_sums(sums, true), elements, epsilon);
    const INorm::Row row = layer.finish(sums, elements, epsilon);
    if (rms) return {by_root.offset, by_root.factor, Int<16>(by_root.exponent)};
    return {row.mean, Int<32>(row.factor), Int<16>(row.root)};  // factor: up to 2^31
  }
};

/// z of an element with kNormFraction fraction bits.
inline Int<32> root_normal(Int<16> x, const NormRow &row, int elements) {
  WEFT_INLINE
  const Int<32> d = Int<32>(Int<32>(x * Int<14>(elements)) - row.offset);
  return rounded_product<18>(d, row.factor, 0, 15 - kNormFraction + int(row.exponent));
}
inline Int<32> integer_normal(Int<16> x, const NormRow &row) {
  WEFT_INLINE
  const INorm::Row same = {row.offset, Int<32>(row.exponent), UInt<32>(row.factor)};
  return INorm().normal(x, same);
}

/// HG-PIPE's LayerNorm (units/table_ops.hpp), whatever a program loads: entries, shifts and what
/// they are looked up with are moved inside their limits.
struct TableRoot {
  static constexpr int kEntries = 128, kWords = 3 + kEntries + 3;
  Lut<kEntries> rsqrt;
  Int<32> multiplier;
  Int<8> mean_shift, out_shift;

  template <typename Source> void load(Source &from) {
    rsqrt.load_within(from, 0, 65535);
    multiplier = from.next();
    mean_shift = Int<8>(clamped(from.next(), 1, 62));
    out_shift = Int<8>(clamped(from.next(), 0, 62));
  }
  NormRow row(const Sums &sums, bool, int elements, Int<64>) const {
    WEFT_INLINE
    const Int<64> product = Int<64>(sums.sum) * Int<64>(multiplier);
    const Int<64> mean = Int<64>(saturated<16>(rounded_wide(product, int(mean_shift))));
    const Int<64> cross = Int<64>(Int<64>(mean * Int<64>(sums.sum)) * 2);
    const Int<64> squares = Int<64>(mean * mean * Int<64>(elements));
    const Int<64> power = Int<64>(Int<64>(sums.squares - cross) + squares);
    const Int<64> most = Int<64>(1) << 30;
    return {Int<32>(mean), rsqrt(Int<32>(power > most ? most : power)), Int<16>(out_shift)};
  }
};

/// ((x − mean)·factor·weight + bias) >> exponent; the weight has 18 bits, the sum wraps in 64.
inline Int<16> table_normal(Int<16> x, const NormRow &row, Int<32> weight, Int<64> bias) {
  WEFT_INLINE
  const Int<64> scaled = Int<64>(Int<18>(Int<32>(x) - row.offset)) * Int<64>(Int<18>(row.factor));
  const Int<64> w = Int<64>(Int<32>(Int<32>(UInt<32>(weight) << 14) >> 14));
  const Int<64> y = Int<64>(UInt<64>(Int<64>(scaled * w)) + UInt<64>(bias));
  return Int<16>(saturated<16>(Int<64>(y >> int(row.exponent))));
}

}  // namespace weft
