/// Where results go: words of codes to the unified or the operand buffer, words of int16, scores
/// among them, to the wide one. Golden model: host/weft/units/activate.py, wide.py.
#pragma once
#include "units/activate.hpp"
#include "units/rows.hpp"

namespace weft {

/// Where the words of a tile go; moves one position per word. Packed, several tiles share words.
struct Writer {
  Activate f;
  Positions at;
  Strided word, added;  // added: the word of the wide buffer that is added
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

/// What is added to the sums of the present position.
inline WideWord added_word(const Writer &out, const Memories &m) {
  WEFT_INLINE
  WideWord none = {};
  return kHasWide && out.f.residual != 0 ? value_of(m.wide[out.added.address()]) : none;
}

/// Sums, and what is added to them, as int16.
inline WideWord wide_word(const SumWord &sums, const Writer &out, const WideWord &added) {
  WEFT_INLINE
  const bool adds = out.f.residual != 0;
  const Int<32> multiplier = out.f.residual_multiplier,
                shift = clamped(Int<32>(out.f.residual_shift), kShiftLow, kShiftHigh);
  WideWord word;
lanes:
  for (int c = 0; c < kCols; ++c) {
    WEFT_UNROLL
    const Int<32> more = adds ? single_round(Int<32>(added[c]), multiplier, shift) : Int<32>(0);
    const Int<64> sum = Int<64>(Int<64>(sums[c]) + Int<64>(more));
    const Int<64> above = sum < -32767 ? Int<64>(-32767) : sum;  // −32768 marks a masked score
    word[c] = Int<16>(above > 32767 ? Int<64>(32767) : above);
  }
  return word;
}

/// One word of sums, requantized, to where it goes; `added` is the word that Activate.residual
/// names.
inline void write_word(const Writer &out, const SumWord &raw, const ParameterWord &p,
                       const WideWord &added, Memories &m) {
  WEFT_INLINE
  const Activate &f = out.f;
  const bool divides = kHasAttention && f.normalize != 0;
  const Int<32> total = divides ? m.rows.sum[RowTable::kByEpilogue][out.at.x] : Int<32>(0);
  const SumWord sums = divides ? normalized_sums(raw, total, m.softmax) : raw;
  SumWord whole;
  const Word codes = activate(sums, p, f, m.lookup, whole);
  if (kHasWide && f.space == kWideSpace) {
    WideWord word = wide_word(whole, out, added);
    if (kHasAttention && f.maximum != 0) word = keep_scores(word, f, out.at.x, out.tile, m.rows);
    put(m.wide[out.address()], word);
  } else if (kHasAttention && f.space == kOperandSpace) {
    m.operands.write(out.address(), codes);
  } else {
    out.write(m.buffer, codes);
  }
}

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
    write_word(out, value_of(m.finished[row]), m.parameters.read(out.parameter()),
               added_word(out, m), m);
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
