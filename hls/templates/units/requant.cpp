/// Requantization: int32 times a scale, rounded.
/// operands: mode (Mode of isa.hpp), count, then value, multiplier, shift each. results: one word
/// each.
#define WEFT_VENDOR
#include "units/requant.hpp"
#include "words.hpp"

extern "C" void requant_words(hls::stream<ap_uint<32>> &operands,
                              hls::stream<ap_uint<32>> &results) {
#pragma HLS INTERFACE mode = axis port = operands
#pragma HLS INTERFACE mode = axis port = results
  using namespace weft;
  const int mode = int(take(operands)), count = int(take(operands));
values:
  for (int i = 0; i < count; ++i) {
    WEFT_PIPELINE_EVERY(3)
    WEFT_TRIPCOUNT(65536)
    const Int<32> x = take(operands), multiplier = take(operands);
    const Int<8> shift = Int<8>(take(operands));
    Int<32> y;
    if (mode == kSingleRound) {
      y = single_round(x, multiplier, shift);
    } else if (mode == kDoubleRound) {
      y = double_round(x, multiplier, shift);
    } else {
      y = float_even(x, multiplier, shift);
    }
    give(results, y);
  }
}
