/// MatMul as a matrix product and Vector as plain loops: what the units compute and the clocks that
/// they take, without moving their registers. Simulation only; tests hold them equal to
/// units/matmul.hpp and units/vector.hpp in every bit and clock.
#pragma once
#include <cstring>
#include <vector>

#include "units/matmul.hpp"
#include "units/vector.hpp"

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
  const ParameterWord p = m.parameters.read(out.parameter());
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
    put(m.buffer[out.address()], activate(total, p, a, m.lookup));
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

/// One tap into the sums of a word; `kOperation` is fixed so that the lanes become vectors.
template <int kOperation>
inline void take_tap(const Int<8> (&word)[kRows], const Int<8> (&tap)[kRows], int zero,
                     std::int32_t (&sums)[kCols]) {
  for (int c = 0; c < kCols; ++c) {
    const std::int32_t value = word[c] - zero;
    if (kOperation == kMax) {
      sums[c] = value > sums[c] ? value : sums[c];
    } else {
      sums[c] += kOperation == kDepthwise ? value * tap[c] : value;
    }
  }
}

/// max, sum and depthwise: a window at each output position.
template <int kOperation>
inline void pool(const Vector &f, const Activate &a, int batch, Memories &m) {
  Walk<Vector> walk;
  walk.begin(f, batch);
  Writer out;
  out.begin(a, batch, int(f.out_h), int(f.out_w));
  const int rows = walk.at.count(), taps = walk.taps();
  for (int block = 0; block < int(f.blocks); ++block) {
    const ParameterWord p = m.parameters.read(out.parameter());
    for (int row = 0; row < rows; ++row) {
      SumWord sums;
      for (int c = 0; c < kCols; ++c) sums[c] = kOperation == kMax ? kEmptyMax : 0;
      int tap = int(f.tap) + block * taps;
      for (int ky = 0; ky < int(f.kernel_h); ++ky) {
        const int dy = ky * int(f.dilation_y), iy = walk.iy + dy;
        for (int kx = 0; kx < int(f.kernel_w); ++kx, ++tap) {
          const int dx = kx * int(f.dilation_x), ix = walk.ix + dx;
          if (iy < 0 || iy >= int(f.height) || ix < 0 || ix >= int(f.width)) continue;
          const int address = walk.address() + dy * int(f.source_row) + dx * int(f.source_col);
          take_tap<kOperation>(m.buffer[address], m.taps[kOperation == kDepthwise ? tap : 0],
                               int(f.zero), sums.lane);
        }
      }
      put(m.buffer[out.address()], activate(sums, p, a, m.lookup));
      out.next();
      walk.next_position();
    }
    walk.next_block();
  }
}

inline void vector(const Vector &f, const Activate &a, int batch, Memories &m, Counters &counters) {
  if (has_second(f)) return weft::vector(f, a, batch, m, counters);
  const int operation = int(f.operation);
  if (operation == kMax) {
    pool<kMax>(f, a, batch, m);
  } else if (operation == kSum) {
    pool<kSum>(f, a, batch, m);
  } else {
    pool<kDepthwise>(f, a, batch, m);
  }
  counters.vector += Int<64>(batch) * int(f.out_h) * int(f.out_w) * int(f.blocks) *
                     int(f.kernel_h) * int(f.kernel_w);
}

}  // namespace functional
}  // namespace weft

#define WEFT_MATMUL functional::matmul
#define WEFT_VECTOR functional::vector
