/// The vector unit with its epilogue, on a unified buffer of its own.
/// operands: batch, the Vector and the Activate instruction, a parameter block, 256 lookup rows if
/// Activate has lookup set, number of taps and the taps, number of buffer words and the words,
/// first and count of what to give back. results: these words of the buffer afterwards.
#define WEFT_VENDOR
#include "tables.hpp"
#include "units/vector.hpp"

extern "C" void vector_words(hls::stream<ap_uint<32>> &operands,
                             hls::stream<ap_uint<32>> &results) {
#pragma HLS INTERFACE mode = axis port = operands
#pragma HLS INTERFACE mode = axis port = results
  using namespace weft;
  WEFT_STATIC(Memories, m);
  WEFT_PARTITION_MEMORIES(m)
  Counters counters;
  counters.clear();
  const int batch = int(take(operands));
  const Vector f = Vector::decode(take_command(operands));
  const Activate a = Activate::decode(take_command(operands));
  take_parameters(operands, 0, m);
  if (a.lookup != 0) take_lookup(operands, m);
  take_taps(operands, int(take(operands)), m);
  take_buffer(operands, int(take(operands)), m);
  vector(f, a, batch, m, counters);
  const int first = int(take(operands)), count = int(take(operands));
  give_buffer(results, first, count, m);
}
