/// The decoder's end of the ports: rows of packets, in the order of the image.
#pragma once
#include "units/packed.hpp"

namespace weft {

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
  int before;         // rows of the first packet that nobody has asked for
  bool cached;        // what is not in spans comes through all ports

  void begin(const ReadWeights &f) {
    held = 0;
    cached = reads_cache(f);
    before = cached ? 0 : rows_before(f.memory);
    left = cached ? run_rows(f) : f.memory_rows;
    at = cached ? UInt<32>(0) : packet_at(f.memory);
    spans = UInt<32>(span_rows(f.memory_rows) / kWeightPorts);
  }
  /// Whether a clock goes by in which none can be had: the first packet may bring few.
  bool fills() const { return kOwnMemories && before > 0; }
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
    const int port = port_now();
    const PackedRows packet = packet_of(port, packed WEFT_EACH_PORT(WEFT_PACKED));
  append:
    for (int i = 0; i < kWeightPorts; ++i) {
      WEFT_UNROLL
      if (held + i >= before) window[held + i - before] = packet_row(packet, i);
    }
    const int there = kWeightPorts - before;
    const int count = left < UInt<32>(there) ? int(left) : there;
    held += count;
    left -= UInt<32>(count);
    before = 0;
    at += 1;
  }
  /// The port of the next packet.
  int port_now() const {
    WEFT_INLINE
    if (!kHasCached || !cached) return port_of(at, spans);
    if (at >= spans) return int(at & UInt<32>(kWeightPorts - 1));
    return int(at & UInt<32>(kBurstRows - 1)) / kBurstPackets;
  }
};

}  // namespace weft
