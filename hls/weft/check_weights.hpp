/// The checks of ReadWeights: what its format makes of memory rows.
#pragma once
#include "units/decode.hpp"

namespace weft {

constexpr int kLeastGroup = 4;  // log2 of the smallest group: two of the decoder's

/// Whether a ReadWeights takes as many memory rows as its format makes of its stream rows.
inline bool sized(const ReadWeights &f) {
  if (f.rows == 0 || !decodes(int(f.format))) return false;
  if (f.format == 0) return f.memory_rows == f.rows && f.index == 0;
  const Int<64> runs = Int<64>(f.blocks) * Int<64>(f.runs);  // at most 2^40
  if (runs * (kRows + int(f.index)) != Int<64>(f.rows)) return false;
  // Digits run on across tiles; a record's groups are counted in rows of all channels.
  if (f.index != 0 && (in_base_3(int(f.format)) || f.group != 0)) return false;
  const bool grouped = record_kind(int(f.format)) != kNoRecord && kWeightBits == 16;
  if (f.group != 0 && (!grouped || f.group < kLeastGroup)) return false;
  if (f.group == 0 && f.zeros != 0) return false;
  PackedShape shape;
  shape.begin(f);
  return shape.memory_rows(f) == Int<64>(f.memory_rows);
}

}  // namespace weft
