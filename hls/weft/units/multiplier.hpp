/// int8 products of the array's elements, and how they map to DSPs.
#pragma once
#include "types.hpp"

namespace weft {

/// One product per DSP. |a·w| is at most 2^14, so 16 bits hold it.
inline Int<16> product(Int<8> a, Int<8> w) { return Int<16>(Int<16>(a) * Int<16>(w)); }

/// Two products in one DSP48E2: ((w1 << 18) + w0)·a on its 27×18 multiplier (AMD WP486).
/// The low field is the sum modulo 2^18, taken as signed; subtracting it leaves the high one.
/// Both are added outside the DSP: in the chain the low field would overflow after 7 products.
inline void packed_product(Int<8> a, Int<8> w0, Int<8> w1, Int<16> &low, Int<16> &high) {
  const Int<27> high_field = Int<27>(UInt<27>(Int<27>(w1)) << 18);
  const Int<27> pair = Int<27>(high_field + Int<27>(w0));
  const Int<45> both = Int<45>(Int<45>(pair) * Int<45>(a));
  // Sign extension of the low 18 bits by shifts, so that native integers do the same as ap_int.
  const Int<64> field = (Int<64>(UInt<64>(both) << 46)) >> 46;
  low = Int<16>(field);
  high = Int<16>((Int<64>(both) - field) >> 18);
}

}  // namespace weft
