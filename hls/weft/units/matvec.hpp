/// The matrix-vector engine: kCols adder trees of kStreamRows products, for decoding at the speed
/// of memory.
///
/// It takes the array's tiles kStreamRows rows at a time. A clock multiplies them with as many
/// lanes of one row of the input, and the trees' results are added to that row's sums; after the
/// last row of the input come the next tile rows. So a product of one row takes a clock for what
/// memory brings in a clock, and of 8 rows 8. Weights are registers while rows pass, a lane of the
/// input fans out to kCols multipliers. Golden model: host/weft/units/matvec.py.
#pragma once
#include "units/writer.hpp"

namespace weft {

constexpr int kMatvecRows = 8;      // of the input: as many sums per column
constexpr int kPaceFraction = 256;  // MatMul.codes counts such parts of a clock
constexpr int kTileSteps = kRows / kStreamRows;
// From a product's operands to its sum: three clocks in a DSP, one per level of the tree, one for
// the sum. The loop's own iterations don't show them.
constexpr int kMatvecLatency = 4 + (kStreamRows >= 8   ? 3
                                    : kStreamRows >= 4 ? 2
                                    : kStreamRows >= 2 ? 1
                                                       : 0);

inline bool is_matvec(const MatMul &f) { return kHasMatvec && f.engine == kMatvecEngine; }
inline bool reads_wide(const MatMul &f) { return is_matvec(f) && f.activation_bits == 16; }
inline bool legal_matvec(const MatMul &f) {
  return f.shift == 0 && f.kernel_h == 1 && f.kernel_w == 1;
}

/// Clocks that kStreamRows tile rows take to arrive, in parts of a clock.
inline Int<32> arrival_of(const MatMul &f) {
  return Int<32>(Int<32>(f.pace) * kPaceFraction + Int<32>(f.codes));
}

/// Sum of `kCount` terms from `first` on, as a tree of adders.
template <int kCount> struct AdderTree {
  static UInt<32> sum(const UInt<32> (&terms)[kStreamRows], int first) {
    WEFT_INLINE
    constexpr int kHalf = kCount / 2;
    const UInt<32> low = AdderTree<kHalf>::sum(terms, first);
    return UInt<32>(low + AdderTree<kHalf>::sum(terms, first + kHalf));  // wraps
  }
};
template <> struct AdderTree<1> {
  static UInt<32> sum(const UInt<32> (&terms)[kStreamRows], int first) {
    WEFT_INLINE
    return terms[first];
  }
};

/// Sum of the products of some lanes with a column of as many tile rows.
inline Int<32> dot(const Vec<Int<16>, kStreamRows> &x, const StreamRow &rows, int c) {
  WEFT_INLINE
  UInt<32> terms[kStreamRows];
  WEFT_HLS(ARRAY_PARTITION variable = terms type = complete)
products:
  for (int i = 0; i < kStreamRows; ++i) {
    WEFT_UNROLL
    terms[i] = UInt<32>(Int<32>(Int<32>(x[i]) * Int<32>(row_of(rows, i)[c])));
  }
  return Int<32>(AdderTree<kStreamRows>::sum(terms, 0));
}

/// Where a product stands: tile rows in groups of kStreamRows, and the rows of the input that pass
/// each of them. int16 words leave in clocks of their own, as the wide buffer has one read port.
struct MatvecWalk {
  Walk<MatMul> input;
  int rows, row;    // of the input
  int step;         // of a tile
  int folds, fold;  // of a column tile
  int tiles;        // still to come
  bool leaving;     // the sums of a tile leave
  Int<64> credit;   // parts of clocks that have brought weights nobody has taken

  void begin(const MatMul &f, int batch) {
    input.begin(f, batch);
    rows = input.at.count(), folds = input.groups, tiles = int(f.tiles);
    row = step = fold = 0;
    leaving = false;
    credit = 0;
  }
  bool first_group() const { return step == 0 && fold == 0; }
  bool last_group() const { return step == kTileSteps - 1 && fold == folds - 1; }
  bool last_row() const { return row == rows - 1; }
  /// One clock of products, or of sums that leave.
  void next(bool leaves_after) {
    const bool wraps = last_row();
    if (!leaving) input.next_position();
    row = wraps ? 0 : row + 1;
    if (!wraps) return;
    if (leaving) {
      leaving = false;
      --tiles;
      return;
    }
    const bool ends = last_group();
    step = step == kTileSteps - 1 ? 0 : step + 1;
    if (step != 0) {
      input.again();
    } else {
      input.next_fold();
      fold = fold == folds - 1 ? 0 : fold + 1;
    }
    leaving = ends && leaves_after;
    if (ends && !leaving) --tiles;
  }
};

/// Lanes of the present group in a word of the input.
inline Vec<Int<16>, kStreamRows> lanes_of(const MatMul &f, const MatvecWalk &at,
                                          const WideWord &wide, const Memories &m) {
  WEFT_INLINE
  const bool inside = at.input.inside();
  const Word bytes = inside ? m.buffer.read(at.input.address()) : filled(f.pad);
  Vec<Int<16>, kStreamRows> lanes;
steps:
  for (int step = 0; step < kTileSteps; ++step) {
    WEFT_UNROLL
    if (step != at.step) continue;
    for (int i = 0; i < kStreamRows; ++i) {
      WEFT_UNROLL
      const int lane = step * kStreamRows + i;
      const Int<16> number = inside ? wide[lane] : Int<16>(f.pad);
      lanes[i] = reads_wide(f) ? number : Int<16>(bytes[lane]);
    }
  }
  return lanes;
}

using MatvecSums = Int<32>[kMatvecRows][kCols];

/// The sums of the present row with the products of one more group.
inline SumWord matvec_sums(const MatMul &f, const MatvecWalk &at, const MatvecSums &sums,
                           const Vec<Int<16>, kStreamRows> &x, const StreamRow &group,
                           const Memories &m) {
  WEFT_INLINE
  const SumWord there = value_of(sums[at.row & (kMatvecRows - 1)]);
  const bool goes_on = at.first_group() && f.first == 0;
  const SumWord before = value_of(m.partial[goes_on ? at.row : 0]);
  SumWord total;
columns:
  for (int c = 0; c < kCols; ++c) {
    WEFT_UNROLL
    const Int<32> start = goes_on ? before[c] : Int<32>(0);
    const Int<32> base = at.first_group() ? start : there[c];
    total[c] = Int<32>(UInt<32>(UInt<32>(base) + UInt<32>(dot(x, group, c))));  // wraps
  }
  return total;
}

/// Runs one MatMul; `a` is its Activate where f.last is set.
inline void matvec(const MatMul &f, const Activate &a, int batch, Memories &m,
                   WeightStream &weights, Counters &counters) {
  WEFT_INLINE  // into compute, where `activate` is shared
      MatvecWalk at;
  at.begin(f, batch);
  Writer out;
  out.begin(a, batch, int(f.out_h), int(f.out_w));
  const bool wide = reads_wide(f), last = f.last != 0;
  const Int<64> need = arrival_of(f);
  MatvecSums sums;
  WEFT_HLS(ARRAY_PARTITION variable = sums type = complete dim = 0)
  StreamRow group = widened(filled(0));
clock:
  while (at.tiles > 0) {
    WEFT_PIPELINE
    WEFT_TRIPCOUNT(kAccumulatorRows)
    const bool begins = at.row == 0 && !at.leaving;
    if (begins && at.credit < need) {
      ++counters.weight_shift;
      at.credit += kPaceFraction;
      continue;
    }
    if (begins) {
      group = weights.read();
      at.credit -= need;
    }
    const bool reads_added = a.residual != 0 && !(wide && !at.leaving);
    const int word = reads_added ? out.added.address() : at.input.address();
    WideWord from_wide = {};
    if (kHasWide && (reads_added || at.input.inside())) from_wide = value_of(m.wide[word]);
    SumWord total = value_of(sums[at.row]);
    if (!at.leaving) {
      total = matvec_sums(f, at, sums, lanes_of(f, at, from_wide, m), group, m);
      put(sums[at.row], total);
      at.credit += kPaceFraction;
      ++counters.matrix;
    } else {
      ++counters.drain;
    }
    const bool finished = !at.leaving && at.last_group();
    if (finished && last) put(m.finished[at.row], total);
    if (finished && !last) put(m.partial[at.row], total);
    if (last && (wide ? at.leaving : finished)) {
      write_word(out, total, m.parameters.read(out.parameter()), from_wide, m);
      out.next();
    }
    at.next(wide && last);
  }
  counters.drain += kMatvecLatency;
}

}  // namespace weft
