/// int8, two's complement: the code is the operand. A decoder stands at the edge of the array.
#pragma once
#include "types.hpp"

namespace weft {

struct Int8 {
  using Operand = Int<8>;
  static Operand decode(Int<8> code) { return code; }
};

}  // namespace weft
