/// The weight stream of the SNAP engine, read at once: items, bundles, and the clocks that the
/// hardware's loader takes (units/snap_load.hpp). Simulation only.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "units/snap.hpp"

namespace weft {
namespace functional {

/// The weights of a MatMul: items of an output one after another, and their bundles.
struct SnapStream {
  struct Item {
    std::int32_t pair;        // of channels side by side, of all bundles
    std::int16_t weights[2];  // of both
  };
  struct Entry {
    std::int32_t bundle;
    std::uint8_t mask[kSnapMaskBytes];
  };
  /// A byte of the mask of a bundle, not 0: row of SnapInput::mask, and whether it is the last one.
  struct MaskByte {
    std::uint32_t row;
    std::uint8_t mask;
    bool ends;
  };
  std::vector<MaskByte> masks;          // of each output's bundles in each column of PEs
  std::vector<std::size_t> first_mask;  // [outputs · columns], and behind the last
  std::vector<std::uint32_t> bundles;   // that there are in each
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
  void read(const MatMul &f, const SnapPlan &plan, const std::vector<std::uint8_t> &stream,
            Fault &fault) {
    const std::size_t rows = std::size_t(f.rows);
    bytes = stream;
    bytes.resize(rows * kCols + kSnapRecord);
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
    bytes = {};
    deal_masks();
  }

 private:
  /// Bundles to the columns of PEs.
  void deal_masks() {
    masks.clear(), first_mask.assign(1, 0), bundles.clear();
    for (std::size_t output = 0; output + 1 < first_entry.size(); ++output)
      for (int column = 0; column < kSnapCols; ++column) {
        bundles.push_back(0);
        for (std::size_t e = first_entry[output]; e < first_entry[output + 1]; ++e) {
          const Entry &entry = entries[e];
          if (entry.bundle % kSnapCols != column) continue;
          ++bundles.back();
          for (int b = 0; b < kSnapMaskBytes; ++b)
            if (entry.mask[b] != 0)
              masks.push_back(
                  {std::uint32_t(entry.bundle * kSnapMaskBytes + b), entry.mask[b], false});
          masks.back().ends = true;  // an entry has a weight
        }
        first_mask.push_back(masks.size());
      }
  }
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
      entry.mask[b] = record[1 + b];
      for (unsigned bits = record[1 + b]; bits != 0; bits &= bits - 1, ++count) {
        const int channel = bundle * kSnapBundle + 8 * b + __builtin_ctz(bits);
        const int code = coded ? value[count >> 1] >> (4 * (count & 1)) & 15 : value[count];
        const std::int16_t weight = coded ? book[code] : std::int16_t(std::int8_t(code));
        const bool joins = items.size() > first_item.back() && items.back().pair == channel / 2;
        if (!joins) items.push_back({channel / 2, {0, 0}});
        items.back().weights[channel % 2] = weight;
      }
    }
    if (count != 0) entries.push_back(entry);
  }
};

}  // namespace functional
}  // namespace weft
