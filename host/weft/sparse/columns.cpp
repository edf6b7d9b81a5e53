// The non-zeros of a matrix column by column, in two passes over its rows.

#include <cstdint>
#include <cstring>

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "lanes of a word lie low to high");

namespace {

constexpr int64_t kFlush = 255;  // rows whose counts a byte holds
constexpr int64_t kStripe = 4096;

// Ones in the highest bit of each lane of `word` that is not 0.
template <typename T> uint64_t occupied(uint64_t word) {
  const uint64_t rest = sizeof(T) == 1 ? 0x7f7f7f7f7f7f7f7fULL : 0x7fff7fff7fff7fffULL;
  return (((word & rest) + rest) | word) & ~rest;
}

template <typename T>
void count(const char *matrix, int64_t rows, int64_t cols, int64_t stride, uint32_t *counts) {
  uint8_t sums[kStripe];
  for (int64_t left = 0; left < cols; left += kStripe) {
    const int64_t width = cols - left < kStripe ? cols - left : kStripe;
    for (int64_t top = 0; top < rows; top += kFlush) {
      const int64_t height = rows - top < kFlush ? rows - top : kFlush;
      std::memset(sums, 0, sizeof sums);
      for (int64_t r = top; r < top + height; ++r) {
        const T *row = reinterpret_cast<const T *>(matrix + r * stride) + left;
        for (int64_t c = 0; c < width; ++c) sums[c] += row[c] != 0;
      }
      for (int64_t c = 0; c < width; ++c) counts[left + c] += sums[c];
    }
  }
}

template <typename T, typename Index>
void gather(const char *matrix, int64_t rows, int64_t cols, int64_t stride, uint32_t *next,
            Index *indices, T *values) {
  constexpr int64_t kLanes = 8 / sizeof(T);
  for (int64_t r = 0; r < rows; ++r) {
    const T *row = reinterpret_cast<const T *>(matrix + r * stride);
    int64_t c = 0;
    for (; c + kLanes <= cols; c += kLanes) {
      uint64_t word;
      std::memcpy(&word, row + c, sizeof word);
      for (uint64_t left = occupied<T>(word); left; left &= left - 1) {
        const int64_t column = c + __builtin_ctzll(left) / (8 * sizeof(T));
        const uint32_t at = next[column]++;
        indices[at] = static_cast<Index>(r);
        values[at] = row[column];
      }
    }
    for (; c < cols; ++c) {
      if (row[c] == 0) continue;
      const uint32_t at = next[c]++;
      indices[at] = static_cast<Index>(r);
      values[at] = row[c];
    }
  }
}

}  // namespace

#define WEFT_API extern "C" __attribute__((visibility("default")))

/// Adds the non-zeros of each column to `counts` [cols]. Rows are `stride` bytes apart.
WEFT_API void weft_count(const char *matrix, int width, int64_t rows, int64_t cols, int64_t stride,
                         uint32_t *counts) {
  if (width == 1) {
    count<int8_t>(matrix, rows, cols, stride, counts);
  } else {
    count<int16_t>(matrix, rows, cols, stride, counts);
  }
}

/// Writes row and value of each non-zero; `next` [cols] holds where the columns begin.
WEFT_API void weft_gather(const char *matrix, int width, int64_t rows, int64_t cols, int64_t stride,
                          uint32_t *next, void *indices, int index_width, void *values) {
  auto *bytes = static_cast<int8_t *>(values);
  auto *words = static_cast<int16_t *>(values);
  auto *narrow = static_cast<uint16_t *>(indices);
  auto *wide = static_cast<uint32_t *>(indices);
  if (width == 1 && index_width == 2) gather(matrix, rows, cols, stride, next, narrow, bytes);
  if (width == 1 && index_width == 4) gather(matrix, rows, cols, stride, next, wide, bytes);
  if (width == 2 && index_width == 2) gather(matrix, rows, cols, stride, next, narrow, words);
  if (width == 2 && index_width == 4) gather(matrix, rows, cols, stride, next, wide, words);
}
