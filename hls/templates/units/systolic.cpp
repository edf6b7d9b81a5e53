/// The systolic array: tiles of weights and the rows that pass them.
/// operands: folds, rows; then for each fold its tile (a row of codes per array row) and its rows
/// of activations. results: for each fold and row the sums.
#define WEFT_VENDOR
#include "units/systolic.hpp"
#include "words.hpp"

namespace weft {

constexpr int kClockWords = kCols;  // sums of a row: what a clock moves through a port at most

using Array = SystolicArray<IntegerCell>;

inline void run_fold(Array &array, int rows, Port &operands, Port &results) {
  WEFT_FUNCTION
  const IntegerCell cell;
  SumWord sums;
clock:
  for (int t = 0; t < kRows + rows + Array::kFlushClocks; ++t) {
    WEFT_PIPELINE_EVERY(kClockWords)
    WEFT_TRIPCOUNT(kAccumulatorRows)
    ArrayInput<IntegerCell> in = {};
    in.weight_row = -1;
    if (t < kRows) {
      in.weights = widened(take_codes(operands));
      in.weight_row = t;
    } else if (t < kRows + rows) {
      in.activations = take_codes(operands);
      in.swap = t == kRows;
    }
    array.step(cell, in, sums);
    if (t >= kRows + Array::kFlushClocks) give_sums(results, sums);
  }
}

}  // namespace weft

extern "C" void systolic_words(hls::stream<ap_uint<32>> &operands,
                               hls::stream<ap_uint<32>> &results) {
#pragma HLS INTERFACE mode = axis port = operands
#pragma HLS INTERFACE mode = axis port = results
  using namespace weft;
  WEFT_STATIC(Array, array);
  WEFT_PARTITION_ARRAY(array)
  const int folds = int(take(operands)), rows = int(take(operands));
folds:
  for (int fold = 0; fold < folds; ++fold) {
    WEFT_TRIPCOUNT(1024)
    run_fold(array, rows, operands, results);
  }
}
