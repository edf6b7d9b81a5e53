/// Tables of the epilogue from a stream, as SetTable takes them from the weight stream.
#pragma once
#include "units/set_table.hpp"
#include "words.hpp"

namespace weft {

inline void take_parameters(Port &from, int index, Memories &m) {
  ParameterWord block;
planes:
  for (int plane = 0; plane < kParameterRows; ++plane) set_plane(block, plane, take_codes(from));
  m.parameters.write(index, block);
}

inline void take_lookup(Port &from, Memories &m) {
entries:
  for (int entry = 0; entry < kLookupEntries; ++entry) {
    const Word row = take_codes(from);
    for (int c = 0; c < kCols; ++c) m.lookup[c][entry] = row[c];
  }
}

inline void take_taps(Port &from, int count, Memories &m) {
taps:
  for (int i = 0; i < count; ++i) {
    WEFT_TRIPCOUNT(kTapWords)
    put(m.taps[i], take_codes(from));
  }
}

inline void take_buffer(Port &from, int count, Memories &m) {
words:
  for (int i = 0; i < count; ++i) {
    WEFT_TRIPCOUNT(kBufferWords)
    m.buffer.write(i, take_codes(from));
  }
}

inline void take_operand_words(Port &from, int count, Memories &m) {
words:
  for (int i = 0; i < count; ++i) {
    WEFT_TRIPCOUNT(kOperandWords)
    m.operands.write(i, take_codes(from));
  }
}

/// Words of the wide buffer or of ranges of tokens, an int16 to a word of the stream.
template <int kWords> inline void take_wide(Port &from, int count, Int<16> (&to)[kWords][kCols]) {
words:
  for (int i = 0; i < count; ++i) {
    WEFT_TRIPCOUNT(kWords)
  lanes:
    for (int c = 0; c < kCols; ++c) to[i][c] = Int<16>(take(from));
  }
}

template <int kWords>
inline void give_wide(Port &to, int count, const Int<16> (&from)[kWords][kCols]) {
words:
  for (int i = 0; i < count; ++i) {
    WEFT_TRIPCOUNT(kWords)
  lanes:
    for (int c = 0; c < kCols; ++c) give(to, Int<32>(from[i][c]));
  }
}

inline void give_buffer(Port &to, int first, int count, const Memories &m) {
words:
  for (int i = 0; i < count; ++i) {
    WEFT_TRIPCOUNT(kBufferWords)
    give_codes(to, m.buffer.read(first + i));
  }
}

}  // namespace weft
