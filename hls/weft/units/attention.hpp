/// Attend: a product whose both operands are on chip, as the clocks of the array or of engine
/// matvec (a few queries) take it. Its tiles come from the operand buffer, plain (values) or
/// transposed (keys); its input is a word of the unified buffer (queries) or a word of scores, of
/// which the exponentials are made on their way in, so that no probability is ever stored and
/// softmax takes no clock of its own. Golden model: host/weft/units/attention.py.
#pragma once
#include "units/rows.hpp"
#include "units/systolic.hpp"
#include "units/window.hpp"

namespace weft {

/// The same product as a MatMul without window: its walk, clocks and sums are those of one.
inline MatMul product_of(const Attend &f) {
  MatMul same = {};
  // ap_int's own constructors leave fields as they are.
  same.source_sample = same.source_row = 0;
  same.pad_y = same.pad_x = 0;
  same.pad = 0, same.codes = 0, same.shift = 0, same.rows = 0;
  same.source = f.source;
  same.source_block = f.source_block;
  same.source_col = f.source_col;
  same.height = same.kernel_h = same.kernel_w = same.out_h = 1;
  same.stride_y = same.stride_x = same.dilation_y = same.dilation_x = 1;
  same.width = same.out_w = f.rows;
  same.blocks = f.blocks;
  same.tiles = f.tiles;
  same.pace = same.words = 1;
  same.first = f.goes_on == 0 ? 1 : 0;
  same.last = f.stays == 0 ? 1 : 0;
  same.overlap = f.overlap;
  same.activation_bits = same.weight_bits = 8;
  same.engine = f.matvec != 0 ? kMatvecEngine : kSystolicEngine;
  return same;
}

/// Whether sums of all column tiles lie side by side in the accumulators, as some came before or
/// will come: keys of a long row are attended to a few tiles at a time.
inline bool keeps_sums(const Attend &f) { return f.goes_on != 0 || f.stays != 0; }

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
  int folds;        // of those words that came,
  int key_block;    // and which of a tile comes now

  void begin(const Attend &fields, bool runs) {
    f = fields;
    on = kThere && runs;
    tile = block = folds = key_block = 0;
  }
  /// Row `row` of the next tile of weights.
  TileWord weights(const Memories &m, int row) const {
    WEFT_INLINE
    const bool turned = f.transposed != 0;
    return widened(m.operands.read(first_word() + (turned ? 0 : row), turned, row));
  }
  /// Group `step` of the words of the next tile of weights, as they lie.
  void group(const Memories &m, int step, Word (&words)[kOperandGroup]) const {
    WEFT_INLINE
    m.operands.read_group(first_word() + step * kOperandGroup, words);
  }
  void next_tile() {
    const bool wraps = block == int(f.blocks) - 1;
    block = wraps ? 0 : block + 1;
    if (wraps) ++tile;
  }
  bool takes_scores() const { return on && f.scores != 0; }
  /// The activations of row `row`, from its scores; `first`: they come for the first time, so
  /// those of the first tile are added up.
  Word activations(Memories &m, int row, const WideWord &scores, bool first = true) const {
    WEFT_INLINE
    RowTable &rows = m.rows;
    const SoftmaxMethods &by = m.softmax;
    const int method = int(f.method), most = int(f.most);
    const Int<32> sum = rows.sum[RowTable::kByInput][row];
    const SumWord e = exponentials(scores, rows.maximum[RowTable::kByInput][row], method, by);
    if (f.normalized != 0) return share_codes(e, by.share(method, sum), most);
    const bool ranged = kHasTokenRanges && f.ranged != 0;
    LaneFactors factors = same_factors(code_factor(most));
    if (ranged)
      factors =
          value_factors(value_of(m.token_ranges[int(f.ranges) + key_block]), int(f.range_shift));
    const Word codes = exponential_codes(e, factors, most);
    const Int<32> before = folds == 0 && f.goes_on == 0 ? Int<32>(0) : sum;
    if (first && folds < int(f.blocks))
      rows.put_sum(row, ranged ? row_sum(before, e) : row_sum(before, codes));
    return codes;
  }
  void next_fold() {
    if (folds < int(f.blocks)) ++folds;
    key_block = key_block == int(f.blocks) - 1 ? 0 : key_block + 1;
  }
  /// The accumulator row of the first tile's first sum, and rows from tile to tile.
  int first_sum() const { return on ? int(f.accumulator) : 0; }
  int sums_of_tile() const { return on && keeps_sums(f) ? int(f.rows) : 0; }

 private:
  /// The operand's first word of the next tile.
  int first_word() const {
    WEFT_INLINE
    const bool turned = f.transposed != 0;
    return int(f.operand) + (turned ? tile : block) * kRows +
           (turned ? block : tile) * int(f.operand_block);
  }
};

/// Weights of an Attend, a row per clock, in place of the stream's.
template <typename Cell, bool kThere>
inline void take_operands(const Cell &cell, Attention<kThere> &attention, int row, bool last,
                          const Memories &m, ArrayInput<Cell> &in) {
  WEFT_INLINE
  TileWord rows[kActivationWords] = {};
  rows[0] = attention.weights(m, row);
  in.weight_row = row;
columns:
  for (int c = 0; c < kCols; ++c) {
    WEFT_UNROLL
    in.weights[c] = cell.weight(rows, c);
  }
  if (last) attention.next_tile();
}

/// Activations of an Attend that are made of scores.
template <typename Cell, bool kThere>
inline void take_scores(const Cell &cell, const Attention<kThere> &attention, int row,
                        const WideWord &scores, Memories &m, ArrayInput<Cell> &in) {
  WEFT_INLINE
  Word words[kActivationWords] = {};
  words[0] = attention.activations(m, row, scores);
lanes:
  for (int r = 0; r < kRows; ++r) {
    WEFT_UNROLL
    in.activations[r] = cell.activation(words, r);
  }
}

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
          exponentials(value_of(m.wide[address]), m.rows.maximum[RowTable::kByInput][row],
                       int(f.method), m.softmax);
      const Int<32> before = m.rows.sum[RowTable::kByInput][row];
      m.rows.put_sum(row, row_sum(k == 0 ? Int<32>(0) : before, e));
      ++clocks;
    }
  }
  counters.vector += clocks;
}

}  // namespace weft
