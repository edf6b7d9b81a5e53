/// SetTable: what a program loads into the tables of the units.
#pragma once
#include "units/packed_cache.hpp"
#include "units/requant.hpp"
#include "units/transfer.hpp"

namespace weft {

/// Shifts that requantization knows; a table's others become the nearest of them.
inline Int<8> legal_shift(Int<8> s) {
  return s < kShiftLow ? Int<8>(kShiftLow) : s > kShiftHigh ? Int<8>(kShiftHigh) : s;
}

/// Puts byte plane `plane` of a parameter block in its place (host/weft/units/requant.py).
inline void set_plane(ParameterWord &p, int plane, const Word &row) {
  WEFT_INLINE
lanes:
  for (int c = 0; c < kCols; ++c) {
    WEFT_UNROLL
    const Int<32> byte = Int<32>(UInt<32>(row[c]) & 0xff);
    const Int<32> placed =
        Int<32>(UInt<32>(byte) << (8 * (plane < 8 ? plane & 3 : (plane - 9) & 3)));
    if (plane < 4) {
      p.bias[c] = plane == 0 ? placed : Int<32>(p.bias[c] | placed);
    } else if (plane < 8) {
      p.multiplier[c] = plane == 4 ? placed : Int<32>(p.multiplier[c] | placed);
    } else if (plane == 8) {
      p.shift[c] = legal_shift(row[c]);
    } else if (plane < 13) {
      p.negative_multiplier[c] = plane == 9 ? placed : Int<32>(p.negative_multiplier[c] | placed);
    } else {
      p.negative_shift[c] = legal_shift(row[c]);
    }
  }
}

/// 32-bit words of a table, `kRows` / 4 of them in a row of the weight stream.
struct StreamWords {
  WeightStream &rows;
  Word row;
  int at;

  Int<32> next() {
    if (at == 0) row = narrowed(rows.read());
    Int<32> word = 0;
  bytes:
    for (int i = 0; i < 4; ++i) {
      WEFT_UNROLL
      const UInt<32> byte = UInt<32>(row[(4 * at + i) & (kRows - 1)]) & 0xff;
      word = Int<32>(word | Int<32>(byte << (8 * i)));
    }
    at = at == kRows / 4 - 1 ? 0 : at + 1;
    return word;
  }
};

/// Words of a row unit's tables, which are loaded all at once; 0 for other tables.
inline int method_words(const SetTable &f) {
  if (kHasTableSoftmax && f.target == kSoftmaxTable) return TableExponential::kWords;
  return kHasTableNorm && f.target == kNormTable ? TableRoot::kWords : 0;
}
inline int method_rows(const SetTable &f) { return (int(f.count) * 4 + kRows - 1) / kRows; }

/// Tables of a row unit, which load themselves.
inline void set_methods(const SetTable &f, WeightStream &weights, Memories &m, Counters &counters) {
  WEFT_FUNCTION
  StreamWords words = {weights, filled(0), 0};
  if (kHasTableSoftmax && f.target == kSoftmaxTable) m.softmax.load_table(words);
  if (kHasTableNorm && f.target == kNormTable) m.norms.load_table(words);
  counters.table += Int<64>(method_rows(f)) * kBeats;
}

/// Rows of the weight stream that an entry takes.
inline int rows_per_entry(const SetTable &f) {
  return f.target == kParametersTable ? kParameterRows : f.target == kWideTable ? 2 : 1;
}

// Keys and values leave an element of the stream kOperandGroup words a clock; they come as fast as
// the ports bring them.
constexpr int kElementGroups = kStreamRows / kOperandGroup;
constexpr int kElementBeats = kStreamRows * kBeats / kWeightPorts;
constexpr int kElementClocks = kElementBeats > kElementGroups ? kElementBeats : kElementGroups;

/// A part of an element into the operand buffer.
inline void write_part(const StreamRow &element, int part, int address, OperandBuffer &operands) {
  WEFT_INLINE
  Word words[kOperandGroup];
  WEFT_HLS(ARRAY_PARTITION variable = words type = complete)
words:
  for (int w = 0; w < kOperandGroup; ++w) {
    WEFT_UNROLL
    words[w] = narrowed(row_of(element, part * kOperandGroup + w));
  }
  operands.write_group(address, words);
}

/// SetTable of keys or values: runs of words into the operand buffer.
inline void set_operands(const SetTable &f, WeightStream &weights, Memories &m,
                         Counters &counters) {
  WEFT_FUNCTION
  const int run_groups = int(f.count) / kOperandGroup, groups = run_groups * int(f.runs);
  int first = int(f.index), address = first, in_run = 0, part = 0;
  StreamRow element = widened(filled(0));
operands:
  for (int i = 0; i < groups; ++i) {
    WEFT_PIPELINE
    WEFT_TRIPCOUNT(kOperandWords)
    if (part == 0) element = weights.read();
    write_part(element, part, address, m.operands);
    part = part == kElementGroups - 1 ? 0 : part + 1;
    const bool ends = in_run == run_groups - 1;
    if (ends) first += int(f.step);
    address = ends ? first : address + kOperandGroup;
    in_run = ends ? 0 : in_run + 1;
  }
  counters.table += Int<64>(groups / kElementGroups) * kElementClocks;
}

/// SetTable: weight stream → parameters, taps, lookup, the wide or the operand buffer.
inline void set_table(const SetTable &f, WeightStream &weights, Memories &m, Counters &counters) {
  WEFT_FUNCTION
  if (kHasWide && (f.target == kSoftmaxTable || f.target == kNormTable))
    return set_methods(f, weights, m, counters);
  if (kHasPackedCache && f.target == kOperandsTable && f.bits != 0)
    return set_packed(f, weights, m, counters);
  if (kHasCached && f.target == kOperandsTable) return set_operands(f, weights, m, counters);
  const int planes = rows_per_entry(f);
  const int rows = int(f.count) * planes;
  int entry = int(f.index), plane = 0;
  ParameterWord block;
  Word low = filled(0);
table:
  for (int i = 0; i < rows; ++i) {
    WEFT_PIPELINE
    WEFT_TRIPCOUNT(kTapWords)
    const Word row = narrowed(weights.read());
    if (f.target == kParametersTable) {
      set_plane(block, plane, row);
      if (plane == kParameterRows - 1) m.parameters.write(entry, block);
    } else if (f.target == kTapsTable) {
      put(m.taps[entry], row);
    } else if (kHasWide && f.target == kWideTable) {
      if (plane == 1) put(m.wide[entry], joined(low, row));
    } else {
    lookup:
      for (int c = 0; c < kCols; ++c) {
        WEFT_UNROLL
        m.lookup[c][entry] = row[c];
      }
    }
    low = row;
    plane = plane == planes - 1 ? 0 : plane + 1;
    if (plane == 0) ++entry;
  }
  counters.table += Int<64>(rows) * kBeats;
}

}  // namespace weft
