/// flint (Guo et al., ANT, MICRO 2022, figure 7): a leading-zero count and a multiplexer.
#pragma once
#include "formats/term.hpp"

namespace weft {

template <int kBits> struct UnsignedFlint {
  static_assert(kBits >= 2 && kBits <= 8, "flint is defined for 2 to 8 bits");
  static Term decode(UInt<8> code, UInt<8>, bool) {
    const int top = 1 << (kBits - 1), low = int(code) & (top - 1);
    if ((int(code) & top) == 0) return {false, UInt<16>(low), 0};
    if (low == 0) return {false, 1, UInt<5>(2 * (kBits - 1))};
    int zeros = 0;
  leading_zeros:
    for (int bit = 0; bit < kBits - 1; ++bit) {
      WEFT_UNROLL
      if ((low >> bit) != 0) zeros = kBits - 2 - bit;
    }
    return {false, UInt<16>(2 * low), UInt<5>(2 * zeros)};
  }
};

/// A sign, then flint of one bit less.
template <int kBits> struct Flint {
  static Term decode(UInt<8> code, UInt<8>, bool) {
    const int sign = 1 << (kBits - 1);
    Term t = UnsignedFlint<kBits - 1>::decode(UInt<8>(int(code) & (sign - 1)), 0, false);
    t.negative = (int(code) & sign) != 0;
    return t;
  }
};

}  // namespace weft
