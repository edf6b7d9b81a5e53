/// I-BERT's integer operations (Kim et al., ICML 2021, with the coefficients of Hugging Face's
/// quant_modules): polynomials, and a square root by Newton's method. Golden model: ibert.py.
///
/// Cost, by count: IExp 5 DSPs per lane (1 division by a constant, 1 square, 3 output scale); IGelu
/// 6; isqrt and the quotients one sequential divider per row, as in the paper.
#pragma once
#include "units/fixed.hpp"

namespace weft {

/// exp(x·S), x <= 0: q = floor(x / x0), z = (r + b)·r + c with r = x − x0·q, result z·2^−q·m.
/// In: the scale S is in the constants. Out: what m makes it, at most `most`.
struct IExp {
  Int<16> x0, b;
  Int<32> inverse;  // ceil(2^26 / −x0): the quotient, exact for x in [30·x0, 0]
  Int<32> c, m, shift, most;

  template <typename Source> void load(Source &from) {
    x0 = Int<16>(from.next());
    b = Int<16>(from.next());
    inverse = from.next();
    c = from.next();
    m = from.next();
    shift = from.next();
    most = from.next();
  }
  Int<32> operator()(Int<32> x) const {
    WEFT_INLINE
    const Int<32> inside = clamped(x, Int<32>(x0 * 30), 0);
    const Int<32> q = Int<32>(Int<32>(-inside * inverse) >> 26);  // 30·2^26 and a little: 31 bits
    const Int<16> r = Int<16>(inside - Int<32>(Int<16>(q) * x0));
    const Int<32> z = Int<32>(Int<32>(Int<18>(r + b) * r) + c);
    const Int<64> y = rounded_wide(Int<64>(z) * Int<64>(m), int(shift) + int(q));
    return clamped(Int<32>(y), 0, most);
  }
};

/// GELU(x·S) = x·(erf + 1)/2 with erf ~ sign·(a·(min(|x|, −b) + b)² + 1). The paper's result has a
/// negative scale; m, which is negative, turns it back.
struct IGelu {
  Int<32> b, c, one, m;
  Int<8> down, shift;  // the paper's >> 14 of erf; the output's

  template <typename Source> void load(Source &from) {
    b = from.next();
    c = from.next();
    one = from.next();
    down = Int<8>(from.next());
    m = from.next();
    shift = Int<8>(from.next());
  }
  Int<32> raw(Int<32> x) const {
    WEFT_INLINE
    const Int<32> magnitude = x < 0 ? Int<32>(-x) : x;
    const Int<18> near = Int<18>(clamped(magnitude, 0, Int<32>(-b)) + b);
    const Int<32> square = Int<32>(Int<32>(near * near) + c);
    const Int<32> erf = x < 0 ? Int<32>(-square) : x > 0 ? square : Int<32>(0);
    return Int<32>(Int<17>(x) * Int<24>(Int<32>(erf >> int(down)) + one));
  }
  Int<32> operator()(Int<32> x) const {
    WEFT_INLINE
    return saturated<16>(rounded_wide(Int<64>(raw(x)) * Int<64>(m), int(shift)));
  }
};

/// floor(sqrt(n)), n < 2^62: x = 2^ceil(bits/2), then x = (x + n/x)/2 while that falls. 32-bit n
/// need five steps, 62-bit ones seven; the loop runs kSteps times, as further steps change nothing.
inline UInt<32> isqrt(UInt<64> n) {
  WEFT_INLINE
  constexpr int kSteps = 8;
  UInt<64> x = UInt<64>(1) << ((leading_one(n) + 2) / 2);
newton:
  for (int step = 0; step < kSteps; ++step) {
    const UInt<64> divisor = x == 0 ? UInt<64>(1) : x;  // n = 0 ends there
    const UInt<64> y = UInt<64>(UInt<64>(x + UInt<64>(n / divisor)) >> 1);
    x = y < x ? y : x;
  }
  return UInt<32>(x);
}

/// 1/w, w in [1, 2): floor(2^30 / w). In and out: 15 fraction bits.
struct IReciprocal {
  template <typename Source> void load(Source &) {}
  Int<32> operator()(Int<32> w) const { return Int<32>((1 << 30) / (w < 1 ? Int<32>(1) : w)); }
};

/// 1/sqrt(w), w in [1, 4): floor(2^30 / isqrt(w·2^16)). In: 14 fraction bits. Out: 15.
struct IRsqrt {
  template <typename Source> void load(Source &) {}
  Int<32> operator()(Int<32> w) const {
    WEFT_INLINE
    const Int<32> root = Int<32>(isqrt(UInt<64>(w) << 16));
    return Int<32>((1 << 30) / (root < 1 ? Int<32>(1) : root));
  }
};

}  // namespace weft
