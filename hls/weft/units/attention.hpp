/// Attend: a product whose both operands are on chip, as the array's clocks take it. Its tiles come
/// from the operand buffer, plain (values) or transposed (keys); its input is a word of the unified
/// buffer (queries) or a word of scores, of which the exponentials are made on their way in, so
/// that no probability is ever stored and softmax takes no clock of its own. Golden model:
/// host/weft/units/attention.py.
#pragma once
#include "units/rows.hpp"
#include "units/systolic.hpp"
#include "units/window.hpp"

namespace weft {

/// The same product as a MatMul without window: its walk, clocks and sums are those of one.
inline MatMul product_of(const Attend &f) {
  MatMul same = {};
  same.source = f.source;
  same.source_block = f.source_block;
  same.source_col = f.source_col;
  same.height = same.kernel_h = same.kernel_w = same.out_h = 1;
  same.stride_y = same.stride_x = same.dilation_y = same.dilation_x = 1;
  same.width = same.out_w = f.rows;
  same.blocks = f.blocks;
  same.tiles = f.tiles;
  same.first = same.last = same.pace = same.words = 1;
  same.overlap = f.overlap;
  same.activation_bits = same.weight_bits = 8;
  return same;
}

/// Which array takes operands from the chip: the plain one.
template <typename Cell> struct Attends {
  static constexpr bool value = false;
};
template <> struct Attends<IntegerCell> {
  static constexpr bool value = kHasAttention;
};

/// Where an Attend stands. `kThere`: an overlay without attention has none of it.
template <bool kThere> struct Attention {
  Attend f;
  bool on;
  int tile, block;  // of the weights that are read next
  int folds;        // of those words that came

  void begin(const Attend &fields, bool runs) {
    f = fields;
    on = kThere && runs;
    tile = block = folds = 0;
  }
  /// Row `row` of the next tile of weights.
  TileWord weights(const Memories &m, int row) const {
    WEFT_INLINE
    const bool turned = f.transposed != 0;
    const int words = turned ? tile * kRows : block * kRows + row;
    const int blocks = (turned ? block : tile) * int(f.operand_block);
    const int address = int(f.operand) + words + blocks;
    return widened(turned ? m.operands.column(address, row) : m.operands.row(address));
  }
  void next_tile() {
    const bool wraps = block == int(f.blocks) - 1;
    block = wraps ? 0 : block + 1;
    if (wraps) ++tile;
  }
  /// The activations of row `row`, from the scores at `address`; adds up the first tile's.
  Word activations(Memories &m, int row, int address) const {
    WEFT_INLINE
    const int method = int(f.method), most = int(f.most);
    const SumWord e =
        exponentials(value_of(m.wide[address]), m.rows.maximum[row], method, m.softmax);
    const Int<32> before = folds == 0 ? Int<32>(0) : m.rows.sum[row];
    if (f.normalized != 0) return share_codes(e, m.softmax.share(method, m.rows.sum[row]), most);
    const Word codes = exponential_codes(e, most);
    if (folds < int(f.blocks)) m.rows.sum[row] = row_sum(before, codes);
    return codes;
  }
  void next_fold() {
    if (folds < int(f.blocks)) ++folds;
  }
};

/// The sums of exponentials, in a pass of their own, where probabilities are wanted rounded.
inline void sum_rows(const Attend &f, Memories &m, Counters &counters) {
  WEFT_INLINE
  Int<64> clocks = 0;
blocks:
  for (int k = 0; k < int(f.blocks); ++k) {
    WEFT_TRIPCOUNT(kWideWords)
  rows:
    for (int row = 0; row < int(f.rows); ++row) {
      WEFT_PIPELINE
      WEFT_TRIPCOUNT(kAccumulatorRows)
      const int address = int(f.source) + k * int(f.source_block) + row * int(f.source_col);
      const SumWord e =
          exponentials(value_of(m.wide[address]), m.rows.maximum[row], int(f.method), m.softmax);
      m.rows.sum[row] = row_sum(k == 0 ? Int<32>(0) : m.rows.sum[row], e);
      ++clocks;
    }
  }
  counters.vector += clocks;
}

}  // namespace weft
