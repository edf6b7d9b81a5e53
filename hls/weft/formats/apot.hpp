/// Additive powers of two: each term an index of two bits into four shifts, added up. A multiplexer
/// per term and one adder less than terms.
#pragma once
#include "formats/term.hpp"

namespace weft {

/// log2 of what index 1, 2 or 3 of term `term` stands for, in codes of `bits` bits without a sign.
inline int additive_exponent(int bits, int term, int index) {
  WEFT_INLINE
  if (bits == 1) return 0;
  if (bits == 2) return 3 - index;
  if (bits == 3) return term == 1 ? 1 : index == 1 ? 3 : index == 2 ? 2 : 0;
  if (bits == 4) return 7 - 2 * index - term;
  if (bits == 5) {
    if (term == 2) return 2;
    return index == 1 ? 6 - term : index == 2 ? 4 - term : 1 - term;
  }
  return 11 - 3 * index - term;
}

template <int kBits> struct AdditivePowers {
  static_assert(kBits >= 2 && kBits <= 6, "a sign and codes of 1 to 5 bits");
  static Term decode(UInt<8> code, UInt<8>, bool) {
    const int sign = 1 << (kBits - 1), field = int(code) & (sign - 1);
    int sum = 0;
  terms:
    for (int term = 0; term < kBits / 2; ++term) {
      WEFT_UNROLL
      const int index = (field >> (2 * term)) & 3;
      if (index != 0) sum += 1 << additive_exponent(kBits - 1, term, index);
    }
    return {(int(code) & sign) != 0, UInt<16>(sum), 0};
  }
};

}  // namespace weft
