/// The EIE engine without its registers: the same sums, and the clocks by recurrence, vectorized
/// over vectors and PEs. Simulation only; tests hold it equal to units/eie.hpp.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "units/eie.hpp"
#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace weft {
namespace functional {

/// A layer as it came, and work space; grows, never shrinks.
struct EieSpace {
  std::vector<std::uint8_t> rows;      // the stream, byte by byte
  std::vector<std::uint8_t> entries;   // [P, entry_stride]
  std::vector<std::uint16_t> ends;     // [K + 1, P] pointers
  std::vector<std::uint16_t> pointer;  // [P, pointer_stride]
  std::vector<std::int32_t> cost;      // [K, P] clocks of a column
  std::vector<std::int32_t> x;         // [K, vectors] code − pad
  std::vector<std::uint8_t> active;    // [vectors, K]
  std::vector<std::uint8_t> met;       // [K] in any vector
  std::vector<std::int32_t> sums;      // [rows of a PE, vectors]
  std::int16_t codebook[kEieCodes];
  std::int64_t count;  // entries of a PE
  int entry_stride, pointer_stride;
  int inputs, bytes, header;
};

inline std::int16_t halfword(const std::uint8_t *p) { return std::int16_t(p[0] | p[1] << 8); }

/// Takes the rows of a MatMul and checks them in their order.
inline void take_eie(const MatMul &f, WeightStream &weights, EieSpace &s, Fault &fault) {
  EieLoader loader;
  loader.begin(f);
  s.inputs = loader.inputs, s.bytes = loader.entry_bytes, s.count = std::int64_t(loader.entries);
  s.header = int(loader.header(f));
  const std::int64_t row_bytes = kEieGroups * s.bytes, all = s.header + s.count * row_bytes;
  s.rows.assign(std::size_t(all * kCols), 0);
  std::uint8_t *to = s.rows.data();
  for (UInt<32> row = 0; row < f.rows; ++row) {
    const TileWord &word = weights.read();
    if (row >= all) continue;
    for (int c = 0; c < kCols; ++c) to[c] = std::uint8_t(word[c]);
    to += kCols;
  }
  const std::uint8_t *at = s.rows.data();
  for (int i = 0; i < kEieCodes && f.codes != 0; ++i) s.codebook[i] = halfword(at + 2 * i);
  if (f.codes != 0 && s.codebook[0] != 0) fault.raise(0);
  at += loader.codebook_rows(f) * kCols;
  s.ends.resize(std::size_t(s.inputs + 1) * kEiePes);
  s.cost.resize(std::size_t(s.inputs) * kEiePes);
  int row = loader.codebook_rows(f) + kEieGroups;
  std::uint16_t before[kEiePes] = {};
  for (int j = 0; j <= s.inputs; ++j, at += 2 * kEiePes, row += 2 * kEieGroups) {
    std::int32_t *cost = s.cost.data() + std::max(0, j - 1) * kEiePes;
    std::uint16_t *ends = s.ends.data() + j * kEiePes;
    for (int p = 0; p < kEiePes; ++p) {
      const int here = at[p] | at[kEiePes + p] << 8;
      if (here < before[p] || here > s.count) fault.raise(std::min(row + p / kCols, int(f.rows)));
      cost[p] = std::max(1, here - before[p]);
      before[p] = ends[p] = std::uint16_t(here);
    }
  }
  if (s.count * s.bytes > kEieEntries)
    fault.raise(std::min(int(f.rows), s.header + kEieEntries * kEieGroups));
  if (Int<64>(f.rows) < all) fault.raise(int(f.rows));
}

constexpr int kEieBlock = 64;  // of a matrix that is turned: stays in the first cache

/// Turns [stride, P] into [P, stride], for a stride in whole blocks.
template <typename T> inline void by_pe(const T *__restrict from, int stride, T *__restrict to) {
  for (int first = 0; first < stride; first += kEieBlock, from += kEieBlock * kEiePes)
    for (int p = 0; p < kEiePes; ++p) {
      T column[kEieBlock];
      for (int i = 0; i < kEieBlock; ++i) column[i] = from[i * kEiePes + p];
      std::memcpy(to + std::ptrdiff_t(p) * stride + first, column, sizeof column);
    }
}
inline int in_blocks(std::int64_t count) {
  return int((count + kEieBlock - 1) / kEieBlock * kEieBlock);
}

/// Entries and pointers, PE by PE.
inline void sort_layer(EieSpace &s) {
  s.entry_stride = in_blocks(s.count * s.bytes), s.pointer_stride = in_blocks(s.inputs + 1);
  s.rows.resize(std::size_t(s.header * kCols + s.entry_stride * kEiePes));
  s.entries.resize(std::size_t(s.entry_stride * kEiePes));
  by_pe(s.rows.data() + s.header * kCols, s.entry_stride, s.entries.data());
  s.ends.resize(std::size_t(s.pointer_stride * kEiePes));
  s.pointer.resize(std::size_t(s.pointer_stride * kEiePes));
  by_pe(s.ends.data(), s.pointer_stride, s.pointer.data());
}

/// Activations: which of them are no zeros, and code − pad [K, kN] of kN vectors after the other.
/// Returns how many vectors there are.
template <int kN>
inline int take_activations(const MatMul &f, int batch, const Memories &m, EieSpace &s) {
  Walk<MatMul> walk;
  walk.begin(f, batch);
  const int vectors = walk.at.count(), k = s.inputs;
  s.active.assign(std::size_t(vectors) * std::size_t(k), 0);
  s.met.assign(std::size_t(k), 0);
  s.x.assign(std::size_t((vectors + kN - 1) / kN * kN) * std::size_t(k), 0);
  for (int v = 0; v < vectors; ++v, walk.next_position()) {
    if (!walk.inside()) continue;
    int address = walk.address();
    std::uint8_t *active = &s.active[std::size_t(v) * std::size_t(k)], *met = s.met.data();
    std::int32_t *x = s.x.data() + std::ptrdiff_t(v / kN) * kN * k + v % kN;
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
inline int multiply_pe(const EieSpace &s, int p, int rows, const std::int32_t *x,
                       std::int32_t *sums) {
  const std::uint8_t *first = s.entries.data() + s.entry_stride * p, *entry = first;
  const std::uint16_t *pointer = s.pointer.data() + p * s.pointer_stride;
  std::int16_t codebook[kEieCodes];
  std::copy_n(s.codebook, kEieCodes, codebook);
  std::fill_n(sums, rows * kN, 0);
  for (int j = 0; j < s.inputs; ++j, x += kN) {
    if (s.met[std::size_t(j)] == 0) continue;
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
inline void multiply_all(const MatMul &f, int vectors, EieSpace &s, Memories &m, Fault &fault) {
  s.sums.resize(std::size_t(kEieOutputs) * kN);
  int bad_row = -1;
  for (int p = 0; p < kEiePes; ++p)
    for (int first = 0; first < vectors; first += kN) {
      const int rows = EieEngine::rows_of(int(f.tiles), p);
      const std::int32_t *x = s.x.data() + std::ptrdiff_t(first) * s.inputs, *sums = s.sums.data();
      const int bad = multiply_pe<kN, kCoded>(s, p, rows, x, s.sums.data());
      const int row = s.header + ((bad + 1) * s.bytes - 1) * kEieGroups + p / kCols;
      if (bad >= 0 && (bad_row < 0 || row < bad_row)) bad_row = row;
      for (int t = p / kCols; t < int(f.tiles); t += kEieGroups, sums += kN)
        for (int v = 0; v < std::min(vectors - first, kN); ++v)
          m.finished[t * vectors + first + v][p % kCols] = sums[v];
    }
  if (bad_row >= 0) fault.raise(bad_row);
}
template <int kN>
inline void multiply(const MatMul &f, int batch, EieSpace &s, Memories &m, Fault &fault) {
  const int vectors = take_activations<kN>(f, batch, m, s);
  if (f.codes != 0)
    multiply_all<kN, true>(f, vectors, s, m, fault);
  else
    multiply_all<kN, false>(f, vectors, s, m, fault);
}

/// Clocks of one vector (host/weft/units/eie.py: vector_clocks).
inline std::int64_t vector_clocks(const MatMul &f, const EieSpace &s, const std::uint8_t *active) {
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
  static thread_local EieSpace s;
  take_eie(f, weights, s, fault);
  EieLoader loader;
  loader.begin(f);
  counters.weight_shift += loader.clocks(f);
  if (fault.status != kDone) return;
  sort_layer(s);
  Walk<MatMul> walk;
  walk.begin(f, batch);
  const int vectors = walk.at.count();
  if (vectors == 1)
    multiply<1>(f, batch, s, m, fault);
  else if (vectors <= 16)
    multiply<16>(f, batch, s, m, fault);
  else
    multiply<64>(f, batch, s, m, fault);
  for (int v = 0; v < vectors; ++v)
    counters.matrix += vector_clocks(f, s, &s.active[std::size_t(v) * std::size_t(s.inputs)]);
  counters.drain += vectors * (kEieBypass + int(f.tiles));
}

}  // namespace functional
}  // namespace weft
