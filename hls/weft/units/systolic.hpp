/// The weight-stationary systolic array: one call of step() is one clock.
///
/// Cell(r, c) holds weight (r, c) of the present tile. Activations move one column group per clock,
/// partial sums one row (or one row per Cell::kLatency clocks where an addition takes several).
/// Everything that belongs to a fold reaches cell(r, c) r + c clocks after cell(0, 0), also the
/// change to the next tile: a swap bit rides with the fold's first activation. Meanwhile the next
/// tile rides down a chain of registers, row by row; the cell whose row it is keeps the weight in
/// its shadow register. Each wire ends at a neighbour: no broadcast limits the clock. (On DSP48E2
/// chain, shadow and active are the B cascade and its two registers.)
///
/// What a cell multiplies is the Cell's affair: units/multiplier.hpp (int8), fusion.hpp, shift.hpp,
/// binary.hpp, bf16.hpp.
#pragma once
#include "memories.hpp"
#include "units/multiplier.hpp"

namespace weft {

constexpr int kAccumulatorDistance = 4;  // read, add, write of the accumulator RAM
static_assert((kRows & (kRows - 1)) == 0, "delay lines wrap by a mask");
static_assert(kRows >= kAccumulatorDistance, "a fold must outlast the accumulator's pipeline");

/// Delays lane i by i·kStep clocks (or by the clocks still missing to the last lane). A small RAM
/// per lane: shift registers would take kLanes² · kStep / 2 of them.
template <typename T, int kLanes, int kStep = 1> struct Skew {
  static constexpr int kDepth = kLanes * kStep;
  T line[kDepth][kLanes];
  int at;

  void push(const Vec<T, kLanes> &in) {
  push_lane:
    for (int i = 0; i < kLanes; ++i) {
      WEFT_UNROLL
      line[at][i] = in[i];
    }
  }
  T delayed(int lane, int clocks) const { return line[(at - clocks) & (kDepth - 1)][lane]; }
  void tick() { at = (at + 1) & (kDepth - 1); }
};

/// What a clock brings to the array.
template <typename Cell> struct ArrayInput {
  Vec<typename Cell::Activation, kRows> activations;
  bool swap;                                  // they are the first of a fold
  Vec<typename Cell::Weight, kCols> weights;  // a row of the next tile,
  int weight_row;                             // and which one, or -1
};

/// What each column sees of a value per column group; wires only. Spreading and seeing are apart so
/// that a simulating CPU does not read what it has just written in pieces.
template <typename T, int kShare> struct Columns {
  static void spread(const T (&groups)[kCols / kShare], T (&columns)[kCols]) {
    WEFT_INLINE
  groups:
    for (int g = 0; g < kCols / kShare; ++g) {
      WEFT_UNROLL
      for (int d = 0; d < kShare; ++d) columns[g * kShare + d] = groups[g];
    }
  }
  static Vec<T, kCols> seen(const T (&)[kCols / kShare], const T (&columns)[kCols]) {
    return value_of(columns);
  }
};
template <typename T> struct Columns<T, 1> {
  static void spread(const T (&)[kCols], T (&)[kCols]) {}
  static Vec<T, kCols> seen(const T (&groups)[kCols], const T (&)[kCols]) {
    return value_of(groups);
  }
};

/// A cell's control bits: take the shadow weight, keep the weight that is in the chain.
constexpr int kSwap = 1, kKeep = 2;

/// Nothing is cleared between instructions: what is left in the registers belongs to no row, and
/// all swap and keep bits have left by the end of an instruction.
template <typename Cell> struct SystolicArray {
  using Activation = typename Cell::Activation;
  using Weight = typename Cell::Weight;
  static constexpr int kShare = Cell::kShare;  // columns that see the same activation
  static constexpr int kGroups = kCols / kShare;
  static constexpr int kStep = Cell::kLatency;                      // clocks per row
  static constexpr int kStages = kStep > 1 ? kStep - 1 : 1;         // of an adder, before its last
  static constexpr int kFlushClocks = kRows * kStep + kGroups - 2;  // from a row to its last sum

  Activation act[kRows][kGroups], column_act[kRows][kCols];  // column_*: wires, see Columns
  Int<8> control[kRows][kGroups], column_control[kRows][kCols];
  Weight active[kRows][kCols], shadow[kRows][kCols], chain[kRows][kCols];
  Int<32> psum[kRows][kCols];
  Int<32> pipe[kRows][kStages][kCols];  // sums on their way through the adders of a row
  Skew<Activation, kRows, kStep> in_skew;
  Skew<Int<32>, kCols> out_skew;
  Skew<Weight, kCols> weight_skew;
  Int<8> swap_line[kRows * kStep];  // the swap bit on its way down the left edge
  Int<16> weight_tag[kRows];        // which row the chain's weights belong to
  // Clock enables: clocks until the last bit or weight has left its shift register.
  int swap_clocks, chain_clocks;
  Int<16> control_clocks[kRows];

  /// One clock. `sums` are those of the activations that came kFlushClocks clocks ago.
  void step(const Cell &cell, const ArrayInput<Cell> &in, SumWord &sums) {
    WEFT_INLINE
    in_skew.push(in.activations);
    if (in.swap) swap_clocks = kRows * kStep + 1;
    if (swap_clocks > 0) shift_in(swap_line, Int<8>(in.swap ? kSwap : 0));
    if (in.weight_row >= 0) chain_clocks = 2 * kRows + kGroups;
    const bool chain_moves = chain_clocks > 0;
    if (chain_moves) {
      weight_skew.push(in.weights);
      shift_in(weight_tag, Int<16>(in.weight_row));
      move_chain();
      weight_skew.tick();
    }
  // Three loops, not one: reading a row right behind its shift costs a simulating CPU 20 cycles.
  left_edge:
    for (int r = kRows - 1; r >= 0; --r) {
      WEFT_UNROLL
      shift_in(act[r], in_skew.delayed(r, r * kStep));
      const bool keep = chain_moves && weight_tag[r] == r;
      const Int<8> swap = swap_clocks > 0 ? swap_line[r * kStep] : Int<8>(0);
      move_control(r, Int<8>(swap + (keep ? kKeep : 0)));
    }
  columns:
    for (int r = kRows - 1; r >= 0; --r) {
      WEFT_UNROLL
      Columns<Activation, kShare>::spread(act[r], column_act[r]);
      if (control_clocks[r] != 0) Columns<Int<8>, kShare>::spread(control[r], column_control[r]);
    }
  rows:
    for (int r = kRows - 1; r >= 0; --r) {  // from the bottom: each row reads the one above as was
      WEFT_UNROLL
      change_weights(r);
      multiply_row(cell, r);
    }
    collect(sums);
    if (chain_moves) --chain_clocks;
    if (swap_clocks > 0) --swap_clocks;
    in_skew.tick();
    out_skew.tick();
  }

 private:
  /// The weights in the chain move down one row.
  void move_chain() {
    WEFT_INLINE
  chain_rows:
    for (int r = kRows - 1; r > 0; --r) {
      WEFT_UNROLL
      put(chain[r], value_of(chain[r - 1]));
    }
  chain_top:
    for (int c = 0; c < kCols; ++c) {
      WEFT_UNROLL
      chain[0][c] = weight_skew.delayed(c, c / kShare);
    }
  }
  /// Control bits move right one column group.
  void move_control(int r, Int<8> bits) {
    WEFT_INLINE
    if (bits != 0) control_clocks[r] = kGroups + 1;
    if (control_clocks[r] == 0) return;
    control_clocks[r] = Int<16>(control_clocks[r] - 1);
    shift_in(control[r], bits);
  }
  /// Weights change where a bit says so.
  void change_weights(int r) {
    WEFT_INLINE
    if (control_clocks[r] == 0) return;  // all bits are 0
    const Vec<Int<8>, kCols> bits = Columns<Int<8>, kShare>::seen(control[r], column_control[r]);
  change:
    for (int c = 0; c < kCols; ++c) {
      WEFT_UNROLL
      const Int<8> here = bits[c];
      active[r][c] = (here & kSwap) != 0 ? shadow[r][c] : active[r][c];
      shadow[r][c] = (here & kKeep) != 0 ? chain[r][c] : shadow[r][c];
    }
  }
  /// Partial sums move down one row and take this row's products.
  void multiply_row(const Cell &cell, int r) {
    WEFT_INLINE
    SumWord above;
  from_above:
    for (int c = 0; c < kCols; ++c) {
      WEFT_UNROLL
      above[c] = r > 0 ? psum[r > 0 ? r - 1 : 0][c] : Int<32>(0);
    }
    const Vec<Activation, kCols> activations =
        Columns<Activation, kShare>::seen(act[r], column_act[r]);
    put(psum[r], added(r, cell.row(above, activations, value_of(active[r]))));
  }
  /// Sums that the adders of a row finish as `in` enters them.
  SumWord added(int r, const SumWord &in) {
    WEFT_INLINE
    if (kStep == 1) return in;
    const SumWord out = value_of(pipe[r][kStages - 1]);
  stages:
    for (int i = kStages - 1; i > 0; --i) {
      WEFT_UNROLL
      put(pipe[r][i], value_of(pipe[r][i - 1]));
    }
    put(pipe[r][0], in);
    return out;
  }
  /// The bottom row leaves; the columns wait for the last one.
  void collect(SumWord &sums) {
    WEFT_INLINE
    out_skew.push(value_of(psum[kRows - 1]));
  deskew:
    for (int c = 0; c < kCols; ++c) {
      WEFT_UNROLL
      sums[c] = out_skew.delayed(c, kGroups - 1 - c / kShare);
    }
  }
};

// Everything in the array is registers; the delay lines are a small RAM per lane.
#define WEFT_PARTITION_ARRAY(array)                                                 \
  WEFT_HLS(ARRAY_PARTITION variable = array.act type = complete dim = 0)            \
  WEFT_HLS(ARRAY_PARTITION variable = array.control type = complete dim = 0)        \
  WEFT_HLS(ARRAY_PARTITION variable = array.active type = complete dim = 0)         \
  WEFT_HLS(ARRAY_PARTITION variable = array.shadow type = complete dim = 0)         \
  WEFT_HLS(ARRAY_PARTITION variable = array.chain type = complete dim = 0)          \
  WEFT_HLS(ARRAY_PARTITION variable = array.column_act type = complete dim = 0)     \
  WEFT_HLS(ARRAY_PARTITION variable = array.column_control type = complete dim = 0) \
  WEFT_HLS(ARRAY_PARTITION variable = array.psum type = complete dim = 0)           \
  WEFT_HLS(ARRAY_PARTITION variable = array.pipe type = complete dim = 0)           \
  WEFT_HLS(ARRAY_PARTITION variable = array.swap_line type = complete dim = 0)      \
  WEFT_HLS(ARRAY_PARTITION variable = array.weight_tag type = complete dim = 0)     \
  WEFT_HLS(ARRAY_PARTITION variable = array.control_clocks type = complete dim = 0) \
  WEFT_HLS(ARRAY_PARTITION variable = array.in_skew.line type = complete dim = 2)   \
  WEFT_HLS(ARRAY_PARTITION variable = array.out_skew.line type = complete dim = 2)  \
  WEFT_HLS(ARRAY_PARTITION variable = array.weight_skew.line type = complete dim = 2)

}  // namespace weft
