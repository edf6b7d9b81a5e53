/// What the methods of an overlay's attention have in common: exponentials with 15 fraction bits,
/// and the factor that makes them shares of their row. Golden model:
/// host/weft/units/exponential.py.
#pragma once
#include "config.hpp"
#include "units/fixed.hpp"
#include "units/table.hpp"

namespace weft {

/// Parameters that a design holds in constants.
struct RomWords {
  const int *word;
  Int<32> next() { return Int<32>(*word++); }
};

/// Tables that nobody has loaded yet.
struct ZeroWords {
  Int<32> next() { return 0; }
};

/// y = (x·factor + nudge) >> shift.
struct Share {
  Int<32> factor;
  Int<64> nudge;
  int shift;

  Int<64> of(Int<32> x) const {
    WEFT_INLINE
    return Int<64>(Int<64>(Int<64>(x) * Int<64>(factor) + nudge) >> shift);
  }
};

constexpr int kMostEntry = (1 << 17) - 1;  // of a table
constexpr int kShareBits = 7;              // of a probability that is an activation

/// x/sum with kShareBits fraction bits, rounded, by 1/w where the sum is w·2^k.
template <typename Reciprocal> inline Share share_of(const Reciprocal &reciprocal, Int<32> sum) {
  WEFT_INLINE
  const Normal n = normalized(UInt<64>(UInt<32>(sum)));
  if (sum == 0) return {0, 0, 1};
  const int shift = 30 - kShareBits + n.exponent;  // 8 to 38
  return {reciprocal(n.mantissa), Int<64>(Int<64>(1) << (shift - 1)), shift};
}

/// A table for every lane, as each looks up in every clock; its place in the input is common.
template <int kEntries> struct LaneLut {
  TableIndex index;
  Int<18> value[kCols][kEntries];  // exponentials: 0 to 1.0

  template <typename Source> void load(Source &from) {
    index.load_within(from, kEntries);
  entries:
    for (int i = 0; i < kEntries; ++i) {
      const Int<18> entry = Int<18>(clamped(from.next(), 0, kOne));
    lanes:
      for (int c = 0; c < kCols; ++c) {
        WEFT_UNROLL
        value[c][i] = entry;
      }
    }
  }
  Int<32> at(int lane, Int<32> x) const {
    WEFT_INLINE
    return Int<32>(value[lane][index.of(x)]);
  }
};

/// HG-PIPE's softmax (units/table_ops.hpp) with one table of exponentials per lane.
struct TableExponential {
  static constexpr int kEntries = 32, kReciprocals = 64;
  static constexpr int kWords = 3 + kEntries + 2 * (3 + kReciprocals) + 5;
  LaneLut<kEntries> exp;
  Lut<kReciprocals> small, large;
  Int<32> small_nudge, large_nudge, small_bound;
  Int<8> small_shift, large_shift;

  template <typename Source> void load(Source &from) {
    exp.load(from);
    small.load_within(from, -kMostEntry, kMostEntry);
    large.load_within(from, -kMostEntry, kMostEntry);
    small_bound = from.next();
    small_nudge = from.next();
    small_shift = Int<8>(clamped(from.next(), 0, 62));
    large_nudge = from.next();
    large_shift = Int<8>(clamped(from.next(), 0, 62));
  }
  Int<32> exponential(int lane, Int<32> below) const {
    WEFT_INLINE
    return exp.at(lane, Int<32>(-below));
  }
  Share share(Int<32> sum) const {
    WEFT_INLINE
    const Int<32> step = Int<32>(Int<32>(sum + small.index.bias) >> int(small.index.shift));
    const bool above = step > small_bound;
    return {above ? large(sum) : small(sum), Int<64>(above ? large_nudge : small_nudge),
            int(above ? large_shift : small_shift)};
  }
};

}  // namespace weft
