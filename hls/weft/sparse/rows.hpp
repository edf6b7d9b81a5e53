/// Rows of the weight stream, as decoders of sparse formats take them.
#pragma once
#include "memories.hpp"
#include "status.hpp"

namespace weft {

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

}  // namespace weft
