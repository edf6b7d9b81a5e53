/// What is in the weight stream between the ReadWeights that bring it and those who take it.
#pragma once
#include "status.hpp"
#include "units/groups.hpp"

namespace weft {

constexpr int kMaxQueued = 8;   // ReadWeights ahead of their use; below the depth of their FIFO
constexpr int kLeastGroup = 4;  // log2 of the smallest group that shares a record
static_assert(kGroupRows <= 1 << kLeastGroup, "a record is of whole groups of the decoder");

/// Whether a ReadWeights takes as many memory rows as its format makes of its stream rows.
inline bool sized(const ReadWeights &f) {
  if (f.rows == 0 || !decodes(int(f.format))) return false;
  const bool whole = (f.rows & UInt<32>(kStreamRows - 1)) == 0;
  if (f.matvec != 0 && (!kHasMatvec || !whole || f.index != 0)) return false;
  if (f.cached != 0) {
    if (!kHasCached || f.format != 0 || f.matvec == 0 || f.runs == 0) return false;
    const Int<64> filled = (Int<64>(f.memory_rows) + kRunRows - 1) / kRunRows * kRunRows;
    return f.memory_rows != 0 && filled * Int<64>(f.runs) == Int<64>(f.rows);  // below 2^57
  }
  if (f.format == 0) return f.memory_rows == f.rows && f.index == 0;
  const Int<64> runs = Int<64>(f.blocks) * Int<64>(f.runs);  // at most 2^40
  if (runs * (kRows + int(f.index)) != Int<64>(f.rows)) return false;
  // Digits run on across tiles; a record's groups are counted in rows of all channels.
  if (f.index != 0 && (in_base_3(int(f.format)) || f.group != 0)) return false;
  const bool grouped = record_kind(int(f.format)) != kNoRecord && kWeightBits == 16;
  if (f.group != 0 && (!grouped || f.group < kLeastGroup)) return false;
  if (f.group == 0 && f.zeros != 0) return false;
  PackedShape shape;
  shape.begin(f);
  return shape.memory_rows(f) == Int<64>(f.memory_rows);
}

/// Whether a SetTable of keys or values, of which several words are written in a clock, fits.
inline Status legal_operands(const SetTable &f) {
  const Int<64> words = Int<64>(f.count) * Int<64>(f.runs);
  if (!kHasCached || words == 0 || words > kOperandWords) return kBadField;
  if (int(f.count) % kStreamRows != 0) return kBadField;
  if (int(f.index) % kOperandGroup != 0 || int(f.step) % kOperandGroup != 0) return kBadField;
  const Int<64> end = Int<64>(f.index) + (Int<64>(f.runs) - 1) * Int<64>(f.step) + Int<64>(f.count);
  return end > kOperandWords ? kBadTable : kDone;
}

/// Rows of the stream, and whose they are: of engine matvec kStreamRows are one element.
struct StreamLedger {
  Int<64> rows, elements;
  Int<64> left[kMaxQueued];  // rows of each ReadWeights since the stream was last empty,
  bool matvec[kMaxQueued];   // and whether they are for engine matvec
  int queued;

  void begin() {
    rows = elements = 0;
    queued = 0;
  }
  static Int<64> elements_of(Int<64> count, bool grouped) {
    return grouped ? Int<64>(count / kStreamRows) : count;
  }
  /// A ReadWeights; false where too many would run ahead.
  bool add(Int<64> count, bool grouped) {
    if (queued == kMaxQueued) return false;
    left[queued] = count;
    matvec[queued] = grouped;
    rows += count;
    elements += elements_of(count, grouped);
    ++queued;
    return true;
  }
  /// The next `count` rows; false where there are fewer, or some are meant for others.
  bool take(Int<64> count, bool grouped) {
    if (count > rows) return false;
    Int<64> wanted = count;
  reads:
    for (int i = 0; i < kMaxQueued; ++i) {
      if (i >= queued || wanted == 0 || left[i] == 0) continue;
      if (matvec[i] != grouped) return false;
      const Int<64> taken = wanted < left[i] ? wanted : left[i];
      left[i] -= taken;
      wanted -= taken;
    }
    rows -= count;
    elements -= elements_of(count, grouped);
    if (rows == 0) queued = 0;
    return true;
  }
};

}  // namespace weft
