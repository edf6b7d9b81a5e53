/// Rotate: rotary embedding of words of the wide buffer, or their requantization alone. A word of
/// the wide buffer is read per clock, so a rotated one takes four: itself, its partner, cosines and
/// sines; one multiplier per lane serves both products, and the epilogue requantizes. Golden model:
/// host/weft/units/rotate.py.
#pragma once
#include "units/writer.hpp"

namespace weft {

constexpr int kTurnFraction = 14;  // bits of cosines and sines
constexpr int kTurnedCode = 127;   // the largest code
enum TurnRead { kItself, kPartner, kCosine, kSine };

/// Where a Rotate reads: block by block, row by row, and up to four words for each.
struct TurnWalk {
  Rotate f;
  int block, row, read;
  int word, partner, turn;  // addresses: x, its partner, the cosine

  void begin(const Rotate &fields) {
    f = fields;
    block = row = read = 0;
    restart();
  }
  bool last_read() const { return f.plain != 0 || read == kSine; }
  int address() const {
    if (read == kItself) return word;
    return read == kPartner ? partner : read == kCosine ? turn : turn + int(f.head_blocks);
  }
  void next() {
    if (!last_read()) {
      ++read;
      return;
    }
    read = kItself;
    if (row != int(f.rows) - 1) {
      ++row;
      word += int(f.source_col), partner += int(f.source_col), turn += int(f.table_col);
      return;
    }
    row = 0;
    ++block;
    restart();
  }

 private:
  void restart() {
    const unsigned first = unsigned(f.source), step = unsigned(f.source_block);
    word = int(first + unsigned(block) * step);
    partner = int(first + (unsigned(block) ^ unsigned(f.half)) * step);
    turn = int(f.table) + (block & (int(f.head_blocks) - 1));
  }
};

/// A word whose lanes a distance of 2^(swap − 1) apart have changed places.
inline WideWord swapped(const WideWord &x, int swap) {
  WEFT_INLINE
  WideWord y = x;
distances:
  for (int bit = 0; (1 << bit) < kCols; ++bit) {
    WEFT_UNROLL
    for (int c = 0; c < kCols; ++c) {
      WEFT_UNROLL
      if (swap == bit + 1) y[c] = x[c ^ (1 << bit)];
    }
  }
  return y;
}

/// What comes of the words that a Rotate reads, one after another.
struct Turn {
  WideWord itself, partner;
  SumWord y;

  void take(const Rotate &f, int read, const WideWord &word) {
    WEFT_INLINE
    if (read == kItself) itself = word;
    if (read == kPartner) partner = swapped(word, int(f.swap));
  lanes:
    for (int c = 0; c < kCols; ++c) {
      WEFT_UNROLL
      const Int<32> product = Int<32>(Int<32>(read == kSine ? partner[c] : itself[c]) * word[c]);
      const Int<32> before = read == kSine ? y[c] : Int<32>(0);
      const Int<32> sum = Int<32>(UInt<32>(before) + UInt<32>(product));  // wraps
      y[c] = f.plain != 0 ? Int<32>(Int<32>(word[c]) * (1 << kTurnFraction)) : sum;
    }
  }
};

/// The Activate that makes codes, or int16, of results,
inline Activate activate_of(const Rotate &f) {
  WEFT_INLINE
  Command none;  // ap_int's members have no value of their own: all fields come from zeros
zeros:
  for (int w = 0; w <= kInstructionWords; ++w) {
    WEFT_UNROLL
    none[w] = 0;
  }
  Activate a = Activate::decode(none);
  a.target = f.target;
  a.target_block = f.target_block;
  a.target_col = f.target_col;
  a.mode = kSingleRound;
  a.low = -kTurnedCode, a.high = kTurnedCode;
  a.space = f.space;
  return a;
}

/// and its parameters: one scale, whatever the sign and the lane.
inline ParameterWord parameters_of(const Rotate &f) {
  WEFT_INLINE
  const Int<32> shift = clamped(Int<32>(f.shift), kShiftLow, kShiftHigh);
  ParameterWord p;
lanes:
  for (int c = 0; c < kCols; ++c) {
    WEFT_UNROLL
    p.bias[c] = 0;
    p.multiplier[c] = p.negative_multiplier[c] = f.multiplier;
    p.shift[c] = p.negative_shift[c] = shift;
  }
  return p;
}

/// Rotate: wide buffer → an on-chip buffer.
inline void rotate(const Rotate &f, Memories &m, Counters &counters) {
  WEFT_INLINE  // into compute, where `activate` is shared
      Writer out;
  out.begin(activate_of(f), 1, 1, int(f.rows));
  const ParameterWord p = parameters_of(f);
  const WideWord none = {};
  const int clocks = int(f.rows) * int(f.blocks) * (f.plain != 0 ? 1 : kSine + 1);
  TurnWalk walk;
  walk.begin(f);
  Turn turn;
read:
  for (int t = 0; t < clocks; ++t) {
    WEFT_PIPELINE
    WEFT_TRIPCOUNT(kWideWords)
    WEFT_HLS(DEPENDENCE variable = m.wide type = inter dependent =
                 false)  // the check keeps words apart
    turn.take(f, walk.read, value_of(m.wide[walk.address()]));
    if (walk.last_read()) {
      write_word(out, turn.y, p, none, m);
      out.next();
    }
    walk.next();
  }
  counters.vector += clocks;
}

}  // namespace weft
