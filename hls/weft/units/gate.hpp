/// Sigmoid and what is made of it, from an exponential and a reciprocal: tanh(x) = 2·s(2x) − 1,
/// SiLU(x) = x·s(x), GELU(x) = x·s(a(x)) with an odd polynomial a. Golden model: gate.py.
///
/// Cost per lane: the exponential and the reciprocal; SiLU 1 DSP more, GELU 5.
#pragma once
#include "units/fixed.hpp"

namespace weft {

constexpr int kGateFraction = 12;  // of the argument; the exponential's kIn

/// s(|a|) = 1 / (1 + exp(−|a|)), 15 fraction bits.
template <typename Exp, typename Reciprocal> struct Gate {
  Exp exp;
  Reciprocal reciprocal;

  template <typename Source> void load(Source &from) {
    exp.load(from);
    reciprocal.load(from);
  }
  Int<32> positive(Int<32> a) const {
    WEFT_INLINE
    const Int<32> e = exp(a < 0 ? a : Int<32>(-a));
    return reciprocal(clamped(Int<32>(e + kOne), kOne, 2 * kOne - 1));
  }
  /// s(a) itself.
  Int<32> of(Int<32> a) const {
    WEFT_INLINE
    const Int<32> s = positive(a);
    return a < 0 ? Int<32>(kOne - s) : s;
  }
};

/// In: 12 fraction bits. Out: 14.
template <typename Exp, typename Reciprocal> struct Sigmoid : Gate<Exp, Reciprocal> {
  Int<32> operator()(Int<32> x) const { return rounded(this->of(x), 1); }
};

/// In: 12 fraction bits. Out: 14: 2·s − 1 with s of 15 bits.
template <typename Exp, typename Reciprocal> struct Tanh : Gate<Exp, Reciprocal> {
  Int<32> operator()(Int<32> x) const {
    WEFT_INLINE
    const Int<32> y = Int<32>(this->positive(Int<32>(x << 1)) - kOne / 2);
    return x < 0 ? Int<32>(-y) : y;
  }
};

/// In and out: 12 fraction bits.
template <typename Exp, typename Reciprocal> struct Silu : Gate<Exp, Reciprocal> {
  Int<32> operator()(Int<32> x) const {
    WEFT_INLINE
    return rounded(Int<32>(Int<16>(x) * Int<17>(this->of(x))), 15);
  }
};

/// In and out: 12 fraction bits. a(x) = x·(c1 + x²·(c3 + x²·c5)), |x| cut to 4.5.
template <typename Exp, typename Reciprocal> struct Gelu : Gate<Exp, Reciprocal> {
  static constexpr int kFar = 9 << (kGateFraction - 1);
  Int<18> c1, c3, c5;  // 12, 18 and 18 fraction bits

  template <typename Source> void load(Source &from) {
    Gate<Exp, Reciprocal>::load(from);
    c1 = Int<18>(from.next());
    c3 = Int<18>(from.next());
    c5 = Int<18>(from.next());
  }
  Int<32> operator()(Int<32> x) const {
    WEFT_INLINE
    const Int<17> near = Int<17>(clamped(x, -kFar, kFar));
    const Int<18> square = Int<18>(Int<32>(near * near) >> kGateFraction);
    const Int<18> inner = Int<18>(Int<32>(c3) + Int<32>(Int<32>(c5 * square) >> kGateFraction));
    const Int<18> factor = Int<18>(Int<32>(c1) + Int<32>(Int<32>(inner * square) >> 18));
    const Int<32> a = Int<32>(Int<32>(factor * near) >> kGateFraction);
    return rounded(Int<32>(Int<16>(x) * Int<17>(this->of(a))), 15);
  }
};

}  // namespace weft
