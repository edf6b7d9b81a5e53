/// A column tile of N:M weights for the functional simulation: spread to where it is multiplied.
#pragma once
#include "sim/operands.hpp"

namespace weft {
namespace functional {

/// Writes operands of one tile: int8 four rows interleaved, int16 two.
struct TileWriter {
  std::int8_t *narrow;
  std::int16_t *wide;
  std::int32_t *correction;
  int beyond;

  void put(int i, int c, int value) {
    narrow[(i / kQuad) * (kCols * kQuad) + c * kQuad + i % kQuad] = std::int8_t(value);
    wide[(i / 2) * (kCols * 2) + c * 2 + i % 2] = std::int16_t(value);
    beyond |= value ^ std::int8_t(value);
    correction[c] = std::int32_t(std::uint32_t(correction[c]) - std::uint32_t(128 * value));
  }
};

/// One fold: `at` is its first row of operands. `row` counts rows of the stream.
inline void take_nm_fold(const NmCell &cell, WeightStream &weights, int at, int &row,
                         TileWriter &to, Fault &fault) {
  TilePositions index = {};
  for (int i = 0; i < cell.index_rows(); ++i, ++row) put(index[i], narrowed(weights.read()));
  const Pattern &p = cell.pattern;
  for (int r = 0; r < kRows; ++r, ++row) {
    const TileWord values = weights.read();
    bool ascending = true;
    for (int c = 0; c < kCols; ++c) {
      ascending &= cell.ascends(index, r, c);
      const int channel = (r / p.kept << p.log_group) + position_at(index, p.log_group, r, c);
      if (r < p.rows())
        to.put(at + (channel % kRows) * p.words + channel / kRows, c, int(values[c]));
    }
    if (!ascending) fault.raise(row);
  }
}

}  // namespace functional
}  // namespace weft
