/// Norm's second pass in float64, for the functional simulation: every product and sum in it has
/// fewer than 53 bits, so float64 holds it, and floor(x·2^−s + 1/2) is the rounding shift. Lanes
/// become vectors, which 64-bit integers don't on most CPUs.
#pragma once
#include <cmath>
#include <vector>

#include "units/normalize.hpp"

namespace weft {
namespace functional {

/// x / 2^s, ties up, where `down` is 2^−s, or that times a factor. A result that keeps bits below
/// 2^−53 is less than 1/256: it becomes 0, as it should.
inline double halves_up(double x, double down) { return std::floor(x * down + 0.5); }
inline double inside(double x, double low, double high) {
  const double above = x < low ? low : x;
  return above > high ? high : above;
}

/// A parameter block.
struct NormLanes {
  double there[kCols], gamma[kCols], beta[kCols], down[kCols], scale[kCols];

  NormLanes(const ParameterWord &p, int left) {
    for (int c = 0; c < kCols; ++c) {
      there[c] = c < left ? 1 : 0;
      gamma[c] = double(Int<16>(p.multiplier[c]));
      beta[c] = double(p.bias[c]);
      down[c] = std::ldexp(1.0, p.shift[c] < 1 ? -1 : -int(p.shift[c]));
      scale[c] = std::ldexp(double(p.negative_multiplier[c]), int(p.negative_shift[c]) - 31);
    }
  }
};

struct NormEnds {
  double zero, least, most;
};

/// A word: its y, and codes as numbers.
inline void norm_word(const Int<16> (&x)[kCols], const NormLanes &p, const NormRow &row,
                      double elements, const NormEnds &to, Int<16> (&y)[kCols],
                      Int<8> (&codes)[kCols]) {
  const double offset = double(row.offset), factor = double(row.factor), all = 1 << 17;
  const double down = std::ldexp(1.0, kNormFraction - 15 - int(row.exponent));
  double kept[kCols];
  for (int c = 0; c < kCols; ++c) {
    const double d = (double(x[c]) * elements - offset) * factor;
    const double z = inside(halves_up(d, down), -all, all - 1) * p.there[c];
    kept[c] = inside(halves_up(z * p.gamma[c] + p.beta[c], p.down[c]), -32768, 32767);
  }
  for (int c = 0; c < kCols; ++c) y[c] = Int<16>(std::int32_t(kept[c]));
  for (int c = 0; c < kCols; ++c) {
    const double code = inside(halves_up(kept[c], p.scale[c]), to.least, to.most) + to.zero;
    codes[c] = Int<8>(std::int32_t(code));
  }
}

inline void norm_rows(const Norm &f, Memories &m) {
  std::vector<NormLanes> lanes;
  for (int block = 0; block < int(f.blocks); ++block)
    lanes.emplace_back(m.parameters.read(int(f.parameter) + block),
                       int(f.elements) - block * kCols);
  const double zero = double(f.zero_point);
  const NormEnds to = {zero, double(f.low) - zero, double(f.high) - zero};
  NormWalk at;
  at.begin(f);
  for (int i = 0; i < int(f.rows) * int(f.blocks); ++i) {
    Int<16> y[kCols];
    Word codes;
    norm_word(m.wide[at.source], lanes[at.block], m.norm_rows[at.row], double(f.elements), to, y,
              codes.lane);
    m.buffer.write(at.target, codes);
    if (f.keep != 0) std::copy(y, y + kCols, m.wide[at.source]);
    at.next();
  }
}

inline void normalize(const Norm &f, Memories &m, Counters &counters) {
  if (f.ranges != 0 || NormMethods::kind(int(f.method), f.rms != 0) != kRootKind)
    return weft::normalize(f, m, counters);
  const int words = int(f.rows) * int(f.blocks);
  norm_statistics(f, words, m);
  norm_rows(f, m);
  counters.vector += Int<64>(words) * 2;
}

}  // namespace functional
}  // namespace weft
