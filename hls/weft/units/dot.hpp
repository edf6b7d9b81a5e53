/// The multipliers of engine matvec and their trees of adders.
#pragma once
#include "memories.hpp"

namespace weft {

constexpr bool kMatvecAttends = kHasMatvec && kHasAttention;

/// Levels of a tree of adders.
constexpr int levels(int terms) { return terms < 2 ? 0 : 1 + levels(terms / 2); }

/// Sum of `kCount` terms from `first` on, as a tree of adders.
template <int kCount> struct AdderTree {
  template <int kTerms> static UInt<32> sum(const UInt<32> (&terms)[kTerms], int first) {
    WEFT_INLINE
    constexpr int kHalf = kCount / 2;
    const UInt<32> low = AdderTree<kHalf>::sum(terms, first);
    return UInt<32>(low + AdderTree<kHalf>::sum(terms, first + kHalf));  // wraps
  }
};
template <> struct AdderTree<1> {
  template <int kTerms> static UInt<32> sum(const UInt<32> (&terms)[kTerms], int first) {
    WEFT_INLINE
    return terms[first];
  }
};

/// What a clock multiplies a group of tile rows with: a lane per row, or, `turned`, one per column.
struct MatvecInput {
  Vec<Int<16>, kStreamRows> rows;
  Word columns;
  bool turned;
};

using Products = UInt<32>[kCols][kStreamRows];

inline void multiply_group(const MatvecInput &x, const StreamRow &group, Products &products) {
  WEFT_INLINE
columns:
  for (int c = 0; c < kCols; ++c) {
    WEFT_UNROLL
    for (int i = 0; i < kStreamRows; ++i) {
      WEFT_UNROLL
      const bool turned = kMatvecAttends && i < kOperandGroup && x.turned;
      const Int<16> factor = turned ? Int<16>(x.columns[c]) : x.rows[i];
      products[c][i] = UInt<32>(Int<32>(Int<32>(factor) * Int<32>(row_of(group, i)[c])));
    }
  }
}

/// Sum of the products in row `i`: of words of the operand buffer, so 20 bits would do.
inline UInt<32> row_total(const Products &products, int i) {
  WEFT_INLINE
  UInt<32> terms[kCols];
  WEFT_HLS(ARRAY_PARTITION variable = terms type = complete)
terms:
  for (int c = 0; c < kCols; ++c) {
    WEFT_UNROLL
    terms[c] = products[c][i];
  }
  return AdderTree<kCols>::sum(terms, 0);
}

/// What a group adds to the sums: to every column the products in it; `turned`, a row's total to
/// the column of its word, which are those of group `step` of a tile.
inline SumWord added_sums(const MatvecInput &x, const StreamRow &group, int step) {
  WEFT_INLINE
  Products products;
  WEFT_HLS(ARRAY_PARTITION variable = products type = complete dim = 0)
  multiply_group(x, group, products);
  Int<32> totals[kOperandGroup];
  WEFT_HLS(ARRAY_PARTITION variable = totals type = complete)
totals:
  for (int i = 0; i < kOperandGroup; ++i) {
    WEFT_UNROLL
    totals[i] = kMatvecAttends && x.turned ? Int<32>(row_total(products, i)) : Int<32>(0);
  }
  SumWord more;
columns:
  for (int c = 0; c < kCols; ++c) {
    WEFT_UNROLL
    const Int<32> column = Int<32>(AdderTree<kStreamRows>::sum(products[c], 0));
    const bool own = c / kOperandGroup == step;
    more[c] = !kMatvecAttends || !x.turned ? column
              : own                        ? totals[c & (kOperandGroup - 1)]
                                           : Int<32>(0);
  }
  return more;
}

}  // namespace weft
