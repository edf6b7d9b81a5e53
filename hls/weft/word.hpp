/// Words: what memories hold side by side, an element per lane.
#pragma once
#include "isa.hpp"
#include "stream.hpp"

namespace weft {

using Word = Vec<Int<8>, kRows>;      // unified-buffer word, memory row
using Beat = Vec<Int<8>, kBusBytes>;  // what a memory port moves in a clock
using SumWord = Vec<Int<32>, kCols>;
using WideWord = Vec<Int<16>, kCols>;  // of the residual stream, of scores
constexpr int kBeats = kRows / kBusBytes;

inline Word filled(Int<8> value) {
  Word word;
fill:
  for (int lane = 0; lane < kRows; ++lane) {
    WEFT_UNROLL
    word[lane] = value;
  }
  return word;
}

/// A memory row as a row of the weight stream,
inline TileWord widened(const Word &row) {
  WEFT_INLINE
  TileWord wide;
widen:
  for (int c = 0; c < kCols; ++c) {
    WEFT_UNROLL
    wide[c] = Operand(row[c]);
  }
  return wide;
}

/// and the low bytes of one.
inline Word narrowed(const TileWord &row) {
  WEFT_INLINE
  Word narrow;
narrow:
  for (int c = 0; c < kCols; ++c) {
    WEFT_UNROLL
    narrow[c] = Int<8>(row[c]);
  }
  return narrow;
}

}  // namespace weft
