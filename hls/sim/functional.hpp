/// MatMul as a matrix product and Vector as plain loops: what the units compute and the clocks that
/// they take, without moving their registers. Simulation only; tests hold them equal to
/// units/matmul.hpp and units/vector.hpp in every bit and clock.
#pragma once
#include <algorithm>
#include <vector>

#include "sim/attention.hpp"
#include "sim/eie.hpp"
#include "sim/gather.hpp"
#include "sim/nm_tile.hpp"
#include "sim/norms.hpp"
#include "sim/matvec.hpp"
#include "sim/operands.hpp"
#include "sim/pooling.hpp"
#include "sim/snap.hpp"
#include "units/matmul.hpp"

namespace weft {
namespace functional {

/// Calls take(row, fold, words) for every clock that brings words to the array, fold by fold.
template <typename Take>
inline void each_clock(const MatMul &f, int batch, const Memories &m, Take take) {
  Walk<MatMul> walk;
  walk.begin(f, batch);
  const int rows = walk.at.count(), folds = walk.groups * walk.taps();
  const Word pad = filled(f.pad);
  Word words[kActivationWords];
  for (int fold = 0; fold < folds; ++fold) {
    for (int row = 0; row < rows; ++row) {
      const int present = walk.present();
      if (walk.inside())
        m.buffer.read_group(walk.address(), int(f.source_block), present, words);
      else
        for (int q = 0; q < kActivationWords; ++q) words[q] = q < present ? pad : filled(0);
      take(row, fold, words);
      walk.next_position();
    }
    walk.next_fold();
  }
}

/// Activations of all folds, row by row: the convolution's window, written out. A lane holds
/// `products` of them.
template <typename Cell>
inline void gather(const Cell &cell, const MatMul &f, int batch, const Memories &m, int k,
                   int products, std::uint8_t *x) {
  each_clock(f, batch, m, [&](int row, int fold, const Word(&words)[kActivationWords]) {
    std::uint8_t *to = x + std::ptrdiff_t(row) * k + std::ptrdiff_t(fold) * kRows * products;
    for (int lane = 0; lane < kRows; ++lane)
      for (int j = 0; j < products; ++j)
        *to++ = std::uint8_t(activation_value(cell, words, lane, j) + offset_of(cell));
  });
}

/// The plain array takes a byte per lane, and one word per clock.
inline void gather(const IntegerCell &, const MatMul &f, int batch, const Memories &m, int k, int,
                   std::uint8_t *x) {
  Walk<MatMul> walk;
  walk.begin(f, batch);
  const int rows = walk.at.count(), folds = walk.groups * walk.taps();
  const Word pad = filled(f.pad);
  for (int fold = 0; fold < folds; ++fold) {
    std::uint8_t *to = x + std::ptrdiff_t(fold) * kRows;
    for (int row = 0; row < rows; ++row, to += k) {
      const Word word = walk.inside() ? m.buffer.read(walk.address()) : pad;
      for (int lane = 0; lane < kRows; ++lane) to[lane] = std::uint8_t(word[lane]) ^ 0x80u;
      walk.next_position();
    }
    walk.next_fold();
  }
}

/// One column tile from the weight stream: int8 weights four rows interleaved, wider ones two.
/// `correction` is −offset·(column sums), which the offset of the activations adds too much.
/// Returns whether the dot products of int8 can take it.
template <typename Cell>
inline bool take_tile(const Cell &cell, WeightStream &weights, int k, int products, Space &space,
                      std::int32_t *correction, Fault &, int &) {
  int beyond = 0;
  TileWord rows[kActivationWords] = {};
  for (int c = 0; c < kCols; ++c) correction[c] = 0;
  for (int i = 0; i < k; ++i) {
    const int j = i % products;
    if (j == 0)
      for (int n = 0; n < cell.weight_rows(); ++n) rows[n] = weights.read();
    std::int8_t *narrow = space.w.data() + (i / kQuad) * (kCols * kQuad) + i % kQuad;
    std::int16_t *wide = space.wide_w.data() + (i / 2) * (kCols * 2) + i % 2;
    for (int c = 0; c < kCols; ++c) {
      const int value = weight_value(cell, rows, c, j);
      narrow[c * kQuad] = std::int8_t(value);
      wide[c * 2] = std::int16_t(value);
      beyond |= value ^ std::int8_t(value);
      const std::uint32_t more = std::uint32_t(offset_of(cell) * value);
      correction[c] = std::int32_t(std::uint32_t(correction[c]) - more);
    }
  }
  return kDotProducts && beyond == 0;
}

/// The plain array's rows are weights as they are; four at a time are interleaved.
inline bool take_tile(const IntegerCell &, WeightStream &weights, int k, int, Space &space,
                      std::int32_t *correction, Fault &, int &) {
  int beyond = 0;
  std::int8_t *narrow = space.w.data();
  std::int16_t *wide = space.wide_w.data();
  for (int c = 0; c < kCols; ++c) correction[c] = 0;
  for (int i = 0; i < k; i += kQuad, narrow += kCols * kQuad, wide += kCols * kQuad) {
    TileWord rows[kQuad];
    for (int j = 0; j < kQuad; ++j) rows[j] = weights.read();
    for (int c = 0; c < kCols; ++c)
      for (int j = 0; j < kQuad; ++j) narrow[c * kQuad + j] = std::int8_t(rows[j][c]);
    for (int c = 0; c < kCols; ++c) {
      const int sum = rows[0][c] + rows[1][c] + rows[2][c] + rows[3][c];
      correction[c] = std::int32_t(std::uint32_t(correction[c]) - std::uint32_t(128 * sum));
    }
    if (kWeightBits == 8 && kDotProducts) continue;
    for (int c = 0; c < kCols; ++c)
      for (int j = 0; j < kQuad; ++j) beyond |= rows[j][c] ^ std::int8_t(rows[j][c]);
    for (int c = 0; c < kCols; ++c)
      for (int j = 0; j < kQuad; ++j)
        wide[(j / 2 * kCols + c) * 2 + j % 2] = std::int16_t(rows[j][c]);
  }
  return kDotProducts && beyond == 0;
}

/// N:M weights, spread over the channels that they meet.
inline bool take_tile(const NmCell &cell, WeightStream &weights, int k, int products, Space &space,
                      std::int32_t *correction, Fault &fault, int &row) {
  std::fill(space.w.begin(), space.w.end(), std::int8_t(0));
  std::fill(space.wide_w.begin(), space.wide_w.end(), std::int16_t(0));
  for (int c = 0; c < kCols; ++c) correction[c] = 0;
  TileWriter to = {space.w.data(), space.wide_w.data(), correction, 0};
  for (int at = 0; at < k; at += kRows * products) take_nm_fold(cell, weights, at, row, to, fault);
  return kDotProducts && to.beyond == 0;
}

/// A MatMul of integers on one engine.
template <typename Cell>
inline void run_integers(const MatMul &f, const Activate &a, int batch, Memories &m,
                         WeightStream &weights, Counters &counters, Fault &fault) {
  static thread_local Space space;
  Cell cell;
  cell.begin(f);
  Walk<MatMul> walk;
  walk.begin(f, batch);
  const int rows = walk.at.count(), products = products_of(cell);
  const int k = walk.groups * walk.taps() * kRows * products;
  space.resize(rows, k);
  gather(cell, f, batch, m, k, products, space.x.data());
  Writer out;
  out.begin(a, batch, int(f.out_h), int(f.out_w));
  std::int32_t correction[kCols];
  int row = 0;  // of the stream
  for (int tile = 0; tile < int(f.tiles); ++tile) {
    if (take_tile(cell, weights, k, products, space, correction, fault, row)) {
      multiply(space.x.data(), rows, k, space.w.data(), correction, space.sums.data());
    } else {
      space.widen(offset_of(cell));
      multiply_wide(space.wide_x.data(), rows, k, space.wide_w.data(), space.sums.data());
    }
    put_tile<false>(f, space.sums.data(), rows, m, out);
  }
  count(f, batch, SystolicArray<Cell>::kFlushClocks, index_rows_of(cell), counters);
}

/// A MatMul of bf16 numbers, in the order of the hardware: sums down the rows of a tile, which then
/// meet in the accumulators.
inline void run_float(const MatMul &f, const Activate &a, int batch, Memories &m,
                      WeightStream &weights, Counters &counters) {
  static thread_local Space space;
  Bf16Cell cell;
  cell.begin(f);
  Walk<MatMul> walk;
  walk.begin(f, batch);
  const int rows = walk.at.count(), folds = walk.groups * walk.taps(), k = folds * kRows;
  space.resize(rows, k);
  space.float_x.resize(std::size_t(rows) * std::size_t(k));
  space.float_w.resize(std::size_t(k) * kCols);
  each_clock(f, batch, m, [&](int row, int fold, const Word(&words)[kActivationWords]) {
    float *to = space.float_x.data() + std::ptrdiff_t(row) * k + fold * kRows;
    for (int lane = 0; lane < kRows; ++lane)
      to[lane] = float_of(Int<32>(cell.activation(words, lane)) << 16);
  });
  Writer out;
  out.begin(a, batch, int(f.out_h), int(f.out_w));
  for (int tile = 0; tile < int(f.tiles); ++tile) {
    for (int i = 0; i < k; ++i) {
      const TileWord row = weights.read();
      for (int c = 0; c < kCols; ++c)
        space.float_w[std::size_t(i) * kCols + std::size_t(c)] =
            float_of(Int<32>(UInt<32>(Int<32>(row[c])) << 16));
    }
    for (int row = 0; row < rows; ++row)
      multiply_floats(space.float_x.data() + std::ptrdiff_t(row) * k, folds, space.float_w.data(),
                      space.sums.data() + row * kCols);
    put_tile<true>(f, space.sums.data(), rows, m, out);
  }
  count(f, batch, SystolicArray<Bf16Cell>::kFlushClocks, 0, counters);
}

inline void matmul(const MatMul &f, const Activate &a, int batch, Memories &m,
                   WeightStream &weights, Counters &counters, Fault &fault, const Attend &by = {},
                   bool attends = false) {
  if (kHasAttention && attends) return attend(by, a, m, counters);
  if (kHasSystolic && f.engine == kSystolicEngine)
    run_integers<IntegerCell>(f, a, batch, m, weights, counters, fault);
  if (kHasFusion && f.engine == kFusionEngine)
    run_integers<FusionCell>(f, a, batch, m, weights, counters, fault);
  if (kHasShift && f.engine == kShiftEngine)
    run_integers<ShiftCell>(f, a, batch, m, weights, counters, fault);
  if (kHasBinary && f.engine == kBinaryEngine)
    run_integers<BinaryCell>(f, a, batch, m, weights, counters, fault);
  if (kHasNm && f.engine == kNmEngine)
    run_integers<NmCell>(f, a, batch, m, weights, counters, fault);
  if (kHasGather && f.engine == kGatherEngine)
    functional::gather(f, batch, m, weights, counters, fault);
  if (kHasEie && f.engine == kEieEngine) functional::eie(f, batch, m, weights, counters, fault);
  if (kHasSnap && f.engine == kSnapEngine) functional::snap(f, batch, m, weights, counters, fault);
  if (is_matvec(f)) functional::matvec(f, a, batch, m, weights, counters);
  if (is_compressed(f)) drain_tiles(f, a, batch, m, counters);
  if (kHasBf16 && f.engine == kBf16Engine) run_float(f, a, batch, m, weights, counters);
}

}  // namespace functional
}  // namespace weft

#define WEFT_WEIGHTS functional::weights
#define WEFT_DECODE functional::decode
#define WEFT_MATMUL functional::matmul
#define WEFT_VECTOR functional::vector
#define WEFT_NORM functional::normalize
