/// The SNAP engine without its registers: sums by weights in columns of positions, matches by
/// counting bits, clocks by the same rules. Simulation only; tests hold it equal to units/snap.hpp.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "sim/gemm.hpp"
#include "sim/snap_stream.hpp"

namespace weft {
namespace functional {

constexpr int kSnapChunk = 32;  // positions whose sums stay in registers
constexpr int kSnapSpan = 256;  // positions whose matches are counted together, in whole chunks

// Of a PE for an output, beyond one per bundle.
constexpr int kSnapMostClocks = kSnapDepth * (kSnapBundle / kSnapMacs + 1);

/// Activations of all positions: values [pairs of channels][positions][2], and masks
/// [bundles][bytes][positions] of those that are not 0. Positions are padded to whole chunks.
struct SnapInput {
  std::vector<std::int16_t> value;
  std::vector<std::uint8_t> mask;
  std::size_t width;

  void gather(const MatMul &f, int batch, const SnapPlan &plan, const Memories &m) {
    width = std::size_t(ceil_div(plan.positions, kSnapChunk) * kSnapChunk);
    value.assign(std::size_t(plan.bundles) * kSnapBundle * width, 0);
    mask.assign(std::size_t(plan.bundles) * kSnapMaskBytes * width, 0);
    Walk<MatMul> walk;
    walk.begin(f, batch);
    const int pad = int(f.pad);
    for (int fold = 0; fold < int(f.blocks) * walk.taps(); ++fold) {
      const int bundle = walk.tap() * plan.per_tap + walk.block / kSnapWords;
      const int channel = walk.block % kSnapWords * kRows;
      std::int16_t *to = value.data() + std::size_t(bundle * kSnapBundle + channel) * width;
      std::uint8_t *bits = mask.data() + std::size_t(bundle * kSnapMaskBytes) * width;
      for (std::size_t row = 0; row < std::size_t(plan.positions); ++row) {
        if (walk.inside()) {
          const Word word = m.buffer.read(walk.address());
          for (int i = 0; i < kRows; ++i) {
            const int x = int(word[i]) - pad, at = channel + i;
            to[std::size_t(i / 2) * 2 * width + 2 * row + std::size_t(i % 2)] = std::int16_t(x);
            bits[std::size_t(at / 8) * width + row] |= std::uint8_t(int(x != 0) << (at % 8));
          }
        }
        walk.next_position();
      }
      walk.next_fold();
    }
  }
};

/// Sums of an output at a chunk of positions.
inline void snap_sums(const SnapStream &stream, std::size_t output, const SnapInput &x,
                      std::size_t chunk, std::uint32_t (&sums)[kSnapChunk]) {
  const SnapStream::Item *first = stream.items.data() + stream.first_item[output];
  const SnapStream::Item *end = stream.items.data() + stream.first_item[output + 1];
#ifdef __AVX2__
  __m256i acc[kSnapChunk / 8] = {};
  for (const SnapStream::Item *item = first; item != end; ++item) {
    std::int32_t both;
    std::memcpy(&both, item->weights, sizeof both);
    const __m256i w = _mm256_set1_epi32(both);
    const std::int16_t *in = x.value.data() + 2 * (std::size_t(item->pair) * x.width + chunk);
    for (int i = 0; i < kSnapChunk / 8; ++i) {
      const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(in + 16 * i));
      acc[i] = _mm256_add_epi32(acc[i], _mm256_madd_epi16(v, w));
    }
  }
  std::memcpy(sums, acc, sizeof acc);
#else
  std::uint32_t acc[kSnapChunk] = {};
  for (const SnapStream::Item *item = first; item != end; ++item) {
    const std::int16_t *in = x.value.data() + 2 * (std::size_t(item->pair) * x.width + chunk);
    for (int r = 0; r < kSnapChunk; ++r)
      acc[r] += std::uint32_t(item->weights[0] * in[2 * r]) +
                std::uint32_t(item->weights[1] * in[2 * r + 1]);
  }
  std::memcpy(sums, acc, sizeof acc);
#endif
}

/// Common channels of a bundle of weights and one of activations, at `count` positions. Counts
/// bits in four bytes of a word at once, which every compiler vectorises.
inline void snap_matches(const SnapStream::Entry &entry, const SnapInput &x, std::size_t first,
                         std::size_t count, std::uint8_t *matches) {
  std::uint32_t total[kSnapSpan / 4] = {}, bits[kSnapSpan / 4];
  for (int b = 0; b < kSnapMaskBytes; ++b) {
    if (entry.mask[b] == 0) continue;
    const std::uint32_t mask = entry.mask[b] * 0x01010101u;
    const std::size_t at = std::size_t(entry.bundle * kSnapMaskBytes + b) * x.width + first;
    std::memcpy(bits, x.mask.data() + at, count);
    for (std::size_t i = 0; i < count / 4; ++i) {
      std::uint32_t v = bits[i] & mask;
      v -= (v >> 1) & 0x55555555u;
      v = (v & 0x33333333u) + ((v >> 2) & 0x33333333u);
      total[i] += (v + (v >> 4)) & 0x0f0f0f0fu;
    }
  }
  std::memcpy(matches, total, count);
}

/// Clocks of a PE for an output at every position, at least 1, in `taken`.
inline void snap_taken(const SnapStream &stream, std::size_t output, int column, const SnapInput &x,
                       std::uint32_t *taken) {
  for (std::size_t first = 0; first < x.width; first += kSnapSpan) {
    const std::size_t count = std::min(x.width - first, std::size_t(kSnapSpan));
    std::uint16_t left[kSnapSpan] = {};
    std::conditional_t <
        kSnapMostClocks<(1 << 16), std::uint16_t, std::uint32_t> more[kSnapSpan] = {};
    std::uint32_t bundles = 0;  // a clock each at least
    for (std::size_t e = stream.first_entry[output]; e < stream.first_entry[output + 1]; ++e) {
      const SnapStream::Entry &entry = stream.entries[e];
      if (entry.bundle % kSnapCols != column) continue;
      std::uint8_t matches[kSnapSpan];
      snap_matches(entry, x, first, count, matches);
      ++bundles;
      for (std::size_t r = 0; r < count; ++r) {
        const std::uint16_t waiting = std::uint16_t(left[r] + matches[r]);
        const std::uint16_t rest = std::uint16_t(waiting > kSnapMacs ? waiting - kSnapMacs : 0);
        const std::uint16_t clocks = std::uint16_t(rest / kSnapMacs);
        more[r] += clocks;
        left[r] = std::uint16_t(rest - clocks * kSnapMacs);
      }
    }
    for (std::size_t r = 0; r < count; ++r)
      taken[first + r] =
          std::max(bundles + more[r] + std::uint32_t(left[r] != 0), std::uint32_t(1));
  }
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

inline void snap(const MatMul &f, int batch, Memories &m, WeightStream &weights, Counters &counters,
                 Fault &fault) {
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
  std::vector<std::uint32_t> taken(input.width);
  std::vector<std::int64_t> work(std::size_t(plan.blocks * plan.groups) * kSnapUnits * kSnapCols);
  // Chunk by chunk, so that the activations of one stay in the cache.
  for (int first = 0; first < plan.positions; first += kSnapChunk) {
    const int count = std::min(plan.positions - first, kSnapChunk);
    for (int n = 0; n < plan.outputs; ++n) {
      std::uint32_t sums[kSnapChunk];
      snap_sums(stream, std::size_t(n), input, std::size_t(first), sums);
      for (int r = 0; r < count; ++r)
        m.finished[n / kCols * plan.positions + first + r][n % kCols] = std::int32_t(sums[r]);
    }
  }
  for (int n = 0; n < plan.outputs; ++n) {
    const int block = n / (plan.slots * kSnapUnits), unit = n % kSnapUnits;
    for (int j = 0; j < kSnapCols; ++j) {
      snap_taken(stream, std::size_t(n), j, input, taken.data());
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
