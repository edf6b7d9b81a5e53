/// What is asked of the accumulators by Attends that take the keys of a row a few tiles at a time.
#pragma once
#include "check_ranges.hpp"
#include "units/attention.hpp"

namespace weft {

/// Accumulator rows that an Attend takes beside the finished bank.
inline Range accumulator_rows(const Attend &f) {
  Range r;
  const Int<64> tiles = keeps_sums(f) ? Int<64>(f.tiles) : Int<64>(1);
  r.first = Int<64>(f.accumulator);
  r.last = r.first + Int<64>(f.rows) * tiles - 1;
  return r;
}

/// Whether exponentials may be multiplied by ranges of tokens.
inline bool legal_ranges(const Attend &f) {
  return f.ranged == 0 || (kHasTokenRanges && f.scores != 0 && f.normalized == 0);
}

/// Sums that an Attend left for one that goes on.
struct StayingSums {
  bool there, scored;
  Range at;
  int rows, tiles;
  Int<64> keys;  // whose exponentials are in the sums

  void clear() {
    there = scored = false;
    at.first = at.last = 0;
    rows = tiles = 0;
    keys = 0;
  }
  /// Keys of a row behind an Attend.
  Int<64> keys_with(const Attend &f) const {
    const Int<64> before = f.goes_on != 0 ? keys : Int<64>(0);
    return f.scores != 0 ? Int<64>(before + Int<64>(f.blocks) * kRows) : before;
  }
  /// Whether an Attend may go on with them.
  bool fits(const Attend &f) const {
    return there && at.first == Int<64>(f.accumulator) && rows == int(f.rows) &&
           tiles == int(f.tiles) && scored == (f.scores != 0);
  }
  /// What is there behind an Attend that was found legal.
  void take(const Attend &f) {
    const Range range = accumulator_rows(f);
    const Int<64> total = keys_with(f);
    if (f.stays == 0) {
      there = there && !at.meets(range);
    } else {
      there = true, scored = f.scores != 0;
      at = range, rows = int(f.rows), tiles = int(f.tiles), keys = total;
    }
  }
};

}  // namespace weft
