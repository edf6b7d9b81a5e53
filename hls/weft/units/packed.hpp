/// Packed weights on their way from memory to the decoder: as many rows a clock as there are ports.
///
/// Ports take turns in bursts, so that each one reads consecutive addresses and the layout of
/// memory does not depend on their number: of every kSpanRows rows, port p reads kBurstRows from
/// row p · kBurstRows on, and what is less than a span comes through the first one. A port gathers
/// packets of kWeightPorts rows; the decoder takes one packet of one port per clock while the
/// others fill their FIFOs.
///
/// Where each port has a memory of its own (kOwnMemories: channels of HBM), the image of weight
/// memory is dealt out packet by packet: packet k of it is packet k / kWeightPorts in the memory of
/// port k mod kWeightPorts. So a ReadWeights from any row on is a run of consecutive addresses in
/// every one, and all of them end within a packet of each other.
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

constexpr int kTurnRows = kWeightPorts * kWeightPorts;  // a packet of each port

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
constexpr int kRunRows = kStreamRows > kWeightPorts ? kStreamRows : kWeightPorts;

inline Word &packet_row(Word &only, int) { return only; }
inline Word &packet_row(Packet &packet, int i) { return packet.row[i]; }
inline const Word &packet_row(const Word &only, int) { return only; }
inline const Word &packet_row(const Packet &packet, int i) { return packet.row[i]; }

/// Of `rows` rows of memory those that come in whole spans.
inline UInt<32> span_rows(UInt<32> rows) {
  return kWeightPorts == 1 ? UInt<32>(0) : UInt<32>(rows & ~UInt<32>(kSpanRows - 1));
}

/// Rows in the memory of each port that hold an image of `rows` rows: whole turns.
constexpr long long own_rows(long long rows) {
  return (rows + kTurnRows - 1) / kTurnRows * kWeightPorts;
}

/// The first row of the turn that row `row` of the image is in.
inline UInt<32> turn_of(UInt<32> row) { return UInt<32>(row & ~UInt<32>(kTurnRows - 1)); }

/// Rows of the image in front of row `first` that come in its packet.
inline int rows_before(UInt<32> first) {
  return kOwnMemories ? int(first & UInt<32>(kWeightPorts - 1)) : 0;
}
/// The number of its packet.
inline UInt<32> packet_at(UInt<32> first) {
  return kOwnMemories ? UInt<32>(first / kWeightPorts) : UInt<32>(0);
}

/// The port of packet `at`, of which the first `spans` are in whole spans.
inline int port_of(UInt<32> at, UInt<32> spans) {
  if (kOwnMemories) return int(at & UInt<32>(kWeightPorts - 1));
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

/// The part that rows first..end-1 of the image have of the packet that begins at its row `at`, in
/// its port's memory at row `local`.
inline PackedRows read_part(const Beat *memory, UInt<32> local, UInt<32> at, UInt<32> first,
                            UInt<32> end) {
  WEFT_INLINE
  PackedRows packet;
rows:
  for (int i = 0; i < kWeightPorts; ++i) {
    const UInt<32> row = at + UInt<32>(i);
    const bool inside = row >= first && row < end;
    packet_row(packet, i) = inside ? read_row(memory, UInt<32>(local + UInt<32>(i))) : filled(0);
  }
  return packet;
}

/// A turn that rows first..end-1 of the image fill in part: what each port has of them. `turn` is
/// its first row in the image.
inline void read_edge(const Command &words, UInt<32> turn, UInt<32> first, UInt<32> end,
                      const Beat *memory,
                      Stream<PackedRows> &packed WEFT_EACH_PORT(WEFT_MEMORY_PARAMETER)
                          WEFT_EACH_PORT(WEFT_PACKED_PARAMETER)) {
  WEFT_INLINE
  const UInt<32> local = turn / kWeightPorts;
  static_cast<void>(words);
#define WEFT_TRACE_TURN(p) \
  WEFT_SIM(sim::run().trace.begin(sim::kWeightPort + p, int(words[kNumberWord]), local));
#define WEFT_READ_PART(p, from, to)                                                            \
  if (UInt<32>(turn + UInt<32>((p + 1) * kWeightPorts)) > first &&                             \
      UInt<32>(turn + UInt<32>(p * kWeightPorts)) < end) {                                     \
    WEFT_TRACE_TURN(p)                                                                         \
    to.write(read_part(from, local, UInt<32>(turn + UInt<32>(p * kWeightPorts)), first, end)); \
  }
#define WEFT_READ_PARTS(p) WEFT_READ_PART(p, memory_##p, packed_##p)
  WEFT_READ_PART(0, memory, packed)
  WEFT_EACH_PORT(WEFT_READ_PARTS)
}

/// Reads rows of an image that lies in memories of their own: a packet of each port in turn, of
/// whole turns without a condition, so that each port makes bursts.
inline void read_turns(const Command &words, UInt<32> first, UInt<32> rows, const Beat *memory,
                       Stream<PackedRows> &packed WEFT_EACH_PORT(WEFT_MEMORY_PARAMETER)
                           WEFT_EACH_PORT(WEFT_PACKED_PARAMETER)) {
  WEFT_INLINE
  const UInt<32> end = UInt<32>(first + rows), last = turn_of(end);
  UInt<32> turn = turn_of(first);
  if (turn != first) {
    read_edge(words, turn, first, end, memory,
              packed WEFT_EACH_PORT(WEFT_MEMORY) WEFT_EACH_PORT(WEFT_PACKED));
    turn += UInt<32>(kTurnRows);
  }
own_turns:
  for (; turn < last; turn += UInt<32>(kTurnRows)) {
    WEFT_PIPELINE_EVERY(kPacketClocks)
    WEFT_TRIPCOUNT(kTileDepth)
    const UInt<32> local = turn / kWeightPorts;
#define WEFT_READ_TURN(p) \
  WEFT_TRACE_TURN(p)      \
  packed_##p.write(read_packet(memory_##p, local, kWeightPorts));
    WEFT_TRACE_TURN(0)
    packed.write(read_packet(memory, local, kWeightPorts));
    WEFT_EACH_PORT(WEFT_READ_TURN)
  }
  if (turn < end)
    read_edge(words, turn, first, end, memory,
              packed WEFT_EACH_PORT(WEFT_MEMORY) WEFT_EACH_PORT(WEFT_PACKED));
}

/// Reads packed rows: spans of bursts over all ports at once, the rest through the first one; or
/// each port's part of them out of its own memory.
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
    if (kOwnMemories) {
      if (rows > 0)
        read_turns(words, f.memory, rows, memory,
                   packed WEFT_EACH_PORT(WEFT_MEMORY) WEFT_EACH_PORT(WEFT_PACKED));
      continue;
    }
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

}  // namespace weft
