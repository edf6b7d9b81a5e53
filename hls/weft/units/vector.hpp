/// Lane-wise operations on the unified buffer: one word is read per clock, so one port serves.
#pragma once
#include "memories.hpp"
#include "units/writer.hpp"
#include "units/window.hpp"

namespace weft {

constexpr int kEmptyMax = -256;  // below every x − zero: the maximum of no tap at all

inline bool has_second(const Vector &f) { return f.operation == kAdd || f.operation == kMul; }

/// One clock: brings word x of tap `step` into the sums. `factor` is the tap's weights.
inline void vector_step(const Vector &f, int step, bool valid, const Word &x, const Word &factor,
                        SumWord &sums) {
  WEFT_INLINE
  const int operation = int(f.operation);
  const Int<16> zero = step == 1 && has_second(f) ? Int<16>(f.second_zero) : Int<16>(f.zero);
  const Int<16> scale = step == 1 ? Int<16>(f.second_scale) : Int<16>(f.scale);
lanes:
  for (int c = 0; c < kCols; ++c) {
    WEFT_UNROLL
    const Int<16> value = Int<16>(Int<16>(x[c]) - zero);  // 9 bits
    const Int<16> weight = operation == kDepthwise ? Int<16>(factor[c])
                           : operation == kAdd     ? scale
                                                   : Int<16>(1);
    const Int<32> before = step != 0           ? sums[c]
                           : operation == kMax ? Int<32>(kEmptyMax)
                                               : Int<32>(0);
    if (operation == kMax) {
      sums[c] = valid && Int<32>(value) > before ? Int<32>(value) : before;
    } else if (operation == kMul && step == 1) {
      sums[c] = Int<32>(before * Int<32>(value));
    } else {
      const Int<32> term = Int<32>(Int<32>(value) * Int<32>(weight));
      sums[c] = valid ? Int<32>(UInt<32>(before) + UInt<32>(term)) : before;  // wraps
    }
  }
}

/// Addresses of a Vector, one word per clock: positions outermost, then the taps; for add and mul
/// the "taps" are the two operands.
struct VectorWalk {
  Vector f;
  Walk<Vector> first;
  Strided second;
  int step, steps;

  void begin(const Vector &fields, int batch) {
    f = fields;
    first.begin(f, batch);
    step = 0;
    steps = has_second(f) ? 2 : first.taps();
    restart_second();
  }
  /// Input position of the present tap.
  int tap_y() const { return first.iy + first.ky * int(f.dilation_y); }
  int tap_x() const { return first.ix + first.kx * int(f.dilation_x); }
  bool valid() const {
    const int y = tap_y(), x = tap_x();
    return y >= 0 && y < int(f.height) && x >= 0 && x < int(f.width);
  }
  int address() const {
    if (has_second(f) && step == 1) return second.address();
    const unsigned down = unsigned(first.ky) * unsigned(f.dilation_y) * unsigned(f.source_row);
    const unsigned right = unsigned(first.kx) * unsigned(f.dilation_x) * unsigned(f.source_col);
    return int(unsigned(first.address()) + down + right);
  }
  int tap_word() const { return int(f.tap) + first.block * steps + step; }
  bool last_step() const { return step == steps - 1; }

  void next() {
    if (!last_step()) {
      ++step;
      if (!has_second(f)) next_tap();
      return;
    }
    step = 0;
    first.ky = first.kx = 0;
    const Positions &at = first.at;
    const bool wraps = at.last_x() && at.last_y() && at.sample == at.batch - 1;
    second.next(at);
    first.next_position();
    if (wraps) {
      first.next_block();
      restart_second();
    }
  }

 private:
  void next_tap() {
    const bool last_kx = first.kx == int(f.kernel_w) - 1;
    first.kx = last_kx ? 0 : first.kx + 1;
    if (last_kx) ++first.ky;
  }
  void restart_second() {
    second.begin(unsigned(f.second) + unsigned(first.block) * unsigned(f.second_block),
                 unsigned(f.second_sample), unsigned(f.second_row), unsigned(f.second_col));
  }
};

/// A whole Vector with its Activate.
inline void vector(const Vector &f, const Activate &a, int batch, Memories &m, Counters &counters) {
  WEFT_INLINE  // into compute, where `activate` is shared
      VectorWalk walk;
  walk.begin(f, batch);
  Writer out;
  out.begin(a, batch, int(f.out_h), int(f.out_w));
  const Int<64> clocks = Int<64>(walk.first.at.count()) * int(f.blocks) * walk.steps;
  SumWord sums;
clock:
  for (Int<64> t = 0; t < clocks; ++t) {
    WEFT_PIPELINE
    WEFT_TRIPCOUNT(kBufferWords)
    const bool valid = walk.valid();
    const Word x = valid ? m.buffer.read(walk.address()) : filled(0);
    const bool depthwise = f.operation == kDepthwise;
    const Word factor = depthwise ? value_of(m.taps[walk.tap_word()]) : filled(0);
    vector_step(f, walk.step, valid, x, factor, sums);
    if (walk.last_step()) {
      write_word(out, sums, m.parameters.read(out.parameter()), added_word(out, m), m);
      out.next();
    }
    walk.next();
  }
  counters.vector += clocks;
}

}  // namespace weft
