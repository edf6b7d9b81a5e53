/// The epilogue: sums → bias, requantization, zero point, clamp, lookup → codes.
/// operands: the Activate instruction, a parameter block, 256 lookup rows if the instruction has
/// lookup set, count, then a row of sums each. results: a row of codes each.
#define WEFT_VENDOR
#include "tables.hpp"
#include "units/activate.hpp"

extern "C" void activate_words(hls::stream<ap_uint<32>> &operands,
                               hls::stream<ap_uint<32>> &results) {
#pragma HLS INTERFACE mode = axis port = operands
#pragma HLS INTERFACE mode = axis port = results
  using namespace weft;
  WEFT_STATIC(Memories, m);
  WEFT_PARTITION_MEMORIES(m)
  const Activate f = Activate::decode(take_command(operands));
  take_parameters(operands, 0, m);
  if (f.lookup != 0) take_lookup(operands, m);
  const int count = int(take(operands));
rows:
  for (int row = 0; row < count; ++row) {
    WEFT_PIPELINE_EVERY(kCols)
    WEFT_TRIPCOUNT(kAccumulatorRows)
    SumWord whole;
    give_codes(results, activate(take_sums(operands), m.parameters.read(0), f, m.lookup, whole));
  }
}
