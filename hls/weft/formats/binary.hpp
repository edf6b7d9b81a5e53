/// One bit: −1 and +1, or 0 and 1.
#pragma once
#include "formats/term.hpp"

namespace weft {

struct SignBit {
  static Term decode(UInt<8> code, UInt<8>, bool) { return {code == 0, 1, 0}; }
};

struct Bit {
  static Term decode(UInt<8> code, UInt<8>, bool) { return {false, UInt<16>(code), 0}; }
};

}  // namespace weft
