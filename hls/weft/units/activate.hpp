/// The epilogue: sums → bias, requantize, zero point, clamp, lookup → codes. One word per clock.
#pragma once
#include "memories.hpp"
#include "units/bf16.hpp"
#include "units/requant.hpp"
#include "units/window.hpp"

namespace weft {

inline Int<32> biased(Int<32> sum, Int<32> bias) {
  return Int<32>(UInt<32>(sum) + UInt<32>(bias));  // wraps
}

/// Sums that are float32: bias and scale (the parameters hold their bits), then the nearest code,
/// or a byte of the nearest bf16 number. A lower clamp of 0 is a ReLU there.
inline Word float_results(const SumWord &sums, const ParameterWord &p, const Activate &f) {
  WEFT_INLINE
  const Int<32> zero = Int<32>(f.zero_point);
  const Int<32> least = Int<32>(f.low) - zero, most = Int<32>(f.high) - zero;
  Word codes;
lanes:
  for (int c = 0; c < kCols; ++c) {
    WEFT_UNROLL
    const Int<32> x = float_sum(sums[c], p.bias[c]);
    const Int<32> y = float_product(x, x < 0 ? p.negative_multiplier[c] : p.multiplier[c]);
    const Int<32> integer = rounded_integer(y);
    const Int<32> v = integer < least ? least : integer;
    const Int<16> pair = rounded_bf16(f.low == 0 && y < 0 ? Int<32>(0) : y);
    codes[c] = f.mode == kFloatCode ? Int<8>((v > most ? most : v) + zero)
               : f.mode == kBf16Low ? Int<8>(pair & 0xff)
                                    : Int<8>(pair >> 8);
  }
  return codes;
}

/// Requantized and clamped codes. Two loops: mixing 8 and 32 bits in one would make a simulating
/// CPU work in narrow vectors.
template <typename Scale>
inline Word scaled(const SumWord &sums, const ParameterWord &p, const Activate &f,
                   const Scale &scale) {
  WEFT_INLINE
  // Bounds moved by the zero point: y + zero could overflow, low − zero can't.
  const Int<32> zero = Int<32>(f.zero_point);
  const Int<32> least = Int<32>(f.low) - zero, most = Int<32>(f.high) - zero;
  SumWord clamped;
lanes:
  for (int c = 0; c < kCols; ++c) {
    WEFT_UNROLL
    const Int<32> x = biased(sums[c], p.bias[c]);
    // LeakyReLU and PReLU take another scale below zero; a multiplexer, not a second multiplier.
    const Int<32> above = p.multiplier[c], below = p.negative_multiplier[c];
    const Int<32> above_shift = p.shift[c], below_shift = p.negative_shift[c];
    const Int<32> y = scale(x, x < 0 ? below : above, x < 0 ? below_shift : above_shift);
    const Int<32> v = y < least ? least : y;
    clamped[c] = (v > most ? most : v) + zero;
  }
  Word codes;
narrow:
  for (int c = 0; c < kCols; ++c) {
    WEFT_UNROLL
    codes[c] = Int<8>(clamped[c]);
  }
  return codes;
}

/// Byte `index` of each sum.
inline Word raw_bytes(const SumWord &sums, const ParameterWord &p, int index) {
  WEFT_INLINE
  Word codes;
raw:
  for (int c = 0; c < kCols; ++c) {
    WEFT_UNROLL
    codes[c] = Int<8>((biased(sums[c], p.bias[c]) >> (8 * index)) & 0xff);
  }
  return codes;
}

inline Word requantized(const SumWord &sums, const ParameterWord &p, const Activate &f) {
  WEFT_INLINE
#ifdef WEFT_AP_INT
  return scaled(sums, p, f, AnyMode{int(f.mode)});
#else
  if (f.mode == kSingleRound) return scaled(sums, p, f, OneMode<single_round>());
  if (f.mode == kDoubleRound) return scaled(sums, p, f, OneMode<double_round>());
  return scaled(sums, p, f, OneMode<float_even>());
#endif
}

/// Codes of one word of sums. One instance serves MatMul, Vector and the second drain: they run one
/// after another, and it holds the widest multipliers of the design.
WEFT_SHARED Word activate(const SumWord &sums, const ParameterWord &p, const Activate &f,
                          const Lookup &lookup) {
  WEFT_FUNCTION
  const int mode = int(f.mode);
  if (mode >= kRawByte && mode < kFloatCode) return raw_bytes(sums, p, mode - kRawByte);
  if (kHasBf16 && mode > kFloatCode) return float_results(sums, p, f);
  Word codes = kHasBf16 && mode == kFloatCode ? float_results(sums, p, f) : requantized(sums, p, f);
  if (f.lookup != 0) {
  look:
    for (int c = 0; c < kCols; ++c) {
      WEFT_UNROLL
      codes[c] = lookup[c][int(codes[c]) + 128];
    }
  }
  return codes;
}

/// Byte `i` of a part of packed codes: codes of 8 >> kLog bits, the first in the low bits; a single
/// bit says > 0. Wires.
template <int kLog> inline unsigned packed_byte(const Word &codes, int i) {
  WEFT_INLINE
  constexpr int kLanes = kRows >= 8 ? kRows >> kLog : 1, kWidth = 8 >> kLog;
  unsigned byte = 0;
codes_of_a_byte:
  for (int j = 0; j < (1 << kLog); ++j) {
    WEFT_UNROLL
    const int from = ((i & (kLanes - 1)) << kLog) + j;
    const Int<8> code = codes[from < kRows ? from : 0];
    const unsigned bits = kLog == 3 ? (code > 0 ? 1u : 0u) : unsigned(code) & ((1u << kWidth) - 1);
    byte |= bits << (j * kWidth);
  }
  return byte;
}

/// Codes of `8 >> log` bits side by side in part `part` of a word, 0 elsewhere: a multiplexer of
/// three ways per lane.
inline Word packed_codes(const Word &codes, int log, int part) {
  WEFT_INLINE
  Word packed;
lanes:
  for (int i = 0; i < kRows; ++i) {
    WEFT_UNROLL
    const unsigned byte = log == 1   ? packed_byte<1>(codes, i)
                          : log == 2 ? packed_byte<2>(codes, i)
                                     : packed_byte<3>(codes, i);
    packed[i] = (i << log) / kRows == part ? Int<8>(byte) : Int<8>(0);
  }
  return packed;
}

/// Where the words of a tile go; moves one position per word. Packed, several tiles share words.
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
  /// Writes the codes of the present position; the first tile of a word clears the rest of it.
  void write(Buffer &buffer, const Word &codes) const {
    WEFT_INLINE
    const int log = int(f.pack);
    if (kParts == 1 || log == 0) return buffer.write(address(), codes);
    const int part = tile & ((1 << log) - 1), parts = kParts >> log;
    buffer.write_parts(address(), packed_codes(codes, log, part), part == 0 ? 0 : part * parts,
                       part == 0 ? kParts : parts);
  }
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
    word.begin(unsigned(f.target) + unsigned(tile >> int(f.pack)) * unsigned(f.target_block),
               unsigned(f.target_sample), unsigned(f.target_row), unsigned(f.target_col));
  }
};

/// Sums in the finished bank, `tiles` times as many as there are positions, to the unified buffer.
/// Returns how many clocks that takes.
inline int drain_sums(const Activate &f, int batch, int out_h, int out_w, int tiles, Memories &m) {
  WEFT_INLINE  // into compute, where `activate` is shared
      Writer out;
  out.begin(f, batch, out_h, out_w);
  const int rows = tiles * out.at.count();
drain:
  for (int row = 0; row < rows; ++row) {
    WEFT_PIPELINE
    WEFT_TRIPCOUNT(kAccumulatorRows)
    out.write(m.buffer,
              activate(value_of(m.finished[row]), m.parameters.read(out.parameter()), f, m.lookup));
    out.next();
  }
  return rows;
}

/// A further Activate on the sums of the last MatMul, which are still there.
inline void drain_again(const Activate &f, int batch, int out_h, int out_w, Memories &m,
                        Counters &counters) {
  WEFT_INLINE
  counters.vector += drain_sums(f, batch, out_h, out_w, 1, m);
}

}  // namespace weft
