/// MatMul as a matrix product: what the array computes and the clocks that it takes, without moving
/// its registers. Simulation only; tests hold it equal to units/matmul.hpp in every bit and clock.
#pragma once
#include <cstring>
#include <vector>

#include "units/matmul.hpp"

#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
#include <immintrin.h>
#define WEFT_VNNI 1
#endif

namespace weft {
namespace functional {

constexpr int kQuad = 4;  // consecutive K that one lane of a dot-product instruction takes
constexpr int kRowBlock = 8;

/// Work space of one thread; grows, never shrinks.
struct Space {
  std::vector<std::uint8_t> x;  // [rows, k], codes + 128: the instruction wants one unsigned side
  std::vector<std::int8_t> w;   // [k / 4, cols, 4]
  std::vector<std::int32_t> sums;  // [rows, cols]
};

/// Input words of all folds, row by row: the convolution's window, written out.
inline void gather(const MatMul &f, int batch, const Memories &m, int k, std::uint8_t *x) {
  Walk<MatMul> walk;
  walk.begin(f, batch);
  const int rows = walk.at.count(), folds = k / kRows;
  const Word pad = filled(f.pad);
  for (int fold = 0; fold < folds; ++fold) {
    std::uint8_t *to = x + std::ptrdiff_t(fold) * kRows;
    for (int row = 0; row < rows; ++row, to += k) {
      const Word word = walk.inside() ? value_of(m.buffer[walk.address()]) : pad;
      for (int lane = 0; lane < kRows; ++lane) to[lane] = std::uint8_t(word[lane]) ^ 0x80u;
      walk.next_position();
    }
    walk.next_fold();
  }
}

/// One column tile from the weight stream, four rows interleaved; returns −128·(column sums), which
/// the + 128 on the activations adds too much.
inline void take_tile(Stream<Word> &weights, int k, std::int8_t *w, std::int32_t *correction) {
  for (int c = 0; c < kCols; ++c) correction[c] = 0;
  for (int i = 0; i < k; i += kQuad) {
    const Word *rows[kQuad];
    Word copies[kQuad];
    for (int j = 0; j < kQuad; ++j) {
      copies[j] = weights.read();
      rows[j] = &copies[j];
    }
    for (int c = 0; c < kCols; ++c)
      for (int j = 0; j < kQuad; ++j) w[c * kQuad + j] = (*rows[j])[c];
    for (int c = 0; c < kCols; ++c) {
      const int sum = (*rows[0])[c] + (*rows[1])[c] + (*rows[2])[c] + (*rows[3])[c];
      correction[c] = std::int32_t(std::uint32_t(correction[c]) - std::uint32_t(128 * sum));
    }
    w += kCols * kQuad;
  }
}

#ifdef WEFT_VNNI
inline __m512i dot(__m512i a, __m512i x, __m512i w) { return _mm512_dpbusd_epi32(a, x, w); }
inline __m256i dot(__m256i a, __m256i x, __m256i w) { return _mm256_dpbusd_epi32(a, x, w); }
inline void spread(std::int32_t v, __m512i &out) { out = _mm512_set1_epi32(v); }
inline void spread(std::int32_t v, __m256i &out) { out = _mm256_set1_epi32(v); }
inline void fetch_lanes(const void *p, __m512i &out) { out = _mm512_loadu_si512(p); }
inline void fetch_lanes(const void *p, __m256i &out) {
  out = _mm256_loadu_si256(static_cast<const __m256i *>(p));
}
inline void put_lanes(void *p, __m512i v) { _mm512_storeu_si512(p, v); }
inline void put_lanes(void *p, __m256i v) { _mm256_storeu_si256(static_cast<__m256i *>(p), v); }

/// kN rows times the columns of one vector, over all of k.
template <typename Lanes, int kN>
inline void multiply_rows(const std::uint8_t *x, int k, const std::int8_t *w,
                          const std::int32_t *correction, std::int32_t *sums) {
  Lanes acc[kN], weights, activation;
  for (int i = 0; i < kN; ++i) fetch_lanes(correction, acc[i]);
  for (int q = 0; q < k; q += kQuad, w += kCols * kQuad) {
    fetch_lanes(w, weights);
    for (int i = 0; i < kN; ++i) {
      std::int32_t four;
      std::memcpy(&four, x + i * k + q, sizeof four);
      spread(four, activation);
      acc[i] = dot(acc[i], activation, weights);
    }
  }
  for (int i = 0; i < kN; ++i) put_lanes(sums + i * kCols, acc[i]);
}

template <typename Lanes>
inline void multiply_lanes(const std::uint8_t *x, int rows, int k, const std::int8_t *w,
                           const std::int32_t *correction, std::int32_t *sums) {
  constexpr int kLanes = int(sizeof(Lanes) / sizeof(std::int32_t));
  for (int c = 0; c < kCols; c += kLanes) {
    int row = 0;
    for (; row + kRowBlock <= rows; row += kRowBlock)
      multiply_rows<Lanes, kRowBlock>(x + std::ptrdiff_t(row) * k, k, w + c * kQuad, correction + c,
                                      sums + row * kCols + c);
    for (; row < rows; ++row)
      multiply_rows<Lanes, 1>(x + std::ptrdiff_t(row) * k, k, w + c * kQuad, correction + c,
                              sums + row * kCols + c);
  }
}
#endif

/// sums[row][c] = Σ x[row][i]·w[i][c], with the correction.
inline void multiply(const std::uint8_t *x, int rows, int k, const std::int8_t *w,
                     const std::int32_t *correction, std::int32_t *sums) {
#ifdef WEFT_VNNI
  if (kCols % 16 == 0) return multiply_lanes<__m512i>(x, rows, k, w, correction, sums);
  if (kCols % 8 == 0) return multiply_lanes<__m256i>(x, rows, k, w, correction, sums);
#endif
  for (int row = 0; row < rows; ++row, x += k, sums += kCols) {
    std::uint32_t acc[kCols];  // wraps, as the hardware's registers do
    for (int c = 0; c < kCols; ++c) acc[c] = std::uint32_t(correction[c]);
    const std::int8_t *quad = w;
    for (int q = 0; q < k; q += kQuad, quad += kCols * kQuad)
      for (int c = 0; c < kCols; ++c)
        for (int j = 0; j < kQuad; ++j)
          acc[c] += std::uint32_t(int(x[q + j]) * int(quad[c * kQuad + j]));
    for (int c = 0; c < kCols; ++c) sums[c] = std::int32_t(acc[c]);
  }
}

/// The clocks that the array takes (MatMulClocks), without counting them one by one.
inline void count(const MatMul &f, int batch, int taps, Counters &counters) {
  MatMulClocks clocks;
  clocks.begin(f, batch, taps);
  const Clock busy = Clock(clocks.folds) * clocks.rows;
  const Clock flush = f.overlap != 0 ? Clock(kFlushClocks) : Clock(clocks.folds) * kFlushClocks;
  counters.matrix += busy;
  counters.drain += flush;
  counters.weight_shift += clocks.total - busy - flush;
}

/// What MatMul leaves for one tile: codes in the unified buffer, or partial sums.
inline void put_tile(const MatMul &f, const Activate &a, const std::int32_t *sums, int rows,
                     Memories &m, Writer &out) {
  for (int row = 0; row < rows; ++row, sums += kCols) {
    SumWord total;
    for (int c = 0; c < kCols; ++c) {
      const std::uint32_t before = f.first != 0 ? 0u : std::uint32_t(m.partial[row][c]);
      total[c] = std::int32_t(before + std::uint32_t(sums[c]));
    }
    if (f.last == 0) {
      put(m.partial[row], total);
      continue;
    }
    if (f.tiles == 1) put(m.finished[row], total);  // a further Activate may drain it again
    put(m.buffer[out.address()], activate(total, m.parameters.read(out.parameter()), a, m.lookup));
    out.next();
  }
}

inline void matmul(const MatMul &f, const Activate &a, int batch, Memories &m,
                   Stream<Word> &weights, Counters &counters) {
  static thread_local Space space;
  const int rows = batch * int(f.out_h) * int(f.out_w), taps = int(f.kernel_h) * int(f.kernel_w);
  const int k = int(f.blocks) * taps * kRows;
  space.x.resize(std::size_t(rows) * std::size_t(k));
  space.w.resize(std::size_t(k) * kCols);
  space.sums.resize(std::size_t(rows) * kCols);
  gather(f, batch, m, k, space.x.data());
  Writer out;
  out.begin(a, batch, int(f.out_h), int(f.out_w));
  std::int32_t correction[kCols];
  for (int tile = 0; tile < int(f.tiles); ++tile) {
    take_tile(weights, k, space.w.data(), correction);
    multiply(space.x.data(), rows, k, space.w.data(), correction, space.sums.data());
    put_tile(f, a, space.sums.data(), rows, m, out);
  }
  count(f, batch, taps, counters);
}

}  // namespace functional
}  // namespace weft

#define WEFT_MATMUL functional::matmul
