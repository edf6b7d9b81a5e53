/// The matrix-vector engine: kCols adder trees of kStreamRows products, for decoding at the speed
/// of memory.
///
/// It takes the array's tiles kStreamRows rows at a time. A clock multiplies them with as many
/// lanes of one row of the input, and the trees' results are added to that row's sums; after the
/// last row of the input come the next tile rows. So a product of one row takes a clock for what
/// memory brings in a clock, and of 8 rows 8. Weights are registers while rows pass, a lane of the
/// input fans out to kCols multipliers. Golden model: host/weft/units/matvec.py.
///
/// An Attend takes kOperandGroup words of the operand buffer in a clock instead. Values are tile
/// rows as weights are; of keys, where a word is a column of the tile, the same products are added
/// up along the words, in trees of kCols.
#pragma once
#include "units/attention.hpp"
#include "units/dot.hpp"
#include "units/writer.hpp"

namespace weft {

constexpr int kMatvecRows = 8;      // of the input: as many sums per column
constexpr int kPaceFraction = 256;  // MatMul.codes counts such parts of a clock
constexpr int kTileSteps = kRows / kStreamRows;
constexpr int kAttendSteps = kRows / kOperandGroup;

// From a product's operands to its sum: three clocks in a DSP, one per level of the tree, one for
// the sum. The loop's own iterations don't show them.
constexpr int kMatvecLatency = 4 + levels(kStreamRows);
constexpr int kAttendLatency = 4 + levels(kRows);

inline bool is_matvec(const MatMul &f) { return kHasMatvec && f.engine == kMatvecEngine; }
inline bool reads_wide(const MatMul &f) { return is_matvec(f) && f.activation_bits == 16; }
inline bool legal_matvec(const MatMul &f) {
  return f.shift == 0 && f.kernel_h == 1 && f.kernel_w == 1;
}

/// Whether the engine can read the operand of an Attend: in groups.
inline bool legal_group(const Attend &f) {
  return kMatvecAttends && (f.operand & (kOperandGroup - 1)) == 0 &&
         (f.operand_block & (kOperandGroup - 1)) == 0;
}

/// Clocks that kStreamRows tile rows take to arrive, in parts of a clock.
inline Int<32> arrival_of(const MatMul &f) {
  return Int<32>(Int<32>(f.pace) * kPaceFraction + Int<32>(f.codes));
}

/// Where a product stands: tile rows in groups of kStreamRows, and the rows of the input that pass
/// each of them. int16 words leave in clocks of their own, as the wide buffer has one read port.
struct MatvecWalk {
  Walk<MatMul> input;
  int rows, row;    // of the input
  int steps, step;  // of a tile
  int folds, fold;  // of a column tile
  int tiles;        // still to come
  bool leaving;     // the sums of a tile leave
  Int<64> credit;   // parts of clocks that have brought weights nobody has taken

  void begin(const MatMul &f, int batch, int groups) {
    input.begin(f, batch);
    rows = input.at.count(), folds = input.groups, tiles = int(f.tiles);
    steps = groups;
    row = step = fold = 0;
    leaving = false;
    credit = 0;
  }
  bool first_group() const { return step == 0 && fold == 0; }
  bool last_group() const { return step == steps - 1 && fold == folds - 1; }
  bool last_row() const { return row == rows - 1; }
  bool ends_fold() const { return last_row() && step == steps - 1 && !leaving; }
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
    step = step == steps - 1 ? 0 : step + 1;
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

/// Lanes of the present group in a word of the input: `wide`, or of the unified buffer.
inline MatvecInput lanes_of(const MatMul &f, const MatvecWalk &at, const WideWord &wide,
                            const Memories &m) {
  WEFT_INLINE
  const bool inside = at.input.inside();
  MatvecInput x;
  x.columns = inside ? m.buffer.read(at.input.address()) : filled(f.pad);
  x.turned = false;
steps:
  for (int step = 0; step < kTileSteps; ++step) {
    WEFT_UNROLL
    if (step != at.step) continue;
    for (int i = 0; i < kStreamRows; ++i) {
      WEFT_UNROLL
      const int lane = step * kStreamRows + i;
      const Int<16> number = inside ? wide[lane] : Int<16>(f.pad);
      x.rows[i] = reads_wide(f) ? number : Int<16>(x.columns[lane]);
    }
  }
  return x;
}

using Attending = Attention<kMatvecAttends>;

/// The same of an Attend: a word of queries, or exponentials of a word of scores.
inline MatvecInput attended(const Attending &attention, const MatvecWalk &at,
                            const WideWord &scores, Memories &m) {
  WEFT_INLINE
  MatvecInput x;
  x.columns = attention.takes_scores() ? attention.activations(m, at.row, scores, at.step == 0)
                                       : m.buffer.read(at.input.address());
  x.turned = attention.f.transposed != 0;
steps:
  for (int step = 0; step < kAttendSteps; ++step) {
    WEFT_UNROLL
    if (step != at.step) continue;
    for (int i = 0; i < kStreamRows; ++i) {
      WEFT_UNROLL
      const int lane = (step * kOperandGroup + i) & (kRows - 1);
      x.rows[i] = i < kOperandGroup ? Int<16>(x.columns[lane]) : Int<16>(0);
    }
  }
  return x;
}

/// The next rows of the tile, of the stream or the operand buffer.
inline StreamRow next_group(const Attending &attention, int step, const Memories &m,
                            WeightStream &weights) {
  WEFT_INLINE
  if (!kMatvecAttends || !attention.on) return weights.read();
  Word words[kOperandGroup];
  WEFT_HLS(ARRAY_PARTITION variable = words type = complete)
  attention.group(m, step, words);
  StreamRow group = widened(filled(0));
rows:
  for (int i = 0; i < kStreamRows; ++i) {
    WEFT_UNROLL
    row_of(group, i) = widened(i < kOperandGroup ? words[i & (kOperandGroup - 1)] : filled(0));
  }
  return group;
}

using MatvecSums = Int<32>[kMatvecRows][kCols];

/// The sums of the present row with the products of one more group; those that they go on with
/// are in the accumulators from row `base` on.
inline SumWord matvec_sums(const MatMul &f, const MatvecWalk &at, const MatvecSums &sums,
                           const MatvecInput &x, const StreamRow &group, int base,
                           const Memories &m) {
  WEFT_INLINE
  const SumWord there = value_of(sums[at.row & (kMatvecRows - 1)]);
  const bool goes_on = at.first_group() && f.first == 0;
  const SumWord before = value_of(m.partial[goes_on ? base + at.row : 0]);
  const SumWord more = added_sums(x, group, at.step);
  SumWord total;
columns:
  for (int c = 0; c < kCols; ++c) {
    WEFT_UNROLL
    const Int<32> start = goes_on ? before[c] : Int<32>(0);
    const Int<32> from = at.first_group() ? start : there[c];
    total[c] = Int<32>(UInt<32>(UInt<32>(from) + UInt<32>(more[c])));  // wraps
  }
  return total;
}

/// What the clock reads of the wide buffer: what is added to a result, or the input.
inline WideWord wide_of_matvec(const MatMul &f, const Activate &a, const MatvecWalk &at,
                               const Writer &out, bool scores, const Memories &m) {
  WEFT_INLINE
  WideWord word = {};
  const bool takes = (reads_wide(f) || scores) && !at.leaving;
  const bool adds = a.residual != 0 && !takes;
  const int address = adds ? out.added.address() : at.input.address();
  if (kHasWide && (adds || (takes && at.input.inside()))) word = value_of(m.wide[address]);
  return word;
}

/// Runs one MatMul, or with `attends` the Attend `by` (f = product_of(by)); `a` is its Activate
/// where f.last is set.
inline void matvec(const MatMul &f, const Activate &a, int batch, Memories &m,
                   WeightStream &weights, Counters &counters, const Attend &by, bool attends) {
  WEFT_INLINE  // into compute, where `activate` is shared
      MatvecWalk at;
  at.begin(f, batch, attends ? kAttendSteps : kTileSteps);
  Attending attention;
  attention.begin(by, attends);
  Writer out;
  out.begin(a, batch, int(f.out_h), int(f.out_w));
  const bool wide = reads_wide(f), last = f.last != 0;
  const Int<64> need = attention.on ? Int<64>(0) : Int<64>(arrival_of(f));
  int base = attention.first_sum();
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
      group = next_group(attention, at.step, m, weights);
      at.credit -= need;
    }
    const bool scores = kMatvecAttends && attention.takes_scores();
    const WideWord from_wide = wide_of_matvec(f, a, at, out, scores, m);
    SumWord total = value_of(sums[at.row]);
    if (!at.leaving) {
      const MatvecInput x = kMatvecAttends && attention.on ? attended(attention, at, from_wide, m)
                                                           : lanes_of(f, at, from_wide, m);
      total = matvec_sums(f, at, sums, x, group, base, m);
      put(sums[at.row], total);
      at.credit += kPaceFraction;
      ++counters.matrix;
    } else {
      ++counters.drain;
    }
    const bool finished = !at.leaving && at.last_group();
    if (finished && last) put(m.finished[at.row], total);
    if (finished && !last) put(m.partial[base + at.row], total);
    if (last && (wide ? at.leaving : finished)) {
      write_word(out, total, m.parameters.read(out.parameter()), from_wide, m);
      out.next();
    }
    if (kMatvecAttends && at.ends_fold()) {
      attention.next_tile();
      attention.next_fold();
      if (at.last_group()) base += attention.sums_of_tile();
    }
    at.next(wide && last);
  }
  counters.drain += attention.on ? kAttendLatency : kMatvecLatency;
}

}  // namespace weft
