/// What the weight stream carries between the decoder and those who multiply.
#pragma once
#include <type_traits>

#include "config.hpp"
#include "types.hpp"

namespace weft {

using Operand = Int<kWeightBits>;      // a weight as the array multiplies with it
using TileWord = Vec<Operand, kCols>;  // weight-stream row

/// What a clock brings of the weight stream: one row, or for engine matvec kStreamRows of them.
struct TileGroup {
  TileWord row[kStreamRows];

  TileGroup() = default;
  TileGroup(const TileWord &first) {
    WEFT_INLINE
    row[0] = first;
  }
  operator TileWord() const {
    WEFT_INLINE
    return row[0];
  }
};
using StreamRow = std::conditional_t<kStreamRows == 1, TileWord, TileGroup>;
using WeightStream = Stream<StreamRow>;

/// Row `i` of an element of the stream.
inline TileWord &row_of(TileWord &only, int) { return only; }
inline TileWord &row_of(TileGroup &group, int i) { return group.row[i]; }
inline const TileWord &row_of(const TileWord &only, int) { return only; }
inline const TileWord &row_of(const TileGroup &group, int i) { return group.row[i]; }

}  // namespace weft
