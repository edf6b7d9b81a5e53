/// What the PEs of the SNAP engine have to do: activations, matches counted bit by bit, clocks.
/// Simulation only; tests hold it equal to units/snap_pe.hpp.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "sim/snap_stream.hpp"
#ifdef __AVX2__
#include <immintrin.h>
#endif

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

#ifdef __AVX2__
/// How many bits each byte has.
inline __m256i bits_of(__m256i v) {
  const __m256i counts = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1,
                                          2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
  const __m256i low = _mm256_set1_epi8(15);
  const __m256i high = _mm256_and_si256(_mm256_srli_epi16(v, 4), low);
  return _mm256_add_epi8(_mm256_shuffle_epi8(counts, _mm256_and_si256(v, low)),
                         _mm256_shuffle_epi8(counts, high));
}

/// Pairs that wait for the multipliers of a PE at 32 positions, a byte each, and the clocks that
/// they took beyond one per bundle.
struct SnapWaiting {
  static constexpr int kMostClocks = kSnapBundle / kSnapMacs + 1;  // of a bundle
  static constexpr int kBundles = 255 / kMostClocks;               // that `more` can count
  static_assert(kSnapBundle + kSnapMacs <= 255, "what waits is counted in bytes");
  __m256i left = _mm256_setzero_si256(), more = _mm256_setzero_si256();

  void add(__m256i pairs) {
    left = _mm256_subs_epu8(_mm256_add_epi8(left, pairs), _mm256_set1_epi8(char(kSnapMacs)));
    if (_mm256_movemask_epi8(at_least(left, kSnapMacs)) == 0) return;  // most often
    for (int clocks = 64; clocks > 0; clocks /= 2) {
      const int done = clocks * kSnapMacs;
      if (done > kSnapBundle + kSnapMacs) continue;
      const __m256i due = at_least(left, done);
      left = _mm256_sub_epi8(left, _mm256_and_si256(due, _mm256_set1_epi8(char(done))));
      more = _mm256_add_epi8(more, _mm256_and_si256(due, _mm256_set1_epi8(char(clocks))));
    }
  }
  /// Adds to the clocks of 32 positions, and begins to count anew.
  void flush(std::uint32_t *clocks) {
    std::uint8_t counted[32];
    std::memcpy(counted, &more, sizeof counted);
    for (int r = 0; r < 32; ++r) clocks[r] += counted[r];
    more = _mm256_setzero_si256();
  }
  /// The clock for what still waits.
  void finish(std::uint32_t *clocks) {
    flush(clocks);
    std::uint8_t waits[32];
    std::memcpy(waits, &left, sizeof waits);
    for (int r = 0; r < 32; ++r)
      clocks[r] = std::max(clocks[r] + std::uint32_t(waits[r] != 0), std::uint32_t(1));
  }

 private:
  static __m256i at_least(__m256i v, int limit) {
    return _mm256_cmpeq_epi8(_mm256_max_epu8(v, _mm256_set1_epi8(char(limit))), v);
  }
};

/// Clocks of a PE for an output at every position, at least 1, in `taken`.
inline void snap_taken(const SnapStream &stream, std::size_t output, int column, const SnapInput &x,
                       std::uint32_t *taken) {
  static_assert(kSnapChunk == 32, "a byte per position fills a register");
  const std::size_t pe = output * kSnapCols + std::size_t(column);
  const SnapStream::MaskByte *const begin = stream.masks.data() + stream.first_mask[pe];
  const SnapStream::MaskByte *const end = stream.masks.data() + stream.first_mask[pe + 1];
  for (std::size_t first = 0; first < x.width; first += kSnapChunk) {
    SnapWaiting waiting;
    __m256i pairs = _mm256_setzero_si256();
    std::uint32_t *clocks = taken + first;
    std::fill_n(clocks, kSnapChunk, stream.bundles[pe]);
    int counted = 0;
    for (const SnapStream::MaskByte *byte = begin; byte != end; ++byte) {
      const std::uint8_t *there = x.mask.data() + std::size_t(byte->row) * x.width + first;
      const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(there));
      const __m256i both = _mm256_and_si256(bits, _mm256_set1_epi8(char(byte->mask)));
      pairs = _mm256_add_epi8(pairs, bits_of(both));
      if (!byte->ends) continue;
      waiting.add(pairs);
      pairs = _mm256_setzero_si256();
      if (++counted % SnapWaiting::kBundles == 0) waiting.flush(clocks);
    }
    waiting.finish(clocks);
  }
}
#else
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
#endif

}  // namespace functional
}  // namespace weft
