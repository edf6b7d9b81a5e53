/// Where results go: words of codes to the unified or the operand buffer, words of int16, scores
/// among them, to the wide one. Words of the wide buffer may be added, or be factors. Golden model:
/// host/weft/units/activate.py, wide.py.
#pragma once
#include "units/activate.hpp"
#include "units/ranges.hpp"

namespace weft {

/// Where the words of a tile go; moves one position per word. Packed, several tiles share words.
struct Writer {
  Activate f;
  Positions at;
  Strided word, added;  // added: the word of the wide buffer that is added, or a factor
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
    if (kHasWide && f.residual != 0) added.next(at);
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
    if (kHasWide && f.residual != 0)
      added.begin(unsigned(f.residual_base) + unsigned(tile) * unsigned(f.residual_block),
                  unsigned(f.residual_sample), unsigned(f.residual_row), unsigned(f.residual_col));
  }
};

/// What is added to the sums of the present position, or multiplies them.
inline WideWord added_word(const Writer &out, const Memories &m) {
  WEFT_INLINE
  WideWord none = {};
  return kHasWide && out.f.residual != 0 ? value_of(m.wide[out.added.address()]) : none;
}

inline Int<32> within_word(Int<64> x) {
  const Int<64> above = x < -32767 ? Int<64>(-32767) : x;  // −32768 marks a masked score
  return Int<32>(above > 32767 ? Int<64>(32767) : above);
}

/// Sums, and what is added to them or multiplies them, as int16. Like `activate` one instance for
/// all that write: a lane has a product of 16 and one of 32 bits.
WEFT_SHARED WideWord wide_word(const SumWord &sums, const Activate &f, const WideWord &added) {
  WEFT_FUNCTION
  const bool adds = f.residual != 0, multiplies = f.residual == kFactor;
  const Int<32> multiplier = f.residual_multiplier,
                shift = clamped(Int<32>(f.residual_shift), kShiftLow, kShiftHigh);
  WideWord word;
lanes:
  for (int c = 0; c < kCols; ++c) {
    WEFT_UNROLL
    const Int<16> factor = Int<16>(within_word(sums[c]));
    const Int<32> from = multiplies ? Int<32>(factor * added[c]) : Int<32>(added[c]);
    const Int<32> more = adds ? single_round(from, multiplier, shift) : Int<32>(0);
    const Int<64> sum = Int<64>(multiplies ? Int<64>(0) : Int<64>(sums[c]));
    word[c] = Int<16>(within_word(Int<64>(sum + Int<64>(more))));
  }
  return word;
}

/// Codes of products with words of the wide buffer.
inline Word product_codes(const WideWord &products, const Activate &f) {
  WEFT_INLINE
  const Int<32> zero = Int<32>(f.zero_point);
  Word codes;
lanes:
  for (int c = 0; c < kCols; ++c) {
    WEFT_UNROLL
    const Int<32> code = Int<32>(Int<32>(products[c]) + zero);
    const Int<32> above = code < f.low ? Int<32>(f.low) : code;
    codes[c] = Int<8>(above > f.high ? Int<32>(f.high) : above);
  }
  return codes;
}

/// Sums over those of their row of exponentials, or times the magnitude of their row of codes, or
/// of the keys that they are products with.
/// Rows of products lie along one axis (the check says so), and those of attention along x.
inline SumWord sums_of_row(const Writer &out, const SumWord &sums, const Memories &m) {
  WEFT_INLINE
  const bool ranged = kHasRanges && out.f.normalize == kByMagnitude;
  const bool divides = kHasAttention && out.f.normalize == kBySum;
  const bool by_token = kHasTokenRanges && out.f.normalize == kByToken;
  if (!ranged && !divides && !by_token) return sums;
  const Int<32> total = divides ? m.rows.sum[RowTable::kByEpilogue][out.at.x] : Int<32>(0);
  const Int<16> largest = ranged ? m.magnitudes[out.at.y + out.at.x] : Int<16>(0);
  LaneFactors by = same_factors(ranged ? range_factor(largest) : sum_factor(total, m.softmax));
  if (by_token) by = token_factors(value_of(m.token_ranges[int(out.f.ranges) + out.tile]));
  return factored_sums(sums, by);
}

/// One word of sums, requantized, to where it goes; `added` is the word that Activate.residual
/// names.
inline void write_word(const Writer &out, const SumWord &raw, const ParameterWord &p,
                       const WideWord &added, Memories &m) {
  WEFT_INLINE
  const Activate &f = out.f;
  const SumWord sums = sums_of_row(out, raw, m);
  SumWord whole;
  const Word codes = activate(sums, p, f, m.lookup, whole);
  WideWord word = {};
  if (kHasWide && (f.space == kWideSpace || f.residual != 0)) word = wide_word(whole, f, added);
  if (kHasWide && f.space == kWideSpace) {
    if (kHasAttention && f.maximum != 0) word = keep_scores(word, f, out.at.x, out.tile, m.rows);
    if (f.discard == 0) put(m.wide[out.address()], word);
  } else if (kHasAttention && f.space == kOperandSpace) {
    m.operands.write(out.address(), codes);
  } else {
    out.write(m.buffer, kHasWide && f.residual != 0 ? product_codes(word, f) : codes);
  }
}

/// Sums in the finished bank, `tiles` times as many as there are positions, to the unified buffer;
/// or those that stayed in the other one from row `stayed` on, unless that is negative. Returns how
/// many clocks that takes.
inline int drain_sums(const Activate &f, int batch, int out_h, int out_w, int tiles, Memories &m,
                      int stayed = -1) {
  WEFT_INLINE  // into compute, where `activate` is shared
      Writer out;
  out.begin(f, batch, out_h, out_w);
  const int rows = tiles * out.at.count();
drain:
  for (int row = 0; row < rows; ++row) {
    WEFT_PIPELINE
    WEFT_TRIPCOUNT(kAccumulatorRows)
    const SumWord sums = stayed < 0 ? value_of(m.finished[row]) : value_of(m.partial[stayed + row]);
    write_word(out, sums, m.parameters.read(out.parameter()), added_word(out, m), m);
    out.next();
  }
  return rows;
}

/// The last sums: their size, and where an Attend left them, or a negative row.
struct LastSums {
  int out_h, out_w, tiles, stayed;
};

/// A further Activate on the sums of the last MatMul, which are still there, or one on those that
/// an Attend left.
inline void drain_again(const Activate &f, int batch, const LastSums &last, Memories &m,
                        Counters &counters) {
  WEFT_INLINE
  counters.vector += drain_sums(f, batch, last.out_h, last.out_w, last.tiles, m, last.stayed);
}

}  // namespace weft
