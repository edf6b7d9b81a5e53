/// The SNAP engine without its registers: sums by weights in columns of positions, matches by
/// counting bits, clocks by the same rules. Simulation only; tests hold it equal to units/snap.hpp.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "sim/gemm.hpp"
#include "sim/layer.hpp"
#include "sim/snap_match.hpp"

namespace weft {
namespace functional {

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
  static thread_local KeptLayers<SnapStream> layers;
  static thread_local SnapInput input;
  SnapPlan plan;
  plan.begin(f, batch);
  Fault own = fault;
  own.status = kDone;
  const LayerKey key = {plan.bundles, plan.outputs, plan.slots, plan.blocks, int(f.codes)};
  const SnapStream &stream =
      layers.take(f, key, weights, [&](SnapStream &made, const std::vector<std::uint8_t> &bytes) {
        made.read(f, plan, bytes, own);
        return own.status == kDone;
      });
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
