/// CSR and CSC, line by line: a pointer to where each line begins, and indices that rise in a line
/// (host/weft/sparse/compressed.py).
///
/// Decoders of storage formats take the arrays as memory has them, tell a sink `put(row, column,
/// value)` what is there, and raise a fault for the first array word that contradicts itself: its
/// number, counted through the arrays in the order of the parameters. They end in any case.
#pragma once
#include "status.hpp"
#include "types.hpp"

namespace weft {

/// A matrix of `lines` lines of `width` places with `count` values; a clock takes a pointer or an
/// entry. kColumns: lines are columns (CSC).
template <bool kColumns, typename Sink>
inline void decode_lines(int lines, int width, int count, const UInt<32> *pointers,
                         const UInt<32> *indices, const Int<16> *values, Sink &sink, Fault &fault) {
  WEFT_INLINE
  int line = -1, at = 0, end = 0;
  Int<64> before = -1;  // index of the line's entry before
  if (pointers[0] != 0) fault.raise(0);
clock:
  for (int clock = 0; clock < lines + count && fault.status == kDone; ++clock) {
    WEFT_PIPELINE
    WEFT_TRIPCOUNT(65536)
    if (at == end) {
      ++line;
      before = -1;
      const Int<64> next = line < lines ? Int<64>(pointers[line + 1]) : Int<64>(-1);
      if (next < end || next > count) {
        fault.raise(line < lines ? line + 1 : lines);  // or entries that no line has
      } else {
        end = int(next);
      }
    } else {
      const Int<64> index = Int<64>(indices[at]);
      if (index >= width || index <= before) {
        fault.raise(lines + 1 + at);
      } else {
        sink.put(kColumns ? int(index) : line, kColumns ? line : int(index), values[at]);
      }
      before = index;
      ++at;
    }
  }
  if (end != count) fault.raise(lines);
}

}  // namespace weft
