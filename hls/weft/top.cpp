/// The top function: what Vitis HLS synthesizes and the C simulation calls.
#include "kernel.hpp"

#define WEFT_PORT_PARAMETER(p) , const weft::Beat *weight_port_##p
#define WEFT_PORT(p) , weight_port_##p
#define WEFT_PORT_INTERFACE(p)                                                           \
  WEFT_HLS(INTERFACE mode = m_axi port = weight_port_##p bundle = gmem_port_##p offset = \
               slave max_read_burst_length = 64 depth = 16384)                           \
  WEFT_HLS(INTERFACE mode = s_axilite port = weight_port_##p bundle = control)
#define WEFT_CACHE_PORT_PARAMETER(p, memory_bundle, packed) , const weft::Beat *cache_port_##p
#define WEFT_CACHE_PORT(p, memory_bundle, packed) , cache_port_##p
#define WEFT_CACHE_INTERFACE(p, memory_bundle, packed)                                  \
  WEFT_HLS(INTERFACE mode = m_axi port = cache_port_##p bundle = memory_bundle offset = \
               slave max_read_burst_length = 64 depth = 16384)                          \
  WEFT_HLS(INTERFACE mode = s_axilite port = cache_port_##p bundle = control)

/// Runs `segments` segments of a program from number `first` on. `program` begins with the pairs
/// (first instruction, count) of all segments; the instructions start at word `code`. `loads` and
/// `stores` are the same memory behind two ports, so that reads and writes each make bursts;
/// `weights` and the further ports behind all other arguments are the same one, too. Where weight
/// ports bring keys and values of earlier tokens, each has a second pointer, to the first of these.
/// `tokens`, `position`, `origin` and `source` are the registers that Adjust refers to.
extern "C" void weft_kernel(
    const weft::Int<32> *program, const weft::Beat *weights, const weft::Beat *loads,
    weft::Beat *stores, int code, int first, int segments, int batch, int tokens, int position,
    int origin, int source, unsigned memory_rows, unsigned weight_rows,
    weft::Int<32> results[weft::kReportWords] WEFT_EACH_PORT(WEFT_PORT_PARAMETER)
        WEFT_EACH_CACHE(WEFT_CACHE_PORT_PARAMETER)) {
#pragma HLS INTERFACE mode = m_axi port = program bundle = gmem0 offset = slave depth = 16384
#pragma HLS INTERFACE mode = m_axi port = weights bundle = gmem1 offset = \
    slave max_read_burst_length = 64 depth = 16384
#pragma HLS INTERFACE mode = m_axi port = loads bundle = gmem2 offset = \
    slave max_read_burst_length = 64 depth = 16384
#pragma HLS INTERFACE mode = m_axi port = stores bundle = gmem3 offset = \
    slave max_write_burst_length = 64 depth = 16384
#pragma HLS INTERFACE mode = s_axilite port = program bundle = control
#pragma HLS INTERFACE mode = s_axilite port = weights bundle = control
#pragma HLS INTERFACE mode = s_axilite port = loads bundle = control
#pragma HLS INTERFACE mode = s_axilite port = stores bundle = control
#pragma HLS INTERFACE mode = s_axilite port = code bundle = control
#pragma HLS INTERFACE mode = s_axilite port = first bundle = control
#pragma HLS INTERFACE mode = s_axilite port = segments bundle = control
#pragma HLS INTERFACE mode = s_axilite port = batch bundle = control
#pragma HLS INTERFACE mode = s_axilite port = tokens bundle = control
#pragma HLS INTERFACE mode = s_axilite port = position bundle = control
#pragma HLS INTERFACE mode = s_axilite port = origin bundle = control
#pragma HLS INTERFACE mode = s_axilite port = source bundle = control
#pragma HLS INTERFACE mode = s_axilite port = memory_rows bundle = control
#pragma HLS INTERFACE mode = s_axilite port = weight_rows bundle = control
#pragma HLS INTERFACE mode = s_axilite port = results bundle = control
#pragma HLS INTERFACE mode = s_axilite port = return bundle = control
  WEFT_EACH_PORT(WEFT_PORT_INTERFACE)
  WEFT_EACH_CACHE(WEFT_CACHE_INTERFACE)
  // Also with no segment to run: a host reads here which design the bitstream holds.
  results[weft::kStatusWord] = weft::kDone;
  results[weft::kDesignWord] = weft::Int<32>(weft::kDesignLow);
  results[weft::kDesignWord + 1] = weft::Int<32>(weft::kDesignHigh);
  const weft::Limits limits = {batch,
                               tokens,
                               position,
                               origin,
                               source,
                               weft::UInt<32>(memory_rows),
                               weft::UInt<32>(weight_rows)};
segments:
  for (int s = 0; s < segments; ++s) {
    WEFT_TRIPCOUNT(64)
    weft::run_segment(program, weights, loads, stores, code, first + s, s == 0, limits,
                      results WEFT_EACH_PORT(WEFT_PORT) WEFT_EACH_CACHE(WEFT_CACHE_PORT));
    if (results[weft::kStatusWord] != weft::kDone) break;
  }
}
