/// 2:4 as sparse tensor cores keep it (Mishra et al., 2021; host/weft/sparse/two_four.py): two
/// values of each four columns, and a nibble idx0 + 4 · idx1 that says which, idx0 < idx1.
#pragma once
#include "status.hpp"
#include "types.hpp"

namespace weft {

/// A nibble of metadata: six of the sixteen name two places.
struct TwoOfFour {
  int first, second;

  explicit TwoOfFour(UInt<4> nibble) : first(int(nibble) & 3), second(int(nibble) >> 2) {}
  bool legal() const { return first < second; }
};

using ValuePair = Vec<Int<16>, 2>;  // read in one clock

/// Nibble of group `group` of a row: kPerWord in a word, the first one lowest.
template <int kPerWord> inline UInt<4> nibble_of(const UInt<32> *words, int group) {
  WEFT_INLINE
  return UInt<4>((unsigned(words[group / kPerWord]) >> (4 * (group % kPerWord))) & 15);
}

/// A group per clock. `metadata` [rows, words] of kPerWord nibbles (8 beside int8 values, 4 beside
/// int16), `values` [rows, words · kPerWord] pairs. Places behind the last column hold zeros.
/// Faults (words of metadata) and the sink are those of sparse/lines.hpp.
template <int kPerWord, typename Sink>
inline void decode_two_four(int rows, int cols, const UInt<32> *metadata, const ValuePair *values,
                            Sink &sink, Fault &fault) {
  WEFT_INLINE
  const int words = (cols + 4 * kPerWord - 1) / (4 * kPerWord), groups = words * kPerWord;
  int row = 0, group = 0;
groups:
  for (int i = 0; i < rows * groups && fault.status == kDone; ++i) {
    WEFT_PIPELINE
    WEFT_TRIPCOUNT(65536)
    const int word = row * words + group / kPerWord;
    const TwoOfFour places(nibble_of<kPerWord>(metadata + row * words, group));
    const int columns[2] = {4 * group + places.first, 4 * group + places.second};
    if (!places.legal()) fault.raise(word);
    const ValuePair pair = values[i];
    slots:
    for (int slot = 0; slot < 2; ++slot) {
      WEFT_UNROLL
      const Int<16> value = pair[slot];
      if (value != 0 && columns[slot] >= cols) fault.raise(word);
      if (value != 0 && fault.status == kDone) sink.put(row, columns[slot], value);
    }
    const bool last = group == groups - 1;
    group = last ? 0 : group + 1;
    row += last ? 1 : 0;
  }
}

}  // namespace weft
