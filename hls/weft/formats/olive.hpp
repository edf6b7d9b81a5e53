/// OliVe's pairs (Guo et al., ISCA 2023, section 4): a comparator with the victim's code, and a
/// multiplexer between the normal value and abfloat.
#pragma once
#include "formats/flint.hpp"
#include "formats/integer.hpp"

namespace weft {

/// Normal codes of `Normal`; outliers of kExponent and kMantissa bits, from exponent kBias on. What
/// int16 does not hold is the largest that it does.
template <typename Normal, int kBits, int kExponent, int kMantissa, int kBias> struct Olive {
  static constexpr int kVictim = 1 << (kBits - 1);
  static Term decode(UInt<8> code, UInt<8> partner, bool odd) {
    const bool victim = int(code) == kVictim, outlier = int(partner) == kVictim;
    if (victim) return {false, 0, 0};
    if (!outlier) return Normal::decode(code, partner, odd);
    const int magnitude = int(code) & (kVictim - 1);
    const int base = (1 << kMantissa) + (magnitude & ((1 << kMantissa) - 1));
    const int exponent = (magnitude >> kMantissa) + kBias;
    const bool fits = magnitude != 0 && exponent <= 14 - kMantissa;
    return {(int(code) & kVictim) != 0, UInt<16>(fits ? base : 0), UInt<5>(fits ? exponent : 0)};
  }
};

using OliveInteger = Olive<Signed<4>, 4, 2, 1, 2>;
using OliveFlint = Olive<Flint<4>, 4, 2, 1, 3>;
using OliveByte = Olive<Signed<8>, 8, 4, 3, 4>;

}  // namespace weft
