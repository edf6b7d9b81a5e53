/// How codes of 1 to 8 bits share the operands of a cell that makes several products per clock.
///
/// A cell gets 32 bits of activations, byte q from word q of the clock, and as many of weights.
/// Code j lies at bit j · width in either, and is multiplied with the other's code j: all products
/// of a cell add up to one partial sum, so low precision fills the rows with more channels.
#pragma once
#include "memories.hpp"

namespace weft {

constexpr int kActivationWords = 4;  // words that a clock reads at most
constexpr int kOperandBits = 32;     // of a cell that takes several codes
static_assert(kBanks == 1 || kBanks == kActivationWords, "a bank per word of a clock");

/// log2 of 1, 2, 4 or 8.
inline int log2_of(int power) { return power >= 8 ? 3 : power >> 1; }

struct Precision {
  int activation_bits, weight_bits, words;

  int products() const { return words * 8 / activation_bits; }
  /// Stream rows of a tile row: the bytes that a cell's weights take.
  int weight_rows() const {
    const int bits = products() * weight_bits;
    return bits <= 8 ? 1 : bits >> 3;
  }
};

inline Precision precision_of(const MatMul &f) {
  WEFT_INLINE
  return {int(f.activation_bits), int(f.weight_bits), int(f.words)};
}

/// Whether the engine of `f` takes its precision.
inline bool legal_precision(const MatMul &f) {
  WEFT_INLINE
  const int engine = int(f.engine), a = int(f.activation_bits), w = int(f.weight_bits);
  const int words = int(f.words);
  if (engine == kSystolicEngine) return kHasSystolic && words == 1 && a == 8;
  if (engine == kMatvecEngine) return kHasMatvec && words == 1 && (a == 8 || (a == 16 && kHasWide));
  if (engine == kNmEngine) return kHasNm && a == 8;  // the rest: Pattern::legal
  const bool wide_a = a == 4 || a == 8, wide_w = w == 4 || w == 8;
  if (engine == kFusionEngine)
    return kHasFusion && (a == 2 || wide_a) && (w == 2 || wide_w) && words * w == 8;
  if (engine == kShiftEngine) {
    const int of_a = int(f.codes) & 15, of_w = int(f.codes) >> 4;
    return kHasShift && wide_a && wide_w && words * w == 8 && of_a <= kOliveTerm &&
           of_w <= kOliveTerm && (a == 4 || of_a == kIntTerm) && (w == 4 || of_w == kIntTerm);
  }
  if (engine == kBinaryEngine) {
    const bool bits = a == 1 && (w == 1 ? words == 4 : w == 2 && words == 2);
    return kHasBinary && (bits || (a == 8 && (w == 1 || w == 2) && words == 4));
  }
  return engine == kBf16Engine && kHasBf16 && w == 16 && words * 8 == a && (a == 8 || a == 16);
}

/// Bytes of lane `lane` of the words of a clock, side by side.
inline UInt<32> packed_lane(const Word (&words)[kActivationWords], int lane) {
  WEFT_INLINE
  unsigned bits = 0;
bytes:
  for (int q = 0; q < kActivationWords; ++q) {
    WEFT_UNROLL
    bits |= (unsigned(words[q][lane]) & 0xff) << (8 * q);
  }
  return UInt<32>(bits);
}

/// Bytes of column `c` of the stream rows of a tile row.
inline UInt<32> packed_column(const TileWord (&rows)[kActivationWords], int c) {
  WEFT_INLINE
  unsigned bits = 0;
bytes:
  for (int q = 0; q < kActivationWords; ++q) {
    WEFT_UNROLL
    bits |= (unsigned(rows[q][c]) & 0xff) << (8 * q);
  }
  return UInt<32>(bits);
}

/// Code `j` of `width` bits as a number. Not for synthesis of cells: a shifter of 32 bits.
inline int code_of(UInt<32> operand, int j, int width, bool is_signed) {
  const unsigned mask = (1u << width) - 1;
  const unsigned code = (unsigned(operand) >> (j * width)) & mask;
  const int sign = is_signed ? 1 << (width - 1) : 0;
  return (int(code) ^ sign) - sign;
}

}  // namespace weft
