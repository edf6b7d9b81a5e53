/// Codes of eight tile rows → operands, by tables, for the functional simulation.
#pragma once
#include <cstdint>

#include "units/decode.hpp"

#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace weft {
namespace functional {

/// What the codes of a ReadWeights stand for, before the byte of their group.
class CodeTable {
  int format_, bits_;
  bool pairs_;
  std::int16_t value_[2][256] = {};  // [odd row of a pair][partner << 4 | code], or [0][code]
  std::uint8_t low_[16], high_[16];  // bytes of the values of 4 bits

 public:
  void begin(const ReadWeights &f, const std::int8_t *memory) {
    format_ = int(f.format);
    bits_ = code_bits(format_);
    pairs_ = has_pairs(format_);
    if (bits_ > 8 || (pairs_ && bits_ > 4)) return;
    for (int code = 0; code < (bits_ == 8 || pairs_ ? 256 : 1 << bits_); ++code) {
      const int own = pairs_ ? code & 15 : code, partner = pairs_ ? code >> 4 : 0;
      for (int odd = 0; odd < (pairs_ ? 2 : 1); ++odd)
        value_[odd][code] = operand(own, partner, odd != 0);
    }
    for (int code = 0; has_codebook(format_) && code < 1 << bits_; ++code) {
      const int low = std::uint8_t(memory[2 * code]), high = memory[2 * code + 1];
      value_[0][code] = std::int16_t(Operand(std::int16_t(high * 256 + low)));
    }
    for (int code = 0; code < 16; ++code) {
      low_[code] = std::uint8_t(value_[0][code]);
      high_[code] = std::uint8_t(value_[0][code] >> 8);
    }
  }

  /// Eight rows from their memory rows.
  void decode(const std::int8_t *planes, int reads, std::int16_t (&out)[kCodeRows][kCols]) const {
    if (reads == 16) return wide(planes, out);
    std::uint8_t codes[kCodeRows][kCols];
    for (int r = 0; r < kCodeRows; ++r) take(planes, r, codes[r]);
    for (int r = 0; r < kCodeRows; ++r) {
      if (pairs_)
        of_pairs(codes[r], codes[r ^ 1], r & 1, out[r]);
      else
        of_codes(codes[r], out[r]);
    }
  }

  /// Five rows from a row of bytes in base 3.
  void decode_digits(const std::int8_t *bytes, std::int16_t (*out)[kCols]) const {
    const int zero = value_[0][0], one = value_[0][1], two = value_[0][2];
    std::uint16_t rest[kCols];
    for (int c = 0; c < kCols; ++c) rest[c] = std::uint8_t(bytes[c]);
    for (int r = 0; r < kTrits; ++r)
      for (int c = 0; c < kCols; ++c) {
        const int less = rest[c] * 171 >> 9, digit = rest[c] - 3 * less;  // a third of a byte
        out[r][c] = std::int16_t(digit == 0 ? zero : digit == 1 ? one : two);
        rest[c] = std::uint16_t(less);
      }
  }

 private:
  std::int16_t operand(int code, int partner, bool odd) const {
    return std::int16_t(Operand(decoded_value(format_, UInt<16>(code), UInt<8>(partner), odd)));
  }
  static void wide(const std::int8_t *planes, std::int16_t (&out)[kCodeRows][kCols]) {
    for (int r = 0; r < kCodeRows; ++r, planes += 2 * kRows)
      for (int c = 0; c < kCols; ++c) {
        const int whole = planes[kRows + c] * 256 + std::uint8_t(planes[c]);
        out[r][c] = std::int16_t(Operand(std::int16_t(whole)));
      }
  }
  /// Codes of tile row `r`: bits of planes of 4, 2 and 1, as code_at has them.
  void take(const std::int8_t *planes, int r, std::uint8_t *codes) const {
    const std::uint8_t *row = reinterpret_cast<const std::uint8_t *>(planes);
    if (bits_ == 8) {
      for (int c = 0; c < kCols; ++c) codes[c] = row[r * kRows + c];
      return;
    }
    if (bits_ == 4) {
      const std::uint8_t *plane = row + r / 2 * kRows;
      for (int c = 0; c < kCols; ++c)
        codes[c] = std::uint8_t((r & 1) != 0 ? plane[c] >> 4 : plane[c] & 15);
      return;
    }
    int first = 0, shift = 0;
    for (int c = 0; c < kCols; ++c) codes[c] = 0;
    for (int width = 4; width > 0; width /= 2) {
      if ((bits_ & width) == 0) continue;
      const int per_byte = 8 / width, mask = (1 << width) - 1;
      const std::uint8_t *plane = row + (first + r / per_byte) * kRows;
      const int place = width * (r % per_byte);
      for (int c = 0; c < kCols; ++c)
        codes[c] = std::uint8_t(codes[c] | (((plane[c] >> place) & mask) << shift));
      first += width, shift += width;
    }
  }
  void of_codes(const std::uint8_t *codes, std::int16_t *out) const {
#ifdef __AVX2__
    if (kCols % 16 == 0 && bits_ <= 4) {
      const __m128i low_bytes = _mm_loadu_si128(reinterpret_cast<const __m128i *>(low_));
      const __m128i high_bytes = _mm_loadu_si128(reinterpret_cast<const __m128i *>(high_));
      for (int c = 0; c < kCols; c += 16) {
        const __m128i code = _mm_loadu_si128(reinterpret_cast<const __m128i *>(codes + c));
        const __m128i l = _mm_shuffle_epi8(low_bytes, code);
        const __m128i h = _mm_shuffle_epi8(high_bytes, code);
        __m128i *to = reinterpret_cast<__m128i *>(out + c);
        _mm_storeu_si128(to, _mm_unpacklo_epi8(l, h));
        _mm_storeu_si128(to + 1, _mm_unpackhi_epi8(l, h));
      }
      return;
    }
#endif
    for (int c = 0; c < kCols; ++c) out[c] = value_[0][codes[c]];
  }
  void of_pairs(const std::uint8_t *codes, const std::uint8_t *partners, int odd,
                std::int16_t *out) const {
    for (int c = 0; c < kCols; ++c)
      out[c] = bits_ <= 4 ? value_[odd][partners[c] << 4 | codes[c]]
                          : operand(codes[c], partners[c], odd != 0);
  }
};

}  // namespace functional
}  // namespace weft
