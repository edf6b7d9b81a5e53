/// Rotate: rotary embedding of words of the wide buffer, or their requantization alone. A word of
/// the wide buffer is read per clock, so a rotated one takes four: itself, its partner, cosines and
/// sines; one multiplier per lane serves both products, and the epilogue requantizes. With `ranges`
/// a first pass finds each row's magnitude, which its codes then are parts of. Golden model:
/// host/weft/units/rotate.py.
#pragma once
#include "units/writer.hpp"

namespace weft {

constexpr int kTurnFraction = 14;  // bits of cosines and sines
constexpr int kTurnedCode = 127;   // the largest code
enum TurnRead { kItself, kPartner, kCosine, kSine };

/// Where a Rotate reads: block by block, row by row, and up to four words for each; for ranges,
/// which need a row whole, row by row and block by block.
struct TurnWalk {
  Rotate f;
  int block, row, read;
  int row_words, table_words;    // from the first row to this one
  int block_words, pair_words;   // from the first block to this one, and to its partner
  int target_row, target_block;  // of the output

  void begin(const Rotate &fields) {
    f = fields;
    block = row = read = 0;
    row_words = table_words = target_row = 0;
    start_block();
  }
  bool by_rows() const { return kHasTokenRanges && f.ranges != 0; }
  bool last_read() const { return f.plain != 0 || read == kSine; }
  bool last_row() const { return row == int(f.rows) - 1; }
  bool last_block() const { return block == int(f.blocks) - 1; }
  int address() const {
    if (read == kItself) return int(f.source) + block_words + row_words;
    if (read == kPartner) return int(f.source) + pair_words + row_words;
    const int turn = int(f.table) + (block & (int(f.head_blocks) - 1)) + table_words;
    return read == kCosine ? turn : turn + int(f.head_blocks);
  }
  int target() const { return int(f.target) + target_block + target_row; }
  void next() {
    if (!last_read()) {
      ++read;
      return;
    }
    read = kItself;
    const bool row_ends = last_row(), block_ends = last_block();
    if (!by_rows() || block_ends) next_row(row_ends);
    if (by_rows() || row_ends) {
      block = block_ends ? 0 : block + 1;
      start_block();
    }
  }

 private:
  void next_row(bool wraps) {
    row = wraps ? 0 : row + 1;
    row_words = wraps ? 0 : row_words + int(f.source_col);
    table_words = wraps ? 0 : table_words + int(f.table_col);
    target_row = wraps ? 0 : target_row + int(f.target_col);
  }
  void start_block() {
    const unsigned step = unsigned(f.source_block), b = unsigned(block);
    block_words = int(b * step);
    pair_words = int((b ^ unsigned(f.half)) * step);
    target_block = int(b * unsigned(f.target_block));
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
inline Activate activate_of(const Rotate &f, bool ranged) {
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
  a.space = ranged ? UInt<2>(kWideSpace) : f.space;  // results stay whole until ranges are known
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

/// A word with a magnitude in a lane, and none behind it.
inline WideWord placed(const WideWord &word, int lane, Int<16> size) {
  WEFT_INLINE
  WideWord y;
lanes:
  for (int c = 0; c < kCols; ++c) {
    WEFT_UNROLL
    y[c] = c == lane ? size : c < lane ? word[c] : Int<16>(0);
  }
  return y;
}

inline Word turned_codes(const SumWord &x, const RowRange &range) {
  WEFT_INLINE
  SumWord codes = range_codes(x, range);
lanes:
  for (int c = 0; c < kCols; ++c) {
    WEFT_UNROLL
    codes[c] = clamped(codes[c], -kTurnedCode, kTurnedCode);
  }
  return low_bytes(codes);
}

/// Results before they are codes of their row's range.
inline SumWord turned_values(const Turn &turn, const Activate &a, const ParameterWord &p,
                             const Memories &m) {
  WEFT_INLINE
  SumWord whole;
  activate(turn.y, p, a, m.lookup, whole);
  return range_values(whole);
}

/// The magnitude of every row to its token's lane. Lanes in front of the first one stay, those
/// behind the last one become 0.
inline void turn_ranges(const Rotate &f, const Activate &a, const ParameterWord &p, int clocks,
                        Memories &m) {
  WEFT_INLINE
  int word = int(f.range_word) + int(f.range_first / kCols), lane = int(f.range_first % kCols);
  WideWord sizes = value_of(m.token_ranges[word]);
  Int<16> largest = 0;
  TurnWalk walk;
  walk.begin(f);
  Turn turn;
ranges:
  for (int t = 0; t < clocks; ++t) {
    WEFT_PIPELINE
    WEFT_TRIPCOUNT(kWideWords)
    turn.take(f, walk.read, value_of(m.wide[walk.address()]));
    if (walk.last_read()) {
      const Int<16> before = walk.block == 0 ? Int<16>(0) : largest;
      largest = magnitude(before, turned_values(turn, a, p, m), kCols);
      if (walk.last_block()) {
        sizes = placed(sizes, lane, largest);
        const bool full = lane == kCols - 1;
        if (full || walk.last_row()) put(m.token_ranges[word], sizes);
        lane = full ? 0 : lane + 1;
        word += full ? 1 : 0;
      }
    }
    walk.next();
  }
}

/// Codes of these ranges.
inline void turn_codes(const Rotate &f, const Activate &a, const ParameterWord &p, int clocks,
                       Memories &m) {
  WEFT_INLINE
  const int first = int(f.range_word) * kCols;
  TurnWalk walk;
  walk.begin(f);
  Turn turn;
codes:
  for (int t = 0; t < clocks; ++t) {
    WEFT_PIPELINE
    WEFT_TRIPCOUNT(kWideWords)
    turn.take(f, walk.read, value_of(m.wide[walk.address()]));
    if (walk.last_read()) {
      const int token = first + int(f.range_first) + walk.row;
      const Int<16> size = value_of(m.token_ranges[token / kCols])[token % kCols];
      const Word codes = turned_codes(turned_values(turn, a, p, m), range_of(size));
      if (f.space == kOperandSpace) {
        m.operands.write(walk.target(), codes);
      } else {
        m.buffer.write(walk.target(), codes);
      }
    }
    walk.next();
  }
}

/// Rotate: wide buffer → an on-chip buffer.
inline void rotate(const Rotate &f, Memories &m, Counters &counters) {
  WEFT_INLINE  // into compute, where `activate` is shared
      Writer out;
  const bool ranged = kHasTokenRanges && f.ranges != 0;
  const Activate a = activate_of(f, ranged);
  out.begin(a, 1, 1, int(f.rows));
  const ParameterWord p = parameters_of(f);
  const WideWord none = {};
  const int clocks = int(f.rows) * int(f.blocks) * (f.plain != 0 ? 1 : kSine + 1);
  if (ranged) {
    turn_ranges(f, a, p, clocks, m);
    turn_codes(f, a, p, clocks, m);
    counters.vector += 2 * clocks;
    return;
  }
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
