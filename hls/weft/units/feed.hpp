/// Weights on their way from the stream to the array's chain: rows of operands, and rows of
/// positions in front of a tile where weights are N:M.
#pragma once
#include "status.hpp"
#include "units/nm.hpp"
#include "units/systolic.hpp"

namespace weft {

/// Rows of a tile enter the chain `pace` clocks apart: as fast as memory and decoding bring them.
/// Rows −lead..−1 are those of positions, in front.
struct Feed {
  int pace, lead, phase, row;

  void begin(int clocks, int index_rows) {
    pace = clocks, lead = index_rows;
    phase = 0, row = -lead;
  }
  bool due(int rows) const { return phase < (row < 0 ? 1 : rows); }
  void tick(bool last) {
    phase = phase == pace - 1 ? 0 : phase + 1;
    if (phase == 0) ++row;
    if (last) phase = 0, row = -lead;
  }
};

/// Rows of positions in front of a tile, and what they add to its weights: of N:M weights only.
template <typename Cell> inline int index_rows_of(const Cell &) { return 0; }
inline int index_rows_of(const NmCell &cell) { return cell.index_rows(); }

template <typename Cell>
inline void place(const Cell &, const TilePositions &, int, ArrayInput<Cell> &, bool &) {}
inline void place(const NmCell &cell, const TilePositions &index, int row, ArrayInput<NmCell> &in,
                  bool &ascending) {
  WEFT_INLINE
columns:
  for (int c = 0; c < kCols; ++c) {
    WEFT_UNROLL
    in.weights[c].position = position_at(index, cell.pattern.log_group, row, c);
    ascending &= cell.ascends(index, row, c);
  }
}

/// The rows of a tile on their way to the chain.
template <typename Cell> struct TileFeed {
  Feed feed;
  TileWord rows[kActivationWords];
  TilePositions index;
  int taken;  // rows of the stream

  void begin(const MatMul &f, const Cell &cell) {
    feed.begin(int(f.pace), index_rows_of(cell));
    taken = 0;
  }
  /// One clock; `last` is a tile's last one.
  void step(const Cell &cell, bool last, WeightStream &weights, ArrayInput<Cell> &in,
            Fault &fault) {
    WEFT_INLINE
    if (feed.due(cell.weight_rows())) {
      const TileWord row = weights.read();
      if (feed.row < 0) {
        put(index[(feed.row + feed.lead) & (kPositionRows - 1)], narrowed(row));
      } else {
        rows[feed.phase & (kActivationWords - 1)] = row;
        if (feed.phase == cell.weight_rows() - 1) in.weight_row = feed.row;
      }
      ++taken;
    }
    feed.tick(last);
    if (in.weight_row < 0) return;
  columns:
    for (int c = 0; c < kCols; ++c) {
      WEFT_UNROLL
      in.weights[c] = cell.weight(rows, c);
    }
    bool ascending = true;
    place(cell, index, in.weight_row, in, ascending);
    if (!ascending) fault.raise(taken - 1);
  }
};

}  // namespace weft
