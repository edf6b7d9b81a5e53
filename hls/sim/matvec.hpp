/// Engine matvec for the functional simulation: sums of products, and its clocks by formula.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "sim/packed.hpp"
#include "units/matvec.hpp"

namespace weft {
namespace functional {

/// Tile rows for a product, eight at a time: packed ones as they are stored where the product takes
/// a ReadWeights whole, else those of the stream.
class EightSource {
  WeightStream &stream_;
  std::vector<EightReader> direct_;
  StreamRow element_;  // of the stream, and how many of its rows have left
  int left_;

 public:
  EightSource(WeightStream &stream, Int<64> rows) : stream_(stream), left_(0) {
    if (!stream.empty() || waiting().reads.empty()) return;
    const ReadWeights f = ReadWeights::decode(waiting().reads.front());
    if (f.matvec == 0 || Int<64>(f.rows) != rows || !in_eights(f)) return;
    direct_.emplace_back(f, waiting().rows(f));
    waiting().next();
  }
  /// The next `count` rows, 8 or as many as a tile has.
  void next(int count, EightRows &out) {
    if (!direct_.empty()) return direct_[0].next(out);
    for (int r = 0; r < count; ++r) {
      if (left_ == 0) element_ = stream_.read();
      for (int c = 0; c < kCols; ++c) out[r][c] = std::int16_t(row_of(element_, left_)[c]);
      left_ = left_ == kStreamRows - 1 ? 0 : left_ + 1;
    }
  }
};

/// Adds the products of a row of the input with `count` tile rows to its sums; both wrap.
inline void add_products(const std::int16_t *x, const std::int16_t (*rows)[kCols], int count,
                         std::int32_t *sums) {
#ifdef __AVX2__
  if (kCols % 16 == 0) {
    for (int c = 0; c < kCols; c += 16) {
      __m256i low = _mm256_setzero_si256(), high = low;
      for (int r = 0; r < count; r += 2) {
        std::int32_t pair;
        std::memcpy(&pair, x + r, sizeof pair);
        const __m256i two = _mm256_set1_epi32(pair);
        const __m256i even = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(rows[r] + c));
        const __m256i odd = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(rows[r + 1] + c));
        low = _mm256_add_epi32(low, _mm256_madd_epi16(_mm256_unpacklo_epi16(even, odd), two));
        high = _mm256_add_epi32(high, _mm256_madd_epi16(_mm256_unpackhi_epi16(even, odd), two));
      }
      // Interleaving works on halves of 128 bits: columns 0..3 and 8..11, 4..7 and 12..15.
      __m256i *to = reinterpret_cast<__m256i *>(sums + c);
      const __m256i first = _mm256_permute2x128_si256(low, high, 0x20);
      const __m256i second = _mm256_permute2x128_si256(low, high, 0x31);
      _mm256_storeu_si256(to, _mm256_add_epi32(_mm256_loadu_si256(to), first));
      _mm256_storeu_si256(to + 1, _mm256_add_epi32(_mm256_loadu_si256(to + 1), second));
    }
    return;
  }
#endif
  for (int r = 0; r < count; ++r)
    for (int c = 0; c < kCols; ++c)
      sums[c] = std::int32_t(std::uint32_t(sums[c]) + std::uint32_t(x[r] * rows[r][c]));
}

/// The input [rows, blocks · kRows] as numbers.
inline void gather_numbers(const MatMul &f, int batch, const Memories &m,
                           std::vector<std::int16_t> &x) {
  Walk<MatMul> walk;
  walk.begin(f, batch);
  const int rows = walk.at.count(), blocks = int(f.blocks);
  x.assign(std::size_t(rows) * std::size_t(blocks) * kRows, std::int16_t(f.pad));
  for (int block = 0; block < blocks; ++block) {
    for (int row = 0; row < rows; ++row) {
      std::int16_t *to = x.data() + (std::ptrdiff_t(row) * blocks + block) * kRows;
      if (walk.inside() && reads_wide(f)) {
        for (int lane = 0; lane < kRows; ++lane) to[lane] = m.wide[walk.address()][lane];
      } else if (walk.inside()) {
        const Word word = m.buffer.read(walk.address());
        for (int lane = 0; lane < kRows; ++lane) to[lane] = word[lane];
      }
      walk.next_position();
    }
    walk.next_fold();
  }
}

/// The clocks of an Attend on the engine.
inline void count_attend(const MatMul &f, int rows, Counters &counters) {
  counters.matrix += Int<64>(f.tiles) * Int<64>(f.blocks) * kAttendSteps * rows;
  counters.drain += kAttendLatency;
}

/// The clocks of units/matvec.hpp, without counting them one by one.
inline void count_matvec(const MatMul &f, int rows, Counters &counters) {
  const Int<64> groups = Int<64>(f.tiles) * Int<64>(f.blocks) * kTileSteps;
  const Int<64> parts = arrival_of(f), busy = groups * rows;
  const Int<64> first = (parts + kPaceFraction - 1) / kPaceFraction;
  const Int<64> all = (groups * parts + kPaceFraction - 1) / kPaceFraction;
  counters.matrix += busy;
  counters.weight_shift += parts > Int<64>(rows) * kPaceFraction ? all + rows - busy : first;
  counters.drain += kMatvecLatency;
  if (reads_wide(f) && f.last != 0) counters.drain += Int<64>(f.tiles) * rows;
}

inline void matvec(const MatMul &f, const Activate &a, int batch, Memories &m,
                   WeightStream &weights, Counters &counters) {
  static thread_local std::vector<std::int16_t> x;
  gather_numbers(f, batch, m, x);
  const int rows = batch * int(f.out_h) * int(f.out_w), k = int(f.blocks) * kRows;
  constexpr int kCount = kRows < kEight ? kRows : kEight;
  EightSource source(weights, Int<64>(f.tiles) * k);
  Writer out;
  out.begin(a, batch, int(f.out_h), int(f.out_w));
  std::int32_t sums[kMatvecRows][kCols];
  EightRows eight;
  for (int tile = 0; tile < int(f.tiles); ++tile) {
    for (int row = 0; row < rows; ++row)
      for (int c = 0; c < kCols; ++c) sums[row][c] = f.first != 0 ? 0 : int(m.partial[row][c]);
    for (int at = 0; at < k; at += kCount) {
      source.next(kCount, eight);
      for (int row = 0; row < rows; ++row)
        add_products(x.data() + std::ptrdiff_t(row) * k + at, eight, kCount, sums[row]);
    }
    for (int row = 0; row < rows; ++row) {
      SumWord total;
      for (int c = 0; c < kCols; ++c) total[c] = sums[row][c];
      if (f.last == 0) {
        put(m.partial[row], total);
        continue;
      }
      put(m.finished[row], total);
      write_word(out, total, m.parameters.read(out.parameter()), added_word(out, m), m);
      out.next();
    }
  }
  count_matvec(f, rows, counters);
}

}  // namespace functional
}  // namespace weft
