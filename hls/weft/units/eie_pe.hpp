/// A processing element of EIE and its memories (Han et al., ISCA 2016, figure 4).
#pragma once
#include "sparse/eie.hpp"

namespace weft {

constexpr int kEieBypass = 2;  // clocks from the adder to the memory of sums

/// Whether the PEs take a MatMul.
inline bool legal_eie(const MatMul &f) {
  return f.codes <= 1 && Int<64>(f.blocks) * kRows < kEiePointers &&
         Int<64>(f.tiles) <= Int<64>(kEieOutputs) * kEieGroups;
}

#define WEFT_PARTITION_EIE(e, engine)                                                   \
  WEFT_HLS(ARRAY_PARTITION variable = e.entries type = complete dim = 1)                \
  WEFT_HLS(ARRAY_PARTITION variable = e.entries type = complete dim = 2)                \
  WEFT_HLS(ARRAY_PARTITION variable = e.pointers type = complete dim = 1)               \
  WEFT_HLS(ARRAY_PARTITION variable = e.pointers type = complete dim = 2)               \
  WEFT_HLS(ARRAY_RESHAPE variable = e.pointers type = complete dim = 4)                 \
  WEFT_HLS(ARRAY_PARTITION variable = e.codebook type = complete dim = 1)               \
  WEFT_HLS(ARRAY_PARTITION variable = e.sums type = complete dim = 1)                   \
  WEFT_HLS(BIND_STORAGE variable = e.sums type = ram_2p impl = lutram)                  \
  WEFT_HLS(ARRAY_PARTITION variable = engine.pe type = complete)                        \
  WEFT_HLS(ARRAY_PARTITION variable = engine.fetched type = complete)                   \
  WEFT_HLS(ARRAY_PARTITION variable = engine.detector.from_buffer.lane type = complete) \
  WEFT_HLS(ARRAY_PARTITION variable = engine.detector.word type = complete dim = 0)     \
  WEFT_HLS(ARRAY_PARTITION variable = engine.detector.nonzero type = complete dim = 0)

/// A sum on its way to memory.
struct EiePending {
  bool valid;
  UInt<16> row;
  Int<32> sum;
};

/// A processing element: columns that wait, the one at work, sums on their way.
struct EiePe {
  EieColumn queue[kEieQueue];
  int head, waiting;
  EieColumn column;
  UInt<16> at, left;  // entry, and clocks to go; an empty column takes one
  int row;            // of the entry before; −1 at the start of a column
  EiePending newest, oldest;
  int bad;  // first entry in memory that left the outputs, or −1

  void begin() {
    head = waiting = 0;
    left = 0;
    bad = -1;
  }
  bool idle() const { return waiting == 0 && left == 0; }
  void push(const EieColumn &next) {
    WEFT_INLINE
    const int to = head + waiting;
    queue[to >= kEieQueue ? to - kEieQueue : to] = next;
    ++waiting;
  }
  /// One clock: an entry, if there is one. `rows`: outputs of this PE.
  void work(EieMemory &e, int p, bool coded, int rows) {
    WEFT_INLINE
    if (left == 0 && waiting > 0) {
      column = queue[head];
      head = head == kEieQueue - 1 ? 0 : head + 1;
      --waiting;
      at = column.first;
      left = column.entries == 0 ? UInt<16>(1) : column.entries;
      row = -1;
    }
    const bool entry = left != 0 && column.entries != 0;
    const int place = entry ? int(at) : 0;
    const EieEntry weight = e.entry(p, place, coded);
    const int next = row + 1 + weight.zeros;
    const bool inside = entry && next < rows;
    if (entry && !inside && (bad < 0 || place < bad)) bad = place;
    if (inside) row = next;
    accumulate(e.sums[p], inside, inside ? next : 0, Int<32>(weight.value) * Int<32>(column.value));
    if (entry) at = UInt<16>(at + 1);
    if (left != 0) left = UInt<16>(left - 1);
  }
  /// Adds to a sum. Reading, adding and writing take a clock each, so the two sums before may not
  /// be in memory yet when the same row comes again: they are taken from the bypass. A sum is
  /// written from its register two clocks later; no write depends on a read of the same clock.
  void accumulate(Int<32> (&sums)[kEieOutputs], bool valid, int to, Int<32> product) {
    WEFT_INLINE
    Int<32> before = sums[to];
    if (oldest.valid && int(oldest.row) == to) before = oldest.sum;
    if (newest.valid && int(newest.row) == to) before = newest.sum;
    if (oldest.valid) sums[int(oldest.row)] = oldest.sum;
    oldest = newest;
    newest.valid = valid;
    newest.row = UInt<16>(to);
    newest.sum = Int<32>(UInt<32>(before) + UInt<32>(product));  // wraps
  }
};

}  // namespace weft
