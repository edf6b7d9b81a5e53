/// MatMul with its Activate, on a unified buffer of its own: the schedule of the folds, the array,
/// the accumulators and their drain. The accumulators keep their sums for a next call whose MatMul
/// adds (first = 0).
/// operands: batch, the MatMul and the Activate instruction (without effect unless MatMul has last
/// set), number of parameter blocks and the blocks, 256 lookup rows if Activate has lookup set,
/// number of buffer words and the words, number of weight rows and the rows, first and count of
/// what to give back. results: clocks of matrix, weight_shift and drain (two words each, the low
/// one first), then these words of the buffer afterwards.
#define WEFT_VENDOR
#include "tables.hpp"
#include "units/matmul.hpp"

namespace weft {

constexpr int kTileRows = kWeightTiles * kRows;  // rows of the weight FIFO

/// In a function of its own, as a process of the region below.
inline void run_matmul(const MatMul &f, const Activate &a, int batch, Memories &m,
                       WeightStream &tiles, Counters &counters) {
  WEFT_FUNCTION
  Fault fault;
  fault.begin();
  matmul(f, a, batch, m, tiles, counters, fault);
}

/// Weights arrive while the array computes; C simulation runs one process after the other.
inline void feed_matmul(const MatMul &f, const Activate &a, int batch, int weight_rows,
                        Port &operands, Memories &m, Counters &counters) {
  WEFT_FUNCTION
  WEFT_HLS(DATAFLOW)
  WEFT_CHANNEL(StreamRow, tiles, kTileRows)
  WEFT_PROCESS(take_tile_rows(operands, weight_rows, tiles));
  WEFT_PROCESS(run_matmul(f, a, batch, m, tiles, counters));
}

}  // namespace weft

extern "C" void matmul_words(hls::stream<ap_uint<32>> &operands,
                             hls::stream<ap_uint<32>> &results) {
#pragma HLS INTERFACE mode = axis port = operands
#pragma HLS INTERFACE mode = axis port = results
  using namespace weft;
  WEFT_STATIC(Memories, m);
  WEFT_PARTITION_MEMORIES(m)
  Counters counters;
  counters.clear();
  const int batch = int(take(operands));
  const MatMul f = MatMul::decode(take_command(operands));
  const Activate a = Activate::decode(take_command(operands));
  const int blocks = int(take(operands));
blocks:
  for (int block = 0; block < blocks; ++block) {
    WEFT_TRIPCOUNT(kParameterBlocks)
    take_parameters(operands, block, m);
  }
  if (a.lookup != 0) take_lookup(operands, m);
  take_buffer(operands, int(take(operands)), m);
  const int weight_rows = int(take(operands));
  feed_matmul(f, a, batch, weight_rows, operands, m, counters);
  give_clocks(results, counters.matrix);
  give_clocks(results, counters.weight_shift);
  give_clocks(results, counters.drain);
  const int first = int(take(operands)), count = int(take(operands));
  give_buffer(results, first, count, m);
}
