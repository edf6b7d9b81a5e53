/// What the codes of a cell's operands stand for: plain numbers for the functional simulation.
#pragma once
#include "units/matmul.hpp"

namespace weft {
namespace functional {

using Words = Word[kActivationWords];
using TileRows = TileWord[kActivationWords];

inline int products_of(const IntegerCell &) { return 1; }
inline int products_of(const NmCell &cell) { return cell.pattern.words; }
template <typename Cell> inline int products_of(const Cell &cell) {
  return cell.precision.products();
}

/// What makes an activation a byte without sign: the instruction wants one side so.
template <typename Cell> inline int offset_of(const Cell &) { return 128; }
inline int offset_of(const FusionCell &cell) {
  return cell.precision.activation_bits == 8 && !cell.signed_activations ? 0 : 128;
}

inline int activation_value(const IntegerCell &, const Words &words, int lane, int) {
  return words[0][lane];
}
/// Of N:M weights all channels of the words count, not the group of a row.
inline int activation_value(const NmCell &, const Words &words, int lane, int j) {
  return words[j][lane];
}
inline int weight_value(const IntegerCell &, const TileRows &rows, int c, int) {
  return rows[0][c];
}

inline int activation_value(const FusionCell &cell, const Words &words, int lane, int j) {
  return code_of(packed_lane(words, lane), j, cell.precision.activation_bits,
                 cell.signed_activations);
}
inline int weight_value(const FusionCell &cell, const TileRows &rows, int c, int j) {
  return code_of(packed_column(rows, c), j, cell.precision.weight_bits, cell.signed_weights);
}

/// Number j of an operand of the shift engine: a term, or the two of a number of 8 bits.
inline int term_value(UInt<32> terms, int j, int width) {
  const int one = term(false, 0, 1);
  const unsigned bits = unsigned(terms);
  if (width == 4) return term_product(int(bits >> (8 * j)) & 0xff, one);
  return term_product(int(bits >> (16 * j)) & 0xff, one) +
         term_product(int(bits >> (16 * j + 8)) & 0xff, one);
}
/// Values of the two codes of every byte of a kind, so that a term is made once.
struct TermTable {
  std::int16_t value[kOliveTerm + 1][256][2];
  TermTable() {
    for (int kind = 0; kind <= kOliveTerm; ++kind)
      for (int byte = 0; byte < 256; ++byte) {
        const UInt<32> terms = terms_of(UInt<32>(byte), 4, kind, 1);
        for (int i = 0; i < 2; ++i) value[kind][byte][i] = std::int16_t(term_value(terms, i, 4));
      }
  }
};
inline int code_value(unsigned operand, int j, int width, int kind) {
  static const TermTable table;
  if (width == 8) return std::int8_t(operand >> (8 * j));
  return table.value[kind][(operand >> (4 * (j & ~1))) & 0xff][j & 1];
}
inline int activation_value(const ShiftCell &cell, const Words &words, int lane, int j) {
  return code_value(unsigned(packed_lane(words, lane)), j, cell.precision.activation_bits,
                    cell.activation_kind);
}
inline int weight_value(const ShiftCell &cell, const TileRows &rows, int c, int j) {
  return code_value(unsigned(packed_column(rows, c)), j, cell.precision.weight_bits,
                    cell.weight_kind);
}

inline int activation_value(const BinaryCell &cell, const Words &words, int lane, int j) {
  const UInt<32> operand = packed_lane(words, lane);
  if (cell.precision.activation_bits == 8) return code_of(operand, j, 8, true);
  const int bit = code_of(operand, j, 1, false);
  return cell.signed_bits ? 2 * bit - 1 : bit;
}
inline int weight_value(const BinaryCell &cell, const TileRows &rows, int c, int j) {
  const UInt<32> operand = packed_column(rows, c);
  if (cell.precision.weight_bits == 1) return 2 * code_of(operand, j, 1, false) - 1;
  if (cell.precision.activation_bits == 1)
    return code_of(operand, j, 1, false) - code_of(operand, j + 16, 1, false);
  const int code = code_of(operand, j, 2, true);
  return code == -2 ? 0 : code;
}

/// A float, subnormal numbers as 0.
inline float normal(float x) {
  const float smallest = 1.17549435e-38f;
  return x < smallest && x > -smallest ? 0.0f : x;
}

/// Sums [cols] of one row of activations [folds · rows] with weights [folds · rows, cols].
inline void multiply_floats(const float *x, int folds, const float *w, std::int32_t *sums) {
  float total[kCols] = {};
  for (int fold = 0; fold < folds; ++fold) {
    float column[kCols] = {};
    for (int r = 0; r < kRows; ++r, ++x, w += kCols)
      for (int c = 0; c < kCols; ++c) column[c] = normal(column[c] + normal(*x * w[c]));
    for (int c = 0; c < kCols; ++c) total[c] = fold == 0 ? column[c] : normal(total[c] + column[c]);
  }
  for (int c = 0; c < kCols; ++c) sums[c] = std::int32_t(bits_of(total[c]));
}

}  // namespace functional
}  // namespace weft
