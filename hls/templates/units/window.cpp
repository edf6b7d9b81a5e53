/// The window walk: unified-buffer addresses of a convolution.
/// operands: batch, the MatMul instruction. results: for each fold, ordered (ky, kx, block), and
/// each output position the address, or -1 where the window is outside the map.
#define WEFT_VENDOR
#include "units/window.hpp"
#include "words.hpp"

extern "C" void window_words(hls::stream<ap_uint<32>> &operands,
                             hls::stream<ap_uint<32>> &results) {
#pragma HLS INTERFACE mode = axis port = operands
#pragma HLS INTERFACE mode = axis port = results
  using namespace weft;
  const int batch = int(take(operands));
  const MatMul f = MatMul::decode(take_command(operands));
  Walk<MatMul> walk;
  walk.begin(f, batch);
  const int folds = int(f.blocks) * walk.taps(), positions = walk.at.count();
folds:
  for (int fold = 0; fold < folds; ++fold) {
    WEFT_TRIPCOUNT(1024)
  positions:
    for (int i = 0; i < positions; ++i) {
      WEFT_PIPELINE
      WEFT_TRIPCOUNT(kAccumulatorRows)
      give(results, walk.inside() ? Int<32>(walk.address()) : Int<32>(-1));
      walk.next_position();
    }
    walk.next_fold();
  }
}
