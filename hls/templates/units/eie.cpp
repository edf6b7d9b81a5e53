/// The EIE engine: sparse weights times sparse activations.
/// operands: batch, the MatMul instruction, number of buffer words and the words, MatMul.rows
/// rows of weights. results: status and row of the fault; without one the clocks of
/// matrix, weight_shift and drain (two words each, the low one first) and the sums of all
/// positions, tile by tile.
#define WEFT_VENDOR
#include "tables.hpp"
#include "units/eie.hpp"

namespace weft {

constexpr int kTileRows = kWeightTiles * kRows;  // rows of the weight FIFO

/// In a function of its own, as a process of the region below.
inline void run_eie(const MatMul &f, int batch, Memories &m, WeightStream &rows, Counters &counters,
                    Fault &fault) {
  WEFT_FUNCTION
  eie(f, batch, m, rows, counters, fault);
}

/// Rows arrive while they are loaded; C simulation runs one process after the other.
inline void feed_eie(const MatMul &f, int batch, int weight_rows, Port &operands, Memories &m,
                     Counters &counters, Fault &fault) {
  WEFT_FUNCTION
  WEFT_HLS(DATAFLOW)
  WEFT_CHANNEL(StreamRow, rows, kTileRows)
  WEFT_PROCESS(take_tile_rows(operands, weight_rows, rows));
  WEFT_PROCESS(run_eie(f, batch, m, rows, counters, fault));
}

}  // namespace weft

extern "C" void eie_words(hls::stream<ap_uint<32>> &operands, hls::stream<ap_uint<32>> &results) {
#pragma HLS INTERFACE mode = axis port = operands
#pragma HLS INTERFACE mode = axis port = results
  using namespace weft;
  WEFT_STATIC(Memories, m);
  WEFT_PARTITION_MEMORIES(m)
  Counters counters;
  counters.clear();
  Fault fault;
  fault.begin();
  const int batch = int(take(operands));
  const MatMul f = MatMul::decode(take_command(operands));
  take_buffer(operands, int(take(operands)), m);
  feed_eie(f, batch, int(f.rows), operands, m, counters, fault);
  give(results, fault.status);
  give(results, fault.row);
  if (fault.status != kDone) return;
  give_clocks(results, counters.matrix);
  give_clocks(results, counters.weight_shift);
  give_clocks(results, counters.drain);
  const int sums = batch * int(f.out_h) * int(f.out_w) * int(f.tiles);
sums:
  for (int i = 0; i < sums; ++i) {
    WEFT_TRIPCOUNT(kAccumulatorRows)
    give_sums(results, value_of(m.finished[i]));
  }
}
