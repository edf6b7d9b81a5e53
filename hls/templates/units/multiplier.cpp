/// Products of int8, as the array's elements make them.
/// operands: count, then words with a in byte 0, w0 in byte 1, w1 in byte 2.
/// results: words with a·w0 in the low half and a·w1 in the high one.
#define WEFT_VENDOR
#include "units/multiplier.hpp"
#include "words.hpp"

extern "C" void multiplier_words(hls::stream<ap_uint<32>> &operands,
                                 hls::stream<ap_uint<32>> &results) {
#pragma HLS INTERFACE mode = axis port = operands
#pragma HLS INTERFACE mode = axis port = results
  using namespace weft;
  const int count = int(take(operands));
products:
  for (int i = 0; i < count; ++i) {
    WEFT_PIPELINE
    WEFT_TRIPCOUNT(65536)
    const UInt<32> word = operands.read();
    const Int<8> a = Int<8>(word), w0 = Int<8>(word >> 8), w1 = Int<8>(word >> 16);
    Int<16> low = product(a, w0), high = product(a, w1);
    if (kProductsPerDsp == 2) packed_product(a, w0, w1, low, high);
    results.write(ap_uint<32>((UInt<32>(UInt<16>(high)) << 16) | UInt<32>(UInt<16>(low))));
  }
}
