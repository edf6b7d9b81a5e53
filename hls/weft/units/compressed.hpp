/// What engines of compressed weights share: their rows of the weight stream, and the drain.
///
/// Such an engine takes MatMul.rows rows, whatever these say, so that nothing waits for ever; it
/// leaves the sum of tile t, row r, column c in finished[t · M + r][c], where M is batch · out_h ·
/// out_w, and all of them leave together.
#pragma once
#include "sparse/rows.hpp"
#include "units/writer.hpp"

namespace weft {

inline bool is_compressed(const MatMul &f) {
  return f.engine == kEieEngine || f.engine == kSnapEngine || f.engine == kGatherEngine;
}

/// All sums of a MatMul, through its Activate.
inline void drain_tiles(const MatMul &f, const Activate &a, int batch, Memories &m,
                        Counters &counters) {
  WEFT_INLINE  // into compute, where `activate` is shared
      counters.drain += drain_sums(a, batch, int(f.out_h), int(f.out_w), int(f.tiles), m);
}

}  // namespace weft
