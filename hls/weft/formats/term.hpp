/// What a code of an integer format stands for: (−1)^negative · (base << exponent).
#pragma once
#include "types.hpp"

namespace weft {

struct Term {
  bool negative;
  UInt<16> base;
  UInt<5> exponent;
};

inline Int<16> value(const Term &t) {
  const Int<32> magnitude = Int<32>(t.base) << int(t.exponent);
  return Int<16>(t.negative ? Int<32>(-magnitude) : magnitude);
}

}  // namespace weft
