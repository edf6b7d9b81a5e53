/// The decoder of weights: packed codes with the scales of their groups → operands of the array.
/// operands: number of instructions, and each of these ReadWeights with its rows of memory.
/// results: an operand per word.
#define WEFT_VENDOR
#include "units/decode.hpp"
#include "words.hpp"

namespace weft {

enum { kUnitDepth = 64 };  // rows before and behind the decoder; only pragmas name it

/// The instruction, and the Barrier that ends the decode process.
inline void send(const Command &words, Stream<Command> &commands) {
  WEFT_FUNCTION
  Command end = words;
  end[0] = kBarrier;
  commands.write(words);
  commands.write(end);
}

inline void give_operands(Port &to, UInt<32> count, Stream<TileWord> &rows) {
  WEFT_FUNCTION
give_operands:
  for (UInt<32> i = 0; i < count; ++i) {
    WEFT_PIPELINE_EVERY(kCols)
    WEFT_TRIPCOUNT(kTileDepth)
    const TileWord row = rows.read();
    for (int c = 0; c < kCols; ++c) give(to, Int<32>(row[c]));
  }
}

/// Rows arrive while others are decoded; C simulation runs one process after the other.
inline void run_decode(const Command &words, int memory_rows, UInt<32> rows, Port &operands,
                       Port &results) {
  WEFT_FUNCTION
  WEFT_HLS(DATAFLOW)
  WEFT_CHANNEL(Command, commands, 2)
  WEFT_CHANNEL(Word, packed, kUnitDepth)
  WEFT_CHANNEL(TileWord, tiles, kUnitDepth)
  WEFT_PROCESS(send(words, commands));
  WEFT_PROCESS(take_rows(operands, memory_rows, packed));
  WEFT_PROCESS(decode(commands, packed, tiles));
  WEFT_PROCESS(give_operands(results, rows, tiles));
}

}  // namespace weft

extern "C" void decode_words(hls::stream<ap_uint<32>> &operands,
                             hls::stream<ap_uint<32>> &results) {
#pragma HLS INTERFACE mode = axis port = operands
#pragma HLS INTERFACE mode = axis port = results
  using namespace weft;
  const int commands = int(take(operands));
commands:
  for (int i = 0; i < commands; ++i) {
    WEFT_TRIPCOUNT(1024)
    const Command words = take_command(operands);
    const ReadWeights f = ReadWeights::decode(words);
    run_decode(words, int(f.memory_rows), f.rows, operands, results);
  }
}
