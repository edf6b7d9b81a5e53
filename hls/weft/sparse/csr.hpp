/// CSR, compressed sparse rows: rows follow each other, as row-wise dot products want them.
#pragma once
#include "sparse/lines.hpp"

namespace weft {

/// `pointers` [rows + 1], `columns` and `values` [count].
template <typename Sink>
inline void decode_csr(int rows, int cols, int count, const UInt<32> *pointers,
                       const UInt<32> *columns, const Int<16> *values, Sink &sink, Fault &fault) {
  WEFT_INLINE
  decode_lines<false>(rows, cols, count, pointers, columns, values, sink, fault);
}

}  // namespace weft
