/// BitFusion's cells, sixteen bricks of two bits each.
/// operands: the MatMul instruction, a count, and for each of these rows the sums from above, 4
/// rows of activation bytes and 4 of weight bytes (unused ones 0). results: the sums of each row.
#define WEFT_VENDOR
#include "cells.hpp"
#include "units/fusion.hpp"

extern "C" void fusion_words(hls::stream<ap_uint<32>> &operands,
                             hls::stream<ap_uint<32>> &results) {
#pragma HLS INTERFACE mode = axis port = operands
#pragma HLS INTERFACE mode = axis port = results
  weft::run_cells<weft::FusionCell>(operands, results);
}
