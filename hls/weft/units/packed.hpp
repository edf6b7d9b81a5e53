/// Packed weights on their way from memory to the decoder: as many rows a clock as there are ports.
///
/// Ports take turns in bursts, so that each one reads consecutive addresses and the layout of
/// memory does not depend on their number: of every kSpanRows rows, port p reads kBurstRows from
/// row p · kBurstRows on, and what is less than a span comes through the first one. A port gathers
/// packets of kWeightPorts rows; the decoder takes one packet of one port per clock while the
/// others fill their FIFOs.
///
/// Keys and values of earlier tokens come the same way, out of activation memory, in runs. What is
/// less than a span of a run, which is often much of it, comes packet by packet through all ports.
#pragma once
#include "units/transfer.hpp"

namespace weft {

constexpr int kBurstBeats = 16;
constexpr int kBurstRows =
    kBurstBeats / kBeats > kWeightPorts ? kBurstBeats / kBeats : kWeightPorts;
constexpr int kBurstPackets = kBurstRows / kWeightPorts;
constexpr int kSpanRows = kBurstRows * kWeightPorts;
constexpr int kBurstClocks = kBurstRows * kBeats, kPacketClocks = kWeightPorts * kBeats;
constexpr int kPackedDepth = kWeightPorts == 1 ? 64 : 4 * kBurstPackets;  // of a port's FIFO
static_assert((kWeightPorts & (kWeightPorts - 1)) == 0, "spans are powers of two");

struct Packet {
  Word row[kWeightPorts];
};
using PackedRows = std::conditional_t<kWeightPorts == 1, Word, Packet>;

// The parameters and arguments that stand for the ports behind the first.
#define WEFT_PACKED_PARAMETER(p) , Stream<PackedRows> &packed_##p
#define WEFT_PACKED(p) , packed_##p
#define WEFT_MEMORY_PARAMETER(p) , const Beat *memory_##p
#define WEFT_MEMORY(p) , memory_##p
#define WEFT_TRACE_BURST(p)                                                      \
  WEFT_SIM(sim::run().trace.begin(sim::kWeightPort + p, int(words[kNumberWord]), \
                                  std::int64_t(f.memory) + std::int64_t(row) + p * kBurstRows));

// And those for the cache, behind every port.
#define WEFT_CACHE_PARAMETER(p, bundle, packed) , const Beat *cache_##p
#define WEFT_CACHE(p, bundle, packed) , cache_##p
constexpr int kTurnRows = kWeightPorts * kWeightPorts;  // a packet of each port
constexpr int kRunRows = kStreamRows > kWeightPorts ? kStreamRows : kWeightPorts;

inline Word &packet_row(Word &only, int) { return only; }
inline Word &packet_row(Packet &packet, int i) { return packet.row[i]; }
inline const Word &packet_row(const Word &only, int) { return only; }
inline const Word &packet_row(const Packet &packet, int i) { return packet.row[i]; }

/// Of `rows` rows of memory those that come in whole spans.
inline UInt<32> span_rows(UInt<32> rows) {
  return kWeightPorts == 1 ? UInt<32>(0) : UInt<32>(rows & ~UInt<32>(kSpanRows - 1));
}

/// The port of packet `at`, of which the first `spans` are in whole spans.
inline int port_of(UInt<32> at, UInt<32> spans) {
  return at < spans ? int(at & UInt<32>(kBurstRows - 1)) / kBurstPackets : 0;
}

/// The next packet from `row` on; of the last one only `there` rows are.
inline PackedRows read_packet(const Beat *memory, UInt<32> row, UInt<32> there) {
  WEFT_INLINE
  PackedRows packet;
rows:
  for (int i = 0; i < kWeightPorts; ++i)
    packet_row(packet, i) = i == 0 || UInt<32>(i) < there ? read_row(memory, row + i) : filled(0);
  return packet;
}

/// A burst of one port.
inline void read_burst(const Beat *memory, UInt<32> row, Stream<PackedRows> &packed) {
  WEFT_INLINE
packets:
  for (int i = 0; i < kBurstPackets; ++i)
    packed.write(read_packet(memory, UInt<32>(row + i * kWeightPorts), kWeightPorts));
}

/// Whether a ReadWeights brings keys or values of earlier tokens.
inline bool reads_cache(const ReadWeights &f) { return kHasCached && f.cached != 0; }

/// Rows of the stream that a run of the cache becomes: whole elements, and whole packets.
inline UInt<32> run_rows(const ReadWeights &f) {
  return UInt<32>((f.memory_rows + UInt<32>(kRunRows - 1)) & ~UInt<32>(kRunRows - 1));
}

/// A packet of a run that begins at memory row `first`, from its row `row` on: behind the `there`
/// rows that there are, zeros.
inline PackedRows read_filled(const Beat *cache, UInt<32> first, UInt<32> row, UInt<32> there) {
  WEFT_INLINE
  PackedRows packet;
rows:
  for (int i = 0; i < kWeightPorts; ++i) {
    const UInt<32> at = row + UInt<32>(i);
    packet_row(packet, i) = at < there ? read_row(cache, UInt<32>(first + at)) : filled(0);
  }
  return packet;
}

/// Reads a run of the cache: spans of bursts over all ports at once, then a packet of each port.
inline void read_run(const Command &words, const ReadWeights &f,
                     UInt<32> first WEFT_EACH_CACHE(WEFT_CACHE_PARAMETER),
                     Stream<PackedRows> &packed WEFT_EACH_PORT(WEFT_PACKED_PARAMETER)) {
  WEFT_INLINE
  const UInt<32> there = f.memory_rows, rows = run_rows(f), spans = span_rows(there);
  static_cast<void>(words), static_cast<void>(first), static_cast<void>(packed);
#define WEFT_UNUSED_PORT(p) static_cast<void>(packed_##p);
  WEFT_EACH_PORT(WEFT_UNUSED_PORT)  // of overlays that have no cache
  WEFT_SIM(sim::run().cache(std::int64_t(first), std::int64_t(there)));
#define WEFT_TRACE_CACHE(p, at)                                                 \
  WEFT_SIM(sim::run().trace.begin(sim::kCachePort + p, int(words[kNumberWord]), \
                                  std::int64_t(first) + std::int64_t(at)));
#define WEFT_CACHE_BURST(p, bundle, packed)           \
  WEFT_TRACE_CACHE(p, row + UInt<32>(p * kBurstRows)) \
  read_burst(cache_##p, UInt<32>(first + row + p * kBurstRows), packed);
#define WEFT_CACHE_TURN(p, bundle, packed)                                                \
  if (row + UInt<32>(p * kWeightPorts) < rows) {                                          \
    if (kWeightPorts > 1 || row == 0) {                                                   \
      WEFT_TRACE_CACHE(p, row + UInt<32>(p * kWeightPorts))                               \
    }                                                                                     \
    packed.write(read_filled(cache_##p, first, UInt<32>(row + p * kWeightPorts), there)); \
  }
run_spans:
  for (UInt<32> row = 0; row < spans; row += kSpanRows) {
    WEFT_PIPELINE_EVERY(kBurstClocks)
    WEFT_TRIPCOUNT(kTileDepth)
    WEFT_EACH_CACHE(WEFT_CACHE_BURST)
  }
turns:
  for (UInt<32> row = spans; row < rows; row += kTurnRows) {
    WEFT_PIPELINE_EVERY(kPacketClocks)
    WEFT_TRIPCOUNT(kTileDepth)
    WEFT_EACH_CACHE(WEFT_CACHE_TURN)
  }
}

/// Reads packed rows: spans of bursts over all ports at once, the rest through the first one.
inline void weights(Stream<Command> &commands,
                    const Beat *memory WEFT_EACH_CACHE(WEFT_CACHE_PARAMETER),
                    Stream<PackedRows> &packed WEFT_EACH_PORT(WEFT_MEMORY_PARAMETER)
                        WEFT_EACH_PORT(WEFT_PACKED_PARAMETER)) {
  WEFT_FUNCTION
weights:
  for (bool open = true; open;) {
    WEFT_TRIPCOUNT(65536)
    const Command words = commands.read();
    open = words[0] != kBarrier;
    const ReadWeights f = ReadWeights::decode(words);
    const UInt<32> runs = open && reads_cache(f) ? UInt<32>(f.runs) : UInt<32>(0);
    UInt<32> first = f.memory;
  cache:
    for (UInt<32> run = 0; run < runs; ++run) {
      WEFT_TRIPCOUNT(kTileDepth)
      read_run(words, f, first WEFT_EACH_CACHE(WEFT_CACHE), packed WEFT_EACH_PORT(WEFT_PACKED));
      first += f.memory_step;
    }
    const UInt<32> rows = open && !reads_cache(f) ? f.memory_rows : UInt<32>(0);
    const UInt<32> spans = span_rows(rows);
  spans:
    for (UInt<32> row = 0; row < spans; row += kSpanRows) {
      WEFT_PIPELINE_EVERY(kBurstClocks)
      WEFT_TRIPCOUNT(kTileDepth)
      WEFT_TRACE_BURST(0)
      read_burst(memory, f.memory + row, packed);
#define WEFT_READ_BURST(p) \
  WEFT_TRACE_BURST(p)      \
  read_burst(memory_##p, UInt<32>(f.memory + row + p * kBurstRows), packed_##p);
      WEFT_EACH_PORT(WEFT_READ_BURST)
    }
    WEFT_SIM(sim::run().trace.begin(sim::kWeightPort, int(words[kNumberWord]),
                                    std::int64_t(f.memory) + std::int64_t(spans)));
  packed_rows:
    for (UInt<32> row = spans; row < rows; row += kWeightPorts) {
      WEFT_PIPELINE_EVERY(kPacketClocks)
      WEFT_TRIPCOUNT(kTileDepth)
      packed.write(read_packet(memory, f.memory + row, rows - row));
    }
  }
}

/// A packet of port `port`.
inline PackedRows packet_of(int port,
                            Stream<PackedRows> &packed WEFT_EACH_PORT(WEFT_PACKED_PARAMETER)) {
  WEFT_INLINE
#define WEFT_READ_PORT(p) \
  if (port == p) return packed_##p.read();
  WEFT_EACH_PORT(WEFT_READ_PORT)
  static_cast<void>(port);
  return packed.read();
}

/// The decoder's end of the ports: the next rows, up to kWeightPorts of them a clock, wherever the
/// packets end. Of one port they come as they are wanted.
struct PackedFeed {
  Word window[2 * kWeightPorts];
  int held;           // rows of the window that are there
  UInt<32> left, at;  // rows that have not come yet, packets that have
  UInt<32> spans;     // packets in whole spans
  bool turns;         // the others come through all ports

  void begin(UInt<32> rows) {
    held = 0;
    left = rows, at = 0;
    spans = UInt<32>(span_rows(rows) / kWeightPorts);
    turns = false;
  }
  /// A run of the cache.
  void begin_run(const ReadWeights &f) {
    begin(f.memory_rows);
    left = run_rows(f);
    turns = true;
  }
  /// The next `n` rows.
  Packet next(int n, Stream<PackedRows> &packed WEFT_EACH_PORT(WEFT_PACKED_PARAMETER)) {
    WEFT_INLINE
    Packet rows;
    if (kWeightPorts == 1) {
      if (n > 0) rows.row[0] = packet_row(packed.read(), 0);
      return rows;
    }
    if (held < kWeightPorts && left > 0) fill(packed WEFT_EACH_PORT(WEFT_PACKED));
  give:
    for (int i = 0; i < kWeightPorts; ++i) {
      WEFT_UNROLL
      rows.row[i] = window[i];
    }
  shift:
    for (int i = 0; i < kWeightPorts; ++i) {
      WEFT_UNROLL
      window[i] = window[i + n];
    }
  shift_rest:
    for (int i = kWeightPorts; i < 2 * kWeightPorts; ++i) {
      WEFT_UNROLL
      if (i + n < 2 * kWeightPorts) window[i] = window[i + n];
    }
    held -= n;
    return rows;
  }

 private:
  /// One more packet, behind the rows that are held.
  void fill(Stream<PackedRows> &packed WEFT_EACH_PORT(WEFT_PACKED_PARAMETER)) {
    WEFT_INLINE
    const bool turn = kHasCached && turns && at >= spans;
    const int port = turn ? int(at & UInt<32>(kWeightPorts - 1)) : port_of(at, spans);
    const PackedRows packet = packet_of(port, packed WEFT_EACH_PORT(WEFT_PACKED));
  append:
    for (int i = 0; i < kWeightPorts; ++i) {
      WEFT_UNROLL
      window[held + i] = packet_row(packet, i);
    }
    const int count = left < UInt<32>(kWeightPorts) ? int(left) : kWeightPorts;
    held += count;
    left -= UInt<32>(count);
    at += 1;
  }
};

}  // namespace weft
