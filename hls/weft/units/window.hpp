/// The window walk of MatMul and Vector: one input position per clock, by counters and adders.
#pragma once
#include "isa.hpp"

namespace weft {

/// Counts output positions in the order (sample, y, x).
struct Positions {
  int batch, out_h, out_w;
  int sample, y, x;

  void begin(int samples, int height, int width) {
    batch = samples, out_h = height, out_w = width;
    sample = y = x = 0;
  }
  int count() const { return batch * out_h * out_w; }
  bool last_x() const { return x == out_w - 1; }
  bool last_y() const { return y == out_h - 1; }
  void next() {
    if (!last_x()) {
      ++x;
      return;
    }
    x = 0;
    if (!last_y()) {
      ++y;
      return;
    }
    y = 0;
    sample = sample == batch - 1 ? 0 : sample + 1;
  }
};

/// Unified-buffer address of a position under strides; running sums instead of multipliers.
/// Unsigned: outside the map they may leave 32 bits and come back (nobody reads there).
struct Strided {
  unsigned step_sample, step_y, step_x;
  unsigned at_sample, at_y, at_x;

  void begin(unsigned base, unsigned sample, unsigned row, unsigned col) {
    step_sample = sample, step_y = row, step_x = col;
    at_sample = at_y = at_x = base;
  }
  int address() const { return int(at_x); }
  /// Moves with `positions`, which must not have moved yet. Past the last sample it runs on:
  /// `restart` then gives the base of the next tile or fold.
  void next(const Positions &positions) {
    if (!positions.last_x()) {
      at_x += step_x;
    } else if (!positions.last_y()) {
      at_y += step_y;
      at_x = at_y;
    } else {
      at_sample += step_sample;
      at_x = at_y = at_sample;
    }
  }
};

/// Words that a clock reads, channel blocks side by side.
inline int words_of(const MatMul &f) { return int(f.words); }
inline int words_of(const Vector &) { return 1; }

/// Input positions of one fold: a channel block seen through one tap of the window.
template <typename Instruction> struct Walk {
  Instruction f;
  Positions at;
  Strided word;
  int block, ky, kx;
  int words, groups;  // channel blocks read at once, and how often that makes all
  int iy, ix;         // input position of the present output position

  void begin(const Instruction &fields, int batch) {
    f = fields;
    at.begin(batch, int(f.out_h), int(f.out_w));
    block = ky = kx = 0;
    words = words_of(f);
    groups = (int(f.blocks) + words - 1) >> (words >> 1);
    restart();
  }
  /// Words of the present group that there are: fewer than `words` in the last one.
  int present() const {
    const int left = int(f.blocks) - block * words;
    return left < words ? left : words;
  }
  bool inside() const { return iy >= 0 && iy < int(f.height) && ix >= 0 && ix < int(f.width); }
  int address() const { return word.address(); }
  int taps() const { return int(f.kernel_h) * int(f.kernel_w); }
  int tap() const { return ky * int(f.kernel_w) + kx; }

  void next_position() {
    word.next(at);
    if (at.last_x()) {
      ix = left();
      iy = at.last_y() ? top() : iy + int(f.stride_y);
    } else {
      ix += int(f.stride_x);
    }
    at.next();
  }
  /// The next fold, ordered (ky, kx, block), so that the channels of a tap are together: groups of
  /// weights with a scale of their own run along them. After the last one the first again.
  void next_fold() {
    const bool last_block = block == groups - 1;
    const bool last_kx = kx == int(f.kernel_w) - 1, last_ky = ky == int(f.kernel_h) - 1;
    block = last_block ? 0 : block + 1;
    if (last_block) kx = last_kx ? 0 : kx + 1;
    if (last_block && last_kx) ky = last_ky ? 0 : ky + 1;
    restart();
  }
  /// The same fold once more.
  void again() { restart(); }
  /// The next channel block, at the first tap and position.
  void next_block() {
    ky = kx = 0;
    block = block == int(f.blocks) - 1 ? 0 : block + 1;
    restart();
  }

 private:
  int top() const { return ky * int(f.dilation_y) - int(f.pad_y); }
  int left() const { return kx * int(f.dilation_x) - int(f.pad_x); }
  void restart() {
    iy = top();
    ix = left();
    const unsigned row = unsigned(f.source_row), col = unsigned(f.source_col);
    const unsigned base = unsigned(f.source) + unsigned(block * words) * unsigned(f.source_block) +
                          unsigned(iy) * row + unsigned(ix) * col;
    word.begin(base, unsigned(f.source_sample), unsigned(f.stride_y) * row,
               unsigned(f.stride_x) * col);
  }
};

}  // namespace weft
