/// The checks of Rotate.
#pragma once
#include "check_ranges.hpp"
#include "status.hpp"

namespace weft {

/// Whether heads are whole, and partners in them.
inline bool legal_pairs(const Rotate &f) {
  const int head = int(f.head_blocks);
  if (head == 0 || (head & (head - 1)) != 0 || (int(f.blocks) & (head - 1)) != 0) return false;
  return int(f.half) < head && ((1 << int(f.swap)) >> 1) < kCols;
}

/// Whether ranges of tokens are there for a Rotate that makes them.
inline bool legal_ranges(const Rotate &f) {
  return f.ranges == 0 || (kHasTokenRanges && f.space != kWideSpace);
}
/// The last word of them that it writes.
inline Int<64> last_range(const Rotate &f) {
  const Int<64> last = Int<64>(f.range_first) + Int<64>(f.rows) - 1;
  return Int<64>(Int<64>(f.range_word) + last / kCols);
}

inline Status check_rotate(const Rotate &f, int batch) {
  if (!kHasRotate) return kBadOpcode;
  if (!legal_ranges(f)) return kBadField;
  const Int<64> words = Int<64>(f.rows) * Int<64>(f.blocks);
  if (batch != 1 || words == 0 || words > kWideWords) return kBadField;
  if (output_words(int(f.space)) == 0) return kBadField;
  const bool turns = f.plain == 0;
  if (turns && !legal_pairs(f)) return kBadField;
  const RowRanges at(f);
  Range table;
  table.first = Int<64>(f.table);
  table.last =
      table.first + (Int<64>(f.rows) - 1) * Int<64>(f.table_col) + Int<64>(f.head_blocks) * 2 - 1;
  if (!in_words(at.source, kWideWords) || (turns && !in_words(table, kWideWords)))
    return kBadBuffer;
  if (!in_words(at.target, space_words(int(f.space)))) return kBadBuffer;
  if (f.ranges != 0 && last_range(f) >= kRangeWords) return kBadTable;
  const bool same =
      f.source == f.target && f.source_col == f.target_col && f.source_block == f.target_block;
  if (f.space != kWideSpace || (!turns && same && at.once)) return kDone;
  const bool meets = at.target.meets(at.source) || (turns && at.target.meets(table));
  return meets ? kBadOverlap : kDone;
}

}  // namespace weft
