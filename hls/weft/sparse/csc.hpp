/// CSC, compressed sparse columns: a column of an activation of 0 can be passed over.
#pragma once
#include "sparse/lines.hpp"

namespace weft {

/// `pointers` [cols + 1], `row_indices` and `values` [count].
template <typename Sink>
inline void decode_csc(int rows, int cols, int count, const UInt<32> *pointers,
                       const UInt<32> *row_indices, const Int<16> *values, Sink &sink,
                       Fault &fault) {
  WEFT_INLINE
  decode_lines<true>(cols, rows, count, pointers, row_indices, values, sink, fault);
}

}  // namespace weft
