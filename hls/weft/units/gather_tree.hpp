/// The clocks of a MatMul on the gather engine: windows, multipliers, the tree.
#pragma once
#include "units/gather_feed.hpp"

namespace weft {

/// Sum of the products of a window.
inline Int<32> window_sum(const Gathered &g, const Int<8> (&codes)[kGatherLanes], int count,
                          bool nibbles, const Book &book) {
  WEFT_INLINE
  Int<32> sum = 0;
multipliers:
  for (int k = 0; k < kRows; ++k) {
    WEFT_UNROLL
    const Int<16> weight = nibbles ? book[int(codes[k]) & 15] : Int<16>(codes[k]);
    if (k < count) sum = Int<32>(sum + product(g.code[k], weight));
  }
  return sum;
}

/// A clock of the multipliers, where the window's weights are there. Returns whether they are.
struct GatherTree {
  Int<32> sums[kGatherRows];

  void begin() {
    WEFT_INLINE
  clear:
    for (int row = 0; row < kGatherRows; ++row) {
      WEFT_UNROLL
      sums[row] = 0;
    }
  }
  bool step(const MatMul &f, const GatherRows &rows, const MaskRows &masks, const ValueRing &ring,
            const Book &book, const GatherFeed &feed, GatherWalk &at, Memories &m) {
    WEFT_INLINE
    if (at.used >= feed.opened) return false;
    const int left = at.left(feed);
    const Window w =
        feed.dense ? Window{left, left * kRows} : masks.window(at.used, at.block, left);
    if (feed.rows_of(Int<64>(at.taken + w.weights)) > feed.value_rows) return false;
    Word words[kActivationWords];
    if (rows.inside[at.row]) {
      m.buffer.read_group(int(rows.address[at.row] + at.offset), int(at.step), w.blocks, words);
    } else {
    outside:
      for (int q = 0; q < kActivationWords; ++q) {
        WEFT_UNROLL
        words[q] = filled(f.pad);
      }
    }
    Gathered g;
    WEFT_HLS(ARRAY_PARTITION variable = g.code type = complete)
    gather_window(words, masks, at, w, feed.dense, g);
    Int<8> codes[kGatherLanes];
    WEFT_HLS(ARRAY_PARTITION variable = codes type = complete)
    ring.read(at.taken, feed.nibbles, codes);
    const Int<32> more = window_sum(g, codes, w.weights, feed.nibbles, book);
    const Int<32> total = Int<32>(sums[at.row] + more);
    const bool ends = at.ends_output(w);
    if (ends) put_sum(m, at.tile * at.rows + at.row, at.column, total);
    sums[at.row] = ends ? Int<32>(0) : total;
    at.next(w, feed);
    return true;
  }

 private:
  /// Writes one column of a row: each is a memory of its own.
  static void put_sum(Memories &m, int row, int column, Int<32> sum) {
    WEFT_INLINE
  columns:
    for (int c = 0; c < kCols; ++c) {
      WEFT_UNROLL
      if (c == column) m.finished[row][c] = sum;
    }
  }
};

/// Runs one MatMul; its sums lie in the finished bank.
inline void gather(const MatMul &f, int batch, Memories &m, WeightStream &weights,
                   Counters &counters, Fault &fault) {
  WEFT_INLINE
  MaskRows masks;
  ValueRing ring;
  Book book;
  WEFT_HLS(ARRAY_PARTITION variable = masks.row type = complete dim = 0)
  WEFT_HLS(ARRAY_PARTITION variable = ring.even type = complete dim = 2)
  WEFT_HLS(ARRAY_PARTITION variable = ring.odd type = complete dim = 2)
  WEFT_HLS(ARRAY_PARTITION variable = book type = complete)
  GatherFeed feed;
  feed.begin(f);
  GatherWalk at;
  at.begin(f, batch);
  GatherRows rows;
  rows.begin(f, batch);
  GatherTree tree;
  tree.begin();
  WEFT_HLS(ARRAY_PARTITION variable = tree.sums type = complete)
  if (feed.nibbles) take_book(feed, weights, book, counters, fault);
clock:
  for (bool open = true; open;) {
    WEFT_PIPELINE
    WEFT_TRIPCOUNT(65536)
    if (tree.step(f, rows, masks, ring, book, feed, at, m)) {
      ++counters.matrix;
    } else {
      ++counters.weight_shift;
    }
    feed.step(at.used, masks, ring, weights, fault);
    open = !at.done();
  }
  if (feed.rows.more()) fault.raise(feed.rows.number());
  feed.rows.discard(weights);
}

}  // namespace weft
