/// Integer matrix products for the functional simulation, with the dot-product instructions where
/// the simulating CPU has them.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "memories.hpp"

#ifdef __AVX2__
#include <immintrin.h>
#endif
#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
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

/// The same for weights of 16 bits, two rows of them interleaved: sums[row][c] = Σ x·wide. Codes of
/// int8 times int16 can't overflow in pairs.
#ifdef __AVX2__
template <int kN>
inline void multiply_pairs(const std::int16_t *x, int k, const std::int16_t *wide,
                           std::int32_t *sums) {
  __m256i acc[kN];
  for (int i = 0; i < kN; ++i) acc[i] = _mm256_setzero_si256();
  for (int q = 0; q < k; q += 2, wide += kCols * 2) {
    const __m256i weights = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(wide));
    for (int i = 0; i < kN; ++i) {
      std::int32_t pair;
      std::memcpy(&pair, x + i * k + q, sizeof pair);
      acc[i] = _mm256_add_epi32(acc[i], _mm256_madd_epi16(weights, _mm256_set1_epi32(pair)));
    }
  }
  for (int i = 0; i < kN; ++i)
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(sums + i * kCols), acc[i]);
}
#endif

inline void multiply_wide(const std::int16_t *x, int rows, int k, const std::int16_t *wide,
                          std::int32_t *sums) {
#ifdef __AVX2__
  if (kCols % 8 == 0) {
    for (int c = 0; c < kCols; c += 8) {
      int row = 0;
      for (; row + kRowBlock <= rows; row += kRowBlock)
        multiply_pairs<kRowBlock>(x + std::ptrdiff_t(row) * k, k, wide + c * 2,
                                  sums + row * kCols + c);
      for (; row < rows; ++row)
        multiply_pairs<1>(x + std::ptrdiff_t(row) * k, k, wide + c * 2, sums + row * kCols + c);
    }
    return;
  }
#endif
  for (int row = 0; row < rows; ++row, x += k, sums += kCols) {
    std::uint32_t acc[kCols] = {};  // wraps, as the hardware's registers do
    for (int i = 0; i < k; i += 2) {
      const std::int16_t *pair = wide + i * kCols;
      for (int c = 0; c < kCols; ++c)
        acc[c] += std::uint32_t(x[i] * pair[2 * c] + x[i + 1] * pair[2 * c + 1]);
    }
    for (int c = 0; c < kCols; ++c) sums[c] = std::int32_t(acc[c]);
  }
}

#ifdef WEFT_VNNI
constexpr bool kDotProducts = true;  // of four bytes: int8 weights are worth a layout of their own
/// sums[row][c] = Σ x[row][i]·w[i][c], with the correction.
inline void multiply(const std::uint8_t *x, int rows, int k, const std::int8_t *w,
                     const std::int32_t *correction, std::int32_t *sums) {
  if (kCols % 16 == 0) return multiply_lanes<__m512i>(x, rows, k, w, correction, sums);
  if (kCols % 8 == 0) return multiply_lanes<__m256i>(x, rows, k, w, correction, sums);
  for (int row = 0; row < rows; ++row, x += k, sums += kCols) {
    std::uint32_t acc[kCols];
    for (int c = 0; c < kCols; ++c) acc[c] = std::uint32_t(correction[c]);
    const std::int8_t *quad = w;
    for (int q = 0; q < k; q += kQuad, quad += kCols * kQuad)
      for (int c = 0; c < kCols; ++c)
        for (int j = 0; j < kQuad; ++j)
          acc[c] += std::uint32_t(int(x[q + j]) * int(quad[c * kQuad + j]));
    for (int c = 0; c < kCols; ++c) sums[c] = std::int32_t(acc[c]);
  }
}
#else
constexpr bool kDotProducts = false;
inline void multiply(const std::uint8_t *, int, int, const std::int8_t *, const std::int32_t *,
                     std::int32_t *) {}
#endif

}  // namespace functional
}  // namespace weft
