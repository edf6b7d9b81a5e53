/// The memory ports: ReadHost's rows from memory to a stream, WriteHost's from a stream to memory,
/// beat by beat in bursts. `loads` and `stores` are read and written by different ports.
/// operands: batch, number of instructions, and each of these instructions with what it takes:
/// ReadHost nothing, WriteHost batch·chunks·words rows. results: the rows of each ReadHost.
#define WEFT_VENDOR
#include "units/transfer.hpp"
#include "words.hpp"

namespace weft {

enum { kUnitDepth = 64 };  // rows between a port and a stream; only pragmas name it

/// A burst arrives while rows leave; C simulation runs one process after the other.
inline void run_load(const ReadHost &f, int batch, int rows, const Beat *loads, Port &results) {
  WEFT_FUNCTION
  WEFT_HLS(DATAFLOW)
  WEFT_CHANNEL(Word, loaded, kUnitDepth)
  WEFT_PROCESS(load_rows(f, batch, loads, loaded));
  WEFT_PROCESS(give_rows(results, rows, loaded));
}

inline void run_store(const WriteHost &f, int batch, int rows, Port &operands, Beat *stores) {
  WEFT_FUNCTION
  WEFT_HLS(DATAFLOW)
  WEFT_CHANNEL(Word, stored, kUnitDepth)
  WEFT_PROCESS(take_rows(operands, rows, stored));
  WEFT_PROCESS(store_rows(f, batch, stored, stores));
}

template <typename Transfer> int rows_of(const Transfer &f, int batch) {
  return batch * int(f.chunks) * int(f.words);
}

}  // namespace weft

extern "C" void memory_words(const weft::Beat *loads, weft::Beat *stores,
                             hls::stream<ap_uint<32>> &operands,
                             hls::stream<ap_uint<32>> &results) {
#pragma HLS INTERFACE mode = m_axi port = loads bundle = gmem0 offset = \
    slave max_read_burst_length = 64 depth = 4096
#pragma HLS INTERFACE mode = m_axi port = stores bundle = gmem1 offset = \
    slave max_write_burst_length = 64 depth = 4096
#pragma HLS INTERFACE mode = s_axilite port = loads bundle = control
#pragma HLS INTERFACE mode = s_axilite port = stores bundle = control
#pragma HLS INTERFACE mode = s_axilite port = return bundle = control
#pragma HLS INTERFACE mode = axis port = operands
#pragma HLS INTERFACE mode = axis port = results
  using namespace weft;
  const int batch = int(take(operands)), commands = int(take(operands));
commands:
  for (int i = 0; i < commands; ++i) {
    WEFT_TRIPCOUNT(1024)
    const Command words = take_command(operands);
    if (words[0] == kReadHost) {
      const ReadHost f = ReadHost::decode(words);
      run_load(f, batch, rows_of(f, batch), loads, results);
    } else {
      const WriteHost f = WriteHost::decode(words);
      run_store(f, batch, rows_of(f, batch), operands, stores);
    }
  }
}
