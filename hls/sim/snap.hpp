/// The SNAP engine without its registers: sums by weights in columns of positions, matches by
/// counting bits, clocks by the same rules. Simulation only; tests hold it equal to units/snap.hpp.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "units/snap.hpp"

namespace weft {
namespace functional {

constexpr int kSnapMaskWords = (kSnapBundle + 31) / 32;
constexpr int kSnapChunk = 64;  // positions whose sums stay in registers

/// The weights of a MatMul: items of an output one after another, and their bundles.
struct SnapStream {
  struct Item {
    std::int32_t channel, value;  // of all bundles
  };
  struct Entry {
    std::int32_t bundle;
    std::uint32_t mask[kSnapMaskWords];
  };
  std::vector<std::uint8_t> bytes;
  std::vector<Item> items;
  std::vector<Entry> entries;
  std::vector<std::size_t> first_item, first_entry;  // of each output, and behind the last
  std::vector<std::int64_t> clocks;                  // to load each block
  std::vector<std::size_t> ends;                     // of a block's header and records, in bytes
  std::vector<std::int64_t> left, entered;           // clocks: of these, and of its rows
  std::int16_t book[kSnapCodes];
  bool coded;

  /// Reads all rows; raises where they contradict themselves, as the hardware does.
  void read(const MatMul &f, const SnapPlan &plan, Stream<TileWord> &weights, Fault &fault) {
    const std::size_t rows = std::size_t(f.rows);
    bytes.resize(rows * kCols + kSnapRecord);
    for (std::size_t r = 0; r < rows; ++r) {
      const TileWord row = weights.read();
      for (int c = 0; c < kCols; ++c) bytes[r * kCols + std::size_t(c)] = std::uint8_t(row[c]);
    }
    coded = (f.codes & 1) != 0;
    items.clear(), entries.clear(), first_item.clear(), first_entry.clear(), clocks.clear();
    std::size_t row = coded ? kSnapBookRows : 0;
    if (row > rows) return fault.raise(int(rows));
    for (int i = 0; coded && i < kSnapCodes; ++i)
      book[i] = std::int16_t(bytes[std::size_t(2 * i)] | bytes[std::size_t(2 * i + 1)] << 8);
    for (int block = 0; block < plan.blocks; ++block)
      if (!read_block(plan, plan.present(block), row, rows, fault)) return;
    first_item.push_back(items.size());
    first_entry.push_back(entries.size());
    if (row < rows) fault.raise(int(row));
  }

 private:
  bool read_block(const SnapPlan &plan, int outputs, std::size_t &row, std::size_t rows,
                  Fault &fault) {
    if (row >= rows) return fail(rows, fault);
    const std::uint8_t *head = bytes.data() + row * kCols;
    const std::size_t count = std::size_t(head[0]) | std::size_t(head[1]) << 8 |
                              std::size_t(head[2]) << 16 | std::size_t(head[3] & 0x7f) << 24;
    if (count == 0 || count > rows - row) return fail(row, fault);
    std::size_t at = row * kCols + kSnapBlockHeader;
    const std::size_t end = (row + count) * kCols;
    ends.assign(1, kSnapBlockHeader);
    for (int output = 0; output < outputs; ++output) {
      first_item.push_back(items.size());
      first_entry.push_back(entries.size());
      for (int bundle = -1, last = 0; last == 0;) {
        const std::uint8_t *record = bytes.data() + at;
        if (at + kSnapHeader > end) return fail(end / kCols, fault);
        const std::size_t next = at + std::size_t(length_of(record));
        if (next > end) return fail(end / kCols, fault);
        bundle += (record[0] & 0x7f) + 1;
        if (bundle >= plan.bundles) return fail(at / kCols, fault);
        last = record[0] & 0x80;
        put(record, bundle);
        ends.push_back(next - row * kCols);
        at = next;
      }
    }
    clocks.push_back(block_clocks());
    const std::size_t used = (at + kCols - 1) / kCols;
    if (used != row + count) return fail(used, fault);
    row = used;
    return true;
  }
  /// Clocks of a block: a record leaves the window per clock, a row enters where there is room.
  std::int64_t block_clocks() {
    left.assign(1, 1), entered.assign(1, 0);
    std::size_t makes_room = 0;  // the record that does, for the next row
    for (std::size_t i = 1; i < ends.size(); ++i) {
      const std::size_t row = (ends[i] - 1) / kCols;
      while (entered.size() <= row) {
        while (ends[makes_room] + kSnapRecord <= entered.size() * kCols) ++makes_room;
        entered.push_back(std::max(entered.back() + 1, left[makes_room]));
      }
      left.push_back(std::max(left.back(), entered[row]) + 1);
    }
    return left.back() + 1;
  }
  static bool fail(std::size_t row, Fault &fault) {
    fault.raise(int(row));
    return false;
  }
  int length_of(const std::uint8_t *record) const {
    int count = 0;
    for (int i = 0; i < kSnapMaskBytes; ++i) count += __builtin_popcount(record[1 + i]);
    return kSnapHeader + (coded ? (count + 1) / 2 : count);
  }
  void put(const std::uint8_t *record, int bundle) {
    Entry entry = {bundle, {}};
    const std::uint8_t *value = record + kSnapHeader;
    int count = 0;
    for (int b = 0; b < kSnapMaskBytes; ++b) {
      entry.mask[b / 4] |= std::uint32_t(record[1 + b]) << (8 * (b % 4));
      for (unsigned bits = record[1 + b]; bits != 0; bits &= bits - 1, ++count) {
        const int channel = bundle * kSnapBundle + 8 * b + __builtin_ctz(bits);
        const int code = coded ? value[count >> 1] >> (4 * (count & 1)) & 15 : value[count];
        items.push_back({channel, coded ? book[code] : std::int8_t(code)});
      }
    }
    if (count != 0) entries.push_back(entry);
  }
};

/// Activations of all positions: values [channels of all bundles][positions], and masks
/// [bundles][words][positions] of those that are not 0. Positions are padded to whole chunks.
struct SnapInput {
  std::vector<std::int16_t> value;
  std::vector<std::uint32_t> mask;
  std::size_t width;

  void gather(const MatMul &f, int batch, const SnapPlan &plan, const Memories &m) {
    width = std::size_t(ceil_div(plan.positions, kSnapChunk) * kSnapChunk);
    value.assign(std::size_t(plan.bundles) * kSnapBundle * width, 0);
    mask.assign(std::size_t(plan.bundles) * kSnapMaskWords * width, 0);
    Walk<MatMul> walk;
    walk.begin(f, batch);
    const int pad = int(f.pad);
    for (int fold = 0; fold < int(f.blocks) * walk.taps(); ++fold) {
      const int bundle = walk.tap() * plan.per_tap + walk.block / kSnapWords;
      const int channel = walk.block % kSnapWords * kRows;
      std::int16_t *to = value.data() + std::size_t(bundle * kSnapBundle + channel) * width;
      std::uint32_t *bits = mask.data() + std::size_t(bundle * kSnapMaskWords) * width;
      for (std::size_t row = 0; row < std::size_t(plan.positions); ++row) {
        if (walk.inside()) {
          const Word word = m.buffer.read(walk.address());
          for (int i = 0; i < kRows; ++i) {
            const int x = int(word[i]) - pad, at = channel + i;
            to[std::size_t(i) * width + row] = std::int16_t(x);
            bits[std::size_t(at / 32) * width + row] |= std::uint32_t(x != 0) << (at % 32);
          }
        }
        walk.next_position();
      }
      walk.next_fold();
    }
  }
};

/// Sums of an output, a chunk of positions at a time.
inline void snap_sums(const SnapStream &stream, std::size_t output, const SnapInput &x,
                      std::int32_t *sums) {
  for (std::size_t chunk = 0; chunk < x.width; chunk += kSnapChunk) {
    std::uint32_t acc[kSnapChunk] = {};
    for (std::size_t i = stream.first_item[output]; i < stream.first_item[output + 1]; ++i) {
      const SnapStream::Item item = stream.items[i];
      const std::int16_t *in = x.value.data() + std::size_t(item.channel) * x.width + chunk;
      for (int r = 0; r < kSnapChunk; ++r) acc[r] += std::uint32_t(item.value * in[r]);
    }
    for (int r = 0; r < kSnapChunk; ++r) sums[chunk + std::size_t(r)] = std::int32_t(acc[r]);
  }
}

/// Clocks of a PE for an output at every position: `taken`, at least 1.
inline void snap_taken(const SnapStream &stream, std::size_t output, int column, const SnapInput &x,
                       std::uint32_t *taken, std::uint32_t *left) {
  std::fill(taken, taken + x.width, 0u);
  std::fill(left, left + x.width, 0u);
  for (std::size_t e = stream.first_entry[output]; e < stream.first_entry[output + 1]; ++e) {
    const SnapStream::Entry &entry = stream.entries[e];
    if (entry.bundle % kSnapCols != column) continue;
    const std::uint32_t *bits =
        x.mask.data() + std::size_t(entry.bundle * kSnapMaskWords) * x.width;
    for (std::size_t r = 0; r < x.width; ++r) {
      std::uint32_t waiting = left[r];
      for (std::size_t w = 0; w < kSnapMaskWords; ++w)
        waiting += std::uint32_t(__builtin_popcount(bits[w * x.width + r] & entry.mask[w]));
      const std::uint32_t rest = std::max(waiting, std::uint32_t(kSnapMacs)) - kSnapMacs;
      taken[r] += 1 + rest / kSnapMacs;
      left[r] = rest % kSnapMacs;
    }
  }
  for (std::size_t r = 0; r < x.width; ++r)
    taken[r] = std::max(taken[r] + (left[r] != 0 ? 1u : 0u), 1u);
}

/// Clocks of the stages, of which each PE's work is known: when each begins, and what it is.
inline void snap_count(const MatMul &f, const SnapPlan &plan, const SnapStream &stream,
                       const std::vector<std::int64_t> &work, Counters &counters) {
  const std::int64_t words = Int<64>(f.kernel_h) * Int<64>(f.kernel_w) * Int<64>(f.blocks);
  const std::size_t pes = kSnapUnits * kSnapCols;
  std::int64_t start = std::max(stream.clocks[0], words * plan.positions_of(0));
  std::int64_t before = 0, busy = 0, weights = 0;
  for (int block = 0; block < plan.blocks; ++block) {
    const bool more = block + 1 < plan.blocks;
    for (int stage = 0; stage < plan.groups; ++stage) {
      const std::int64_t *first = work.data() + std::size_t(block * plan.groups + stage) * pes;
      const std::int64_t takes = 1 + *std::max_element(first, first + pes);
      const bool last = stage == plan.groups - 1;
      if (stage == 0 && more) weights = start + stream.clocks[std::size_t(block) + 1];
      const std::int64_t load = last && !more ? 0 : words * plan.positions_of(last ? 0 : stage + 1);
      start += std::max(std::max(takes, before), load);
      if (last && more) start = std::max(start, weights);
      before = std::int64_t(plan.positions_of(stage)) * plan.slots_of(block, 0) *
               ceil_div(kSnapUnits, kCols);
      busy += takes;
    }
  }
  counters.matrix += busy;
  counters.drain += before;
  counters.weight_shift += start - busy + (stream.coded ? kSnapBookRows : 0);
}

inline void snap(const MatMul &f, int batch, Memories &m, Stream<TileWord> &weights,
                 Counters &counters, Fault &fault) {
  static thread_local SnapStream stream;
  static thread_local SnapInput input;
  SnapPlan plan;
  plan.begin(f, batch);
  Fault own = fault;
  own.status = kDone;
  stream.read(f, plan, weights, own);
  if (fault.status == kDone) fault = own;
  if (own.status != kDone) return;
  input.gather(f, batch, plan, m);
  std::vector<std::int32_t> sums(input.width);
  std::vector<std::uint32_t> taken(input.width), left(input.width);
  std::vector<std::int64_t> work(std::size_t(plan.blocks * plan.groups) * kSnapUnits * kSnapCols);
  for (int n = 0; n < plan.outputs; ++n) {
    snap_sums(stream, std::size_t(n), input, sums.data());
    for (int r = 0; r < plan.positions; ++r)
      m.finished[n / kCols * plan.positions + r][n % kCols] = sums[std::size_t(r)];
    const int block = n / (plan.slots * kSnapUnits), unit = n % kSnapUnits;
    for (int j = 0; j < kSnapCols; ++j) {
      snap_taken(stream, std::size_t(n), j, input, taken.data(), left.data());
      for (int stage = 0, r = 0; stage < plan.groups; ++stage) {
        std::int64_t &pe =
            work[std::size_t((block * plan.groups + stage) * kSnapUnits + unit) * kSnapCols +
                 std::size_t(j)];
        for (const int end = r + plan.positions_of(stage); r < end; ++r)
          pe += taken[std::size_t(r)];
      }
    }
  }
  snap_count(f, plan, stream, work, counters);
}

}  // namespace functional
}  // namespace weft
