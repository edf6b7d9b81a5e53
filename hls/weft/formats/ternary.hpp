/// −1, 0 and +1: the value plus one (a digit in base 3), or two's complement of two bits.
#pragma once
#include "formats/term.hpp"

namespace weft {

struct Trit {
  static Term decode(UInt<8> code, UInt<8>, bool) {
    return {code == 0, UInt<16>(code == 0 || code == 2 ? 1 : 0), 0};
  }
};

struct TernaryPair {
  static Term decode(UInt<8> code, UInt<8>, bool) {
    return {code == 3, UInt<16>(code == 1 || code == 3 ? 1 : 0), 0};
  }
};

}  // namespace weft
