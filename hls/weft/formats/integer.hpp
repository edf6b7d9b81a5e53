/// Integers of 2 to 8 bits: two's complement, or without a sign. An inverter and an adder.
#pragma once
#include "formats/term.hpp"

namespace weft {

template <int kBits> struct Signed {
  static_assert(kBits >= 2 && kBits <= 8, "codes of 2 to 8 bits");
  static Term decode(UInt<8> code, UInt<8>, bool) {
    const int top = 1 << (kBits - 1), number = (int(code) ^ top) - top;
    return {number < 0, UInt<16>(number < 0 ? -number : number), 0};
  }
};

template <int kBits> struct Unsigned {
  static_assert(kBits >= 1 && kBits <= 8, "codes of 1 to 8 bits");
  static Term decode(UInt<8> code, UInt<8>, bool) { return {false, UInt<16>(code), 0}; }
};

}  // namespace weft
