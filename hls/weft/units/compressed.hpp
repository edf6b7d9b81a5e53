/// What engines of compressed weights share: their rows of the weight stream, and the drain.
///
/// Such an engine takes MatMul.rows rows, whatever these say, so that nothing waits for ever; it
/// leaves the sum of tile t, row r, column c in finished[t · M + r][c], where M is batch · out_h ·
/// out_w, and all of them leave together.
#pragma once
#include "status.hpp"
#include "units/writer.hpp"

namespace weft {

inline bool is_compressed(const MatMul &f) {
  return f.engine == kEieEngine || f.engine == kSnapEngine || f.engine == kGatherEngine;
}

/// Rows of a MatMul that are still to come.
struct StreamRows {
  UInt<32> taken, all;

  void begin(const MatMul &f) {
    taken = 0;
    all = f.rows;
  }
  bool more() const { return taken < all; }
  int number() const { return int(taken); }  // of the next one
  /// The next row; zeros and a fault where there is none.
  TileWord next(WeightStream &weights, Fault &fault) {
    WEFT_INLINE
    TileWord row = widened(filled(0));
    if (more()) {
      row = weights.read();
      taken += 1;
    } else {
      fault.raise(number());
    }
    return row;
  }
  /// Takes what is left: the engine has all it needs, or a fault.
  void discard(WeightStream &weights) {
    WEFT_INLINE
  discard_rows:
    for (; taken < all; taken += 1) {
      WEFT_PIPELINE
      WEFT_TRIPCOUNT(65536)
      weights.read();
    }
  }
};

/// All sums of a MatMul, through its Activate.
inline void drain_tiles(const MatMul &f, const Activate &a, int batch, Memories &m,
                        Counters &counters) {
  WEFT_INLINE  // into compute, where `activate` is shared
      counters.drain += drain_sums(a, batch, int(f.out_h), int(f.out_w), int(f.tiles), m);
}

}  // namespace weft
