/// The weight-stationary systolic array: one call of step() is one clock.
///
/// PE(r, c) holds weight (r, c) of the present tile. Activations move one column group per clock,
/// partial sums one row. Everything that belongs to a fold reaches PE(r, c) r + c clocks after
/// PE(0, 0), also the change to the next tile: a swap bit rides with the fold's first activation.
/// Meanwhile the next tile rides down a chain of registers, row by row; the PE whose row it is
/// keeps the weight in its shadow register. Each wire ends at a neighbour: no broadcast limits the
/// clock. (On DSP48E2 chain, shadow and active are the B cascade and its two registers.)
#pragma once
#include "formats/int8.hpp"
#include "memories.hpp"
#include "units/multiplier.hpp"

namespace weft {

constexpr int kGroups = kCols / kProductsPerDsp;   // columns that share a DSP share the activation
constexpr int kFlushClocks = kRows + kGroups - 2;  // from a row's activations to its last sum
constexpr int kAccumulatorDistance = 4;            // read, add, write of the accumulator RAM
static_assert((kRows & (kRows - 1)) == 0, "delay lines wrap by a mask");
static_assert(kRows >= kAccumulatorDistance, "a fold must outlast the accumulator's pipeline");

/// Delays lane i by i clocks (or by the clocks still missing to the last lane). A small RAM per
/// lane: shift registers would take kLanes² / 2 of them.
template <typename T, int kLanes> struct Skew {
  T line[kLanes][kLanes];
  int at;

  void push(const Vec<T, kLanes> &in) {
  push_lane:
    for (int i = 0; i < kLanes; ++i) {
      WEFT_UNROLL
      line[at][i] = in[i];
    }
  }
  T delayed(int lane, int clocks) const { return line[(at - clocks) & (kLanes - 1)][lane]; }
  void tick() { at = (at + 1) & (kLanes - 1); }
};

/// What a clock brings to the array.
struct ArrayInput {
  Word activations;
  bool swap;       // they are the first of a fold
  Word weights;    // a row of the next tile,
  int weight_row;  // and which one, or -1
};

/// What each column sees of a value per column group; wires only. Spreading and seeing are apart so
/// that a simulating CPU does not read what it has just written in pieces.
template <int kShare> struct Columns {
  static void spread(const Int<8> (&groups)[kCols / kShare], Int<8> (&columns)[kCols]) {
    WEFT_INLINE
  groups:
    for (int g = 0; g < kCols / kShare; ++g) {
      WEFT_UNROLL
      for (int d = 0; d < kShare; ++d) columns[g * kShare + d] = groups[g];
    }
  }
  static Vec<Int<8>, kCols> seen(const Int<8> (&)[kCols / kShare], const Int<8> (&columns)[kCols]) {
    return value_of(columns);
  }
};
template <> struct Columns<1> {
  static void spread(const Int<8> (&)[kCols], Int<8> (&)[kCols]) {}
  static Vec<Int<8>, kCols> seen(const Int<8> (&groups)[kCols], const Int<8> (&)[kCols]) {
    return value_of(groups);
  }
};

/// A PE's control bits: take the shadow weight, keep the weight that is in the chain.
constexpr int kSwap = 1, kKeep = 2;

/// Nothing is cleared between instructions: what is left in the registers belongs to no row, and
/// all swap and keep bits have left by the end of an instruction.
struct SystolicArray {
  Int<8> act[kRows][kGroups], control[kRows][kGroups];
  Int<8> active[kRows][kCols], shadow[kRows][kCols], chain[kRows][kCols];
  Int<32> psum[kRows][kCols];
  Int<8> column_act[kRows][kCols], column_control[kRows][kCols];  // wires: see Columns
  Skew<Int<8>, kRows> in_skew;
  Skew<Int<32>, kCols> out_skew;
  Skew<Int<8>, kCols> weight_skew;
  Int<8> swap_line[kRows];    // the swap bit on its way down the left edge
  Int<16> weight_tag[kRows];  // which row the chain's weights belong to
  // Clock enables: clocks until the last bit or weight has left its shift register.
  int swap_clocks, chain_clocks;
  Int<16> control_clocks[kRows];

  /// One clock. `sums` are those of the activations that came kFlushClocks clocks ago.
  void step(const ArrayInput &in, SumWord &sums) {
    WEFT_INLINE
    in_skew.push(in.activations);
    if (in.swap) swap_clocks = kRows + 1;
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
      shift_in(act[r], Int8::decode(in_skew.delayed(r, r)));
      const bool keep = chain_moves && weight_tag[r] == r;
      move_control(r, Int<8>((swap_clocks > 0 ? swap_line[r] : Int<8>(0)) + (keep ? kKeep : 0)));
    }
  columns:
    for (int r = kRows - 1; r >= 0; --r) {
      WEFT_UNROLL
      Columns<kProductsPerDsp>::spread(act[r], column_act[r]);
      if (control_clocks[r] != 0) Columns<kProductsPerDsp>::spread(control[r], column_control[r]);
    }
  rows:
    for (int r = kRows - 1; r >= 0; --r) {  // from the bottom: each row reads the one above as was
      WEFT_UNROLL
      change_weights(r);
      multiply_row(r);
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
      chain[0][c] = weight_skew.delayed(c, c / kProductsPerDsp);
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
    const Vec<Int<8>, kCols> bits = Columns<kProductsPerDsp>::seen(control[r], column_control[r]);
  change:
    for (int c = 0; c < kCols; ++c) {
      WEFT_UNROLL
      const Int<8> here = bits[c];
      active[r][c] = (here & kSwap) != 0 ? shadow[r][c] : active[r][c];
      shadow[r][c] = (here & kKeep) != 0 ? chain[r][c] : shadow[r][c];
    }
  }
  /// Partial sums move down one row and take this row's products.
  void multiply_row(int r) {
    WEFT_INLINE
#ifdef WEFT_AP_INT
    if (kProductsPerDsp == 2) {
    pairs:
      for (int g = 0; g < kGroups; ++g) {
        WEFT_UNROLL
        const int c = kProductsPerDsp * g, d = c + kProductsPerDsp - 1;
        Int<16> low, high;
        packed_product(act[r][g], active[r][c], active[r][d], low, high);
        psum[r][c] = above(r, c) + low;
        psum[r][d] = above(r, d) + high;
      }
      return;
    }
#endif
    const Vec<Int<8>, kCols> activations = Columns<kProductsPerDsp>::seen(act[r], column_act[r]);
  macs:
    for (int c = 0; c < kCols; ++c) {
      WEFT_UNROLL
      psum[r][c] = above(r, c) + product(activations[c], active[r][c]);
    }
  }
  Int<32> above(int r, int c) const { return r > 0 ? psum[r > 0 ? r - 1 : 0][c] : Int<32>(0); }
  /// The bottom row leaves; the columns wait for the last one.
  void collect(SumWord &sums) {
    WEFT_INLINE
    SumWord bottom;
  bottom_row:
    for (int c = 0; c < kCols; ++c) {
      WEFT_UNROLL
      bottom[c] = psum[kRows - 1][c];
    }
    out_skew.push(bottom);
  deskew:
    for (int c = 0; c < kCols; ++c) {
      WEFT_UNROLL
      sums[c] = out_skew.delayed(c, kGroups - 1 - c / kProductsPerDsp);
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
  WEFT_HLS(ARRAY_PARTITION variable = array.swap_line type = complete dim = 0)      \
  WEFT_HLS(ARRAY_PARTITION variable = array.weight_tag type = complete dim = 0)     \
  WEFT_HLS(ARRAY_PARTITION variable = array.control_clocks type = complete dim = 0) \
  WEFT_HLS(ARRAY_PARTITION variable = array.in_skew.line type = complete dim = 2)   \
  WEFT_HLS(ARRAY_PARTITION variable = array.out_skew.line type = complete dim = 2)  \
  WEFT_HLS(ARRAY_PARTITION variable = array.weight_skew.line type = complete dim = 2)

}  // namespace weft
