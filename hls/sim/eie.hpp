/// The EIE engine without its registers: the same sums, and the clocks by recurrence, vectorized
/// over vectors and PEs. Simulation only; tests hold it equal to units/eie.hpp.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "sim/eie_layer.hpp"
#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace weft {
namespace functional {

/// Work space; grows, never shrinks.
struct EieSpace {
  std::vector<std::int32_t> x;       // [K, vectors] code − pad
  std::vector<std::uint8_t> active;  // [vectors, K]
  std::vector<std::uint8_t> met;     // [K] in any vector
  std::vector<std::int32_t> sums;    // [rows of a PE, vectors]
};

/// Activations: which of them are no zeros, and code − pad [K, kN] of kN vectors after the other.
/// Returns how many vectors there are.
template <int kN>
inline int take_activations(const MatMul &f, int batch, const Memories &m, const EieLayer &s,
                            EieSpace &space) {
  Walk<MatMul> walk;
  walk.begin(f, batch);
  const int vectors = walk.at.count(), k = s.inputs;
  space.active.assign(std::size_t(vectors) * std::size_t(k), 0);
  space.met.assign(std::size_t(k), 0);
  space.x.assign(std::size_t((vectors + kN - 1) / kN * kN) * std::size_t(k), 0);
  for (int v = 0; v < vectors; ++v, walk.next_position()) {
    if (!walk.inside()) continue;
    int address = walk.address();
    std::uint8_t *active = &space.active[std::size_t(v) * std::size_t(k)], *met = space.met.data();
    std::int32_t *x = space.x.data() + std::ptrdiff_t(v / kN) * kN * k + v % kN;
    for (int word = 0; word < int(f.blocks); ++word, address += int(f.source_block)) {
      const Word codes = m.buffer.read(address);
      for (int lane = 0; lane < kRows; ++lane, x += kN) {
        *x = codes[lane] - f.pad;
        *active = codes[lane] != f.pad;
        *met++ |= *active++;
      }
    }
  }
  return vectors;
}

/// sums[0..kN) += weight · x[0..kN), of which x has 16 bits.
template <int kN>
inline void add_scaled(std::int32_t *__restrict sums, std::int32_t weight,
                       const std::int32_t *__restrict x) {
#ifdef __AVX2__
  if (kN % 8 == 0) {
    const __m256i w = _mm256_set1_epi32(std::uint16_t(weight));  // the upper halves count 0 times
    for (int i = 0; i < kN; i += 8) {
      __m256i *to = reinterpret_cast<__m256i *>(sums + i);
      const __m256i from = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(x + i));
      const __m256i sum = _mm256_add_epi32(_mm256_loadu_si256(to), _mm256_madd_epi16(from, w));
      _mm256_storeu_si256(to, sum);
    }
    return;
  }
#endif
  for (int i = 0; i < kN; ++i)
    sums[i] = std::int32_t(std::uint32_t(sums[i]) + std::uint32_t(weight * x[i]));
}

/// Sums of one PE for kN vectors `x` [K, kN]; returns its first bad entry, or −1.
template <int kN, bool kCoded>
inline int multiply_pe(const EieLayer &s, const EieSpace &space, int p, int rows,
                       const std::int32_t *x, std::int32_t *sums) {
  const std::uint8_t *first = s.entries.data() + s.entry_stride * p, *entry = first;
  const std::uint16_t *pointer = s.pointer.data() + p * s.pointer_stride;
  std::int16_t codebook[kEieCodes];
  std::copy_n(s.codebook, kEieCodes, codebook);
  std::fill_n(sums, rows * kN, 0);
  for (int j = 0; j < s.inputs; ++j, x += kN) {
    if (space.met[std::size_t(j)] == 0) continue;
    entry = first + pointer[j] * (kCoded ? 1 : 2);
    const std::uint8_t *end = first + pointer[j + 1] * (kCoded ? 1 : 2);
    for (int row = -1; entry < end; entry += kCoded ? 1 : 2) {
      row += 1 + (kCoded ? entry[0] >> 4 : int(entry[1]));
      if (row >= rows) return int(entry - first) / (kCoded ? 1 : 2);
      const int value = kCoded ? codebook[entry[0] & 15] : std::int8_t(entry[0]);
      add_scaled<kN>(sums + row * kN, value, x);
    }
  }
  return -1;
}

/// All sums. Raises a fault for the first entry that leaves its PE's outputs.
template <int kN, bool kCoded>
inline void multiply_all(const MatMul &f, int vectors, const EieLayer &s, EieSpace &space,
                         Memories &m, Fault &fault) {
  space.sums.resize(std::size_t(kEieOutputs) * kN);
  int bad_row = -1;
  for (int p = 0; p < kEiePes; ++p)
    for (int first = 0; first < vectors; first += kN) {
      const int rows = EieEngine::rows_of(int(f.tiles), p);
      const std::int32_t *x = space.x.data() + std::ptrdiff_t(first) * s.inputs;
      const std::int32_t *sums = space.sums.data();
      const int bad = multiply_pe<kN, kCoded>(s, space, p, rows, x, space.sums.data());
      const int row = s.header + ((bad + 1) * s.bytes - 1) * kEieGroups + p / kCols;
      if (bad >= 0 && (bad_row < 0 || row < bad_row)) bad_row = row;
      for (int t = p / kCols; t < int(f.tiles); t += kEieGroups, sums += kN)
        for (int v = 0; v < std::min(vectors - first, kN); ++v)
          m.finished[t * vectors + first + v][p % kCols] = sums[v];
    }
  if (bad_row >= 0) fault.raise(bad_row);
}
template <int kN>
inline void multiply(const MatMul &f, int batch, const EieLayer &s, EieSpace &space, Memories &m,
                     Fault &fault) {
  const int vectors = take_activations<kN>(f, batch, m, s, space);
  if (f.codes != 0)
    multiply_all<kN, true>(f, vectors, s, space, m, fault);
  else
    multiply_all<kN, false>(f, vectors, s, space, m, fault);
}

/// One vector; columns that no activation meets count as zeros.
inline void multiply_one(const MatMul &f, int batch, EieLayer &s, EieSpace &space, Memories &m,
                         Fault &fault) {
  if (!s.sorted) sort_by_output(f, s);
  if (s.by_output.outputs() == 0) return multiply<1>(f, batch, s, space, m, fault);
  take_activations<1>(f, batch, m, s, space);
  for (int output = 0; output < s.by_output.outputs(); ++output) {
    std::uint32_t sum[1];
    s.by_output.sums<1>(output, space.x.data(), sum);
    m.finished[output / kCols][output % kCols] = std::int32_t(sum[0]);
  }
}

/// Clocks of one vector (host/weft/units/eie.py: vector_clocks).
inline std::int64_t vector_clocks(const MatMul &f, const EieLayer &s, const std::uint8_t *active) {
  std::int32_t free[kEiePes] = {}, started[kEieQueue], released[kWordsAhead];
  std::fill_n(started, kEieQueue, -1);
  std::fill_n(released, kWordsAhead, -1);
  int last = -1, read = -1, slot = 0, before = -1;
  for (int word = 0; word < int(f.blocks); ++word, active += kRows) {
    read = std::max(read, released[word % kWordsAhead]) + 1;
    int zero = read + 2;
    for (int lane = 0; lane < kRows; ++lane) {
      if (active[lane] == 0) continue;
      last = std::max(std::max(last, started[slot]) + 1, read + 2);
      const std::int32_t *cost = &s.cost[std::size_t(word * kRows + lane) * kEiePes];
      std::int32_t latest = 0;
      for (int p = 0; p < kEiePes; ++p) {
        const std::int32_t start = std::max(last + 3, free[p]);
        free[p] = start + cost[p];
        latest = std::max(latest, start);
      }
      started[slot] = latest;
      slot = slot == kEieQueue - 1 ? 0 : slot + 1;
      zero = last + 1;
    }
    released[word % kWordsAhead] = before = std::max(before, zero);
  }
  return std::max(*std::max_element(free, free + kEiePes), before + 1);
}

/// Runs one MatMul; leaves its sums in the finished bank.
inline void eie(const MatMul &f, int batch, Memories &m, WeightStream &weights, Counters &counters,
                Fault &fault) {
  static thread_local KeptLayers<EieLayer> layers;
  static thread_local EieSpace space;
  Fault own = fault;
  own.status = kDone;
  const LayerKey key = {int(f.blocks), int(f.tiles), int(f.codes)};
  EieLayer &s =
      layers.take(f, key, weights, [&](EieLayer &made, const std::vector<std::uint8_t> &bytes) {
        take_eie(f, bytes, made, own);
        if (own.status == kDone) sort_layer(made);
        return own.status == kDone;
      });
  if (fault.status == kDone) fault = own;
  EieLoader loader;
  loader.begin(f);
  counters.weight_shift += loader.clocks(f);
  if (fault.status != kDone) return;
  Walk<MatMul> walk;
  walk.begin(f, batch);
  const int vectors = walk.at.count();
  if (vectors == 1)
    multiply_one(f, batch, s, space, m, fault);
  else if (vectors <= 16)
    multiply<16>(f, batch, s, space, m, fault);
  else
    multiply<64>(f, batch, s, space, m, fault);
  for (int v = 0; v < vectors; ++v)
    counters.matrix += vector_clocks(f, s, &space.active[std::size_t(v) * std::size_t(s.inputs)]);
  counters.drain += vectors * (kEieBypass + int(f.tiles));
}

}  // namespace functional
}  // namespace weft
