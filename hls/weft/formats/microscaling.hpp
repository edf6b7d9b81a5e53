/// Elements of the MX formats as bf16; the power of two of a group is applied behind (scales.hpp).
#pragma once
#include "formats/minifloat.hpp"

namespace weft {

/// MXINT8: two's complement times 2^-6. A leading-one detector and a shifter of 8 bits.
struct MicroInteger {
  static UInt<16> bits(UInt<16> code) {
    const int number = ((int(code) & 0xff) ^ 0x80) - 0x80;
    const int magnitude = number < 0 ? -number : number;
    if (magnitude == 0) return 0;
    int lead = 0;
  leading_one:
    for (int bit = 1; bit < 8; ++bit) {
      WEFT_UNROLL
      if ((magnitude >> bit) != 0) lead = bit;
    }
    const int mantissa = (magnitude << (7 - lead)) & 0x7f;
    return UInt<16>((number < 0 ? 0x8000 : 0) | (lead - 6 + 127) << 7 | mantissa);
  }
};

}  // namespace weft
