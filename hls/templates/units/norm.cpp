/// Norm on a wide and a unified buffer of its own.
/// operands: the Norm instruction, number of parameter blocks and the blocks, number of words of
/// the wide buffer and their int16 (one to a word), words of the unified buffer to give back.
/// results: clocks (two words, the low one first), these words from the first on, then all words of
/// the wide buffer that were given.
#define WEFT_VENDOR
#include "tables.hpp"
#include "units/normalize.hpp"

extern "C" void norm_words(hls::stream<ap_uint<32>> &operands, hls::stream<ap_uint<32>> &results) {
#pragma HLS INTERFACE mode = axis port = operands
#pragma HLS INTERFACE mode = axis port = results
  using namespace weft;
  WEFT_STATIC(Memories, m);
  WEFT_PARTITION_MEMORIES(m)
  Counters counters;
  counters.clear();
  m.norms.begin();
  const Norm f = Norm::decode(take_command(operands));
  const int blocks = int(take(operands));
blocks:
  for (int block = 0; block < blocks; ++block) {
    WEFT_TRIPCOUNT(kParameterBlocks)
    take_parameters(operands, block, m);
  }
  const int words = int(take(operands));
  take_wide(operands, words, m.wide);
  normalize(f, m, counters);
  give_clocks(results, counters.vector);
  give_buffer(results, 0, int(take(operands)), m);
  give_wide(results, words, m.wide);
}
