/// The epilogue: sums → bias, requantize, zero point, clamp, lookup → codes. One word per clock.
#pragma once
#include "memories.hpp"
#include "units/requant.hpp"
#include "units/window.hpp"

namespace weft {

template <Int<32> (*kScale)(Int<32>, Int<32>, Int<8>)>
inline void scale_lanes(const SumWord &x, const ParameterWord &p, SumWord &y) {
  WEFT_INLINE
  SumWord multiplier;
  Vec<Int<8>, kCols> shift;
choose:
  for (int c = 0; c < kCols; ++c) {
    WEFT_UNROLL
    // LeakyReLU and PReLU take another scale below zero; a multiplexer, not a second multiplier.
    const Int<32> above = p.multiplier[c], below = p.negative_multiplier[c];
    const Int<8> above_shift = p.shift[c], below_shift = p.negative_shift[c];
    multiplier[c] = x[c] < 0 ? below : above;
    shift[c] = x[c] < 0 ? below_shift : above_shift;
  }
lanes:
  for (int c = 0; c < kCols; ++c) {
    WEFT_UNROLL
    y[c] = kScale(x[c], multiplier[c], shift[c]);
  }
}

/// Byte `index` of each sum.
inline Word raw_bytes(const SumWord &x, int index) {
  Word codes;
raw:
  for (int c = 0; c < kCols; ++c) {
    WEFT_UNROLL
    codes[c] = Int<8>((x[c] >> (8 * index)) & 0xff);
  }
  return codes;
}

/// Codes of one word of sums.
inline Word activate(const SumWord &sums, const ParameterWord &p, const Activate &f,
                     const Lookup &lookup) {
  SumWord x, y;
bias:
  for (int c = 0; c < kCols; ++c) {
    WEFT_UNROLL
    x[c] = Int<32>(UInt<32>(sums[c]) + UInt<32>(p.bias[c]));  // wraps
  }
  const int mode = int(f.mode);
  if (mode >= kRawByte) return raw_bytes(x, mode - kRawByte);
  if (mode == kSingleRound) {
    scale_lanes<single_round>(x, p, y);
  } else if (mode == kDoubleRound) {
    scale_lanes<double_round>(x, p, y);
  } else {
    scale_lanes<float_even>(x, p, y);
  }
  Word codes;
  // Bounds moved by the zero point: y + zero could overflow, low − zero can't.
  const Int<32> zero = Int<32>(f.zero_point);
  const Int<32> least = Int<32>(f.low) - zero, most = Int<32>(f.high) - zero;
clamp:
  for (int c = 0; c < kCols; ++c) {
    WEFT_UNROLL
    const Int<32> v = y[c] < least ? least : y[c];
    codes[c] = Int<8>((v > most ? most : v) + zero);
  }
  if (f.lookup != 0) {
  look:
    for (int c = 0; c < kCols; ++c) {
      WEFT_UNROLL
      codes[c] = lookup[c][int(codes[c]) + 128];
    }
  }
  return codes;
}

/// Where the words of a tile go; moves one position per word.
struct Writer {
  Activate f;
  Positions at;
  Strided word;
  int tile;

  void begin(const Activate &fields, int batch, int out_h, int out_w) {
    f = fields;
    at.begin(batch, out_h, out_w);
    tile = 0;
    restart();
  }
  int parameter() const { return int(f.parameter) + (f.parameter_step != 0 ? tile : 0); }
  int address() const { return word.address(); }
  void next() {
    const bool wraps = at.last_x() && at.last_y() && at.sample == at.batch - 1;
    word.next(at);
    at.next();
    if (wraps) {
      ++tile;
      restart();
    }
  }

 private:
  void restart() {
    word.begin(int(f.target) + tile * int(f.target_block), int(f.target_sample), int(f.target_row),
               int(f.target_col));
  }
};

/// A further Activate on the sums of the last MatMul, which are still in the finished bank.
inline void drain_again(const Activate &f, int batch, int out_h, int out_w, Memories &m,
                        Counters &counters) {
  WEFT_FUNCTION
  Writer out;
  out.begin(f, batch, out_h, out_w);
  const int rows = out.at.count();
drain:
  for (int row = 0; row < rows; ++row) {
    WEFT_PIPELINE
    WEFT_TRIPCOUNT(kAccumulatorRows)
    put(m.buffer[out.address()],
        activate(value_of(m.finished[row]), m.parameters.read(out.parameter()), f, m.lookup));
    out.next();
  }
  counters.vector += rows;
}

}  // namespace weft
