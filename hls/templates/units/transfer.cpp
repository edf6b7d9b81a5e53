/// What moves data on the chip: ReadHost, WriteHost and SetTable between streams and the memories,
/// which keep their content from call to call.
/// operands: batch, number of instructions, and each of these instructions with what it takes:
/// ReadHost batch·chunks·words rows, SetTable 14 rows a parameter block or one an entry, WriteHost
/// nothing. results: the rows of each WriteHost; then clocks of table and transfer (two words each,
/// the low one first), all parameter blocks (rows of bias, multiplier, shift, negative multiplier,
/// negative shift), all taps, and 256 rows of lookup.
#define WEFT_VENDOR
#include "tables.hpp"

namespace weft {

enum { kUnitDepth = 64 };  // rows between a port and a memory; only pragmas name it

/// Rows arrive while others are put in place; C simulation runs one process after the other.
inline void run_read(const ReadHost &f, int batch, int rows, Port &operands, Memories &m,
                     Counters &counters) {
  WEFT_FUNCTION
  WEFT_HLS(DATAFLOW)
  WEFT_CHANNEL(Word, loaded, kUnitDepth)
  WEFT_PROCESS(take_rows(operands, rows, loaded));
  WEFT_PROCESS(read_host(f, batch, loaded, m, counters));
}

inline void run_write(const WriteHost &f, int batch, int rows, Port &results, const Memories &m,
                      Counters &counters) {
  WEFT_FUNCTION
  WEFT_HLS(DATAFLOW)
  WEFT_CHANNEL(Word, stored, kUnitDepth)
  WEFT_PROCESS(write_host(f, batch, stored, m, counters));
  WEFT_PROCESS(give_rows(results, rows, stored));
}

inline void run_table(const SetTable &f, int rows, Port &operands, Memories &m,
                      Counters &counters) {
  WEFT_FUNCTION
  WEFT_HLS(DATAFLOW)
  WEFT_CHANNEL(StreamRow, entries, kUnitDepth)
  WEFT_PROCESS(take_tile_rows(operands, rows, entries));
  WEFT_PROCESS(set_table(f, entries, m, counters));
}

template <typename Transfer> int rows_of(const Transfer &f, int batch) {
  return batch * int(f.chunks) * int(f.words);
}

inline void run_command(const Command &words, int batch, Port &operands, Port &results, Memories &m,
                        Counters &counters) {
  WEFT_FUNCTION
  if (words[0] == kReadHost) {
    const ReadHost f = ReadHost::decode(words);
    run_read(f, batch, rows_of(f, batch), operands, m, counters);
  } else if (words[0] == kWriteHost) {
    const WriteHost f = WriteHost::decode(words);
    run_write(f, batch, rows_of(f, batch), results, m, counters);
  } else {
    const SetTable f = SetTable::decode(words);
    const int rows = int(f.count) * (f.target == kParametersTable ? kParameterRows : 1);
    run_table(f, rows, operands, m, counters);
  }
}

inline void give_tables(Port &to, const Memories &m) {
  WEFT_FUNCTION
parameters:
  for (int block = 0; block < kParameterBlocks; ++block) {
    const ParameterWord p = m.parameters.read(block);
    give_sums(to, p.bias);
    give_sums(to, p.multiplier);
    give_sums(to, p.shift);
    give_sums(to, p.negative_multiplier);
    give_sums(to, p.negative_shift);
  }
taps:
  for (int i = 0; i < kTapWords; ++i) give_codes(to, value_of(m.taps[i]));
entries:
  for (int entry = 0; entry < kLookupEntries; ++entry) {
    Word row;
    for (int c = 0; c < kCols; ++c) row[c] = m.lookup[c][entry];
    give_codes(to, row);
  }
}

}  // namespace weft

extern "C" void transfer_words(hls::stream<ap_uint<32>> &operands,
                               hls::stream<ap_uint<32>> &results) {
#pragma HLS INTERFACE mode = axis port = operands
#pragma HLS INTERFACE mode = axis port = results
  using namespace weft;
  WEFT_STATIC(Memories, m);
  WEFT_PARTITION_MEMORIES(m)
  Counters counters;
  counters.clear();
  const int batch = int(take(operands)), commands = int(take(operands));
commands:
  for (int i = 0; i < commands; ++i) {
    WEFT_TRIPCOUNT(1024)
    const Command words = take_command(operands);
    run_command(words, batch, operands, results, m, counters);
  }
  give_clocks(results, counters.table);
  give_clocks(results, counters.transfer);
  give_tables(results, m);
}
