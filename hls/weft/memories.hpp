/// The on-chip memories, all owned by the compute process.
#pragma once
#include "config.hpp"
#include "isa.hpp"
#include "types.hpp"

namespace weft {

using Word = Vec<Int<8>, kRows>;      // unified-buffer word, memory row, weight-stream row
using Beat = Vec<Int<8>, kBusBytes>;  // what a memory port moves in a clock
using SumWord = Vec<Int<32>, kCols>;
constexpr int kBeats = kRows / kBusBytes;

/// Requantization parameters of one channel block, lane by lane (see units/activate.hpp).
struct ParameterWord {
  Vec<Int<32>, kCols> bias, multiplier, negative_multiplier;
  Vec<Int<8>, kCols> shift, negative_shift;
};

/// One read and one write port each is all that the II=1 loops need:
/// - `buffer` is read by the window walk and written by the epilogue;
/// - `partial` is read and written by the accumulators, one row per clock;
/// - `finished` takes the sums of a tile's last fold, the epilogue reads it a few clocks behind, so
///   a tile drains while the next one accumulates.
struct Memories {
  Word buffer[kBufferWords];
  SumWord partial[kAccumulatorRows];
  SumWord finished[kAccumulatorRows];
  ParameterWord parameters[kParameterBlocks];
  Word taps[kTapWords];
  Word lookup[kLookupEntries];  // lane-local tables: no crossing wires
};

/// Clocks by cause (weft.units.state.Clocks), counted where the loops run.
struct Counters {
  Int<64> issue, matrix, weight_shift, drain, vector, table, transfer;
  void clear() { issue = matrix = weight_shift = drain = vector = table = transfer = 0; }
};

inline Word filled(Int<8> value) {
  Word word;
fill:
  for (int lane = 0; lane < kRows; ++lane) {
    WEFT_UNROLL
    word[lane] = value;
  }
  return word;
}

}  // namespace weft
