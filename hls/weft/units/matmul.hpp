/// MatMul with its Activate: feeds the systolic array fold by fold and drains it, a clock per turn.
#pragma once
#include "units/attention.hpp"
#include "units/binary.hpp"
#include "units/compressed.hpp"
#include "units/eie.hpp"
#include "units/feed.hpp"
#include "units/fusion.hpp"
#include "units/gather_tree.hpp"
#include "units/matvec.hpp"
#include "units/shift.hpp"
#include "units/snap.hpp"
#include "units/systolic.hpp"
#include "units/writer.hpp"

namespace weft {

constexpr int kDrainLag = 3;  // clocks from writing a finished sum to reading it back
static_assert(kDrainLag < kRows, "a tile's sums are read before the next tile's take their place");
using Clock = Int<64>;  // folds × rows of a large layer leave 32 bits

/// Where a stage stands: which fold, and the clock within it. A fold has `rows` busy clocks from
/// `start` on, and the next one begins after `period` clocks (the first after `first_period`).
struct Schedule {
  int wait, start, rows, period, first_period, folds;
  int fold, clock;

  bool busy() const { return wait == 0 && fold < folds && clock >= start && clock - start < rows; }
  int row() const { return clock - start; }
  bool last_row() const { return busy() && row() == rows - 1; }
  void tick() {
    if (wait > 0) {
      --wait;
    } else if (++clock == (fold == 0 ? first_period : period)) {
      clock = 0;
      ++fold;
    }
  }
};

/// The clocks of one MatMul: weights in, activations in, sums out, finished sums to the epilogue.
struct MatMulClocks {
  Schedule weights, input, output;
  int rows, folds;
  Clock total;

  /// `flush`: clocks from a row's activations to its last sum; `lead`: rows in front of a tile.
  template <typename Walk>
  void begin(const MatMul &f, int batch, const Walk &walk, int flush, int lead) {
    rows = batch * int(f.out_h) * int(f.out_w);
    folds = int(f.tiles) * walk.groups * walk.taps();
    const int load = (kRows + lead) * int(f.pace);
    const bool overlap = f.overlap != 0;
    const int period = overlap ? (rows > load ? rows : load) : load + rows + flush;
    const int wait = overlap ? load : 0, start = overlap ? 0 : load;
    weights = {0, 0, load, period, overlap ? load : period, folds, 0, 0};
    input = {wait, start, rows, period, period, folds, 0, 0};
    output = {wait + flush, start, rows, period, period, folds, 0, 0};
    total = Clock(folds - 1) * period + (wait + start + rows + flush);
  }
};

/// Accumulators: sums of fold after fold meet in `partial`; those of a tile's last fold go to
/// `finished`, so that no memory is read twice in a clock while the epilogue drains.
template <bool kFloat> struct Accumulator {
  int folds_per_tile, fold;  // fold within the tile
  int base, step;            // the tile's first row in `partial`; rows to the next tile's

  /// Sum of a column. Integers may be parts of wider products: `shift` puts them in place.
  static Int<32> sum(Int<32> before, Int<32> more, int shift) {
    WEFT_INLINE
    if (kFloat) return float_sum(before, more);
    return Int<32>(UInt<32>(before) + UInt<32>(UInt<32>(more) << shift));  // wraps
  }

  void add(const MatMul &f, int row, const SumWord &sums, Memories &m) {
    WEFT_INLINE
    const bool fresh = fold == 0 && f.first != 0;
    const SumWord before = value_of(m.partial[base + row]);
    SumWord total;
  lanes:
    for (int c = 0; c < kCols; ++c) {
      WEFT_UNROLL
      total[c] = sum(fresh ? Int<32>(0) : before[c], sums[c], int(f.shift));
    }
    if (finishes(f)) {
      put(m.finished[row], total);
    } else {
      put(m.partial[base + row], total);
    }
  }
  bool finishes(const MatMul &f) const { return f.last != 0 && fold == folds_per_tile - 1; }
  void next_fold() {
    const bool wraps = fold == folds_per_tile - 1;
    fold = wraps ? 0 : fold + 1;
    if (wraps) base += step;
  }
};

/// Follows the accumulators kDrainLag clocks behind and writes codes to the unified buffer.
struct Drain {
  Writer out;
  UInt<8> ready;  // bit i: a row was finished i + 1 clocks ago
  int row, rows;

  void begin(const Activate &a, int batch, const MatMul &f) {
    out.begin(a, batch, int(f.out_h), int(f.out_w));
    rows = out.at.count();
    ready = 0;
    row = 0;
  }
  bool due() const { return ((ready >> (kDrainLag - 1)) & 1) != 0; }
  void step(bool finished, const WideWord &added, Memories &m) {
    WEFT_INLINE
    if (due()) {
      write_word(out, value_of(m.finished[row]), m.parameters.read(out.parameter()), added, m);
      out.next();
      row = row == rows - 1 ? 0 : row + 1;
    }
    ready = UInt<8>((ready << 1) | (finished ? 1 : 0));
  }
};

inline void count_clock(const MatMulClocks &c, const MatMul &f, Counters &counters) {
  if (c.input.busy()) {
    ++counters.matrix;
  } else if (f.overlap != 0 ? c.input.fold < c.folds - 1 || c.input.wait > 0
                            : c.input.clock < c.input.start) {
    ++counters.weight_shift;
  } else {
    ++counters.drain;
  }
}

/// What every column of a cell array gets while nothing arrives.
template <typename Cell> inline ArrayInput<Cell> no_input() {
  WEFT_INLINE
  ArrayInput<Cell> in = {};
  in.weight_row = -1;
  return in;
}

/// The words of a clock: of the buffer, or `pad` outside the map.
template <typename Cell>
inline void take_words(const Cell &cell, const Walk<MatMul> &walk, const Memories &m,
                       const Word &pad, ArrayInput<Cell> &in) {
  WEFT_INLINE
  Word words[kActivationWords];
  if (walk.inside()) {
    m.buffer.read_group(walk.address(), int(walk.f.source_block), walk.present(), words);
  } else {
  outside:
    for (int q = 0; q < kActivationWords; ++q) {
      WEFT_UNROLL
      words[q] = q < walk.present() ? pad : filled(0);
    }
  }
lanes:
  for (int r = 0; r < kRows; ++r) {
    WEFT_UNROLL
    in.activations[r] = cell.activation(words, r);
  }
}

/// The one word of the wide buffer that a clock reads: scores for the array, or what the epilogue
/// adds; Checker lets no instruction want both.
template <bool kThere>
inline WideWord wide_of_clock(const Attention<kThere> &attention, const Walk<MatMul> &walk,
                              bool enters, const Drain &drain, const Memories &m) {
  WEFT_INLINE
  const bool scores = kThere && attention.takes_scores();
  const bool adds = drain.due() && drain.out.f.residual != 0;
  const int score = enters ? walk.address() : 0, added = adds ? drain.out.added.address() : 0;
  return value_of(m.wide[!kHasWide ? 0 : scores ? score : added]);
}

/// The clocks of one MatMul or Attend, all stages at once.
template <typename Cell>
inline void run_folds(const MatMul &f, const Activate &a, int batch, SystolicArray<Cell> &array,
                      Memories &m, WeightStream &weights, Counters &counters, Fault &fault,
                      Attention<Attends<Cell>::value> attention) {
  WEFT_INLINE  // into compute, where `activate` is shared
      Walk<MatMul>
          walk;
  walk.begin(f, batch);
  Cell cell;
  cell.begin(f);
  MatMulClocks clocks;
  clocks.begin(f, batch, walk, SystolicArray<Cell>::kFlushClocks, index_rows_of(cell));
  Accumulator<Cell::kFloat> accumulator = {walk.groups * walk.taps(), 0, attention.first_sum(),
                                           attention.sums_of_tile()};
  Drain drain;
  drain.begin(a, batch, f);
  TileFeed<Cell> feed = {};
  WEFT_HLS(ARRAY_PARTITION variable = feed.rows type = complete dim = 0)
  WEFT_HLS(ARRAY_PARTITION variable = feed.index type = complete dim = 0)
  feed.begin(f, cell);
  const Word pad = filled(f.pad);
  SumWord sums;
clock:
  for (Clock t = 0; t < clocks.total + kDrainLag; ++t) {
    WEFT_PIPELINE
    WEFT_TRIPCOUNT(kAccumulatorRows)
    ArrayInput<Cell> in = no_input<Cell>();
    WideWord wide = {};
    if (kHasWide) wide = wide_of_clock(attention, walk, clocks.input.busy(), drain, m);
    if (clocks.weights.busy()) {
      const bool last = clocks.weights.last_row();
      if (Attends<Cell>::value && attention.on) {
        take_operands(cell, attention, clocks.weights.row(), last, m, in);
      } else {
        feed.step(cell, last, weights, in, fault);
      }
    }
    if (clocks.input.busy()) {
      if (Attends<Cell>::value && attention.takes_scores()) {
        take_scores(cell, attention, clocks.input.row(), wide, m, in);
      } else {
        take_words(cell, walk, m, pad, in);
      }
      in.swap = clocks.input.row() == 0;
      walk.next_position();
      if (clocks.input.last_row()) {
        walk.next_fold();
        attention.next_fold();
      }
    }
    array.step(cell, in, sums);
    bool finished = false;
    if (clocks.output.busy()) {
      accumulator.add(f, clocks.output.row(), sums, m);
      finished = accumulator.finishes(f);
      if (clocks.output.last_row()) accumulator.next_fold();
    }
    drain.step(finished, wide, m);
    if (t < clocks.total) count_clock(clocks, f, counters);
    clocks.weights.tick();
    clocks.input.tick();
    clocks.output.tick();
  }
}

/// Runs one MatMul on an array of its own; `a` is its Activate where f.last is set. An Attend is
/// one more source of words and tiles for the array that is there.
template <typename Cell>
inline void run_engine(const MatMul &f, const Activate &a, int batch, Memories &m,
                       WeightStream &weights, Counters &counters, Fault &fault,
                       const Attend &by = {}, bool attends = false) {
  WEFT_INLINE
  WEFT_STATIC(SystolicArray<Cell>, array);
  WEFT_PARTITION_ARRAY(array)
  Attention<Attends<Cell>::value> attention;
  attention.begin(by, attends);
  run_folds(f, a, batch, array, m, weights, counters, fault, attention);
}

/// Runs one MatMul on the engine that it names; an overlay has the arrays of its engines only. With
/// `attends` it is `by` (f = product_of(by)).
inline void matmul(const MatMul &f, const Activate &a, int batch, Memories &m,
                   WeightStream &weights, Counters &counters, Fault &fault, const Attend &by = {},
                   bool attends = false) {
  WEFT_INLINE
  if (kHasAttention && attends && by.normalized != 0) sum_rows(by, m, counters);
  if (kHasSystolic && f.engine == kSystolicEngine)
    run_engine<IntegerCell>(f, a, batch, m, weights, counters, fault, by, attends);
  if (kHasFusion && f.engine == kFusionEngine)
    run_engine<FusionCell>(f, a, batch, m, weights, counters, fault);
  if (kHasShift && f.engine == kShiftEngine)
    run_engine<ShiftCell>(f, a, batch, m, weights, counters, fault);
  if (kHasBinary && f.engine == kBinaryEngine)
    run_engine<BinaryCell>(f, a, batch, m, weights, counters, fault);
  if (kHasBf16 && f.engine == kBf16Engine)
    run_engine<Bf16Cell>(f, a, batch, m, weights, counters, fault);
  if (kHasNm && f.engine == kNmEngine) run_engine<NmCell>(f, a, batch, m, weights, counters, fault);
  if (kHasEie && f.engine == kEieEngine) eie(f, batch, m, weights, counters, fault);
  if (kHasSnap && f.engine == kSnapEngine) snap(f, batch, m, weights, counters, fault);
  if (kHasGather && f.engine == kGatherEngine) gather(f, batch, m, weights, counters, fault);
  if (is_matvec(f)) matvec(f, a, batch, m, weights, counters, by, attends);
  if (is_compressed(f)) drain_tiles(f, a, batch, m, counters);
}

}  // namespace weft
