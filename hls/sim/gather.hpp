/// The gather engine for the functional simulation: weight by weight instead of clock by clock.
/// Sums, clocks and faults are those of units/gather_tree.hpp, which tests hold.
#pragma once
#include <algorithm>
#include <vector>

#include "units/gather_tree.hpp"

namespace weft {
namespace functional {

/// Activations [K, kGatherRows] as numbers, rows that there are not 0.
inline void gather_rows(const MatMul &f, int rows, const GatherRows &at, const Memories &m,
                        std::vector<std::int32_t> &x) {
  x.assign(std::size_t(f.blocks) * kRows * kGatherRows, 0);
  const Word pad = filled(f.pad);
  for (int row = 0; row < rows; ++row)
    for (int block = 0; block < int(f.blocks); ++block) {
      const unsigned address = at.address[row] + unsigned(block) * unsigned(f.source_block);
      const Word word = at.inside[row] ? m.buffer.read(int(address)) : pad;
      std::int32_t *to = x.data() + std::size_t(block) * kRows * kGatherRows + std::size_t(row);
      for (int lane = 0; lane < kRows; ++lane) to[lane * kGatherRows] = word[lane];
    }
}

/// When rows come and windows pass: the recurrence of host/weft/units/gather.py.
struct GatherClocks {
  Int<64> free, now, matrix, done[2];
  std::vector<Int<64>> arrival;  // of rows of values

  void begin() {
    free = now = matrix = done[0] = done[1] = 0;
    arrival.clear();
  }
  Int<64> open(int packet, bool dense) {
    const Int<64> opened = std::max(free, done[packet & 1]);
    free = dense ? opened : opened + kBeats;
    return opened;
  }
  void row() {
    arrival.push_back(free);
    free += kBeats;
  }
  void window(Int<64> opened, int need, int rows) {
    const Int<64> there = need > 0 ? arrival[std::size_t(need - 1)] + 1 : Int<64>(0);
    now = std::max(std::max(now, Int<64>(opened + 1)), there) + rows;
    matrix += rows;
  }
  void close(int packet) { done[packet & 1] = now - 1; }
};

/// One MatMul on its way through the stream.
struct GatherRun {
  GatherFeed feed;
  GatherWalk at;
  GatherClocks clocks;
  MaskRows masks;
  Book book;
  std::vector<std::int32_t> x;
  std::vector<std::int16_t> values;  // of the rows that have come
  Int<64> used;                      // of them
  std::uint32_t sums[kGatherRows];   // wrap, as the hardware's do

  int counts[kMasks];  // weights of the packet's blocks

  /// Counts the bits of a row of masks; of blocks that are not there, too.
  int count(const Word &row) {
    int total = 0;
    for (int block = 0; block < kMasks; ++block) {
      counts[block] = 0;
      for (int i = 0; i < kRows / 8; ++i)
        counts[block] +=
            __builtin_popcount(unsigned(row[(block * kRows / 8 + i) & (kRows - 1)]) & 0xff);
      total += counts[block];
    }
    return total;
  }
  /// MaskRows::window.
  Window window(int first, int left) const {
    Window w = {0, 0};
    while (w.blocks < std::min(left, kGatherWindow) &&
           w.weights + counts[first + w.blocks] <= kRows)
      w.weights += counts[first + w.blocks++];
    return w;
  }
  void take(WeightStream &weights, Fault &fault) {
    const Word row = narrowed(feed.rows.next(weights, fault));
    for (int lane = 0; lane < kRows; ++lane) {
      const int byte = row[lane];
      if (!feed.nibbles) values.push_back(std::int16_t(byte));
      if (feed.nibbles) values.push_back(std::int16_t(book[byte & 15]));
      if (feed.nibbles) values.push_back(std::int16_t(book[(byte >> 4) & 15]));
    }
    clocks.row();
    ++feed.value_rows;
  }
  /// The rows of a packet; returns when it opened.
  Int<64> open(int packet, WeightStream &weights, Fault &fault) {
    const Int<64> opened = clocks.open(packet, feed.dense);
    int total = feed.blocks_of(packet) * kRows;
    if (!feed.dense) {
      const Word row = narrowed(feed.rows.next(weights, fault));
      put(masks.row[packet & 1], row);
      total = count(row);
      for (int block = feed.blocks_of(packet); block < kMasks; ++block)
        if (counts[block] != 0) fault.raise(feed.rows.number() - 1);
    }
    feed.weights += total;
    for (int left = feed.rows_of(feed.weights) - feed.value_rows; left > 0; --left)
      take(weights, fault);
    return opened;
  }
  /// The weights of one channel block, whose activations begin at row k.
  void multiply(int packet, int block, int k) {
    std::uint32_t acc[kGatherRows];  // of its own, so that the compiler sees vectors
    std::copy(sums, sums + kGatherRows, acc);
    const std::int16_t *weight = values.data() + std::size_t(used);
    const std::int32_t *from = x.data() + std::size_t(k) * kGatherRows;
    const auto add = [&](int lane) {
      const std::uint32_t w = std::uint32_t(std::int32_t(*weight++));
      const std::int32_t *row = from + lane * kGatherRows;
      for (int i = 0; i < kGatherRows; ++i) acc[i] += w * std::uint32_t(row[i]);
    };
    const Int<8> *bytes = masks.row[packet & 1] + block * kRows / 8;
    for (int lane = 0; feed.dense && lane < kRows; ++lane) add(lane);
    for (int byte = 0; !feed.dense && byte < kRows / 8; ++byte)
      for (unsigned bits = unsigned(bytes[byte]) & 0xff; bits != 0; bits &= bits - 1)
        add(byte * 8 + __builtin_ctz(bits));
    used = weight - values.data();
    std::copy(acc, acc + kGatherRows, sums);
  }
  void finish(Memories &m) {
    for (int row = 0; row < at.rows; ++row) {
      m.finished[at.tile * at.rows + row][at.column] = std::int32_t(sums[row]);
      sums[row] = 0;
    }
    at.column = at.column == kCols - 1 ? 0 : at.column + 1;
    if (at.column == 0) ++at.tile;
  }
  void pass(int packet, Int<64> opened, Memories &m) {
    const int blocks = feed.blocks_of(packet);
    for (int block = 0; block < blocks;) {
      const int left = std::min(blocks - block, at.out_blocks - at.out_block);
      const Window w = feed.dense ? Window{1, kRows} : window(block, left);
      clocks.window(opened, feed.rows_of(used + w.weights), at.rows);
      for (int q = 0; q < w.blocks; ++q) multiply(packet, block + q, (at.out_block + q) * kRows);
      block += w.blocks;
      at.out_block += w.blocks;
      if (at.out_block == at.out_blocks) {
        at.out_block = 0;
        finish(m);
      }
    }
    clocks.close(packet);
  }
};

inline void gather(const MatMul &f, int batch, Memories &m, WeightStream &weights,
                   Counters &counters, Fault &fault) {
  static thread_local GatherRun run;
  run.feed.begin(f);
  run.at.begin(f, batch);
  run.clocks.begin();
  run.values.clear();
  run.used = 0;
  for (std::uint32_t &sum : run.sums) sum = 0;
  GatherRows rows;
  rows.begin(f, batch);
  gather_rows(f, run.at.rows, rows, m, run.x);
  if (run.feed.nibbles) take_book(run.feed, weights, run.book, counters, fault);
  for (int packet = 0; packet < run.feed.packets; ++packet) {
    const Int<64> opened = run.open(packet, weights, fault);
    run.pass(packet, opened, m);
  }
  counters.matrix += run.clocks.matrix;
  counters.weight_shift += run.clocks.now - run.clocks.matrix;
  if (run.feed.rows.more()) fault.raise(run.feed.rows.number());
  run.feed.rows.discard(weights);
}

}  // namespace functional
}  // namespace weft
