/// Rotate on a wide and a unified buffer of its own.
/// operands: the Rotate instruction, number of words of the wide buffer and their int16 (one to a
/// word), the same of the ranges of tokens, words of the unified buffer to give back. results:
/// clocks (two words, the low one first), these words from the first on, then all words of the wide
/// buffer and of the ranges that were given.
#define WEFT_VENDOR
#include "tables.hpp"
#include "units/rotate.hpp"

extern "C" void rotate_words(hls::stream<ap_uint<32>> &operands,
                             hls::stream<ap_uint<32>> &results) {
#pragma HLS INTERFACE mode = axis port = operands
#pragma HLS INTERFACE mode = axis port = results
  using namespace weft;
  WEFT_STATIC(Memories, m);
  WEFT_PARTITION_MEMORIES(m)
  Counters counters;
  counters.clear();
  const Rotate f = Rotate::decode(take_command(operands));
  const int words = int(take(operands));
  take_wide(operands, words, m.wide);
  const int ranges = int(take(operands));
  take_wide(operands, ranges, m.token_ranges);
  rotate(f, m, counters);
  give_clocks(results, counters.vector);
  give_buffer(results, 0, int(take(operands)), m);
  give_wide(results, words, m.wide);
  give_wide(results, ranges, m.token_ranges);
}
