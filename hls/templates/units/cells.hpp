/// A row of an array's cells by itself: each column gets what the edge of the array makes of its
/// operands.
#pragma once
#include "units/precision.hpp"
#include "words.hpp"

namespace weft {

constexpr int kCellClocks = kCols + 2 * kActivationWords * kWordsPerRow;  // a word per clock

template <typename Cell>
SumWord row_of_cells(const Cell &cell, const SumWord &above, const Word (&words)[kActivationWords],
                     const TileWord (&rows)[kActivationWords]) {
  WEFT_INLINE
  Vec<typename Cell::Activation, kCols> activations;
  Vec<typename Cell::Weight, kCols> weights;
columns:
  for (int c = 0; c < kCols; ++c) {
    WEFT_UNROLL
    activations[c] = cell.activation(words, c);
    weights[c] = cell.weight(rows, c);
  }
  return cell.row(above, activations, weights);
}

template <typename Cell> void run_cells(Port &operands, Port &results) {
  WEFT_FUNCTION
  Cell cell;
  cell.begin(MatMul::decode(take_command(operands)));
  const int count = int(take(operands));
  Word words[kActivationWords];
  TileWord rows[kActivationWords];
  WEFT_HLS(ARRAY_PARTITION variable = words type = complete)
  WEFT_HLS(ARRAY_PARTITION variable = rows type = complete)
rows:
  for (int i = 0; i < count; ++i) {
    WEFT_PIPELINE_EVERY(kCellClocks)
    WEFT_TRIPCOUNT(65536)
    const SumWord above = take_sums(operands);
    for (int q = 0; q < kActivationWords; ++q) words[q] = take_codes(operands);
    for (int q = 0; q < kActivationWords; ++q) rows[q] = widened(take_codes(operands));
    give_sums(results, row_of_cells(cell, above, words, rows));
  }
}

}  // namespace weft
