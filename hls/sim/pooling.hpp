/// Vector as plain loops, for the functional simulation.
#pragma once
#include "units/vector.hpp"

namespace weft {
namespace functional {

/// One tap into the sums of a word; `kOperation` is fixed so that the lanes become vectors.
template <int kOperation>
inline void take_tap(const Int<8> (&word)[kRows], const Int<8> (&tap)[kRows], int zero,
                     std::int32_t (&sums)[kCols]) {
  for (int c = 0; c < kCols; ++c) {
    const std::int32_t value = word[c] - zero;
    if (kOperation == kMax) {
      sums[c] = value > sums[c] ? value : sums[c];
    } else {
      sums[c] += kOperation == kDepthwise ? value * tap[c] : value;
    }
  }
}

/// max, sum and depthwise: a window at each output position.
template <int kOperation>
inline void pool(const Vector &f, const Activate &a, int batch, Memories &m) {
  Walk<Vector> walk;
  walk.begin(f, batch);
  Writer out;
  out.begin(a, batch, int(f.out_h), int(f.out_w));
  const int rows = walk.at.count(), taps = walk.taps();
  for (int block = 0; block < int(f.blocks); ++block) {
    const ParameterWord p = m.parameters.read(out.parameter());
    for (int row = 0; row < rows; ++row) {
      SumWord sums;
      for (int c = 0; c < kCols; ++c) sums[c] = kOperation == kMax ? kEmptyMax : 0;
      int tap = int(f.tap) + block * taps;
      for (int ky = 0; ky < int(f.kernel_h); ++ky) {
        const int dy = ky * int(f.dilation_y), iy = walk.iy + dy;
        for (int kx = 0; kx < int(f.kernel_w); ++kx, ++tap) {
          const int dx = kx * int(f.dilation_x), ix = walk.ix + dx;
          if (iy < 0 || iy >= int(f.height) || ix < 0 || ix >= int(f.width)) continue;
          const int address = walk.address() + dy * int(f.source_row) + dx * int(f.source_col);
          take_tap<kOperation>(m.buffer.read(address).lane,
                               m.taps[kOperation == kDepthwise ? tap : 0], int(f.zero), sums.lane);
        }
      }
      write_word(out, sums, p, added_word(out, m), m);
      out.next();
      walk.next_position();
    }
    walk.next_block();
  }
}

inline void vector(const Vector &f, const Activate &a, int batch, Memories &m, Counters &counters) {
  if (has_second(f)) return weft::vector(f, a, batch, m, counters);
  const int operation = int(f.operation);
  if (operation == kMax) {
    pool<kMax>(f, a, batch, m);
  } else if (operation == kSum) {
    pool<kSum>(f, a, batch, m);
  } else {
    pool<kDepthwise>(f, a, batch, m);
  }
  counters.vector += Int<64>(batch) * int(f.out_h) * int(f.out_w) * int(f.blocks) *
                     int(f.kernel_h) * int(f.kernel_w);
}

}  // namespace functional
}  // namespace weft
