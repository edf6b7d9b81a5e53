/// N:M weights: what of M channels the N values of a group belong to (host/weft/lower/nm.py).
///
/// Row r of a tile holds slot r mod N of group r / N. Its positions lie in front, eight rows in as
/// many stream rows as a position has bits: planes of 2 and 1 bits, or of 4.
#pragma once
#include "memories.hpp"

namespace weft {

constexpr int kLargestGroup = kNmGroup;                // M at most, a power of two
constexpr int kPositionRows = kHasNm ? kRows / 2 : 1;  // of a tile: 4 bits per weight at most
constexpr int kGroupLogs = kNmGroup >= 16 ? 4 : kNmGroup >= 8 ? 3 : kNmGroup >= 4 ? 2 : 1;
static_assert(!kHasNm || (kNmGroup >= 2 && kNmGroup <= 16 && (kNmGroup & (kNmGroup - 1)) == 0),
              "groups are of 2, 4, 8 or 16 channels");
static_assert(!kHasNm || kRows >= 8, "positions are packed for eight rows");

using TilePositions = Int<8>[kPositionRows][kCols];  // rows of packed positions of a tile

/// N, M and what follows from them, as MatMul.codes has them: N in the low 4 bits, log2 M above.
struct Pattern {
  int kept, log_group, words;

  void begin(const MatMul &f) {
    kept = int(f.codes) & 15;
    log_group = (int(f.codes) >> 4) & 7;
    words = int(f.words);
  }
  int group() const { return 1 << log_group; }
  /// Rows that hold weights.
  int rows() const { return (kept * words * kRows) >> log_group; }
  /// Stream rows of the positions of a tile.
  int index_rows() const { return (kRows / 8) * log_group; }
  bool legal() const {
    if (log_group < 1 || log_group > kGroupLogs || kept < 1 || kept >= group()) return false;
    if (words != 1 && words != 2 && words != 4) return false;
    const bool most = words == 4 || 2 * words * kept > group();
    return words * kept <= group() && most && group() <= words * kRows;
  }
};

/// Position of the weight in row `row`, column `c`: planes of 2 and 1 bits, or of 4.
inline UInt<4> position_at(const TilePositions &rows, int bits, int row, int c) {
  WEFT_INLINE
  const int first = (row >> 3) * bits, r = row & 7;
  if (bits == 4) return UInt<4>((unsigned(rows[first + (r >> 1)][c]) & 0xff) >> (4 * (r & 1)) & 15);
  unsigned low = 0;
  if (bits >= 2) low = (unsigned(rows[first + (r >> 2)][c]) & 0xff) >> (2 * (r & 3)) & 3;
  if (bits == 2) return UInt<4>(low);
  const unsigned high = (unsigned(rows[first + bits - 1][c]) & 0xff) >> r & 1;
  return UInt<4>(low | (high << (bits - 1)));
}

/// Whether the positions of a group ascend from the row above to this one.
inline bool positions_ascend(const Pattern &p, const TilePositions &index, int row, int c) {
  WEFT_INLINE
  const bool start = row == 0 || row / p.kept != (row - 1) / p.kept;
  if (row >= p.rows() || start) return true;
  const int bits = p.log_group;
  return position_at(index, bits, row - 1, c) < position_at(index, bits, row, c);
}

}  // namespace weft
