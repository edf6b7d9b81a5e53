/// The gather engine for the functional simulation: weight by weight instead of clock by clock.
/// Sums, clocks and faults are those of units/gather_tree.hpp, which tests hold.
#pragma once
#include <algorithm>
#include <vector>

#include "sim/layer.hpp"
#include "units/gather_tree.hpp"

namespace weft {
namespace functional {

/// Activations [K, kN] as numbers, of rows that are not there 0.
template <int kN>
inline void gather_rows(const MatMul &f, int rows, const GatherRows &at, const Memories &m,
                        std::vector<std::int32_t> &x) {
  x.assign(std::size_t(f.blocks) * kRows * kN, 0);
  const Word pad = filled(f.pad);
  for (int row = 0; row < rows; ++row)
    for (int block = 0; block < int(f.blocks); ++block) {
      const unsigned address = at.address[row] + unsigned(block) * unsigned(f.source_block);
      const Word word = at.inside[row] ? m.buffer.read(int(address)) : pad;
      std::int32_t *to = x.data() + std::size_t(block) * kRows * kN + std::size_t(row);
      for (int lane = 0; lane < kRows; ++lane) to[lane * kN] = word[lane];
    }
}

/// A layer as it was unpacked: weights, and the clocks that it takes.
struct GatherLayer {
  SparseRows<std::uint32_t> weights;
  Int<64> matrix, weight_shift;
};

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

/// One layer on its way through the stream.
struct GatherRun {
  GatherFeed feed;
  GatherWalk at;
  GatherClocks clocks;
  MaskRows masks;
  Book book;
  std::vector<std::int16_t> values;  // of the rows that have come
  Int<64> used;                      // of them
  SparseRows<std::uint32_t> *out;

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
  void take_block(int packet, int block, int k) {
    const std::int16_t *weight = values.data() + std::size_t(used);
    const Int<8> *bytes = masks.row[packet & 1] + block * kRows / 8;
    for (int lane = 0; feed.dense && lane < kRows; ++lane) out->put(k + lane, *weight++);
    for (int byte = 0; !feed.dense && byte < kRows / 8; ++byte)
      for (unsigned bits = unsigned(bytes[byte]) & 0xff; bits != 0; bits &= bits - 1)
        out->put(k + byte * 8 + __builtin_ctz(bits), *weight++);
    used = weight - values.data();
  }
  void pass(int packet, Int<64> opened) {
    const int blocks = feed.blocks_of(packet);
    for (int block = 0; block < blocks;) {
      const int left = std::min(blocks - block, at.out_blocks - at.out_block);
      const Window w = feed.dense ? Window{1, kRows} : window(block, left);
      clocks.window(opened, feed.rows_of(used + w.weights), at.rows);
      for (int q = 0; q < w.blocks; ++q) take_block(packet, block + q, (at.out_block + q) * kRows);
      block += w.blocks;
      at.out_block += w.blocks;
      if (at.out_block == at.out_blocks) {
        at.out_block = 0;
        out->end_output();
      }
    }
    clocks.close(packet);
  }
};

/// Unpacks the rows of a MatMul of `rows` rows of activations; raises where they contradict
/// themselves.
inline void unpack_gather(const MatMul &f, int batch, const std::vector<std::uint8_t> &bytes,
                          GatherLayer &layer, Fault &fault) {
  static thread_local GatherRun run;
  static thread_local WeightStream stream("rows", 0);
  stream.begin();
  for (std::size_t at = 0; at < bytes.size(); at += kCols) {
    Word row;
    for (int c = 0; c < kCols; ++c) row[c] = std::int8_t(bytes[at + std::size_t(c)]);
    stream.write(widened(row));
  }
  layer.weights.clear();
  run.out = &layer.weights;
  run.feed.begin(f);
  run.at.begin(f, batch);
  run.clocks.begin();
  run.values.clear();
  run.used = 0;
  Counters book;
  book.clear();
  if (run.feed.nibbles) take_book(run.feed, stream, run.book, book, fault);
  for (int packet = 0; packet < run.feed.packets; ++packet) {
    const Int<64> opened = run.open(packet, stream, fault);
    run.pass(packet, opened);
  }
  layer.matrix = run.clocks.matrix;
  layer.weight_shift = run.clocks.now - run.clocks.matrix + book.weight_shift;
  if (run.feed.rows.more()) fault.raise(run.feed.rows.number());
}

/// Sums of all outputs, tile by tile.
template <int kN>
inline void multiply_gather(const MatMul &f, int batch, int rows, const GatherLayer &layer,
                            Memories &m) {
  static thread_local std::vector<std::int32_t> x;
  GatherRows at;
  at.begin(f, batch);
  gather_rows<kN>(f, rows, at, m, x);
  for (int output = 0; output < layer.weights.outputs(); ++output) {
    std::uint32_t sums[kN];
    layer.weights.sums<kN>(output, x.data(), sums);
    for (int row = 0; row < rows; ++row)
      m.finished[output / kCols * rows + row][output % kCols] = std::int32_t(sums[row]);
  }
}

inline void gather(const MatMul &f, int batch, Memories &m, WeightStream &weights,
                   Counters &counters, Fault &fault) {
  static thread_local KeptLayers<GatherLayer> layers;
  const int rows = batch * int(f.out_h) * int(f.out_w);
  Fault own = fault;
  own.status = kDone;
  const LayerKey key = {int(f.blocks), int(f.tiles), int(f.codes), rows};
  const GatherLayer &layer =
      layers.take(f, key, weights, [&](GatherLayer &made, const std::vector<std::uint8_t> &bytes) {
        unpack_gather(f, batch, bytes, made, own);
        return own.status == kDone;
      });
  if (fault.status == kDone) fault = own;
  if (rows == 1)
    multiply_gather<1>(f, batch, rows, layer, m);
  else
    multiply_gather<kGatherRows>(f, batch, rows, layer, m);
  counters.matrix += layer.matrix;
  counters.weight_shift += layer.weight_shift;
}

}  // namespace functional
}  // namespace weft
