/// The checks of packed keys and values.
#pragma once
#include "check_ranges.hpp"
#include "status.hpp"
#include "units/packed_cache.hpp"

namespace weft {

/// Whether codes of so many bits are there.
inline bool legal_bits(int bits) { return kHasPackedCache && (bits == 4 || bits == 2); }

/// Rows of the stream that a SetTable of the operand buffer takes; its fields are legal.
inline Int<64> operand_rows(const SetTable &f) {
  const Int<64> words = Int<64>(f.count) * Int<64>(f.runs);
  if (f.bits == 0) return words;
  return Int<64>(words / kPackedGroup) * GroupRows(int(f.bits), f.values != 0).total();
}

inline Status check_pack(const PackCache &f, int batch) {
  if (!kHasPackedCache) return kBadOpcode;
  if (!legal_bits(int(f.bits))) return kBadField;
  const int rows = GroupRows(int(f.bits), f.values != 0).total();
  const Int<64> words = Int<64>(f.blocks) * rows, further = Int<64>(f.blocks) - 1;
  if (batch != 1 || words == 0 || words > kBufferWords) return kBadField;
  const Range source = {0,
                        Int<64>(f.operand) + further * Int<64>(f.operand_block) + kPackedGroup - 1};
  const Range target = {0, Int<64>(f.target) + further * Int<64>(f.target_block) + rows - 1};
  if (!in_words(source, kOperandWords) || !in_words(target, kBufferWords)) return kBadBuffer;
  return kDone;
}

}  // namespace weft
