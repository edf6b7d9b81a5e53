/// COO, coordinates: row, column and value of each entry, row by row (host/weft/sparse/coo.py).
#pragma once
#include "status.hpp"
#include "types.hpp"

namespace weft {

/// An entry per clock. Faults and the sink are those of sparse/lines.hpp.
template <typename Sink>
inline void decode_coo(int rows, int cols, int count, const UInt<32> *row_indices,
                       const UInt<32> *columns, const Int<16> *values, Sink &sink, Fault &fault) {
  WEFT_INLINE
  Int<64> row_before = -1, column_before = -1;
entries:
  for (int i = 0; i < count && fault.status == kDone; ++i) {
    WEFT_PIPELINE
    WEFT_TRIPCOUNT(65536)
    const Int<64> row = Int<64>(row_indices[i]), column = Int<64>(columns[i]);
    if (row >= rows || row < row_before) {
      fault.raise(i);
    } else if (column >= cols || (row == row_before && column <= column_before)) {
      fault.raise(count + i);
    } else {
      sink.put(int(row), int(column), values[i]);
    }
    row_before = row;
    column_before = column;
  }
}

}  // namespace weft
