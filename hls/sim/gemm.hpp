/// Integer matrix products for the functional simulation, with the dot-product instructions where the
/// simulating CPU has them.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "memories.hpp"

#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
#include <immintrin.h>
#define WEFT_VNNI 1
#endif

namespace weft {
namespace functional {

constexpr int kQuad = 4;  // consecutive K that one lane of a dot-product instruction takes
constexpr int kRowBlock = 8;

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

/// The same for weights beyond int8: sums[row][c] = Σ (x[row][i] − offset)·wide[i][c].
inline void multiply_wide(const std::uint8_t *x, int rows, int k, int offset,
                          const std::int16_t *wide, std::int32_t *sums) {
  for (int row = 0; row < rows; ++row, x += k, sums += kCols) {
    std::uint32_t acc[kCols] = {};
    for (int i = 0; i < k; i += 2) {
      const std::int32_t low = int(x[i]) - offset, high = int(x[i + 1]) - offset;
      const std::int16_t *pair = wide + i * kCols;
      for (int c = 0; c < kCols; ++c)
        acc[c] += std::uint32_t(low * pair[2 * c] + high * pair[2 * c + 1]);
    }
    for (int c = 0; c < kCols; ++c) sums[c] = std::int32_t(acc[c]);
  }
}

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

}  // namespace functional
}  // namespace weft
