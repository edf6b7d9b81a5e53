/// Keys and values in 4 or 2 bits: the codec between board memory and the operand buffer.
///
/// Groups of kPackedGroup tokens, as in KIVI (Liu et al., ICML 2024): keys have a range per
/// channel, values one per token of a word. How they lie in memory:
/// host/weft/units/packed_cache.py.
#pragma once
#include "memories.hpp"
#include "units/packed.hpp"

namespace weft {

constexpr int kGroupRangeWords = (kPackedGroup + kRows - 1) / kRows;  // of one byte per token
constexpr int kGroupRangeSlots = kPackedGroup > kRows ? kPackedGroup : kRows;
static_assert(kPackedGroup % kOperandGroup == 0, "a group is written by whole clocks");

inline int filled_up(int rows) { return (rows + kRunRows - 1) & ~(kRunRows - 1); }

/// Rows of a group of one channel block.
struct GroupRows {
  int half;           // of least values; as many of widths
  int ranges, codes;  // filled up to whole elements,
  int bare;           // and the rows of codes that hold any

  GroupRows(int bits, bool values) {
    half = values ? kGroupRangeWords : 1;
    ranges = filled_up(2 * half);
    bare = bits == 4 ? kPackedGroup / 2 : kPackedGroup / 4;
    codes = filled_up(bare);
  }
  int total() const { return ranges + codes; }
};

/// Ranges of a group: of each lane, or of each token.
struct GroupRanges {
  Int<8> least[kGroupRangeSlots];
  UInt<8> width[kGroupRangeSlots];

  /// Bytes of row `row` of `count` ranges.
  Word row_of(int row, int half, int count) const {
    WEFT_INLINE
    Word word = filled(0);
    const bool widths = row >= half;
    const int first = (widths ? row - half : row) * kRows;
  lanes:
    for (int c = 0; c < kRows; ++c) {
      WEFT_UNROLL
      const int at = first + c;
      if (row < 2 * half && at < count) word[c] = widths ? Int<8>(width[at]) : least[at];
    }
    return word;
  }
  void take(int row, int half, const Word &word) {
    WEFT_INLINE
    const bool widths = row >= half;
    const int first = (widths ? row - half : row) * kRows;
  lanes:
    for (int c = 0; c < kRows; ++c) {
      WEFT_UNROLL
      const int at = first + c;
      if (row >= 2 * half || at >= kGroupRangeSlots) continue;
      if (widths)
        width[at] = UInt<8>(word[c]);
      else
        least[at] = word[c];
    }
  }
};

/// width / 15 in 2^-16: 0x1111 / 2^16 for 1 / 15. The error of 15 of them is below 1 / 250, and no
/// quotient by 15 is nearer than 1 / 30 to a half.
inline Int<32> factor_of(UInt<8> width) {
  WEFT_INLINE
  const Int<32> five = Int<32>(Int<32>(width) + Int<32>(Int<32>(width) << 4));
  return Int<32>(five + Int<32>(five << 8));  // 21 bits
}
/// least + round(code · width / 15); a code of 2 bits counts in steps of 5.
inline Int<8> unpacked(UInt<8> code, Int<8> least, Int<32> factor) {
  WEFT_INLINE
  const Int<32> product = Int<32>(Int<32>(code) * factor);
  WEFT_HLS(BIND_OP variable = product op = mul impl = dsp)  // LUTs are what parts run out of
  return Int<8>(Int<32>(product + Int<32>(Int<32>(least) * 65536) + 0x8000) >> 16);
}

/// round(x · steps / width) of x ≤ width, ties upwards: a division that restores, a bit a step.
inline UInt<8> packed_code(Int<16> above, UInt<8> width, bool four) {
  WEFT_INLINE
  const Int<32> x = above, w = width;
  Int<32> rest = Int<32>((four ? Int<32>(30 * x) : Int<32>(6 * x)) + w);
  UInt<8> code = 0;
bits:
  for (int bit = 3; bit >= 0; --bit) {
    WEFT_UNROLL
    const Int<32> part = Int<32>((2 * w) << bit);
    const bool goes = w != 0 && rest >= part;
    if (goes) {
      rest = Int<32>(rest - part);
      code = UInt<8>(code | (1 << bit));
    }
  }
  return code;
}

/// The bytes of an element of the stream, in registers: several of its rows are used in a clock.
using ElementRows = Word[kStreamRows];
inline void take_element(const StreamRow &element, ElementRows &rows) {
  WEFT_INLINE
rows:
  for (int r = 0; r < kStreamRows; ++r) {
    WEFT_UNROLL
    rows[r] = narrowed(row_of(element, r));
  }
}

/// Tokens of a group from `token` on, out of an element of the stream.
inline void unpack_words(const ElementRows &element, int token, bool four, bool values,
                         const GroupRanges &ranges, Word (&words)[kOperandGroup]) {
  WEFT_INLINE
  Int<32> of_lane[kRows];
  WEFT_HLS(ARRAY_PARTITION variable = of_lane type = complete)
factors:
  for (int c = 0; c < kRows; ++c) {
    WEFT_UNROLL
    of_lane[c] = factor_of(ranges.width[c]);
  }
words:
  for (int w = 0; w < kOperandGroup; ++w) {
    WEFT_UNROLL
    const int t = token + w, slot = t & (kPackedGroup - 1);
    const int row = (four ? t >> 1 : t >> 2) & (kStreamRows - 1);
    const int shift = four ? 4 * (t & 1) : 2 * (t & 3);
    const Word packed = element[row];
    const Int<8> least = ranges.least[slot];
    const Int<32> factor = factor_of(ranges.width[slot]);
  lanes:
    for (int c = 0; c < kRows; ++c) {
      WEFT_UNROLL
      const unsigned code = (unsigned(Int<32>(packed[c])) & 0xff) >> shift;
      words[w][c] = unpacked(UInt<8>(four ? code & 15 : 5 * (code & 3)),
                             values ? least : ranges.least[c], values ? factor : of_lane[c]);
    }
  }
}

/// Where a SetTable of packed groups is: elements of ranges, clocks of words, elements that only
/// fill up.
struct GroupWalk {
  int ranges, words, filling, at;

  explicit GroupWalk(const GroupRows &rows) {
    ranges = rows.ranges / kStreamRows;
    words = kPackedGroup / kOperandGroup;
    filling = rows.codes / kStreamRows - (rows.bare + kStreamRows - 1) / kStreamRows;
    at = 0;
  }
  int clocks() const { return ranges + words + filling; }
  bool writes() const { return at >= ranges && at < ranges + words; }
  int token() const { return (at - ranges) * kOperandGroup; }
  bool last() const { return at == clocks() - 1; }
  void next() { at = last() ? 0 : at + 1; }
};

/// Rows of ranges out of an element of the stream, the first of which is row `row`.
inline void take_ranges(const ElementRows &element, int row, int half, GroupRanges &ranges) {
  WEFT_INLINE
rows:
  for (int r = 0; r < kStreamRows; ++r) {
    WEFT_UNROLL
    ranges.take(row + r, half, element[r]);
  }
}

/// SetTable of packed groups: runs of words into the operand buffer.
inline void set_packed(const SetTable &f, WeightStream &weights, Memories &m, Counters &counters) {
  WEFT_FUNCTION
  const bool four = f.bits == 4, values = f.values != 0;
  const GroupRows rows(int(f.bits), values);
  GroupWalk walk(rows);
  const int run_groups = int(f.count) / kPackedGroup, groups = run_groups * int(f.runs);
  const int of_element = kStreamRows * (four ? 2 : 4);  // tokens
  int first = int(f.index), address = first, in_run = 0;
  GroupRanges ranges;
  WEFT_HLS(ARRAY_PARTITION variable = ranges.least type = complete)
  WEFT_HLS(ARRAY_PARTITION variable = ranges.width type = complete)
  ElementRows element = {};
  WEFT_HLS(ARRAY_PARTITION variable = element type = complete)
  const int clocks = groups * walk.clocks();
packed:
  for (int i = 0; i < clocks; ++i) {
    WEFT_PIPELINE
    WEFT_TRIPCOUNT(kOperandWords)
    const bool writes = walk.writes();
    const int token = walk.token();
    if (!writes || (token & (of_element - 1)) == 0) take_element(weights.read(), element);
    if (walk.at < walk.ranges) take_ranges(element, walk.at * kStreamRows, rows.half, ranges);
    if (writes) {
      Word words[kOperandGroup];
      WEFT_HLS(ARRAY_PARTITION variable = words type = complete)
      unpack_words(element, token, four, values, ranges, words);
      m.operands.write_group(address + token, words);
    }
    if (walk.last()) {
      const bool ends = in_run == run_groups - 1;
      if (ends) first += int(f.step);
      address = ends ? first : address + kPackedGroup;
      in_run = ends ? 0 : in_run + 1;
    }
    walk.next();
  }
  const int arriving = rows.total() * kBeats / kWeightPorts;
  counters.table += Int<64>(groups) * (arriving > walk.clocks() ? arriving : walk.clocks());
}

/// What PackCache knows of a group before it makes codes.
inline void find_ranges(int address, bool values, const OperandBuffer &operands,
                        GroupRanges &ranges) {
  WEFT_INLINE
  Vec<Int<8>, kRows> least = filled(127), most = filled(-128);
find:
  for (int t = 0; t < kPackedGroup; ++t) {
    WEFT_PIPELINE
    const Word word = operands.read(address + t, false, 0);
    Int<8> low = word[0], high = word[0];
  lanes:
    for (int c = 0; c < kRows; ++c) {
      WEFT_UNROLL
      if (word[c] < low) low = word[c];
      if (word[c] > high) high = word[c];
      if (word[c] < least[c]) least[c] = word[c];
      if (word[c] > most[c]) most[c] = word[c];
    }
    if (values) {
      ranges.least[t] = low;
      ranges.width[t] = UInt<8>(Int<16>(high) - Int<16>(low));
    }
  }
channels:
  for (int c = 0; c < kRows; ++c) {
    WEFT_UNROLL
    if (values) continue;
    ranges.least[c] = least[c];
    ranges.width[c] = UInt<8>(Int<16>(most[c]) - Int<16>(least[c]));
  }
}

/// Codes of a word, beside those of the tokens before it that share their bytes.
inline Word joined_codes(const Word &before, const Word &word, int token, bool four, bool values,
                         const GroupRanges &ranges) {
  WEFT_INLINE
  Word packed;
  const int part = four ? token & 1 : token & 3, shift = four ? 4 * part : 2 * part;
lanes:
  for (int c = 0; c < kRows; ++c) {
    WEFT_UNROLL
    const int range = values ? token : c;
    const Int<16> above = Int<16>(Int<16>(word[c]) - Int<16>(ranges.least[range]));
    const UInt<8> code = packed_code(above, ranges.width[range], four);
    const unsigned rest = part == 0 ? 0u : unsigned(Int<32>(before[c])) & 0xff;
    packed[c] = Int<8>(UInt<8>(rest | (unsigned(code) << shift)));
  }
  return packed;
}

/// PackCache: groups in the operand buffer → rows of memory in the unified buffer.
inline void pack_cache(const PackCache &f, Memories &m, Counters &counters) {
  WEFT_FUNCTION
  const bool four = f.bits == 4, values = f.values != 0;
  const GroupRows rows(int(f.bits), values);
  const int rest = rows.ranges + rows.codes - rows.bare, count = values ? kPackedGroup : kRows;
  GroupRanges ranges;
  WEFT_HLS(ARRAY_PARTITION variable = ranges.least type = complete)
  WEFT_HLS(ARRAY_PARTITION variable = ranges.width type = complete)
  int from = int(f.operand), to = int(f.target);
blocks:
  for (int b = 0; b < int(f.blocks); ++b) {
    WEFT_TRIPCOUNT(kOperandWords)
    find_ranges(from, values, m.operands, ranges);
  others:
    for (int r = 0; r < rest; ++r) {  // ranges, then what fills up the codes
      WEFT_PIPELINE
      WEFT_TRIPCOUNT(kPackedGroup)
      const bool front = r < rows.ranges;
      const Word word = front ? ranges.row_of(r, rows.half, count) : filled(0);
      m.buffer.write(to + (front ? r : r + rows.bare), word);
    }
    Word packed = filled(0);
  codes:
    for (int t = 0; t < kPackedGroup; ++t) {
      WEFT_PIPELINE
      const Word word = m.operands.read(from + t, false, 0);
      packed = joined_codes(packed, word, t, four, values, ranges);
      const int row = four ? t >> 1 : t >> 2, part = four ? t & 1 : t & 3;
      if (part == (four ? 1 : 3)) m.buffer.write(to + rows.ranges + row, packed);
    }
    from += int(f.operand_block);
    to += int(f.target_block);
  }
  counters.vector += Int<64>(f.blocks) * (2 * kPackedGroup + rest);
}

}  // namespace weft
