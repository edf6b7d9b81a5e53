/// What the functional simulation's products share: work space, clocks, and where sums go.
#pragma once
#include <cstdint>
#include <vector>

#include "sim/gemm.hpp"
#include "units/matmul.hpp"

namespace weft {
namespace functional {

/// Work space of one thread; grows, never shrinks.
struct Space {
  std::vector<std::uint8_t> x;               // [rows, k], with the offset of operands.hpp
  std::vector<std::int8_t> w;                // [k / 4, cols, 4]
  std::vector<std::int16_t> wide_x, wide_w;  // [rows, k], [k / 2, cols, 2]: beyond dot products
  std::vector<std::int32_t> sums;            // [rows, cols]
  std::vector<float> float_x, float_w;       // [rows, k], [k, cols]

  void resize(int rows, int k) {
    x.resize(std::size_t(rows) * std::size_t(k));
    w.resize(std::size_t(k) * kCols);
    wide_w.resize(std::size_t(k) * kCols);
    sums.resize(std::size_t(rows) * kCols);
    wide_x.clear();
  }
  /// Activations as numbers of 16 bits, once per instruction.
  void widen(int offset) {
    if (!wide_x.empty()) return;
    wide_x.resize(x.size());
    for (std::size_t i = 0; i < x.size(); ++i) wide_x[i] = std::int16_t(int(x[i]) - offset);
  }
};

/// The clocks that the array takes (MatMulClocks), without counting them one by one.
inline void count(const MatMul &f, int batch, int flush_clocks, int lead, Counters &counters) {
  Walk<MatMul> walk;
  walk.begin(f, batch);
  MatMulClocks clocks;
  clocks.begin(f, batch, walk, flush_clocks, lead);
  const Clock busy = Clock(clocks.folds) * clocks.rows;
  const Clock flush = f.overlap != 0 ? Clock(flush_clocks) : Clock(clocks.folds) * flush_clocks;
  counters.matrix += busy;
  counters.drain += flush;
  counters.weight_shift += clocks.total - busy - flush;
}

/// What MatMul leaves for one tile: codes in the unified buffer, or partial sums, from row `base`
/// on.
template <bool kFloat>
inline void put_tile(const MatMul &f, const std::int32_t *sums, int rows, Memories &m, Writer &out,
                     int base = 0) {
  const ParameterWord p = f.last != 0 ? m.parameters.read(out.parameter()) : ParameterWord{};
  for (int row = 0; row < rows; ++row, sums += kCols) {
    SumWord total;
    for (int c = 0; c < kCols; ++c)
      total[c] = Accumulator<kFloat>::sum(f.first != 0 ? 0 : m.partial[base + row][c], sums[c],
                                          int(f.shift));
    if (f.last == 0) {
      put(m.partial[base + row], total);
      continue;
    }
    if (f.tiles == 1) put(m.finished[row], total);  // a further Activate may drain it again
    write_word(out, total, p, added_word(out, m), m);
    out.next();
  }
}

}  // namespace functional
}  // namespace weft
