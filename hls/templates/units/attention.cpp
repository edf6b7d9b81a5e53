/// Attend with its Activates, on buffers of its own: scores of a head, then its results.
/// operands: number of parameter blocks and the blocks, number of words of the unified buffer and
/// the words, the same of the operand buffer and of the ranges of tokens (an int16 to a word),
/// number of pairs and the pairs, an Attend and an Activate instruction each, words of the unified
/// buffer to give back. results: clocks of matrix, weight_shift, drain and vector (two words each,
/// the low one first), then these words from the first on.
#define WEFT_VENDOR
#include "tables.hpp"
#include "units/matmul.hpp"

extern "C" void attention_words(hls::stream<ap_uint<32>> &operands,
                                hls::stream<ap_uint<32>> &results) {
#pragma HLS INTERFACE mode = axis port = operands
#pragma HLS INTERFACE mode = axis port = results
  using namespace weft;
  WEFT_STATIC(Memories, m);
  WEFT_PARTITION_MEMORIES(m)
  WEFT_CHANNEL(StreamRow, weights, 2)  // nothing comes: all operands are on chip
  Counters counters;
  counters.clear();
  Fault fault;
  fault.begin();
  m.softmax.begin();
  const int blocks = int(take(operands));
blocks:
  for (int block = 0; block < blocks; ++block) {
    WEFT_TRIPCOUNT(kParameterBlocks)
    take_parameters(operands, block, m);
  }
  take_buffer(operands, int(take(operands)), m);
  take_operand_words(operands, int(take(operands)), m);
  take_wide(operands, int(take(operands)), m.token_ranges);
  const int pairs = int(take(operands));
pairs:
  for (int pair = 0; pair < pairs; ++pair) {
    WEFT_TRIPCOUNT(64)
    const Attend f = Attend::decode(take_command(operands));
    const Activate a = Activate::decode(take_command(operands));
    matmul(product_of(f), a, 1, m, weights, counters, fault, f, true);
  }
  give_clocks(results, counters.matrix);
  give_clocks(results, counters.weight_shift);
  give_clocks(results, counters.drain);
  give_clocks(results, counters.vector);
  give_buffer(results, 0, int(take(operands)), m);
}
