/// What a MatMul may ask of the engine that it names.
#pragma once
#include "units/bf16.hpp"
#include "units/eie_pe.hpp"
#include "units/gather.hpp"
#include "units/matvec.hpp"
#include "units/nm.hpp"
#include "units/snap_plan.hpp"

namespace weft {

/// Rows of the weight stream that a row of weights takes.
inline int weight_rows(const MatMul &f) {
  const int e = int(f.engine);
  const bool whole =
      e == kSystolicEngine || e == kBf16Engine || e == kNmEngine || e == kMatvecEngine;
  return whole ? 1 : precision_of(f).weight_rows();
}
/// Whether the gather engine takes the rows and reads its words from different banks.
inline bool legal_gather(const MatMul &f, int batch) {
  const Int<64> rows = Int<64>(batch) * Int<64>(f.out_h) * Int<64>(f.out_w);
  return rows <= kGatherRows && f.words == kGatherWindow && f.activation_bits == 8 &&
         f.codes <= (kBookCodes | kAllThere) && (f.blocks == 1 || (f.source_block & 1) != 0);
}
/// Whether an engine of compressed weights is there and takes the window.
inline bool legal_compressed(const MatMul &f, int batch) {
  const bool point = f.kernel_h == 1 && f.kernel_w == 1;
  const bool there = (f.engine == kEieEngine && kHasEie && point && legal_eie(f)) ||
                     (f.engine == kSnapEngine && kHasSnap && SnapPlan::legal(f)) ||
                     (f.engine == kGatherEngine && kHasGather && point && legal_gather(f, batch));
  return there && f.first != 0 && f.last != 0 && f.shift == 0;
}
inline Pattern pattern_of(const MatMul &f) {
  Pattern pattern;
  pattern.begin(f);
  return pattern;
}
/// Whether the engine is there and takes the precision, the pace and the place of the words.
inline bool legal_engine(const MatMul &f, int batch) {
  if (is_compressed(f)) return legal_compressed(f, batch);
  if (f.rows != 0 || !legal_precision(f) || int(f.pace) < weight_rows(f)) return false;
  if (is_matvec(f)) return legal_matvec(f);
  if (f.engine == kNmEngine && !pattern_of(f).legal()) return false;
  // A tile's weights must not overtake the sums, which take kFloatLatency clocks per row.
  if (f.engine == kBf16Engine && (int(f.pace) < kFloatLatency - 1 || f.shift != 0)) return false;
  return f.words == 1 || f.blocks == 1 || (f.source_block & 1) != 0;
}

}  // namespace weft
