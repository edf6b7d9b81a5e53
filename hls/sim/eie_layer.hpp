/// The weight stream of the EIE engine, checked and sorted: PE by PE, and output by output.
/// Simulation only.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "sim/layer.hpp"
#include "units/eie.hpp"

namespace weft {
namespace functional {

/// A layer as it was unpacked.
struct EieLayer {
  std::vector<std::uint8_t> rows;      // the stream, byte by byte, until it is sorted
  std::vector<std::uint8_t> entries;   // [P, entry_stride]
  std::vector<std::uint16_t> ends;     // [K + 1, P] pointers
  std::vector<std::uint16_t> pointer;  // [P, pointer_stride]
  std::vector<std::int32_t> cost;      // [K, P] clocks of a column
  std::int16_t codebook[kEieCodes];
  std::int64_t count;  // entries of a PE
  int entry_stride, pointer_stride;
  int inputs, bytes, header;
  SparseRows<std::uint16_t> by_output;  // once one vector wants it; empty where entries are bad
  bool sorted = false;                  // `by_output` is what it will be
};

inline std::int16_t halfword(const std::uint8_t *p) { return std::int16_t(p[0] | p[1] << 8); }

/// Takes the rows of a MatMul and checks them in their order.
inline void take_eie(const MatMul &f, const std::vector<std::uint8_t> &stream, EieLayer &s,
                     Fault &fault) {
  EieLoader loader;
  loader.begin(f);
  s.inputs = loader.inputs, s.bytes = loader.entry_bytes, s.count = std::int64_t(loader.entries);
  s.header = int(loader.header(f));
  const std::int64_t row_bytes = kEieGroups * s.bytes, all = s.header + s.count * row_bytes;
  s.rows = stream;
  s.rows.resize(std::size_t(all * kCols), 0);
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
inline void sort_layer(EieLayer &s) {
  s.entry_stride = in_blocks(s.count * s.bytes), s.pointer_stride = in_blocks(s.inputs + 1);
  s.rows.resize(std::size_t(s.header * kCols + s.entry_stride * kEiePes));
  s.entries.resize(std::size_t(s.entry_stride * kEiePes));
  by_pe(s.rows.data() + s.header * kCols, s.entry_stride, s.entries.data());
  s.ends.resize(std::size_t(s.pointer_stride * kEiePes));
  s.pointer.resize(std::size_t(s.pointer_stride * kEiePes));
  by_pe(s.ends.data(), s.pointer_stride, s.pointer.data());
  s.rows = {};
}

/// The weights output by output, for one vector; none where an entry leaves its PE's outputs.
inline void sort_by_output(const MatMul &f, EieLayer &s) {
  const int outputs = int(f.tiles) * kCols, step = s.bytes;
  std::vector<std::vector<SparseRows<std::uint16_t>::Item>> found(
      static_cast<std::size_t>(outputs));
  s.sorted = true;
  s.by_output.clear();
  for (int p = 0; p < kEiePes; ++p) {
    const std::uint8_t *first = s.entries.data() + s.entry_stride * p;
    const std::uint16_t *pointer = s.pointer.data() + p * s.pointer_stride;
    for (int j = 0; j < s.inputs; ++j) {
      int row = -1;
      for (int i = pointer[j]; i < pointer[j + 1]; ++i) {
        const std::uint8_t *entry = first + i * step;
        row += 1 + (step == 1 ? entry[0] >> 4 : int(entry[1]));
        if (row >= EieEngine::rows_of(int(f.tiles), p)) return;
        const int value = step == 1 ? s.codebook[entry[0] & 15] : std::int8_t(entry[0]);
        if (value != 0)
          found[std::size_t(row * kEiePes + p)].push_back({std::uint16_t(j), std::int16_t(value)});
      }
    }
  }
  for (const auto &output : found) {
    for (const auto &item : output) s.by_output.items.push_back(item);
    s.by_output.end_output();
  }
}

}  // namespace functional
}  // namespace weft
