/// How the gather engine walks: windows of the weights, rows of activations.
#pragma once
#include "units/gather.hpp"

namespace weft {

/// The multipliers' side: which output, which window of it, which row of activations.
struct GatherWalk {
  int used, block;            // packets done with; block within the packet
  int out_block, out_blocks;  // block within the output
  Int<64> taken;              // weights
  int row, rows;              // of activations
  int column, tile, tiles;
  unsigned offset, step;  // words from the first block to this one

  void begin(const MatMul &f, int batch) {
    used = block = out_block = row = column = tile = 0;
    taken = 0;
    offset = 0;
    step = unsigned(f.source_block);
    out_blocks = int(f.blocks);
    rows = batch * int(f.out_h) * int(f.out_w);
    tiles = int(f.tiles);
  }
  bool done() const { return tile == tiles; }
  int left(const GatherFeed &feed) const {
    const int of_packet = feed.blocks_of(used) - block, of_output = out_blocks - out_block;
    const int least = of_packet < of_output ? of_packet : of_output;
    return feed.dense && least > 1 ? 1 : least;
  }
  bool ends_output(const Window &w) const { return out_block + w.blocks == out_blocks; }
  void next(const Window &w, const GatherFeed &feed) {
    if (row < rows - 1) {
      ++row;
      return;
    }
    row = 0;
    taken += w.weights;
    const bool output = ends_output(w);
    offset = output ? 0 : offset + unsigned(w.blocks) * step;
    out_block = output ? 0 : out_block + w.blocks;
    if (output) column = column == kCols - 1 ? 0 : column + 1;
    if (output && column == 0) ++tile;
    block += w.blocks;
    if (block == feed.blocks_of(used)) {
      block = 0;
      ++used;
    }
  }
};

/// Where each row of activations begins, and whether it lies in the map.
struct GatherRows {
  unsigned address[kGatherRows];
  bool inside[kGatherRows];

  void begin(const MatMul &f, int batch) {
    Walk<MatMul> walk;
    walk.begin(f, batch);
    const int rows = walk.at.count();
  addresses:
    for (int row = 0; row < kGatherRows; ++row) {
      WEFT_PIPELINE
      address[row] = unsigned(walk.address());
      inside[row] = walk.inside();
      if (row < rows) walk.next_position();
    }
  }
};

/// Activations of a window, side by side as its weights are.
inline void gather_window(const Word (&words)[kActivationWords], const MaskRows &masks,
                          const GatherWalk &at, const Window &w, bool dense, Gathered &g) {
  WEFT_INLINE
  int gap = 0;
lanes:
  for (int i = 0; i < kGatherLanes; ++i) {
    WEFT_UNROLL
    const int q = i / kRows, lane = i % kRows;
    const bool there =
        q < w.blocks && (dense || masks.bit(at.used, (at.block + q) & (kMasks - 1), lane));
    g.code[i] = words[q][lane];
    g.there[i] = there;
    g.gap[i] = UInt<10>(gap);
    gap += there ? 0 : 1;
  }
  g.concentrate();
}

}  // namespace weft
