/// V:2:M (Castro et al., VENOM, SC 2023; host/weft/sparse/venom.py): four columns of each block of
/// V × M, which a list names, and 2:4 inside of them.
#pragma once
#include "sparse/two_four.hpp"

namespace weft {

constexpr int kVenomKept = 4;  // columns of a block

/// Where the four columns of a block lie in its M: rising.
using VenomColumns = Vec<UInt<8>, kVenomKept>;

/// The first of them that is wrong, or −1.
inline int wrong_column(const VenomColumns &columns, int m) {
  WEFT_INLINE
  int found = -1;
columns:
  for (int i = kVenomKept - 1; i >= 0; --i) {
    WEFT_UNROLL
    if (int(columns[i]) >= m || (i > 0 && columns[i] <= columns[i - 1])) found = i;
  }
  return found;
}

/// A group per clock. `columns` [⌈rows/v⌉, ⌈cols/m⌉], four below m; `metadata` and `values` are
/// those of 2:4 for four columns per block. Faults: words of `columns`, then of `metadata`.
template <int kPerWord, typename Sink>
inline void decode_venom(int rows, int cols, int v, int m, const VenomColumns *columns,
                         const UInt<32> *metadata, const ValuePair *values, Sink &sink,
                         Fault &fault) {
  WEFT_INLINE
  const int blocks = (cols + m - 1) / m, words = (blocks + kPerWord - 1) / kPerWord;
  const int groups = words * kPerWord, lists = (rows + v - 1) / v * blocks;
  int row = 0, group = 0, list = 0, in_block = 0;  // first list of the row's blocks; row in them
  VenomColumns of_block;
  WEFT_HLS(ARRAY_PARTITION variable = of_block.lane type = complete)
groups:
  for (int i = 0; i < rows * groups && fault.status == kDone; ++i) {
    WEFT_PIPELINE
    WEFT_TRIPCOUNT(65536)
    const int word = lists * kVenomKept + row * words + group / kPerWord;
    const int first = list + (group < blocks ? group : 0);
    of_block = columns[first];
    const int wrong = wrong_column(of_block, m);
    if (wrong >= 0) fault.raise(first * kVenomKept + wrong);
    const TwoOfFour places(nibble_of<kPerWord>(metadata + row * words, group));
    if (!places.legal()) fault.raise(word);
    const int kept[2] = {places.first, places.second};
    const ValuePair pair = values[i];
    slots:
    for (int slot = 0; slot < 2; ++slot) {
      WEFT_UNROLL
      const Int<16> value = pair[slot];
      const int column = group * m + int(of_block[kept[slot]]);
      if (value != 0 && (group >= blocks || column >= cols)) fault.raise(word);
      if (value != 0 && fault.status == kDone) sink.put(row, column, value);
    }
    if (group < groups - 1) {
      ++group;
      continue;
    }
    group = 0;
    ++row;
    in_block = in_block == v - 1 ? 0 : in_block + 1;
    if (in_block == 0) list += blocks;
  }
}

}  // namespace weft
