/// The decoder of weights: packed codes with the scales of their groups → operands of the array.
/// operands: number of instructions, and each of these ReadWeights with its rows of memory.
/// results: an operand per word.
#define WEFT_VENDOR
#include "units/decode.hpp"
#include "words.hpp"

namespace weft {

constexpr int kWordsPerPacket = kWordsPerRow * kWeightPorts;
enum { kUnitDepth = 64 };  // rows before and behind the decoder; only pragmas name it

/// The instruction, and the Barrier that ends the decode process.
inline void send(const Command &words, Stream<Command> &commands) {
  WEFT_FUNCTION
  Command end = words;
  end[0] = kBarrier;
  commands.write(words);
  commands.write(end);
}

/// Rows of memory as the ports bring them.
inline void deal_rows(Port &from, UInt<32> first, UInt<32> count,
                      Stream<PackedRows> &packed WEFT_EACH_PORT(WEFT_PACKED_PARAMETER)) {
  WEFT_FUNCTION
  const UInt<32> spans = UInt<32>(span_rows(count) / kWeightPorts);
  const UInt<32> before = UInt<32>(rows_before(first)), end = before + count;
  UInt<32> at = packet_at(first);
deal_rows:
  for (UInt<32> row = 0; row < end; row += UInt<32>(kWeightPorts)) {
    WEFT_PIPELINE_EVERY(kWordsPerPacket)
    WEFT_TRIPCOUNT(kTileDepth)
    PackedRows packet;
    for (int i = 0; i < kWeightPorts; ++i) {
      const UInt<32> of = row + UInt<32>(i);
      packet_row(packet, i) = of >= before && of < end ? take_codes(from) : filled(0);
    }
    const int port = port_of(at, spans);
#define WEFT_DEAL(p) \
  if (port == p) packed_##p.write(packet);
    WEFT_EACH_PORT(WEFT_DEAL)
    if (port == 0) packed.write(packet);
    at += 1;
  }
}

inline void give_operands(Port &to, UInt<32> count, WeightStream &rows) {
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
inline void run_decode(const Command &words, const ReadWeights &f, Port &operands, Port &results) {
  WEFT_FUNCTION
  WEFT_HLS(DATAFLOW)
  WEFT_CHANNEL(Command, commands, 2)
  WEFT_CHANNEL(PackedRows, packed, kPackedDepth)
#define WEFT_PACKED_CHANNEL(p) WEFT_CHANNEL(PackedRows, packed_##p, kPackedDepth)
  WEFT_EACH_PORT(WEFT_PACKED_CHANNEL)
  WEFT_CHANNEL(StreamRow, tiles, kUnitDepth)
  WEFT_PROCESS(send(words, commands));
  WEFT_PROCESS(deal_rows(operands, f.memory, f.memory_rows, packed WEFT_EACH_PORT(WEFT_PACKED)));
  WEFT_PROCESS(decode(commands, tiles, packed WEFT_EACH_PORT(WEFT_PACKED)));
  WEFT_PROCESS(give_operands(results, f.rows, tiles));
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
    run_decode(words, f, operands, results);
  }
}
