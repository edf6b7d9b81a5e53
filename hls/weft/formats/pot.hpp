/// Powers of two: a sign, then 0 or one more than the exponent. Wires and a decrement.
#pragma once
#include "formats/term.hpp"

namespace weft {

template <int kBits> struct PowerOfTwo {
  static_assert(kBits >= 2 && kBits <= 5, "the exponent is one of 16 bits");
  static Term decode(UInt<8> code, UInt<8>, bool) {
    const int sign = 1 << (kBits - 1), field = int(code) & (sign - 1);
    const bool zero = field == 0;
    return {(int(code) & sign) != 0, UInt<16>(zero ? 0 : 1), UInt<5>(zero ? 0 : field - 1)};
  }
};

}  // namespace weft
