/// The weight stream of a compressed layer, byte by byte, kept from run to run.
///
/// A program runs again and again with the same weights: what an engine has unpacked of them stays,
/// as long as every byte and the key of the instruction are those of the run before. Simulation
/// only.
#pragma once
#include <array>
#include <cstdint>
#include <cstring>
#include <list>
#include <type_traits>
#include <vector>

#include "sim/packed.hpp"

namespace weft {
namespace functional {

/// Memory rows of a MatMul where they lie together and nothing has to be decoded, else null. They
/// count as taken.
inline const std::int8_t *raw_rows(const MatMul &f, WeightStream &weights) {
  Waiting &all = waiting();
  if (!weights.empty() || all.reads.empty()) return nullptr;
  const ReadWeights next = ReadWeights::decode(all.reads.front());
  if (next.format != 0 || next.matvec != 0 || next.rows != f.rows) return nullptr;
  return all.rows(ReadWeights::decode(all.next()));
}

/// Weights that are not 0, output by output. `Column` holds the number of an input.
template <typename Column> struct SparseRows {
  struct Item {
    Column column;
    std::conditional_t<sizeof(Column) == 2, std::int16_t, std::int32_t> value;
  };
  std::vector<Item> items;
  std::vector<std::size_t> first = {0};  // item of each output, and behind the last

  void clear() {
    items.clear();
    first.assign(1, 0);
  }
  void put(int column, int value) {
    items.push_back({Column(column), decltype(Item::value)(value)});
  }
  void end_output() { first.push_back(items.size()); }
  int outputs() const { return int(first.size()) - 1; }

  /// Sums of one output for kN vectors `x` [inputs, kN]; they wrap.
  template <int kN> void sums(int output, const std::int32_t *x, std::uint32_t (&total)[kN]) const {
    const Item *item = items.data() + first[std::size_t(output)];
    const Item *end = items.data() + first[std::size_t(output) + 1];
    std::uint32_t even[kN] = {}, odd[kN] = {};  // two chains of additions
    for (; item + 2 <= end; item += 2) {
      add(item[0], x, even);
      add(item[1], x, odd);
    }
    if (item != end) add(item[0], x, even);
    for (int i = 0; i < kN; ++i) total[i] = even[i] + odd[i];
  }

 private:
  template <int kN>
  static void add(const Item &item, const std::int32_t *x, std::uint32_t (&acc)[kN]) {
    const std::int32_t *row = x + std::size_t(item.column) * kN;
    const std::uint32_t w = std::uint32_t(std::int32_t(item.value));
    for (int i = 0; i < kN; ++i) acc[i] += w * std::uint32_t(row[i]);
  }
};

/// What of an instruction decides how its stream is unpacked.
using LayerKey = std::array<std::int64_t, 8>;

/// Unpacked layers; the least recently used one makes room.
template <typename Layer> class KeptLayers {
  static constexpr std::size_t kMost = 32;            // layers,
  static constexpr std::size_t kMostBytes = 1 << 26;  // and bytes of their streams
  struct Kept {
    LayerKey key;
    bool whole;  // what was unpacked of it may be used
    std::vector<std::uint8_t> bytes;
    Layer layer;
  };
  std::list<Kept> kept_;
  std::vector<std::uint8_t> taken_;

  static bool same(const Kept &k, const LayerKey &key, const std::uint8_t *bytes,
                   std::size_t count) {
    return k.whole && k.key == key && k.bytes.size() == count &&
           (count == 0 || std::memcmp(k.bytes.data(), bytes, count) == 0);
  }
  void make_room() {
    std::size_t bytes = 0, layers = 0;
    for (auto at = kept_.begin(); at != kept_.end(); ++at) {
      bytes += at->bytes.size();
      if (++layers > 1 && (layers > kMost || bytes > kMostBytes)) {
        kept_.erase(at, kept_.end());
        return;
      }
    }
  }

 public:
  /// The rows of a MatMul from the stream; unpack(layer, bytes) is called where they are new, and
  /// says whether the layer may be used again.
  template <typename Unpack>
  Layer &take(const MatMul &f, const LayerKey &key, WeightStream &weights, Unpack unpack) {
    const std::size_t count = std::size_t(f.rows) * kCols;
    const std::int8_t *raw = raw_rows(f, weights);
    const std::uint8_t *bytes = reinterpret_cast<const std::uint8_t *>(raw);
    if (raw == nullptr) {
      taken_.resize(count);
      std::uint8_t *to = taken_.data();
      for (UInt<32> row = 0; row < f.rows; ++row) {
        const TileWord word = weights.read();
        for (int c = 0; c < kCols; ++c) *to++ = std::uint8_t(word[c]);
      }
      bytes = taken_.data();
    }
    for (auto at = kept_.begin(); at != kept_.end(); ++at) {
      if (!same(*at, key, bytes, count)) continue;
      kept_.splice(kept_.begin(), kept_, at);
      return kept_.front().layer;
    }
    kept_.emplace_front();
    Kept &made = kept_.front();
    made.key = key;
    made.bytes.assign(bytes, bytes + count);
    made.whole = unpack(made.layer, made.bytes);
    make_room();
    return made.layer;
  }
};

}  // namespace functional
}  // namespace weft
