/// Attend as a matrix product. Simulation only; tests hold it equal to units/attention.hpp.
#pragma once
#include "sim/matvec.hpp"
#include "sim/product.hpp"

namespace weft {
namespace functional {

/// Activations [rows, blocks · kRows] of an Attend, moved by the offset of operands.hpp.
inline void gather_attend(const Attend &f, Attention<kHasAttention> &attention, Memories &m,
                          std::uint8_t *x) {
  const int rows = int(f.rows), k = int(f.blocks) * kRows;
  for (int block = 0; block < int(f.blocks); ++block) {
    for (int row = 0; row < rows; ++row) {
      const int address = int(f.source) + block * int(f.source_block) + row * int(f.source_col);
      const Word word = f.scores != 0 ? attention.activations(m, row, value_of(m.wide[address]))
                                      : m.buffer.read(address);
      std::uint8_t *to = x + std::ptrdiff_t(row) * k + block * kRows;
      for (int lane = 0; lane < kRows; ++lane) to[lane] = std::uint8_t(word[lane]) ^ 0x80u;
    }
    attention.next_fold();
  }
}

/// One tile of weights, four rows interleaved, and what the offset of the activations adds too
/// much.
inline void take_operands(Attention<kHasAttention> &attention, const Memories &m, Space &space,
                          std::int32_t *correction) {
  for (int c = 0; c < kCols; ++c) correction[c] = 0;
  std::int8_t *narrow = space.w.data();
  std::int16_t *wide = space.wide_w.data();
  for (int block = 0; block < int(attention.f.blocks); ++block) {
    for (int row = 0; row < kRows; ++row) {
      const TileWord word = attention.weights(m, row);
      const int i = block * kRows + row;
      for (int c = 0; c < kCols; ++c) {
        narrow[((i / kQuad) * kCols + c) * kQuad + i % kQuad] = std::int8_t(word[c]);
        if (!kDotProducts) wide[((i / 2) * kCols + c) * 2 + i % 2] = std::int16_t(word[c]);
        correction[c] -= 128 * int(word[c]);
      }
    }
    attention.next_tile();
  }
}

inline void attend(const Attend &f, const Activate &a, Memories &m, Counters &counters) {
  static thread_local Space space;
  if (f.normalized != 0) sum_rows(f, m, counters);
  const MatMul same = product_of(f);
  Attention<kHasAttention> attention;
  attention.begin(f, true);
  const int rows = int(f.rows), k = int(f.blocks) * kRows;
  space.resize(rows, k);
  gather_attend(f, attention, m, space.x.data());
  Writer out;
  out.begin(a, 1, 1, rows);
  std::int32_t correction[kCols];
  for (int tile = 0; tile < int(f.tiles); ++tile) {
    take_operands(attention, m, space, correction);
    if (kDotProducts) {
      multiply(space.x.data(), rows, k, space.w.data(), correction, space.sums.data());
    } else {
      space.widen(128);
      multiply_wide(space.wide_x.data(), rows, k, space.wide_w.data(), space.sums.data());
    }
    put_tile<false>(same, space.sums.data(), rows, m, out,
                    attention.first_sum() + tile * attention.sums_of_tile());
  }
  if (is_matvec(same)) return count_attend(same, rows, counters);
  count(same, 1, SystolicArray<IntegerCell>::kFlushClocks, 0, counters);
}

}  // namespace functional
}  // namespace weft
